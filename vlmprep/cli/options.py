"""The options that several commands share, each said once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vlmprep.cli.config import use_config
from vlmprep.engines.local import LocalEngine
from vlmprep.pipeline.settings import MAX_PACK_SIZE, CountSettings
from vlmprep.schema.engine import Engine
from vlmprep.schema.family import FamilySettings
from vlmprep.sources.media import DEFAULT_MAX_IMAGE_PIXELS

__all__ = [
    "DEFAULT_MAX_IMAGE_PIXELS",
    "DEFAULT_WORKERS",
    "AllowOutsideMedia",
    "AllowRemoteMedia",
    "Balance",
    "BalanceOption",
    "Compression",
    "CompressionOption",
    "Config",
    "ControlText",
    "ControlTextOption",
    "EngineName",
    "EngineOption",
    "FakeImage",
    "FakeImageOption",
    "ImageBackend",
    "ImageBackendOption",
    "Json",
    "MaxImagePixels",
    "MaxRefused",
    "ModelConfig",
    "PackSize",
    "Processor",
    "Quiet",
    "Revision",
    "Seed",
    "ShardBytes",
    "TrustRemoteCode",
    "Workers",
    "asked",
    "count_settings",
    "make_engine",
]


class ControlText(StrEnum):
    """What happens to text that holds the model's control tokens."""

    REFUSE = "refuse"
    KEEP = "keep"


class ImageBackend(StrEnum):
    """Which of transformers' image processors makes the pixels."""

    TORCHVISION = "torchvision"
    PIL = "pil"


class Balance(StrEnum):
    """What the planner makes equal."""

    COMPUTE = "compute"
    VT = "vt"
    NONE = "none"


class FakeImage(StrEnum):
    """Where fake images go."""

    PACK = "pack"
    NONE = "none"


class Compression(StrEnum):
    """Codec of the tensors in a shard."""

    ZSTD = "zstd"
    LZ4 = "lz4"
    NONE = "none"


class EngineName(StrEnum):
    """What runs the work."""

    LOCAL = "local"


DEFAULT_WORKERS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

Config = Annotated[
    Path | None,
    typer.Option(
        "--config", help="YAML file with any of these options by name; flags win.", callback=use_config, is_eager=True
    ),
]
Processor = Annotated[
    str | None,
    typer.Option(
        "--processor", help="The model's processor: a folder, or a hub name such as Qwen/Qwen2.5-VL-7B-Instruct."
    ),
]
Revision = Annotated[str | None, typer.Option("--revision", help="Revision of the processor on the hub.")]
ModelConfig = Annotated[
    str | None, typer.Option("--model-config", help="The model's config, where it does not lie beside the processor.")
]
ImageBackendOption = Annotated[
    ImageBackend | None,
    typer.Option("--image-backend", help="Image code of transformers; default: the processor's own choice."),
]
ControlTextOption = Annotated[
    ControlText, typer.Option("--control-text", help="Text that holds the model's own control tokens.")
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the processor. Off unless given.")
]
MaxImagePixels = Annotated[
    int, typer.Option("--max-image-pixels", help="Refuse images whose header claims more pixels.", min=1)
]
AllowOutsideMedia = Annotated[
    bool, typer.Option("--allow-outside-media", help="Accept media paths outside the media folder.")
]
AllowRemoteMedia = Annotated[bool, typer.Option("--allow-remote-media", help="Fetch media from http and https URLs.")]
MaxRefused = Annotated[
    float, typer.Option("--max-refused", help="Share of the rows that may be refused.", min=0.0, max=1.0)
]
PackSize = Annotated[
    int,
    typer.Option("--pack-size", help="Tokens that a pack holds at most, after the shift.", min=2, max=MAX_PACK_SIZE),
]
BalanceOption = Annotated[Balance, typer.Option("--balance", help="What is made equal across packs.")]
FakeImageOption = Annotated[
    FakeImage, typer.Option("--fake-image", help="`pack` puts one fake image into packs without media.")
]
CompressionOption = Annotated[Compression, typer.Option("--compression", help="Codec of the tensors in a shard.")]
ShardBytes = Annotated[
    int, typer.Option("--shard-bytes", help="Bytes of tensors in a shard, before compression.", min=1)
]
Workers = Annotated[int, typer.Option("--workers", "-j", help="Worker processes; 0 works in this process.", min=0)]
Seed = Annotated[int, typer.Option("--seed", help="Of every choice between equals.")]
EngineOption = Annotated[EngineName, typer.Option("--engine", help="What runs the work.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars and no tables.")]


def count_settings(
    processor: str,
    *,
    revision: str | None,
    model_config: str | None,
    image_backend: ImageBackend | None,
    control_text: ControlText,
    trust_remote_code: bool,
    max_image_pixels: int = DEFAULT_MAX_IMAGE_PIXELS,
    allow_outside_media: bool = False,
    allow_remote_media: bool = False,
) -> CountSettings:
    """The options of counting as its settings."""
    family = FamilySettings(
        processor=processor,
        revision=revision,
        model_config=model_config,
        image_backend=image_backend.value if image_backend else None,
        control_text=control_text.value,
        trust_remote_code=trust_remote_code,
    )
    return CountSettings(
        family=family,
        max_image_pixels=max_image_pixels,
        allow_outside_media=allow_outside_media,
        allow_remote_media=allow_remote_media,
    )


def asked(context: typer.Context, names: Sequence[str]) -> list[str]:
    """Which of some parameters a command line or a config file gave."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return [name for name, source in sources.items() if source is not None and source.name != "DEFAULT"]


def make_engine(name: EngineName, workers: int) -> Engine:
    """The engine that `--engine` and `--workers` ask for."""
    assert name is EngineName.LOCAL, "the only engine so far"
    return LocalEngine(workers)
