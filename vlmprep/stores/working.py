"""Outputs on stores: a working copy on the local disk, in which stages work as in any folder, and the store that it is pushed to.

    start    hold the store, bring back what an earlier run pushed, keep what an earlier run left here
    work     stages read, write, lock and resume in the copy; large files are published one by one and leave it
    push     what differs goes to the store, the files that say that something is complete last
    end      the copy goes; what stopped in the middle keeps it

`.work`, beside the copy and on the store, holds the same random name as long as the copy is that store's: a copy whose store was
deleted, or written to from elsewhere, is thrown away.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vlmprep.schema.errors import StopRun
from vlmprep.schema.files import DiskTrouble, publish_bytes, sha256_file
from vlmprep.stores.cache import entry_name
from vlmprep.stores.etags import etag_says, md5_etags
from vlmprep.stores.folder import PART_BYTES, StoreFolder
from vlmprep.stores.lease import LEASE, Lease, held
from vlmprep.stores.stored import Stored
from vlmprep.stores.uploads import abort_uploads
from vlmprep.stores.urls import cache_folder

__all__ = ["Contents", "WorkingCopy", "copied", "working_copy"]

MARK = ".work"
COPY = "copy"
LOCK = ".lock"
SHARDS = "shards"
LAST = ("ledger.json", "plan.json", "manifest.json")
"""Files whose presence means that those beside and beneath them are complete; in the order of completion."""
AT_ONCE = 8
"""Small files on their way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What lies in a kind of output, by the first part of its name."""

    known: frozenset[str]
    """All that may be there; a store that holds anything else is left as it is."""
    elsewhere: frozenset[str] = frozenset()
    """Is published file by file and has no copy here."""
    truth: frozenset[str] = frozenset()
    """Is published file by file, and here only as long as it is there."""


class WorkingCopy:
    """A folder here and one on a store.

    Args:
        base: Holds the folder here, and the mark.
        store: The folder there.
        lease: What holds it.
        contents: What lies in it.
    """

    def __init__(self, base: Path, store: StoreFolder, lease: Lease, contents: Contents) -> None:
        self.root = base / COPY
        """The folder here."""
        self.store = store
        self._mark, self._lease, self._contents = base / MARK, lease, contents

    def pull(self) -> None:
        """Bring back what is on the store and not here; begin anew where the copy is not this store's."""
        there = self._there()
        abort_uploads(self.store.url)
        if not self._mark.is_file() or not self._is_marked(self._mark.read_bytes()):
            shutil.rmtree(self.root, ignore_errors=True)
        for name in self._here():
            if first(name) in self._contents.truth and name not in there:
                (self.root / name).unlink()
        wanted = [name for name in there if not (self.root / name).is_file()]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(lambda name: self.store.fetch(name, self.root / name), wanted))
        content = uuid.uuid4().hex.encode()
        self.store.publish_bytes(MARK, content)
        publish_bytes(self._mark, content)

    def push(self) -> None:
        """Publish what differs, and remove what is no longer here; what says that something is complete comes last.

        Raises:
            StopRun: The store is no longer ours.
        """
        there, here = self._there(), self._here()
        changed = [name for name in here if not self._same(self.root / name, there.get(name))]
        gone = [name for name in there if name not in here and first(name) not in self._contents.truth]
        for name in [name for name in (*changed, *gone) if is_last(name) and name in there]:
            self.store.delete(name)  # nobody takes for complete what is being changed
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(self._publish, [name for name in changed if not is_last(name)]))
            list(threads.map(self.store.delete, [name for name in gone if not is_last(name)]))
        for name in sorted(filter(is_last, changed), key=lambda name: LAST.index(name.rpartition("/")[2])):
            self._lease.confirm()
            self._publish(name)

    def _publish(self, name: str) -> None:
        self.store.publish_file(name, self.root / name, sha256_file(self.root / name))

    def _there(self) -> dict[str, Stored]:
        """Files on the store.

        Raises:
            StopRun: It holds something else.
        """
        found = {name: stored for name, stored in self.store.files().items() if name not in (LEASE, MARK)}
        if others := sorted({first(name) for name in found} - self._contents.known):
            raise StopRun(
                f"{self.store} is not empty and holds something else: {', '.join(others[:3])}", "Give another --out."
            )
        return {name: stored for name, stored in found.items() if first(name) not in self._contents.elsewhere}

    def _here(self) -> list[str]:
        """Files of the copy, without locks."""
        found = sorted(path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())
        elsewhere = self._contents.elsewhere
        return [name for name in found if not name.endswith(LOCK) and first(name) not in elsewhere]

    def _is_marked(self, mark: bytes) -> bool:
        try:
            return self.store.read(MARK) == mark
        except FileNotFoundError:
            return False

    def _same(self, path: Path, stored: Stored | None) -> bool:
        if stored is None or path.stat().st_size != stored.size:
            return False
        said = etag_says(stored.state, md5_etags(path, PART_BYTES))
        return bool(said)


def is_last(name: str) -> bool:
    """Whether a file says that others are complete."""
    return name.rpartition("/")[2] in LAST


def first(name: str) -> str:
    """The first part of a name."""
    return name.partition("/")[0]


@contextmanager
def working_copy(url: str, work: Path | None, contents: Contents) -> Iterator[WorkingCopy]:
    """Hold a folder on a store and work in a copy of it, which is pushed and removed when the block ends well.

    Args:
        url: The folder on the store.
        work: Where the copy lies; None: beneath `$VLMPREP_CACHE` or `~/.cache/vlmprep`.
        contents: What lies in such a folder.

    Raises:
        StopRun: Another run writes there, the store is in trouble, or `work` holds something else. Messages name the URL.
        DiskTrouble: The copy cannot be written; the message names it.
    """
    store = StoreFolder(url)
    base = work or cache_folder() / "work" / entry_name(store.url)
    if base.exists() and {path.name for path in base.iterdir()} - {MARK, COPY}:
        raise StopRun(f"{base} is not empty and no working copy", "Give a new or an empty folder as --work.")
    root = base / COPY
    try:
        with held(store) as lease:
            copy = WorkingCopy(base, store, lease, contents)
            copy.pull()
            yield copy
            copy.push()
            store.delete(MARK)
            abort_uploads(store.url)  # those that were given up and made again
            shutil.rmtree(root, ignore_errors=True)
            (base / MARK).unlink()
    except DiskTrouble as error:
        error.hint += f" It lies in the working copy of {store.url}, which --work puts elsewhere."
        raise
    except StopRun as error:
        error.message = error.message.replace(str(root), store.url)
        error.hint = error.hint.replace(str(root), store.url)
        raise


def copied(url: str) -> Path:
    """A local copy of what lies in a folder on a store now: a ledger, a plan, a pack set without its shards.

    Raises:
        StopRun: There is none.
    """
    store = StoreFolder(url)
    there = {name: stored for name, stored in store.files().items() if name not in (LEASE, MARK)}
    if not there:
        raise StopRun(f"{url} does not exist", "Give the folder of a ledger, a plan or a pack set.")
    there = {name: stored for name, stored in there.items() if first(name) != SHARDS}
    state = (f"{name}\0{stored.size}\0{stored.state}" for name, stored in sorted(there.items()))
    root = cache_folder() / "copies" / entry_name(store.url, *state)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        missing = [name for name in there if not (root / name).is_file()]
        list(threads.map(lambda name: store.fetch(name, root / name), missing))
    return root
