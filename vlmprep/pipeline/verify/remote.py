"""Pack sets on stores: each shard comes here as long as it is looked at."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vlmprep.schema.packset import receipt_name, shard_name
from vlmprep.stores.folder import StoreFolder
from vlmprep.stores.urls import cache_folder, is_url

__all__ = ["shard_here", "shards_there"]


@contextmanager
def shard_here(place: Path | str, shard: int) -> Iterator[Path]:
    """A folder with one shard of a pack set, its index and its receipt; the pack set itself, where it is local.

    Args:
        place: Folder or URL of the pack set.
        shard: The shard's number.
    """
    if not is_url(str(place)):
        yield Path(place)
        return
    store, beneath = StoreFolder(str(place)), cache_folder()
    beneath.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verify-", dir=beneath) as folder:
        for name in (shard_name(shard), f"{shard_name(shard)}.idx", receipt_name(shard)):
            with suppress(FileNotFoundError):  # told of where it is looked for
                store.fetch(name, Path(folder) / name)
        yield Path(folder)


def shards_there(place: Path | str) -> list[str]:
    """Names of all shards of a pack set."""
    if is_url(str(place)):
        names = list(StoreFolder(str(place)).files("shards"))
    else:
        names = [path.relative_to(place).as_posix() for path in Path(place).glob("shards/*.tar")]
    return sorted(name for name in names if name.endswith(".tar"))
