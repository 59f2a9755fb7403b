"""The model's own processor, called on one conversation alone: what every family is held against."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from transformers.audio_utils import load_audio
from transformers.video_utils import load_video

from vlmprep.families.media.sounds import sampling_rate_of

__all__ = ["conversation_of", "images_of_one", "run_alone"]

COLUMNS = {"image": "images", "video": "videos", "audio": "audios"}


def conversation_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    """A row's messages with parts in place of tags, as chat templates take them."""
    return [{"role": message["role"], "content": parts_of(message["content"])} for message in row["messages"]]


def parts_of(content: str) -> list[dict[str, str]]:
    """Tags stand before the text."""
    parts: list[dict[str, str]] = []
    while content.startswith(tuple(f"<{kind}>" for kind in COLUMNS)):
        kind = content[1 : content.index(">")]
        parts.append({"type": kind})
        content = content[len(kind) + 2 :]
    return [*parts, {"type": "text", "text": content}]


def run_alone(processor: Any, row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Everything that the processor returns for one row, with the batch's axis.

    Images are nested by conversation as apply_chat_template nests them, which LLaVA-OneVision goes by.

    Args:
        processor: The model's own.
        row: A row of the corpus.
        folder: Where its media are.
    """
    template = processor.chat_template or processor.tokenizer.chat_template  # where a reloaded Phi-4 has it
    text = processor.apply_chat_template(conversation_of(row), chat_template=template, tokenize=False)
    media: dict[str, Any] = {}
    if names := row.get("images"):
        images = [processor.image_processor.fetch_images(str(folder / name)) for name in names]
        media["images"] = images_of_one(processor, images)
    if names := row.get("videos"):
        clips = [clip_of(processor.video_processor, folder / name) for name in names]
        media |= {"videos": [frames for frames, _ in clips], "video_metadata": [metadata for _, metadata in clips]}
        media["do_sample_frames"] = False
        if type(processor).__name__.startswith(
            "NemotronH_Omni"
        ):  # one clip a call, whose metadata it reads as they are
            (media["video_metadata"],) = media["video_metadata"]
    if names := row.get("audios"):
        rate = sampling_rate_of(processor)
        media["audio"] = [load_audio(str(folder / name), rate, backend="soundfile") for name in names]
    return dict(processor(text=[text], return_tensors="pt", **media))


def images_of_one(processor: Any, images: list[Any]) -> list[Any]:
    """The images of one conversation, nested as transformers' own processors have them; code beside a model takes them flat."""
    return [images] if type(processor).__module__.startswith("transformers.models.") else images


def clip_of(video_processor: Any, path: Path) -> tuple[torch.Tensor, Any]:
    """The frames that the family's own sampling takes, decoded by transformers' own PyAV loader."""
    known = video_processor.valid_kwargs.__annotations__
    settings = {name: getattr(video_processor, name, None) for name in known}
    for name in ("input_data_format", "do_convert_rgb", "do_sample_frames", "device", "video_metadata"):
        settings.pop(name, None)
    sample = partial(video_processor.sample_frames, **settings) if video_processor.do_sample_frames else all_frames
    frames, metadata = cast(Any, load_video)(str(path), backend="pyav", sample_indices_fn=sample)
    return torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous(), metadata


def all_frames(metadata: Any, **_: Any) -> Sequence[int]:
    """Where the family samples nothing."""
    return list(range(metadata.total_num_frames))
