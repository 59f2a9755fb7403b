"""What `vlmprep inspect` shows of a whole folder, and `vlmprep plan` of its plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from vlmprep.cli.forecast import (
    advice_part,
    fill_weight_table,
    places_table,
    plan_table,
    share_table,
    straggler_table,
)
from vlmprep.cli.histograms import histogram_table
from vlmprep.cli.tables import (
    MEDIA,
    ledger_tables,
    packset_tables,
    print_parts,
    quantity,
    refusal_table,
    share,
    titled,
    two_columns,
    visible,
)
from vlmprep.pipeline.inspect import LedgerReport, PackSetReport, PlanReport, Report, UnfinishedReport
from vlmprep.pipeline.inspect.spread import PackRow, Spread

__all__ = ["print_report", "report_document", "report_parts"]

WIDE = 110
"""Terminal columns from which on bars are short enough for two histograms side by side."""
GAP = 4
"""Columns between tables that stand side by side."""
ENDLESS = Console(width=10_000)
"""What parts are measured on."""
UNBALANCED, SHUFFLED, GROUPED = "best fit,\nany packs", "this plan,\nany packs", "this plan,\nsimilar packs"
"""Headings of straggler ratios: what was packed, and which packs share a step."""
NOTE = "\nany packs share a step: Loader(group_by='none'); similar: 'cost'"


def print_report(report: Report, console: Console) -> None:
    """Print all parts of a report."""
    print_parts(report_parts(report, console.width), console)


def report_document(report: Report) -> dict[str, Any]:
    """The same as one JSON document."""
    document = {"complete": not isinstance(report, UnfinishedReport), **asdict(report)}
    if isinstance(report, PlanReport):
        document |= document.pop("summary")
    return document


def report_parts(report: Report, width: int) -> list[RenderableType]:
    """The parts of a report, to be printed with space between them.

    Args:
        report: What was found.
        width: Columns of the terminal.
    """
    if isinstance(report, UnfinishedReport):
        return list(unfinished_parts(report))
    if isinstance(report, LedgerReport):
        return list(ledger_parts(report))
    return list(plan_parts(report, width) if isinstance(report, PlanReport) else packset_parts(report, width))


def unfinished_parts(report: UnfinishedReport) -> Iterator[RenderableType]:
    """What is there, and how to go on."""
    marks = {True: "[green]complete[/green]", False: "[yellow]not complete[/yellow]"}
    rows = {stage.name: f"{marks[stage.finished]}  {stage.done}" for stage in report.stages}
    yield two_columns(f"A {report.kind} that is not complete", {"where": escape(report.folder), **rows})
    yield f"The same command goes on with it:\n  [bold]{escape(report.command)}[/bold]"


def ledger_parts(report: LedgerReport) -> Iterator[RenderableType]:
    """Totals, sources, lengths and refusals of a ledger."""
    more = {"where": escape(report.ledger), "processor": escape(visible(report.processor)), "family": report.family}
    totals, *refusals = ledger_tables({"rows": report.rows, "totals": report.totals}, more)
    yield totals
    yield source_table(report)
    named = {kind.replace("_", " "): histogram for kind, histogram in report.token_lengths.items()}
    yield histogram_table("Tokens per sample", named, bar_width=20)
    yield from refusals


def source_table(report: LedgerReport) -> Table:
    """A row per source."""
    table = titled("Sources")
    table.show_header = True
    table.add_column("source")
    media = {
        kind: name for kind, name in MEDIA.items() if any(getattr(source, f"num_{kind}") for source in report.sources)
    }
    for heading in ("rows", "usable", "drawn", "tokens", "visual", "labels", *media.values()):
        table.add_column(heading, justify="right", no_wrap=True)
    for source in report.sources:
        table.add_row(
            escape(visible(source.name)),
            quantity(source.rows),
            quantity(source.usable),
            f"{source.sample_ratio:.0%}",
            quantity(source.num_tokens),
            quantity(source.num_visual_tokens),
            quantity(source.num_label_tokens),
            *(quantity(getattr(source, f"num_{kind}")) for kind in media),
        )
    return table


def plan_parts(report: PlanReport, width: int) -> Iterator[RenderableType]:
    """What a plan promises."""
    summary = report.summary
    numbers, settings = summary["statistics"], summary["settings"]
    trials = numbers["trials"]
    yield plan_table(report.plan, summary)
    yield from in_pairs([places_table(numbers, 20), share_table(numbers)], width)
    waiting: list[RenderableType] = [
        plan_stragglers(numbers["straggler_ratio"], has_work=numbers["cost_per_pack"]["max"] > 0)
    ]
    if trials["fill_weights"]:
        waiting.append(fill_weight_table(trials, settings["fill_weight"]))
    yield from in_pairs(waiting, width)
    yield from spread_parts(report.spread, settings["pack_size"], width)
    if report.refused:
        yield refusal_table(report.refused)
    yield advice_part(numbers)


def plan_stragglers(found: Mapping[str, Any], *, has_work: bool) -> Table:
    """Straggler ratios of a plan; of all tokens, where there is no work to balance."""
    if not has_work:
        return straggler_table({SHUFFLED: found["tokens"]}, "tokens")
    columns = {UNBALANCED: found["unbalanced"], SHUFFLED: found["shuffled"], GROUPED: found["grouped"]}
    return straggler_table(columns, found["what"], NOTE)


def packset_parts(report: PackSetReport, width: int) -> Iterator[RenderableType]:
    """What a pack set holds."""
    more = {
        "fake images": "one in every sample without pictures"
        if report.num_fake_images is None
        else share(report.num_fake_images, report.manifest.num_packs),
    }
    yield from packset_tables(report.manifest, report.packset, more)
    columns = {"any packs": report.straggler_ratio, "similar packs": report.straggler_ratio_grouped}
    yield straggler_table(columns, "predicted cost", NOTE)
    yield from spread_parts(report.spread, report.manifest.pack_size, width)
    if report.refused:
        yield refusal_table(report.refused)


def spread_parts(spread: Spread, pack_size: int, width: int) -> Iterator[RenderableType]:
    """Histograms and the packs at the ends."""
    bar_width = 28 if width >= WIDE else 40
    tokens = spread.tokens_per_pack
    fill = f", fill {tokens.least / pack_size:.1%} to {tokens.greatest / pack_size:.1%}"
    parts: list[RenderableType] = [
        histogram_table("Visual tokens per pack", {"": spread.visual_tokens_per_pack}, bar_width=bar_width),
        histogram_table("Tokens per pack", {"": tokens}, bar_width=bar_width, note=fill),
        histogram_table("Samples per pack", {"": spread.samples_per_pack}, bar_width=bar_width),
    ]
    if spread.cost_per_pack is not None:
        title = f"Predicted cost per pack, {spread.cost_unit}"
        parts.insert(1, histogram_table(title, {"": spread.cost_per_pack}, bar_width=bar_width))
    by = "visual tokens" if spread.cost_per_pack is None else "predicted cost"
    parts.append(
        Group(
            extremes_table("Largest packs", f"by {by}", spread.largest, pack_size),
            "",
            extremes_table("Emptiest packs", "by tokens", spread.emptiest, pack_size),
        )
    )
    yield from in_pairs(parts, width)


def in_pairs(parts: list[RenderableType], width: int) -> Iterator[RenderableType]:
    """Parts side by side where there is room for both, or else one below the other."""
    for start in range(0, len(parts), 2):
        pair = parts[start : start + 2]
        if sum(Measurement.get(ENDLESS, ENDLESS.options, part).maximum for part in pair) + GAP > width:
            yield from pair
            continue
        grid = Table.grid(padding=(0, GAP, 0, 0))
        grid.add_row(*pair)
        yield grid


def extremes_table(title: str, by: str, packs: tuple[PackRow, ...], pack_size: int) -> Table:
    """A few packs by number, for `--pack`."""
    table = titled(title, by)
    table.show_header = True
    for heading in ("pack", "tokens", "fill", "visual", "samples", "cost"):
        table.add_column(heading, justify="right", no_wrap=True)
    for pack in packs:
        table.add_row(
            str(pack.pack_id),
            quantity(pack.num_tokens),
            f"{pack.num_tokens / pack_size:.1%}",
            quantity(pack.num_visual_tokens),
            quantity(pack.num_samples),
            f"{pack.cost:,.0f}" if pack.cost >= 1000 else f"{pack.cost:.4g}",
        )
    return table
