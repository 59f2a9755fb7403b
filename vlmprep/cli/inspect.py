"""`vlmprep inspect`: what a ledger, a plan, a pack set or one pack holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from vlmprep.cli import options as o
from vlmprep.cli.app import app
from vlmprep.cli.console import emit_json, results
from vlmprep.pipeline.beforehand import check_folder

__all__ = ["inspect"]


@app.command(no_args_is_help=True)
def inspect(
    path: Annotated[
        str,
        typer.Argument(metavar="LEDGER|PLAN|PACKSET", help="A folder or URL that vlmprep made.", show_default=False),
    ],
    pack: Annotated[
        int | None, typer.Option("--pack", metavar="K", help="Show pack K of a pack set: documents, media, text.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="With --pack: long documents in full.")] = False,
    processor: Annotated[
        str | None,
        typer.Option("--processor", help="With --pack: whose tokenizer reads the text; default: the pack set's own."),
    ] = None,
    trust_remote_code: o.TrustRemoteCode = False,
    json: o.Json = False,
    config: o.Config = None,
) -> None:
    """Show what a ledger, a plan or a pack set holds, finished or not, or one of its packs.

    With --pack, what the model is trained on stands in green and between ⟦ and ⟧; control tokens are dim; media stand
    as <image WIDTHxHEIGHT, TOKENS tokens>.
    """
    check_folder(path)
    if pack is not None:
        show_pack(path, pack, processor, trust_remote_code=trust_remote_code, full=full, json=json)
        return
    from vlmprep.cli.reports import print_report, report_document
    from vlmprep.pipeline.inspect import inspect_output

    report = inspect_output(path)
    if json:
        emit_json(report_document(report))
    else:
        print_report(report, results)


def show_pack(path: str, pack: int, processor: str | None, *, trust_remote_code: bool, full: bool, json: bool) -> None:
    """Show one pack."""
    from vlmprep.cli.pack_view import pack_parts
    from vlmprep.pipeline.inspect.pack import view_pack

    view = view_pack(path, pack, processor, trust_remote_code=trust_remote_code)
    if json:
        emit_json(asdict(view))
        return
    for part in pack_parts(view, full=full):
        results.print(part, highlight=False, soft_wrap=not results.is_terminal)
