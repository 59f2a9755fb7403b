"""What is wrong with a command and can be told before the libraries of models are imported, which takes seconds.

The stages find all of it themselves; here it is found sooner. What lies on stores and hubs is left to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlmprep.counting.ledger import open_ledger
from vlmprep.pipeline.output import check_output
from vlmprep.pipeline.recognize import Kind, is_ledger, kind_of, recognize
from vlmprep.schema.errors import StopRun
from vlmprep.schema.family import check_processor
from vlmprep.schema.packset import MANIFEST
from vlmprep.shardformat.manifest import missing_manifest
from vlmprep.sources.folders import HUB
from vlmprep.sources.named import NAMED_HUB
from vlmprep.sources.spec import find_sources
from vlmprep.stores.urls import is_url, local_path

__all__ = ["check_counting", "check_folder", "check_packing", "check_source_arguments", "check_verifying"]


def check_counting(arguments: Sequence[str], processor: str, out: str) -> None:
    """Look for the sources, the processor and the output of `vlmprep estimate`.

    Raises:
        StopRun: A source or the processor is not there, or the output is something else.
    """
    check_local_sources(arguments)
    check_processor(processor)
    check_output_place(out, Kind.LEDGER)


def check_packing(arguments: Sequence[str], processor: str | None, plan: str | None, out: str) -> None:
    """Look for what `vlmprep pack` was given.

    Raises:
        StopRun: Something is not there, something is missing, or the output is something else.
    """
    check_output_place(out, Kind.PACKSET)
    if processor is not None:
        check_processor(processor)
    if len(arguments) == 1 and (is_url(arguments[0]) or is_ledger(Path(arguments[0]))):
        if plan is not None:
            check_folder(plan)
        return
    check_source_arguments(arguments, with_processor=processor is not None, plan=plan)
    check_local_sources(arguments)


def check_source_arguments(arguments: Sequence[str], *, with_processor: bool, plan: Path | str | None) -> None:
    """What packing from sources, rather than from one ledger, needs.

    Raises:
        StopRun: One of the arguments is a ledger, there is a plan, or no processor.
    """
    for path in map(Path, arguments):
        if path.is_dir() and kind_of(path) is not None:
            open_ledger(path)  # says what is wrong with it
            raise StopRun(f"{path} is a ledger beside other sources", "Give one ledger, or sources alone.")
    if plan is not None:
        raise StopRun(
            "--plan belongs to a ledger, and sources were given", "Give the ledger that the plan was made from."
        )
    if not with_processor:
        raise StopRun(
            "--processor is missing", "Name the model's processor, for example --processor Qwen/Qwen2.5-VL-7B-Instruct."
        )


def check_verifying(packset: str, against: str | None, ledger: Path | None) -> None:
    """Look for what `vlmprep verify` was given.

    Raises:
        IncompletePackSet: There is no manifest.
        StopRun: The processor or the ledger is not there.
    """
    if not is_url(packset) and not (Path(local_path(packset)) / MANIFEST).is_file():
        raise missing_manifest(packset)
    if against is not None:
        check_processor(against)
    if ledger is not None:
        open_ledger(ledger)


def check_local_sources(arguments: Sequence[str]) -> None:
    """Look for those sources that lie on this disk."""
    find_sources([each for each in arguments if not is_url(each) and not each.startswith((HUB, NAMED_HUB))])


def check_folder(place: str) -> None:
    """Look for a folder that vlmprep made.

    Raises:
        StopRun: It is not there, or something else.
    """
    if not is_url(place):
        recognize(Path(local_path(place)))


def check_output_place(out: str, kind: Kind) -> None:
    """Look into an output folder, if there is one."""
    if not is_url(out):
        check_output(Path(local_path(out)), kind)
