"""What people see of a ledger, a plan and a pack set: names with values, and refusals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from vlmprep.shardformat.manifest import Manifest
from vlmprep.shardformat.members import PIXEL_FIELDS

__all__ = [
    "MEDIA",
    "ledger_tables",
    "packset_tables",
    "print_parts",
    "quantity",
    "refusal_table",
    "share",
    "titled",
    "two_columns",
    "visible",
]

NOTHING: Mapping[str, str] = MappingProxyType({})
MEDIA = {"images": "images", "videos": "clips", "audios": "sounds"}
"""What people call them, by their name in columns."""

_INVISIBLE = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
_INVISIBLE |= {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def quantity(number: float) -> str:
    """A count for people: 1,234,567."""
    return f"{number:,}"


def share(part: float, whole: float) -> str:
    """A count with its share: 12 (0.60%)."""
    return f"{quantity(part)} ({part / whole:.2%})" if whole else quantity(part)


def visible(text: str) -> str:
    """Text from data: what would steer the terminal, or turn its writing round, is spelled out."""
    return text.translate(_INVISIBLE)


class Titled(Table):
    """A table without lines under a heading, which may be wider than its columns."""

    def __init__(self, heading: Text) -> None:
        super().__init__(show_header=False, header_style="dim", box=None, padding=(0, 2, 0, 0))
        self._heading = heading

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The heading, then the columns."""
        yield self._heading
        yield from super().__rich_console__(console, options)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """The wider of the two."""
        columns, heading = super().__rich_measure__(console, options), Measurement.get(console, options, self._heading)
        return Measurement(max(columns.minimum, heading.minimum), max(columns.maximum, heading.maximum))


def titled(title: str, below: str = "") -> Titled:
    """A table without lines under a bold title, and a quiet line below that."""
    return Titled(Text.assemble((title, "bold"), (f"\n{below}" if below else "", "dim")))


def two_columns(title: str, rows: dict[str, str]) -> Table:
    """Names and values under a title."""
    table = titled(title)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(f"[dim]{name}[/dim]", value)
    return table


def print_parts(parts: Iterable[RenderableType], console: Console) -> None:
    """Print parts with space between them."""
    for number, part in enumerate(parts):
        console.print(*([""] if number else []), part, sep="\n", highlight=False, soft_wrap=isinstance(part, str))


def ledger_tables(summary: dict[str, Any], more: Mapping[str, str] = NOTHING) -> list[RenderableType]:
    """Totals and refusals of a ledger.

    Args:
        summary: Its ledger.json.
        more: Further names and values.
    """
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
            **media_rows(totals),
            **left_out(totals),
            **more,
        },
    )
    return [counted, *([refusal_table(rows["refused"])] if rows["refused"] else [])]


def media_rows(totals: Mapping[str, int]) -> dict[str, str]:
    """Images, and clips and sounds where there are any."""
    return {
        name: quantity(totals[f"num_{kind}"])
        for kind, name in MEDIA.items()
        if name == "images" or totals[f"num_{kind}"]
    }


def left_out(totals: Mapping[str, int]) -> dict[str, str]:
    """What the chat template leaves out of usable rows, if it does."""
    characters = totals["num_left_out_characters"]
    return {"thoughts of earlier turns left out": f"{quantity(characters)} characters"} if characters else {}


def refusal_table(refused: list[dict[str, Any]]) -> Table:
    """Refusals by reason, with an example each."""
    table = titled("Refused")
    table.show_header = True
    table.add_column("rows", justify="right")
    table.add_column("reason", no_wrap=True)
    table.add_column("for example", overflow="fold")
    for entry in refused:
        example = entry["example"]
        table.add_row(
            quantity(entry["rows"]), entry["code"], escape(visible(f"{place_of(example)}: {example['reason']}"))
        )
    return table


def place_of(example: dict[str, Any]) -> str:
    """Where a refused sample lies; a plan knows its number in the ledger alone."""
    return f"{example['source']}, row {example['row']}" if example["source"] else f"sample {example['sample']}"


def pixel_forms(manifest: Manifest) -> str:
    """What packs hold of pixels, and where that is not what was asked for."""
    form = str(manifest.settings.get("pixels", "uint8"))
    kept = [name for name in PIXEL_FIELDS if name in manifest.pixels and manifest.pixels[name].arithmetic == "stored"]
    no_levels = f"; {', '.join(kept)} as the processor returned them: they are no levels" if kept else ""
    return f"{form}, {manifest.compression}" + (no_levels if form == "uint8" else "")


def packset_tables(manifest: Manifest, where: str, more: Mapping[str, str] = NOTHING) -> list[RenderableType]:
    """What a pack set holds.

    Args:
        manifest: Its manifest.
        where: Its folder.
        more: Further names and values.
    """
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
        **media_rows({"num_images": manifest.num_images, "num_videos": manifest.num_videos, "num_audios": 0}),
        "pixels": escape(pixel_forms(manifest)),
        "bytes": f"{quantity(num_bytes)} ({num_bytes / manifest.num_tokens:,.0f} a token)",
        **more,
    }
    return [two_columns("Pack set", rows)]
