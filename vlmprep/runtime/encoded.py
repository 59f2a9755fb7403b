"""Packs that hold original files: what decodes them, loaded with the first of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from vlmprep.schema.errors import StopRun
from vlmprep.schema.family import is_missing
from vlmprep.shardformat.manifest import Manifest
from vlmprep.shardformat.members import Array
from vlmprep.shardformat.packinfo import PackInfo

__all__ = ["DecodedBy", "PackDecoder"]

_HOME = "vlmprep.pipeline.encoded"
"""Loaded by name: who reads pixels that were decoded before needs none of it."""
HINT = "Say where it is: vlmprep.open(..., processor=...) takes its folder or its hub name."


class PackDecoder(Protocol):
    """Puts a pack's pixels in the place of its files."""

    def __call__(self, info: PackInfo, fields: Mapping[str, Array]) -> dict[str, Array]:
        """Raises ValueError where files do not decode to what they decoded to when they were packed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedBy:
    """Whose processor decodes the packs of a set."""

    processor: str | None = None
    """Folder or hub name; None: where it lay when the set was packed."""
    trust_remote_code: bool = False

    def open(self, manifest: Manifest) -> PackDecoder:
        """Load the processor; once per process, whatever number of pack sets needs it.

        Raises:
            StopRun: It, or a library that it needs, cannot be loaded.
        """
        try:
            home: Any = import_module(_HOME)
        except ImportError as error:
            raise StopRun(
                f"these packs hold original files, and what decodes them is not installed: {error}",
                "Install vlmprep with all that it depends on, or pack with --pixels uint8.",
            ) from error
        if self.processor is None:
            check_is_there(manifest.settings["processor"]["processor"])
        try:
            decoder: PackDecoder = home.pack_decoder(manifest, self.processor, trust_remote_code=self.trust_remote_code)
        except StopRun as error:
            if self.processor is None:
                error.hint = HINT
            raise
        return decoder


def check_is_there(processor: str) -> None:
    """Look for the processor that a pack set was made with, where its name is a path and not one that the hub knows.

    Raises:
        StopRun: There is no such folder.
    """
    if is_missing(processor):
        raise StopRun(
            f"these packs hold original files, and the processor that decodes them is not where it lay when they were "
            f"packed: there is no folder {processor} on this machine",
            HINT,
        )
