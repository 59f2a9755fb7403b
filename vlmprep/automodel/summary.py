"""The table that says how long each data set took to load and what it holds."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table

__all__ = ["loading_summary"]

BAR_WIDTH = 24
WIDTH = 140


def loading_summary(
    timings: Mapping[str, Mapping[str, Any]], wall_time: float, total_samples: int, rank: int | None = None
) -> str:
    """Draw the table, slowest data set first.

    Args:
        timings: By data set: io, convert and total in seconds, n_samples, and where they were counted n_images, n_videos,
            n_text_only.
        wall_time: Seconds that all took.
        total_samples: Of all data sets.
        rank: Whose table it is.
    """
    with_media = any("n_images" in timing for timing in timings.values())
    table = Table(
        title="Dataset loading summary" + ("" if rank is None else f" (rank {rank})"),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        show_footer=True,
    )
    ranked = sorted(timings.items(), key=lambda entry: -entry[1]["total"])
    sums = {name: sum(timing.get(name, 0) for timing in timings.values()) for name in (*SECONDS, *MEDIA)}
    table.add_column("Dataset", footer="Sum")
    table.add_column("Time", width=BAR_WIDTH, footer=f"wall clock {wall_time:.1f} s")
    for name, title in SECONDS.items():
        table.add_column(title, justify="right", footer=f"{sums[name]:.1f} s")
    table.add_column("Samples", justify="right", footer=f"{total_samples:,}")
    for name, title in MEDIA.items() if with_media else ():
        table.add_column(title, justify="right", footer=f"{sums[name]:,}")
    longest = max((timing["total"] for timing in timings.values()), default=0.0)
    for dataset, timing in ranked:
        numbers = [f"{timing[name]:.1f} s" for name in SECONDS] + [f"{timing['n_samples']:,}"]
        media = [f"{timing.get(name, 0):,}" for name in MEDIA] if with_media else []
        bar = ProgressBar(total=longest or 1.0, completed=timing["total"], width=BAR_WIDTH)
        table.add_row(dataset, bar, *numbers, *media)
    out = io.StringIO()
    Console(file=out, width=WIDTH, force_terminal=False, color_system=None).print(table)
    return out.getvalue()


SECONDS = {"io": "I/O", "convert": "Conversion", "total": "Total"}
MEDIA = {"n_images": "Images", "n_videos": "Videos", "n_text_only": "Text only"}
