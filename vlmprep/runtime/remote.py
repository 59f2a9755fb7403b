"""A pack set on an object store: ranged reads, several at a time and ahead of need, and a disk cache that a host shares."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np

from vlmprep.shardformat.memory import pooled_empty
from vlmprep.stores.cache import DiskCache, entry_name
from vlmprep.stores.folder import StoreFolder
from vlmprep.stores.urls import cache_folder

__all__ = ["DEFAULT_CACHE_BYTES", "Part", "RemoteStore"]

DEFAULT_CACHE_BYTES = 16 << 30
READS_AT_ONCE = 8
"""Requests that one process has under way."""
MAX_AHEAD = 32
"""Parts that are read, or being read, before anybody asked for them."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some bytes of a file."""

    name: str
    """Of the file, in its folder."""
    version: str
    """Digest of the whole file as the manifest has it: tells its content apart in a cache."""
    offset: int
    size: int


class RemoteStore:
    """A folder at an fsspec URL.

    Args:
        url: The folder.
        cache_bytes: What the cache takes at most, all pack sets together; 0: there is none.
    """

    def __init__(self, url: str, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self.where = url
        self._folder = StoreFolder(url)
        self._cache = DiskCache(cache_folder() / "packs", cache_bytes) if cache_bytes else None
        self._ahead: tuple[int, ReadAhead] | None = None

    def __reduce__(self) -> tuple[type[RemoteStore], tuple[str, int]]:
        return RemoteStore, (self.where, self._cache.max_bytes if self._cache else 0)

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """Bytes of those files that are there; asked for by one listing where the store has such."""
        listed = self._folder.files()
        found = {name: listed[name].size for name in names if name in listed}
        if listed:
            return found
        with ThreadPoolExecutor(READS_AT_ONCE) as threads:  # a web server lists nothing
            looked = zip(names, threads.map(self._folder.look, names), strict=True)
            return {name: stored.size for name, stored in looked if stored is not None}

    def read(self, name: str) -> bytes:
        """A whole file."""
        return self._folder.read(name)

    def read_part(self, part: Part) -> memoryview:
        """Exactly `part.size` bytes, fewer only where the file ends; from the cache where they are there."""
        waiting = self._reads.take(part)
        return self._read(part) if waiting is None else waiting.result()

    def read_ahead(self, parts: Sequence[Part]) -> None:
        """Begin to read what will be asked for soon, in this order."""
        self._reads.start(parts)

    def forget(self, part: Part) -> bool:
        """Drop what the cache has in place of a part; the store may say something else, if only because the way there is long."""
        if self._cache is not None:
            self._cache.drop(self._entry(part))
        return True

    def file(self, name: str, size: int, sha256: str) -> Path | None:
        """A local copy of a whole file with this digest, made where there is none; None where no cache takes it."""
        part = Part(name, sha256, 0, size)
        if self._cache is None:
            return None
        path = self._cache.find(self._entry(part), size)
        if path is not None and _sha256(path.read_bytes()) == sha256:
            return path
        self._cache.drop(self._entry(part))
        data = self._folder.read(name)
        return self._cache.keep(self._entry(part), data) if _sha256(data) == sha256 else None

    @property
    def _reads(self) -> ReadAhead:
        """This process's own: threads do not survive a fork."""
        if self._ahead is None or self._ahead[0] != os.getpid():
            self._ahead = (os.getpid(), ReadAhead(self._read))
        return self._ahead[1]

    def _read(self, part: Part) -> memoryview:
        if (cached := self._read_cached(part)) is not None:
            return cached
        data = self._folder.read_range(part.name, part.offset, part.size)
        if self._cache is not None and len(data) == part.size:
            self._cache.keep(self._entry(part), data)
        own = pooled_empty((len(data),))  # tensors may be changed in place, bytes may not
        own[:] = np.frombuffer(data, np.uint8)
        return memoryview(own.data)

    def _read_cached(self, part: Part) -> memoryview | None:
        path = self._cache.find(self._entry(part), part.size) if self._cache else None
        if path is None:
            return None
        data = memoryview(pooled_empty((part.size,)).data)
        try:
            with path.open("rb", buffering=0) as file:
                done = 0
                while done < part.size and (count := file.readinto(data[done:])):
                    done += count
        except OSError:  # pushed out meanwhile, or a broken disk
            return None
        return data if done == part.size else None

    def _entry(self, part: Part) -> str:
        return entry_name(self.where, part.name, part.version, part.offset, part.size)


class ReadAhead:
    """Reads under way in threads, and what they brought, until somebody takes it."""

    def __init__(self, read: Callable[[Part], memoryview]) -> None:
        self._read = read
        self._threads = ThreadPoolExecutor(READS_AT_ONCE, thread_name_prefix="vlmprep-read")
        self._under_way: OrderedDict[Part, Future[memoryview]] = OrderedDict()
        self._lock = Lock()

    def start(self, parts: Sequence[Part]) -> None:
        """Begin to read what is not under way yet; what was read long ago and never taken makes room."""
        with self._lock:
            for part in parts[:MAX_AHEAD]:
                if part in self._under_way:
                    self._under_way.move_to_end(part)
                    continue
                self._under_way[part] = self._threads.submit(self._read, part)
                if len(self._under_way) > MAX_AHEAD:
                    self._under_way.popitem(last=False)[1].cancel()

    def take(self, part: Part) -> Future[memoryview] | None:
        """The read of a part, where it was begun: whoever takes it alone has it."""
        with self._lock:
            return self._under_way.pop(part, None)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
