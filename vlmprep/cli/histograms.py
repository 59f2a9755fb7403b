"""Histograms in the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from vlmprep.cli.tables import quantity, titled
from vlmprep.pipeline.inspect.histogram import Histogram

__all__ = ["bar", "histogram_table"]

EIGHTHS = " ▏▎▍▌▋▊▉█"
BAR_STYLE = "blue"


def histogram_table(title: str, histograms: Mapping[str, Histogram], *, bar_width: int, note: str = "") -> Table:
    """Bins as rows with counts and bars; several histograms over the same bins stand side by side.

    Args:
        title: What was counted.
        histograms: By the heading of their columns, which a single one does without.
        bar_width: Cells of the longest bar.
        note: Goes on with the line below the title.
    """
    lines = [summary(name, histogram) + note for name, histogram in histograms.items()]
    table = titled(title, "\n".join(lines))
    table.add_column(justify="right", no_wrap=True)
    for _ in histograms:
        table.add_column(justify="right", no_wrap=True)
        table.add_column(min_width=bar_width, no_wrap=True)
    if len(histograms) > 1:
        table.add_row(
            "", *(cell for name in histograms for cell in (Text("rows", style="dim"), Text(name, style="dim")))
        )
    first = next(iter(histograms.values()))
    for place, label in enumerate(bin_labels(first.edges)):
        cells: list[str | Text] = [label]
        for histogram in histograms.values():
            count = histogram.counts[place] if histogram.counts else 0
            cells.append(Text(quantity(count), style="" if count else "dim"))
            cells.append(Text(bar(count, max(histogram.counts, default=0), bar_width), style=BAR_STYLE))
        table.add_row(*cells)
    return table


def summary(name: str, histogram: Histogram) -> str:
    """The line that says where the values lie."""
    if not histogram.num_values:
        return f"{name} none".strip()
    numbers = f"{quantity(histogram.least)} to {quantity(histogram.greatest)}, median {histogram.median:,.0f}"
    return f"{name} {numbers}".strip()


def bin_labels(edges: tuple[int, ...]) -> list[str]:
    """`1,000 - 1,999` for every bin, the last numbers aligned."""
    ends = [quantity(end - 1) for end in edges[1:]]
    width = max(map(len, ends), default=0)
    return [
        f"{quantity(start)} - {end:>{width}}" if end != quantity(start) else end
        for start, end in zip(edges[:-1], ends, strict=True)
    ]


def bar(count: int, most: int, width: int) -> str:
    """A bar of eighths of a cell; whatever is counted leaves a trace."""
    if not count:
        return ""
    eighths = max(1, round(8 * width * count / most))
    return EIGHTHS[8] * (eighths // 8) + EIGHTHS[eighths % 8].strip()
