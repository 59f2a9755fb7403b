"""What counting depends on, beside sources and processor."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar

import typer

from vlmprep.pipeline.settings import CountSettings
from vlmprep.schema.family import DEFAULT_MAX_CLIP_BYTES, FamilySettings
from vlmprep.sources.media import DEFAULT_MAX_AUDIO_SECONDS, DEFAULT_MAX_CLIP_FRAMES, DEFAULT_MAX_IMAGE_PIXELS

__all__ = ["CountOptions", "ModelConfig", "TrustRemoteCode"]


class ControlText(StrEnum):
    """What happens to text that holds the model's control tokens."""

    REFUSE = "refuse"
    KEEP = "keep"


class ImageBackend(StrEnum):
    """Which of transformers' image processors makes the pixels."""

    TORCHVISION = "torchvision"
    PIL = "pil"


ModelConfig = Annotated[
    str | None, typer.Option("--model-config", help="The model's config, where it does not lie beside the processor.")
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the processor. Off unless given.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CountOptions:
    """What counting depends on, beside sources and processor."""

    panel: ClassVar[str] = "Counting"
    revision: Annotated[str | None, typer.Option("--revision", help="Revision of the processor on the hub.")] = None
    model_config: ModelConfig = None
    processor_option: Annotated[
        list[str] | None,
        typer.Option(
            "--processor-option",
            metavar="NAME=VALUE",
            help="Setting of the processor that differs from its files, as max_pixels=1003520 or fps=1.0; several times.",
        ),
    ] = None
    image_backend: Annotated[
        ImageBackend | None,
        typer.Option("--image-backend", help="Image code of transformers; default: the processor's own choice."),
    ] = None
    control_text: Annotated[
        ControlText, typer.Option("--control-text", help="Text that holds the model's own control tokens.")
    ] = ControlText.REFUSE
    thinking_prefix: Annotated[
        bool,
        typer.Option(
            "--thinking-prefix", help="Put Gemma 4's empty thinking channel in front of every answer, unlearned."
        ),
    ] = False
    trust_remote_code: TrustRemoteCode = False
    max_image_pixels: Annotated[
        int, typer.Option("--max-image-pixels", help="Refuse images whose header claims more pixels.", min=1)
    ] = DEFAULT_MAX_IMAGE_PIXELS
    max_clip_frames: Annotated[
        int, typer.Option("--max-clip-frames", help="Refuse clips of more frames, sampled or not.", min=1)
    ] = DEFAULT_MAX_CLIP_FRAMES
    max_clip_bytes: Annotated[
        int, typer.Option("--max-clip-bytes", help="Refuse clips whose sampled frames take more bytes decoded.", min=1)
    ] = DEFAULT_MAX_CLIP_BYTES
    max_audio_seconds: Annotated[float, typer.Option("--max-audio-seconds", help="Refuse longer sounds.", min=0.0)] = (
        DEFAULT_MAX_AUDIO_SECONDS
    )
    allow_outside_media: Annotated[
        bool, typer.Option("--allow-outside-media", help="Accept media paths outside the media folder.")
    ] = False
    allow_remote_media: Annotated[
        bool, typer.Option("--allow-remote-media", help="Fetch media from http and https URLs.")
    ] = False
    count_with_fake: Annotated[
        bool,
        typer.Option(
            "--count-with-fake",
            help="Count text-only samples with a fake image in them too, as plans with --fake-image sample need; "
            "`pack --fake-image sample` does so by itself.",
        ),
    ] = False
    verify_media: Annotated[
        bool,
        typer.Option(
            "--verify-media",
            help="Decode all media while counting, so that packing refuses none of them; takes half as long as packing.",
        ),
    ] = False
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep",
            metavar="COLUMN",
            help="Column of the rows that `samples.parquet` keeps, as JSON text; several times.",
            show_default=False,
        ),
    ] = None

    def settings(self, processor: str) -> CountSettings:
        """As settings of a stage."""
        return CountSettings(
            family=FamilySettings(
                processor=place_of(processor),
                revision=self.revision,
                model_config=place_of(self.model_config) if self.model_config else None,
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


def place_of(name: str) -> str:
    """What is on this disk by its absolute path, which other commands find from wherever they run; hub names as they are."""
    return os.path.abspath(name) if os.path.exists(name) else name


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
