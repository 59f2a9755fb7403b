"""`vlmprep demo`: the whole path on a small corpus drawn on the spot."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from vlmprep.cli import options as o
from vlmprep.cli.app import app
from vlmprep.cli.console import loading, progress_bars, results
from vlmprep.cli.tables import quantity
from vlmprep.schema.errors import StopRun
from vlmprep.schema.family import FamilySettings

__all__ = ["demo"]

PACK_SIZE = 2048
MAX_PIXELS = 200_704
"""Of the demo's processor: images of at most 256 visual tokens."""
MAX_REFUSED = 0.5
"""A dozen samples are damaged on purpose."""
SHARD_BYTES = 8 << 20
NUM_RANKS = 2
NUM_BATCHES = 3
REASONS_SHOWN = 3


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder that the demo is made in.")] = Path("vlmprep-demo"),
    samples: Annotated[int, typer.Option("--samples", help="Conversations to make.", min=20)] = 200,
    workers: o.Workers = 0,
) -> None:
    """Draw a small corpus, build a processor, run estimate, plan, pack and inspect, and stream a few batches."""
    if out.exists() and not (out / "corpus").is_dir() and (not out.is_dir() or any(out.iterdir())):
        raise StopRun(f"{out} is there and is no demo", "Give another folder with --out.")
    corpus, processor, packset = out / "corpus", out / "processor", out / "packset"
    drew = "Drew pictures, pages and charts, with conversations about them"
    with _step(drew, corpus), loading(quiet=False, what="Drawing pictures"):
        _make_inputs(corpus, processor, samples)
    with _step("Counted every sample, laid them into packs, wrote the packs", packset):
        _pack(corpus / "meta.json", processor, packset, workers)
    with _step(f"Streamed the first steps to {NUM_RANKS} ranks", None), loading(quiet=False, what="Reading packs"):
        streamed = _stream(packset)
    for part in (*_inspect(packset), streamed):
        results.print("", part, sep="\n")
    results.print(_next_steps(out), soft_wrap=True)


@contextmanager
def _step(what: str, where: Path | None) -> Iterator[None]:
    start = time.perf_counter()
    yield
    place = f"  [dim]{escape(str(where))}[/dim]" if where else ""
    results.print(f"[green]ok[/green]  {what}{place}  [dim]{time.perf_counter() - start:.1f} s[/dim]", soft_wrap=True)


def _make_inputs(corpus: Path, processor: Path, samples: int) -> None:
    from vlmprep.demo.corpus import make_corpus, num_samples_of
    from vlmprep.demo.processor import save_processor

    if (found := num_samples_of(corpus)) is None:
        make_corpus(corpus, num_samples=samples)
    elif found != samples:
        raise StopRun(f"{corpus} holds {found} conversations, not {samples}", "Give another folder with --out.")
    if not (processor / "processor_config.json").exists():
        save_processor(processor, max_pixels=MAX_PIXELS)


def _pack(meta: Path, processor: Path, packset: Path, workers: int) -> None:
    from vlmprep.pipeline.run import run_pack
    from vlmprep.pipeline.settings import CountSettings, PackSettings, PlanSettings

    with progress_bars(quiet=False) as progress:
        run_pack(
            [str(meta)],
            CountSettings(family=FamilySettings(processor=str(processor))),
            PlanSettings(pack_size=PACK_SIZE),
            PackSettings(shard_bytes=SHARD_BYTES),
            out=packset,
            plan=None,
            max_refused=MAX_REFUSED,
            engine=o.EngineOptions(workers=workers).make(),
            progress=progress,
        )


def _inspect(packset: Path) -> Iterator[RenderableType]:
    """What `vlmprep inspect` finds, as much of it as fits a screen."""
    from vlmprep.cli.histograms import histogram_table
    from vlmprep.cli.reports import report_parts
    from vlmprep.cli.tables import refusal_table
    from vlmprep.pipeline.inspect import PackSetReport, inspect_output

    report = inspect_output(packset)
    assert isinstance(report, PackSetReport), "the demo's pack set is complete"
    yield report_parts(report, results.width)[0]
    yield histogram_table("Visual tokens per pack", {"": report.spread.visual_tokens_per_pack}, bar_width=40)
    rest = len(report.refused) - REASONS_SHOWN
    more = f"  ... and {rest} more reasons; all of them damaged on purpose, none of them in a pack"
    yield Group(refusal_table(report.refused[:REASONS_SHOWN]), more)


def _stream(packset: Path) -> Table:
    """The first steps of an epoch, as two ranks see them."""
    import vlmprep

    packs = vlmprep.open(packset)
    table = Table(
        "step", "rank", "pack", "documents", "tokens", "labels in step", "float32 pixels", box=None, title_style="bold",
        title="What a training loop gets", title_justify="left",
    )  # fmt: skip
    loaders = [
        vlmprep.Loader(packs, dp_rank=rank, dp_world_size=NUM_RANKS, collate="hf", seed=0) for rank in range(NUM_RANKS)
    ]
    for step, batches in zip(range(NUM_BATCHES), zip(*loaders, strict=True), strict=False):
        for rank, batch in enumerate(batches):
            (pack_id,) = batch.pack_ids
            assert batch["pixel_values"].dtype.itemsize == 4, "restored, as the column says"
            pixels = " x ".join(map(str, batch["pixel_values"].shape))
            table.add_row(
                str(step), str(rank), str(pack_id), str(int(packs.index.num_samples[pack_id])),
                quantity(batch["input_ids"].shape[-1]), quantity(batch.num_label_tokens_in_step), pixels,
            )  # fmt: skip
    return table


def _next_steps(out: Path) -> str:
    packset = escape(str(out / "packset"))
    return f"""
[bold]Try next[/bold]
  vlmprep inspect {packset}                 what is in it
  vlmprep inspect {packset} --pack 0        one pack, with what is trained on
  vlmprep verify {packset}                  every digest and invariant
  vlmprep pack YOUR.jsonl --processor Qwen/Qwen2.5-VL-7B-Instruct --out PACKSET

[bold]Train from it[/bold]
  packs = vlmprep.open("{packset}")
  for batch in vlmprep.Loader(packs, collate="hf"):
      model(**batch).loss.backward()
"""
