"""`vlmprep estimate`: count every sample exactly, decode nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlmprep.cli import options as o
from vlmprep.cli.app import app
from vlmprep.cli.console import emit_json, loading, people, progress_bars, results
from vlmprep.cli.tables import ledger_tables

__all__ = ["estimate"]


@app.command(no_args_is_help=True)
def estimate(
    sources: Annotated[
        list[str], typer.Argument(help="Meta JSON, .json or .jsonl files, or globs of them.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the ledger.", show_default=False)],
    processor: Annotated[
        str, typer.Option("--processor", help="The model's processor: a folder, or a hub name.", show_default=False)
    ],
    revision: o.Revision = None,
    model_config: o.ModelConfig = None,
    image_backend: o.ImageBackendOption = None,
    control_text: o.ControlTextOption = o.ControlText.REFUSE,
    trust_remote_code: o.TrustRemoteCode = False,
    max_image_pixels: o.MaxImagePixels = o.DEFAULT_MAX_IMAGE_PIXELS,
    allow_outside_media: o.AllowOutsideMedia = False,
    allow_remote_media: o.AllowRemoteMedia = False,
    max_refused: o.MaxRefused = 0.01,
    workers: o.Workers = o.DEFAULT_WORKERS,
    engine: o.EngineOption = o.EngineName.LOCAL,
    json: o.Json = False,
    quiet: o.Quiet = False,
    config: o.Config = None,
) -> None:
    """Write a ledger: exact token, visual-token and label-token counts of every row, or the reason for refusing it."""
    with loading(quiet=quiet or json):
        from vlmprep.pipeline import estimate as stage

    settings = o.count_settings(
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
        ledger = stage.estimate(sources, settings, out, o.make_engine(engine, workers), progress)
    if json:
        emit_json({"ledger": str(out), **ledger.summary})
        return
    if not quiet:
        results.print(*ledger_tables(ledger.summary), sep="\n")
    refused = 1 - ledger.summary["rows"]["ok"] / ledger.summary["rows"]["all"]
    if refused > max_refused:
        people.print(
            f"[yellow]{refused:.2%} of the rows are refused, more than --max-refused {max_refused:g}: "
            "`vlmprep pack` will stop there.[/yellow]"
        )
