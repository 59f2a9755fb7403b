"""What people see of a ledger, a plan and a pack set."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from vlmprep.shardformat.manifest import Manifest

__all__ = ["ledger_tables", "packset_tables", "plan_tables", "quantity", "two_columns"]


def quantity(number: float) -> str:
    """A count for people: 1,234,567."""
    return f"{number:,}"


def share(part: float, whole: float) -> str:
    """A count with its share: 12 (0.60%)."""
    return f"{quantity(part)} ({part / whole:.2%})" if whole else quantity(part)


def two_columns(title: str, rows: dict[str, str]) -> Table:
    """Names and values under a title."""
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2))
    for name, value in rows.items():
        table.add_row(f"[dim]{name}[/dim]", value)
    return table


def ledger_tables(summary: dict[str, Any]) -> list[RenderableType]:
    """Totals and refusals of a ledger."""
    rows, totals = summary["rows"], summary["totals"]
    counted = two_columns(
        "Ledger",
        {
            "rows": quantity(rows["all"]),
            "usable": share(rows["ok"], rows["all"]),
            "refused": share(rows["all"] - rows["ok"], rows["all"]),
            "tokens": quantity(totals["num_tokens"]),
            "visual tokens": share(totals["num_visual_tokens"], totals["num_tokens"]),
            "label tokens": share(totals["num_label_tokens"], totals["num_tokens"]),
            "images": quantity(totals["num_images"]),
        },
    )
    return [counted, *([refusal_table(rows["refused"])] if rows["refused"] else [])]


def refusal_table(refused: list[dict[str, Any]]) -> Table:
    """Refusals by reason, with an example each."""
    table = Table("rows", "reason", "for example", title="Refused", title_justify="left", title_style="bold", box=None)
    table.columns[0].justify = "right"
    for entry in refused:
        example = entry["example"]
        where = f"{example['source']}, row {example['row']}: " if example["source"] else ""
        table.add_row(quantity(entry["rows"]), entry["code"], escape(where + example["reason"]))
    return table


def plan_tables(summary: dict[str, Any], num_overlong: int) -> list[RenderableType]:
    """What a plan promises."""
    numbers, settings = summary["statistics"], summary["settings"]
    visual = numbers["visual_tokens_per_pack"]
    rows = {
        "packs": f"{quantity(numbers['num_packs'])} of {quantity(settings['pack_size'])} tokens "
        f"(at least {quantity(numbers['min_packs'])} are needed)",
        "samples": quantity(numbers["num_samples"]),
        "overlong": quantity(num_overlong),
        "fill": f"{numbers['fill']:.2%}",
        "visual tokens": f"{quantity(visual['min'])} to {quantity(visual['max'])} a pack, {visual['mean']:,.0f} on average",
        "fake images": quantity(numbers["fake_images"]),
    }
    for ranks, ratio in numbers["straggler_ratio"].items():
        rows[f"straggler ratio, {ranks} ranks"] = f"{ratio:.3f}"
    return [two_columns("Plan", rows)]


def packset_tables(manifest: Manifest, where: str) -> list[RenderableType]:
    """What a pack set holds."""
    num_bytes = sum(shard.size for shard in manifest.shards)
    all_rows = manifest.rows.packed + manifest.rows.refused + manifest.rows.unused
    rows = {
        "where": escape(where),
        "packs": f"{quantity(manifest.num_packs)} of {quantity(manifest.pack_size)} tokens "
        f"in {quantity(len(manifest.shards))} shards",
        "fill": f"{manifest.num_tokens / (manifest.num_packs * manifest.pack_size):.2%}",
        "rows packed": share(manifest.rows.packed, all_rows),
        "rows refused": share(manifest.rows.refused, all_rows),
        "rows unused": share(manifest.rows.unused, all_rows),
        "tokens": quantity(manifest.num_tokens),
        "visual tokens": share(manifest.num_visual_tokens, manifest.num_tokens),
        "label tokens": share(manifest.num_label_tokens, manifest.num_tokens),
        "images": quantity(manifest.num_images),
        "bytes": f"{quantity(num_bytes)} ({num_bytes / manifest.num_tokens:,.0f} a token)",
    }
    return [two_columns("Pack set", rows)]
