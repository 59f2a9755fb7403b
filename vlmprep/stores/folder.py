"""A folder at an fsspec URL: whole files and parts of them read, files published whole and checked.

An object store has no rename, no lock and no half file: one PUT, or a multipart upload that is completed last, gives an object
its name and its content at once. What arrived is held against what was sent by the store's own digest, or read back.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from vlmprep.schema.files import publish
from vlmprep.stores.connection import Connection
from vlmprep.stores.etags import etag_says, md5_etags
from vlmprep.stores.retry import StoreTrouble
from vlmprep.stores.stored import Stored, stored
from vlmprep.stores.urls import joined

__all__ = ["PART_BYTES", "StoreFolder"]

PART_BYTES = 16 << 20
PARTS_AT_ONCE = 4
"""Of a file that is uploaded: both bound memory, and S3 takes 10,000 parts."""
BLOCK_BYTES = 8 << 20
"""Read back at a time."""
LISTING = 1 << 30
"""Bytes that a listing is given the time of: a million names come in a thousand answers."""


class StoreFolder:
    """A folder; cheap to make, to pickle and to fork: it connects when it is first asked.

    Every method raises StoreTrouble where the store does not answer, however often it is asked.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._connection = Connection(self.url)

    def __reduce__(self) -> tuple[type[StoreFolder], tuple[str]]:
        return StoreFolder, (self.url,)

    def __str__(self) -> str:
        return self.url

    def joined(self, name: str) -> StoreFolder:
        """A folder in this one."""
        return StoreFolder(joined(self.url, name))

    def files(self, under: str = "") -> dict[str, Stored]:
        """All files beneath a name, by their own names; none where there is no such folder."""
        root = self._connection.path(under)

        def find() -> dict[str, Any]:
            self._connection.files.invalidate_cache()
            found: dict[str, Any] = self._connection.run("find", root, num_bytes=LISTING, detail=True, withdirs=False)
            return found

        try:
            found = self._connection.ask(find, under, "cannot be listed")
        except (FileNotFoundError, NotADirectoryError):
            return {}
        start = len(self._connection.path("")) + 1
        # A web page's links are no listing: nothing says how large they are.
        files = {path: info for path, info in found.items() if info.get("size") is not None}
        return {path[start:]: stored(info) for path, info in files.items() if info.get("type") != "directory"}

    def look(self, name: str) -> Stored | None:
        """What the store says of a file; None where there is none."""

        def info() -> dict[str, Any]:
            self._connection.files.invalidate_cache()
            found: dict[str, Any] = self._connection.run("info", self._connection.path(name))
            return found

        try:
            found = self._connection.ask(info, name, "cannot be looked at")
        except (FileNotFoundError, NotADirectoryError):
            return None
        return None if found.get("type") == "directory" or found.get("size") is None else stored(found)

    def read(self, name: str) -> bytes:
        """A whole file.

        Raises:
            FileNotFoundError: There is none.
        """
        data: bytes = self._connection.ask(
            lambda: self._connection.run("cat_file", self._connection.path(name)), name, "cannot be read"
        )
        return data

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes of a file from `offset` on, fewer only where the file ends.

        Raises:
            FileNotFoundError: There is none.
        """
        if size == 0:
            return b""

        def read() -> bytes:
            try:
                data: bytes = self._connection.run(
                    "cat_file", self._connection.path(name), num_bytes=size, start=offset, end=offset + size
                )
            except OSError as error:
                found = self.look(name) if error.errno == errno.EINVAL else None
                if found is None or found.size > offset:
                    raise
                return b""  # S3 has an error for ranges behind the end
            return data

        data = self._connection.ask(read, name, "cannot be read")
        if len(data) > size:
            raise StoreTrouble(
                f"{self._connection.address(name)}: asked for {size} bytes of it, the server sent {len(data)}",
                "It knows no ranged reads: use another server, or copy the folder here.",
            )
        if len(data) < size and (found := self.look(name)) is not None and found.size >= offset + size:
            data = self._connection.ask(read, name, "cannot be read")  # the answer was cut short, not the file
        return data

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file to a local path, where it is whole or not at all.

        Raises:
            FileNotFoundError: There is none.
        """
        before = self.look(name)
        if before is None:
            raise FileNotFoundError(errno.ENOENT, "there is no such file", self._connection.address(name))
        with publish(path, durable=False) as attempt:
            try:
                get = partial(
                    self._connection.run, "get_file", self._connection.path(name), str(attempt), num_bytes=before.size
                )
                self._connection.ask(get, name, "cannot be read")
                same = self.look(name) == before and attempt.stat().st_size == before.size
            except FileNotFoundError:
                same = False
            if not same:
                raise StoreTrouble(
                    f"{self._connection.address(name)} changed while it was read", "Run the same command again."
                )

    def publish_bytes(self, name: str, content: bytes) -> None:
        """Publish a small file, checked."""
        self._put(name, lambda: self._connection.run("pipe_file", self._connection.path(name), content))
        self._check(name, len(content), md5_etags(content), hashlib.sha256(content).hexdigest())

    def publish_file(self, name: str, path: Path, sha256: str) -> None:
        """Publish a copy of a local file, checked.

        Args:
            name: Where it goes.
            path: The local file.
            sha256: Of its content, in hexadecimal, where the store has no digest to compare.
        """
        options = {"chunksize": PART_BYTES, "max_concurrency": PARTS_AT_ONCE} if self._connection.is_s3 else {}
        size = path.stat().st_size
        self._put(
            name,
            lambda: self._connection.run("put_file", str(path), self._connection.path(name), num_bytes=size, **options),
        )
        self._check(name, size, md5_etags(path, PART_BYTES), sha256)

    def create(self, name: str, content: bytes) -> bool:
        """Publish a small file unless there is one of this name; of several that try at a time, one succeeds.

        Raises:
            StoreTrouble: Also where the store cannot tell.
        """
        try:
            self._connection.ask(
                lambda: self._connection.run("pipe_file", self._connection.path(name), content, mode="create"),
                name,
                "cannot be written",
            )
        except FileExistsError:
            return False
        except FileNotFoundError as error:
            raise self._no_place(name) from error
        return True

    def delete(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""

        def remove() -> None:
            self._connection.run("rm_file", self._connection.path(name))

        try:
            self._connection.ask(remove, name, "cannot be removed")
        except (FileNotFoundError, NotADirectoryError):
            return

    def _put(self, name: str, put: Callable[[], object]) -> None:
        try:
            self._connection.ask(put, name, "cannot be written")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._no_place(name) from error

    def _check(self, name: str, size: int, etags: Callable[[], set[str]], sha256: str) -> None:
        """Hold what the store has against what it was sent.

        Raises:
            StoreTrouble: It is something else, and was removed.
        """
        found = self.look(name)
        if found is not None and found.size == size:
            said = etag_says(found.state, etags)
            if said or (said is None and self._sha256(name) == sha256):
                return
        self.delete(name)
        raise StoreTrouble(
            f"{self._connection.address(name)}: what arrived is not what was sent ({size} bytes); it was removed",
            "Run the same command again; if it happens again, something on the way changes data.",
        )

    def _sha256(self, name: str) -> str:
        digest, offset = hashlib.sha256(), 0
        while block := self.read_range(name, offset, BLOCK_BYTES):
            digest.update(block)
            offset += len(block)
        return digest.hexdigest()

    def _no_place(self, name: str) -> StoreTrouble:
        return StoreTrouble(
            f"{self._connection.address(name)} cannot be written: there is no such bucket",
            "Make it, or give another name.",
        )
