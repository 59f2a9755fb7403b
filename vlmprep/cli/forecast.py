"""What people see of a plan: how full and how equal its packs are, what they are made of, and what would improve them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from vlmprep.cli.histograms import BAR_STYLE, bar
from vlmprep.cli.tables import quantity, share, titled, two_columns, visible

__all__ = ["advice_part", "fill_weight_table", "places_table", "plan_table", "share_table", "straggler_table"]

GOOD, POOR = 1.02, 1.1
"""Straggler ratios up to which a number is green, and from which it is red."""
PLACES = {
    "samples": "samples",
    "alignment": "padding (--document-alignment)",
    "fake_images": "fake images",
    "packing_ratio": "kept free (--packing-ratio)",
    "slack": "left over",
}


def plan_table(plan: str, summary: Mapping[str, Any]) -> Table:
    """The plan in a few lines.

    Args:
        plan: Its folder.
        summary: Its plan.json.
    """
    numbers, settings = summary["statistics"], summary["settings"]
    bound, places = numbers["lower_bound"], numbers["num_packs"] * settings["pack_size"]
    rows = {
        "where": escape(plan),
        "packs": f"{quantity(numbers['num_packs'])} of {quantity(settings['pack_size'])} tokens; no plan of these samples has "
        f"fewer than {quantity(bound['num_packs'])}{'' if bound['tight'] == 'tokens' else ' (' + bound['tight'] + ')'}",
        "fill": f"{share(numbers['num_tokens'], places)} of the packs' places hold samples",
        "samples": f"{quantity(numbers['num_samples'])}, {share(numbers['samples_with_visual_tokens'], numbers['num_samples'])} "
        "of them with visual tokens",
        "visual tokens": f"{share(numbers['num_visual_tokens'], numbers['num_tokens'])} of the samples' tokens",
        "fake images": fakes(numbers, settings["fake_image"]),
        **left_out(numbers),
        "made with": made_with(settings),
    }
    return two_columns("Plan", rows)


def fakes(numbers: Mapping[str, Any], fake_image: str) -> str:
    """How many fake images there are, and why."""
    num_fakes, num_media = numbers["fake_images"], numbers["samples_with_visual_tokens"]
    if fake_image == "none":
        return "none asked for"
    if fake_image == "sample":
        return f"{quantity(num_fakes)}, one in every sample without pictures"
    if not num_fakes:
        return "none: every pack has pictures"
    why = "no sample has pictures"
    if num_media:
        few = num_media < numbers["num_packs"]
        why = f"only {quantity(num_media)} samples have pictures" if few else "pictures cannot be spread further"
    return f"in {share(num_fakes, numbers['num_packs'])} of the packs: {why}"


def left_out(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Rows for what is not in packs, or not whole; none where there is nothing to tell."""
    rows = {}
    if refused := sum(source["rows_refused"] for source in numbers["sources"]):
        rows["refused"] = f"{share(refused, sum(source['rows'] for source in numbers['sources']))} of the rows"
    if (cut := numbers["cut"])["num_samples"]:
        media = f" and {quantity(cut['num_media'])} media" if cut["num_media"] else ""
        rows["cut"] = (
            f"{quantity(cut['num_samples'])} samples lost {quantity(cut['num_tokens'])} tokens{media} to --overlong"
        )
    if (unused := numbers["unused"])["num_samples"]:
        rows["left out"] = (
            f"{quantity(unused['num_samples'])} samples with {quantity(unused['num_tokens'])} tokens, for --max-packs"
        )
    return rows


def made_with(settings: Mapping[str, Any]) -> str:
    """The settings that say most."""
    names = {"balance": settings["balance"], "seed": settings["seed"]}
    if settings["balance"] != "none":
        names["fill-weight"] = f"{settings['fill_weight']:g}"
    return " ".join(f"--{name} {value}" for name, value in names.items())


def places_table(numbers: Mapping[str, Any], bar_width: int) -> Table:
    """What takes the places of packs."""
    places = numbers["places"]
    total = sum(places.values())
    table = titled("What the places of the packs hold", f"{quantity(total)} tokens in all packs together")
    for name, label in PLACES.items():
        if taken := places[name]:
            cells = Text(bar(taken, total, bar_width), style=BAR_STYLE if name == "samples" else "yellow")
            table.add_row(label, quantity(taken), f"{taken / total:.2%}", cells)
    for column in table.columns[1:3]:
        column.justify = "right"
    return table


def straggler_table(ratios: Mapping[str, Mapping[str, float]], what: str, notes: str = "") -> Table:
    """Straggler ratios by rising number of ranks, with bars of the time that the mean rank waits.

    Args:
        ratios: By the heading of their column: ratios by number of ranks. Columns without any are left out.
        what: The work that is compared.
        notes: Goes below the explanation.
    """
    ratios = {heading: column for heading, column in ratios.items() if column}
    below = f"{what} of a step's heaviest rank / mean of its ranks:\n1.000 = nobody waits, 1.250 = a step takes a quarter longer"
    table = titled("Waiting for the slowest rank", f"{below}{notes}")
    table.show_header = True
    table.add_column("ranks", justify="right", no_wrap=True)
    most = max((ratio - 1 for column in ratios.values() for ratio in column.values()), default=0.0)
    for heading in ratios:
        table.add_column(heading, no_wrap=True, min_width=18)
    for ranks in sorted({ranks for column in ratios.values() for ranks in column}, key=int):
        cells = [waiting(column[ranks], most) if ranks in column else Text() for column in ratios.values()]
        table.add_row(quantity(int(ranks)), *cells)
    return table


def waiting(ratio: float, most: float) -> Text:
    """A ratio and a bar of what it is above 1."""
    style = "green" if ratio <= GOOD else "red" if ratio > POOR else "yellow"
    above = bar(round(1e4 * (ratio - 1)), max(round(1e4 * most), 1), 12)
    return Text.assemble((f"{ratio:.3f} ", style), (above, BAR_STYLE))


def fill_weight_table(trials: Mapping[str, Any], fill_weight: float) -> Table:
    """What other fill weights would give.

    Args:
        trials: Of plan.json.
        fill_weight: The plan's own.
    """
    drawn = trials["num_samples"] < trials["of_samples"]
    of = f"{quantity(trials['num_samples'])} samples drawn" if drawn else "the same samples"
    table = titled(
        "Fill against balance",
        f"what --fill-weight trades: plans of {of};\nstraggler ratio at {trials['ranks']} ranks, where any packs share a step",
    )
    table.show_header = True
    for heading in ("--fill-weight", "packs", "fill"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("straggler ratio", no_wrap=True)
    table.add_column()
    num_packs = trials["now"]["num_packs"]
    most = max(trial["straggler_ratio"] for trial in trials["fill_weights"]) - 1
    for trial in trials["fill_weights"]:
        own = trial["fill_weight"] == fill_weight
        packs = f"{trial['num_packs'] / num_packs - 1:+.1%}" if trial["num_packs"] != num_packs else "as now"
        cells = [f"{trial['fill_weight']:g}", packs, f"{trial['fill']:.2%}"]
        table.add_row(*cells, waiting(trial["straggler_ratio"], most), "← this plan" if own else "")
    return table


def share_table(numbers: Mapping[str, Any]) -> Table:
    """What every source gives."""
    sources = numbers["sources"]
    table = titled("Sources", "rows of each, the documents that they make, and its share of all packs' tokens")
    table.show_header = True
    table.add_column("source", overflow="fold")
    for heading in ("rows", "used", "unused", "refused", "documents", "tokens", "visual", "labels"):
        table.add_column(heading, justify="right", no_wrap=True)
    totals = [sum(source[name] for source in sources) for name in SHARES]
    for source in sources:
        rows = (source[name] for name in ("rows", "rows_used", "rows_unused", "rows_refused", "uses"))
        parts = (f"{source[name] / total:.1%}" if total else "-" for name, total in zip(SHARES, totals, strict=True))
        table.add_row(escape(visible(source["name"])), *map(quantity, rows), *parts)
    return table


SHARES = ("num_tokens", "num_visual_tokens", "num_label_tokens")


def advice_part(numbers: Mapping[str, Any]) -> RenderableType:
    """What would improve the plan."""
    if not numbers["advice"]:
        return "[bold]What would improve it[/bold]\nNothing that was measured, by half a percent or more."
    table = Table.grid(padding=(0, 1, 0, 0))
    for advice in numbers["advice"]:
        table.add_row("•", Group(*advice_lines(advice)))
    return Group("[bold]What would improve it[/bold]", table)


def advice_lines(advice: Mapping[str, Any]) -> Iterator[Text]:
    """The finding, and what to do below it."""
    yield Text(f"{advice['finding']}.")
    if advice["remedy"]:
        yield Text(f"→ {advice['remedy']}", style="green")
