"""The options that several commands share, each said once."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from vlmprep.cli.config import use_config
from vlmprep.engines.local import LocalEngine
from vlmprep.pipeline.settings import MAX_PACK_SIZE, CountSettings, PackSettings, PlanSettings
from vlmprep.schema.engine import Engine
from vlmprep.schema.family import DEFAULT_MAX_CLIP_BYTES, FamilySettings
from vlmprep.sources.media import DEFAULT_MAX_AUDIO_SECONDS, DEFAULT_MAX_CLIP_FRAMES, DEFAULT_MAX_IMAGE_PIXELS

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
    "CountOptions",
    "EngineName",
    "EngineOption",
    "EngineOptions",
    "FakeImage",
    "FakeImageOption",
    "ImageBackend",
    "ImageBackendOption",
    "Json",
    "MaxImagePixels",
    "MaxRefused",
    "ModelConfig",
    "OutputOptions",
    "Overlong",
    "PackSize",
    "PlanOptions",
    "Processor",
    "ProcessorOptions",
    "Quiet",
    "Revision",
    "Seed",
    "ShardBytes",
    "ThinkingPrefix",
    "TrustRemoteCode",
    "Work",
    "Workers",
    "WriteOptions",
    "asked",
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
    SAMPLE = "sample"
    NONE = "none"


class Overlong(StrEnum):
    """What becomes of samples that are longer than a pack."""

    REFUSE = "refuse"
    TRUNCATE = "truncate"


class Compression(StrEnum):
    """Codec of the tensors in a shard."""

    ZSTD = "zstd"
    LZ4 = "lz4"
    NONE = "none"


class Pixels(StrEnum):
    """What shards hold of pixels."""

    UINT8 = "uint8"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"
    ENCODED = "encoded"


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
ProcessorOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--processor-option",
        metavar="NAME=VALUE",
        help="Setting of the processor that differs from its files, as max_pixels=1003520 or fps=1.0; several times.",
    ),
]
ImageBackendOption = Annotated[
    ImageBackend | None,
    typer.Option("--image-backend", help="Image code of transformers; default: the processor's own choice."),
]
ControlTextOption = Annotated[
    ControlText, typer.Option("--control-text", help="Text that holds the model's own control tokens.")
]
ThinkingPrefix = Annotated[
    bool,
    typer.Option("--thinking-prefix", help="Put Gemma 4's empty thinking channel in front of every answer, unlearned."),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the processor. Off unless given.")
]
MaxImagePixels = Annotated[
    int, typer.Option("--max-image-pixels", help="Refuse images whose header claims more pixels.", min=1)
]
MaxClipFrames = Annotated[
    int, typer.Option("--max-clip-frames", help="Refuse clips of more frames, sampled or not.", min=1)
]
MaxClipBytes = Annotated[
    int, typer.Option("--max-clip-bytes", help="Refuse clips whose sampled frames take more bytes decoded.", min=1)
]
MaxAudioSeconds = Annotated[float, typer.Option("--max-audio-seconds", help="Refuse longer sounds.", min=0.0)]
AllowOutsideMedia = Annotated[
    bool, typer.Option("--allow-outside-media", help="Accept media paths outside the media folder.")
]
AllowRemoteMedia = Annotated[bool, typer.Option("--allow-remote-media", help="Fetch media from http and https URLs.")]
VerifyMedia = Annotated[
    bool,
    typer.Option(
        "--verify-media",
        help="Decode all media while counting, so that packing refuses none of them; takes half as long as packing.",
    ),
]
CountWithFake = Annotated[
    bool,
    typer.Option(
        "--count-with-fake",
        help="Count text-only samples with a fake image in them too, as plans with --fake-image sample need; "
        "`pack --fake-image sample` does so by itself.",
    ),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        "--keep",
        metavar="COLUMN",
        help="Column of the rows that `samples.parquet` keeps, as JSON text; several times.",
        show_default=False,
    ),
]
Work = Annotated[
    Path | None,
    typer.Option(
        "--work",
        help="With --out on a store: local folder of what is not there yet; default: beneath the cache.",
        show_default=False,
    ),
]
MaxRefused = Annotated[
    float, typer.Option("--max-refused", help="Share of the rows that may be refused.", min=0.0, max=1.0)
]
PackSize = Annotated[
    int,
    typer.Option("--pack-size", help="Tokens that a pack holds at most, after the shift.", min=2, max=MAX_PACK_SIZE),
]
BalanceOption = Annotated[Balance, typer.Option("--balance", help="What is made equal across packs.")]
FakeImageOption = Annotated[
    FakeImage,
    typer.Option(
        "--fake-image", help="`pack` puts one fake image into packs without pictures, `sample` into samples without."
    ),
]
OverlongOption = Annotated[
    Overlong,
    typer.Option(
        "--overlong",
        help="Samples longer than a pack: `truncate` cuts their end off, never through a medium, and records it.",
    ),
]
FillWeight = Annotated[
    float,
    typer.Option(
        "--fill-weight",
        help="Trades fill against balance: nearer to 1, packs are fuller and less equal.",
        min=0.0,
        max=1.0,
    ),
]
MaxVisualTokens = Annotated[
    int | None,
    typer.Option(
        "--max-visual-tokens", help="Visual tokens that a pack holds at most: bounds memory.", min=0, show_default=False
    ),
]
MaxImages = Annotated[
    int | None, typer.Option("--max-images", help="Images that a pack holds at most.", min=0, show_default=False)
]
MaxCost = Annotated[
    float | None,
    typer.Option(
        "--max-cost",
        help="Predicted TFLOP of a pack's forward pass at most; with --balance compute.",
        min=0.0,
        show_default=False,
    ),
]
DocumentAlignment = Annotated[
    int,
    typer.Option(
        "--document-alignment",
        help="Every document takes a multiple of so many tokens: twice the ranks of context parallelism.",
        min=1,
    ),
]
PackingRatio = Annotated[
    float,
    typer.Option("--packing-ratio", help="Share of --pack-size that packs are planned for.", min=0.0, max=1.0),
]
MaxPacks = Annotated[
    int | None,
    typer.Option("--max-packs", help="Keep so many packs, a fair cut of everything.", min=1, show_default=False),
]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        "--weight",
        metavar="SOURCE=W",
        help="How often the rows of a source are used, times its sample_ratio: 0.5 draws half of them, 2.5 takes all twice "
        "and half of them once more; several times.",
    ),
]
PixelsOption = Annotated[
    Pixels,
    typer.Option(
        "--pixels",
        help="What shards hold of pixels: levels before the arithmetic, the model's numbers, or the original files, "
        "which the reader decodes.",
    ),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class CountOptions:
    """What counting depends on, beside sources and processor."""

    panel: ClassVar[str] = "Counting"
    revision: Revision = None
    model_config: ModelConfig = None
    processor_option: ProcessorOptions = None
    image_backend: ImageBackendOption = None
    control_text: ControlTextOption = ControlText.REFUSE
    thinking_prefix: ThinkingPrefix = False
    trust_remote_code: TrustRemoteCode = False
    max_image_pixels: MaxImagePixels = DEFAULT_MAX_IMAGE_PIXELS
    max_clip_frames: MaxClipFrames = DEFAULT_MAX_CLIP_FRAMES
    max_clip_bytes: MaxClipBytes = DEFAULT_MAX_CLIP_BYTES
    max_audio_seconds: MaxAudioSeconds = DEFAULT_MAX_AUDIO_SECONDS
    allow_outside_media: AllowOutsideMedia = False
    allow_remote_media: AllowRemoteMedia = False
    count_with_fake: CountWithFake = False
    verify_media: VerifyMedia = False
    keep: Keep = None

    def settings(self, processor: str) -> CountSettings:
        """As settings of a stage."""
        return CountSettings(
            family=FamilySettings(
                processor=processor,
                revision=self.revision,
                model_config=self.model_config,
                image_backend=self.image_backend.value if self.image_backend else None,
                control_text=self.control_text.value,
                thinking_prefix=self.thinking_prefix,
                trust_remote_code=self.trust_remote_code,
                max_clip_bytes=self.max_clip_bytes,
                options=tuple(map(processor_setting, self.processor_option or ())),
            ),
            max_image_pixels=self.max_image_pixels,
            max_clip_frames=self.max_clip_frames,
            max_audio_seconds=self.max_audio_seconds,
            allow_outside_media=self.allow_outside_media,
            allow_remote_media=self.allow_remote_media,
            count_with_fake=self.count_with_fake,
            verify_media=self.verify_media,
            keep=tuple(self.keep or ()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What a plan depends on, beside the ledger."""

    panel: ClassVar[str] = "Planning"
    pack_size: PackSize = 8192
    balance: BalanceOption = Balance.VT
    fill_weight: FillWeight = 0.6
    fake_image: FakeImageOption = FakeImage.PACK
    overlong: OverlongOption = Overlong.REFUSE
    max_visual_tokens: MaxVisualTokens = None
    max_images: MaxImages = None
    max_cost: MaxCost = None
    document_alignment: DocumentAlignment = 1
    packing_ratio: PackingRatio = 1.0
    max_packs: MaxPacks = None
    weights: Weights = None
    seed: Seed = 0

    def settings(self) -> PlanSettings:
        """As settings of a stage."""
        return PlanSettings(
            pack_size=self.pack_size,
            balance=self.balance.value,
            fill_weight=self.fill_weight,
            fake_image=self.fake_image.value,
            overlong=self.overlong.value,
            max_visual_tokens=self.max_visual_tokens,
            max_images=self.max_images,
            max_cost=self.max_cost,
            document_alignment=self.document_alignment,
            packing_ratio=self.packing_ratio,
            max_packs=self.max_packs,
            weights=dict(map(source_weight, self.weights or ())),
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """What shards depend on, beside the plan."""

    panel: ClassVar[str] = "Writing"
    pixels: PixelsOption = Pixels.UINT8
    compression: CompressionOption = Compression.ZSTD
    shard_bytes: ShardBytes = 1 << 30

    def settings(self) -> PackSettings:
        """As settings of a stage."""
        return PackSettings(pixels=self.pixels.value, compression=self.compression.value, shard_bytes=self.shard_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What runs the work."""

    panel: ClassVar[str] = "Running"
    workers: Workers = DEFAULT_WORKERS
    engine: EngineOption = EngineName.LOCAL

    def make(self) -> Engine:
        """The engine."""
        assert self.engine is EngineName.LOCAL, "the only engine so far"
        return LocalEngine(self.workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """What is printed, and where options come from."""

    panel: ClassVar[str] = "Output"
    json: Json = False
    quiet: Quiet = False
    config: Config = None

    @property
    def silent(self) -> bool:
        """No progress bars."""
        return self.quiet or self.json


def processor_setting(text: str) -> tuple[str, Any]:
    """NAME=VALUE as a keyword of the processor; the value is JSON, or a word.

    Raises:
        typer.BadParameter: It is not of this form.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise typer.BadParameter(f"--processor-option {text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def source_weight(text: str) -> tuple[str, float]:
    """SOURCE=W as a pair.

    Raises:
        typer.BadParameter: It is not of this form.
    """
    name, equals, weight = text.rpartition("=")
    try:
        assert equals
        return name, float(weight)
    except (AssertionError, ValueError):
        raise typer.BadParameter(f"--weight {text!r} is not SOURCE=W") from None


def asked(context: typer.Context, names: Sequence[str]) -> list[str]:
    """Which of some parameters a command line or a config file gave."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return [name for name, source in sources.items() if source is not None and source.name != "DEFAULT"]
