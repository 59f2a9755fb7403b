"""The way to a folder at an fsspec URL: its file system, what names are called there, calls that end and are made again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, TypeVar

from vlmprep.stores.retry import StoreTrouble, retried
from vlmprep.stores.urls import joined

__all__ = ["Connection"]

Result = TypeVar("Result")

PATIENCE_SECONDS = 60.0
SLOWEST = 1 << 20
"""A call that takes longer than this, and at so many bytes a second, is given up and made again: clients miss some silences."""


class Connection:
    """Made when it is first used, and in every process anew: connections do not survive a fork.

    Args:
        url: Of the folder.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._made: tuple[int, Any, str] | None = None

    @property
    def files(self) -> Any:
        """The file system."""
        return self._connected()[0]

    @property
    def is_s3(self) -> bool:
        """Whether it speaks S3."""
        protocol = self.files.protocol
        return "s3" in ((protocol,) if isinstance(protocol, str) else protocol)

    def path(self, name: str) -> str:
        """What the file system calls a file of the folder."""
        return joined(self._connected()[1], name)

    def address(self, name: str) -> str:
        """What people call it."""
        return joined(self._url, name)

    def ask(self, action: Callable[[], Result], name: str, trouble: str) -> Result:
        """Do something with a file, several times if need be.

        Raises:
            StoreTrouble: It failed every time; `trouble` says in words what did.
            FileNotFoundError, FileExistsError, NotADirectoryError: The store's answer.
        """
        return retried(action, f"{self.address(name)} {trouble}")

    def run(self, what: str, *arguments: Any, num_bytes: int = 0, **options: Any) -> Any:
        """Call the file system; where it can be stopped, not for longer than so many bytes may take."""
        if not self.files.async_impl:
            return getattr(self.files, what)(*arguments, **options)
        return run_for(PATIENCE_SECONDS + num_bytes / SLOWEST, self.files, f"_{what}", *arguments, **options)

    def _connected(self) -> tuple[Any, str]:
        """The file system, and what it calls the folder."""
        if self._made is None or self._made[0] != os.getpid():
            import fsspec  # local paths are used without it

            try:
                files, root = fsspec.core.url_to_fs(self._url)
            except (ImportError, ValueError) as error:
                raise StoreTrouble(
                    f"{self._url} cannot be used: {error}", "Install the package for this kind of URL."
                ) from error
            self._made = (os.getpid(), files, root.rstrip("/"))
        return self._made[1], self._made[2]


def run_for(seconds: float, files: Any, what: str, *arguments: Any, **options: Any) -> Any:
    """Call a coroutine of an fsspec file system, cancelled when its time is over.

    Raises:
        TimeoutError: It is.
    """
    import fsspec

    async def call() -> Any:
        return await asyncio.wait_for(getattr(files, what)(*arguments, **options), seconds)

    return fsspec.asyn.sync(files.loop, call)
