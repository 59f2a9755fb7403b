"""What shards depend on, beside the plan."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

import typer

from vlmprep.pipeline.settings import PackSettings

__all__ = ["WriteOptions"]


class Pixels(StrEnum):
    """What shards hold of pixels."""

    UINT8 = "uint8"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"
    ENCODED = "encoded"


class Compression(StrEnum):
    """Codec of the tensors in a shard."""

    ZSTD = "zstd"
    LZ4 = "lz4"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """What shards depend on, beside the plan."""

    panel: ClassVar[str] = "Writing"
    pixels: Annotated[
        Pixels,
        typer.Option(
            "--pixels",
            help="What shards hold of pixels: levels before the arithmetic, the model's numbers, or the original files, "
            "which the reader decodes.",
        ),
    ] = Pixels.UINT8
    compression: Annotated[Compression, typer.Option("--compression", help="Codec of the tensors in a shard.")] = (
        Compression.ZSTD
    )
    shard_bytes: Annotated[
        int, typer.Option("--shard-bytes", help="Bytes of tensors in a shard, before compression.", min=1)
    ] = 1 << 30

    def settings(self) -> PackSettings:
        """As settings of a stage."""
        return PackSettings(pixels=self.pixels.value, compression=self.compression.value, shard_bytes=self.shard_bytes)
