"""`vlmprep pack`: from raw conversations, or a ledger, to a pack set."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vlmprep.cli import options as o
from vlmprep.cli.app import app
from vlmprep.cli.console import emit_json, loading, progress_bars, results
from vlmprep.cli.tables import packset_tables

__all__ = ["pack"]

COUNTING = (
    "revision",
    "model_config",
    "image_backend",
    "control_text",
    "trust_remote_code",
    "max_image_pixels",
    "allow_outside_media",
    "allow_remote_media",
)
PLANNING = ("pack_size", "balance", "fake_image", "seed")


@app.command(no_args_is_help=True)
def pack(
    context: typer.Context,
    sources: Annotated[
        list[str], typer.Argument(help="Sources as for `vlmprep estimate`, or one ledger.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the pack set.", show_default=False)],
    processor: o.Processor = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="A plan made by `vlmprep plan` from the ledger given.")
    ] = None,
    pack_size: o.PackSize = 8192,
    balance: o.BalanceOption = o.Balance.VT,
    fake_image: o.FakeImageOption = o.FakeImage.PACK,
    compression: o.CompressionOption = o.Compression.ZSTD,
    shard_bytes: o.ShardBytes = 1 << 30,
    revision: o.Revision = None,
    model_config: o.ModelConfig = None,
    image_backend: o.ImageBackendOption = None,
    control_text: o.ControlTextOption = o.ControlText.REFUSE,
    trust_remote_code: o.TrustRemoteCode = False,
    max_image_pixels: o.MaxImagePixels = o.DEFAULT_MAX_IMAGE_PIXELS,
    allow_outside_media: o.AllowOutsideMedia = False,
    allow_remote_media: o.AllowRemoteMedia = False,
    max_refused: o.MaxRefused = 0.01,
    seed: o.Seed = 0,
    workers: o.Workers = o.DEFAULT_WORKERS,
    engine: o.EngineOption = o.EngineName.LOCAL,
    json: o.Json = False,
    quiet: o.Quiet = False,
    config: o.Config = None,
) -> None:
    """Write a pack set; runs the missing stages first and goes on where an earlier run stopped."""
    with loading(quiet=quiet or json):
        from vlmprep.pipeline.run import run_pack
    from vlmprep.pipeline.settings import PackSettings, PlanSettings

    counts = None
    if processor is None:
        if without := o.asked(context, COUNTING):
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in without)
            raise typer.BadParameter(f"{flags} goes with --processor; a ledger keeps what it was counted with")
    else:
        counts = o.count_settings(
            processor,
            revision=revision,
            model_config=model_config,
            image_backend=image_backend,
            control_text=control_text,
            trust_remote_code=trust_remote_code,
            max_image_pixels=max_image_pixels,
            allow_outside_media=allow_outside_media,
            allow_remote_media=allow_remote_media,
        )
    with progress_bars(quiet=quiet or json) as progress:
        done = run_pack(
            sources,
            counts,
            PlanSettings(pack_size=pack_size, balance=balance.value, fake_image=fake_image.value, seed=seed),
            PackSettings(compression=compression.value, shard_bytes=shard_bytes),
            out=out,
            plan=plan,
            max_refused=max_refused,
            engine=o.make_engine(engine, workers),
            progress=progress,
            asked=o.asked(context, PLANNING),
        )
    if json:
        emit_json({"packset": str(out), "manifest": asdict(done.manifest)})
    elif not quiet:
        results.print(*packset_tables(done.manifest, str(out)), sep="\n")
