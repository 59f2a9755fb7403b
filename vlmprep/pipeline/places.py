"""Where stages read and write: folders as they are, and folders on stores by way of a copy here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlmprep.counting.ledger import LEDGER_FILE
from vlmprep.pipeline.recognize import Kind
from vlmprep.stores.folder import StoreFolder
from vlmprep.stores.urls import is_url, local_path
from vlmprep.stores.working import Contents, WorkingCopy, copied, working_copy

__all__ = ["is_remote_ledger", "local_folder", "output_at"]

LEDGER = frozenset({"settings.json", "chunks", LEDGER_FILE})
PLAN = frozenset({"plan.json", "bins.arrow", "refused.arrow", "cuts.arrow"})
PACKSET = frozenset({"settings.json", "ledger", "plan", "shards", "receipts", "packs.arrow", "samples.parquet"})
CONTENTS = {
    Kind.LEDGER: Contents(known=LEDGER),
    Kind.PLAN: Contents(known=PLAN),
    Kind.PACKSET: Contents(
        known=PACKSET | {".nv-meta", "manifest.json"}, elsewhere=frozenset({"shards"}), truth=frozenset({"receipts"})
    ),
}
"""What the stages write."""


@contextmanager
def output_at(out: Path | str, kind: Kind, work: Path | None = None) -> Iterator[tuple[Path, WorkingCopy | None]]:
    """The folder that a stage writes to, and where it is the copy of one on a store, that.

    Args:
        out: Folder, or URL of one.
        kind: What goes there.
        work: Where the copy lies; None: where caches lie.

    Raises:
        StopRun: Another run writes there, or the store is in trouble.
    """
    if not is_url(str(out)):
        yield Path(local_path(out)), None
        return
    with working_copy(str(out), work, CONTENTS[kind]) as copy:
        yield copy.root, copy


def local_folder(place: Path | str) -> Path:
    """A ledger's or a plan's folder, or a copy of what a store has of it now.

    Raises:
        StopRun: The store has none, or is in trouble.
    """
    return copied(str(place)) if is_url(str(place)) else Path(local_path(place))


def is_remote_ledger(url: str) -> bool:
    """Whether a finished ledger lies at a URL."""
    return is_url(url) and StoreFolder(url).look(LEDGER_FILE) is not None
