"""What can be wrong with a pack set that someone opens or reads."""

from __future__ import annotations

from vlmprep.schema.errors import StopRun
from vlmprep.schema.packset import pack_key

__all__ = ["BrokenPack", "BrokenPackSet", "IncompletePackSet", "NewerFormat", "broken_pack"]


class BrokenPackSet(StopRun):
    """A file of the pack set is missing, has another size, or does not say what the format demands."""


class IncompletePackSet(StopRun):
    """There is no manifest: the pack set was never finished, or this is no pack set."""


class NewerFormat(StopRun):
    """The pack set has a format version that this release does not know."""


class BrokenPack(StopRun):
    """The bytes of one pack are not what the writer wrote; the message names shard and pack."""


def broken_pack(shard: str, pack_id: int, problem: str) -> BrokenPack:
    """The error for one pack.

    Args:
        shard: Path of the shard, as far as the reader knows it.
        pack_id: The pack's number.
        problem: What is wrong with it, with what was got and what was expected.
    """
    return BrokenPack(
        f"{shard}, pack {pack_key(pack_id)}: {problem}",
        "Restore the shard from a copy, or delete it with its receipt and the manifest and run `vlmprep pack` again; "
        "`vlmprep verify` lists everything that is broken.",
    )
