"""One run of a model's own processor over some media of one kind, with what it writes for each of their placeholders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from transformers import ProcessorMixin

from vlmprep.families.media.arithmetic import PLAIN
from vlmprep.families.wording import first_line
from vlmprep.schema.conversation import MediaKind

__all__ = ["SEQUENCE_FIELDS", "OwnRun", "UnreadableRun", "Way", "run_processor"]

SEQUENCE_FIELDS = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
"""What a processor returns of the text; all else belongs to the media."""
KINDS: tuple[MediaKind, ...] = ("image", "video", "audio")

Way: TypeAlias = Literal["whole", "levels"]
"""`whole`: as the model wants it. `levels`: less rescaling and normalizing."""


class UnreadableRun(Exception):
    """A processor does not do what the general way rests on; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OwnRun:
    """What a processor makes of some media of one kind."""

    replacements: tuple[str, ...]
    """What it writes in place of each medium's placeholder."""
    tensors: dict[str, torch.Tensor]
    """The model's inputs but the text's; on the meta device where they depend on pixels that were not there."""
    input_ids: tuple[int, ...]
    """The sequence of nothing but these media."""


def run_processor(
    processor: Any,
    kind: MediaKind,
    media: Sequence[Any],
    *,
    way: Way = "whole",
    metadata: Sequence[Any] = (),
    sampled: bool = True,
) -> OwnRun:
    """Run a processor as it would be run on a sample, on a text of nothing but placeholders.

    Args:
        processor: With the replacement hooks of transformers 5.20 or later.
        kind: Of the media.
        media: Decoded images; frames [T, 3, H, W] of clips; samples of sounds.
        way: Whether pixels become the model's numbers.
        metadata: transformers' VideoMetadata of each clip.
        sampled: The clips' frames are those that the processor samples; else it samples them itself.

    Raises:
        UnreadableRun: It has no such hooks or does not use them, or returns what is no tensor or belongs to single tokens.
    """
    text = placeholder(processor, kind) * len(media)
    with watched_replacements(processor) as replacements:
        made = processor(text=[text], return_tensors="pt", **arguments(kind, media, way, metadata, sampled))
    found = replacements.get(kind, ())
    if len(found) != len(media):
        raise UnreadableRun(f"it writes {len(found)} replacements for {len(media)} {kind}s")
    input_ids = made["input_ids"]
    tensors = {name: as_tensor(name, value) for name, value in made.items() if name not in SEQUENCE_FIELDS}
    for name, tensor in tensors.items():
        if tensor.shape[:2] == input_ids.shape and tensor.shape[1] > 1:
            raise UnreadableRun(f"it returns {name} for single tokens, which a pack has no place for")
    return OwnRun(replacements=found, tensors=tensors, input_ids=tuple(input_ids[0].tolist()))


def placeholder(processor: Any, kind: MediaKind) -> str:
    """What a template writes for a medium, which the processor replaces.

    Raises:
        UnreadableRun: The processor replaces nothing for this kind.
    """
    hook, token = f"replace_{kind}_token", getattr(processor, f"{kind}_token", None)
    if token is None or getattr(type(processor), hook, None) is getattr(ProcessorMixin, hook, None):
        raise UnreadableRun(f"it has no {hook}, by which transformers 5.20 and later say what stands for a medium")
    return str(token)


def arguments(
    kind: MediaKind, media: Sequence[Any], way: Way, metadata: Sequence[Any], sampled: bool
) -> dict[str, Any]:
    """The media and settings as a processor's call takes them."""
    plain: dict[str, Any] = PLAIN if way == "levels" else {}
    if kind == "image":
        return {"images": [list(media)], "images_kwargs": plain}
    if kind == "video":
        unsampled = {"do_sample_frames": False} if sampled else {}
        return {
            "videos": [list(media)],
            "videos_kwargs": {"video_metadata": [list(metadata)], **unsampled, **plain},
        }
    return {"audio": list(media)}


@contextmanager
def watched_replacements(processor: Any) -> Iterator[dict[str, tuple[str, ...]]]:
    """Note what a processor puts in place of its placeholders."""
    seen: dict[str, tuple[str, ...]] = {}
    own = processor.get_text_with_replacements

    def watch(text: list[str], *given: list[str], **named: list[str]) -> Any:
        for at, kind in enumerate(KINDS):
            plural = "audio" if kind == "audio" else f"{kind}s"
            seen[kind] = tuple(given[at] if at < len(given) else named.get(f"{plural}_replacements", ()))
        return own(text, *given, **named)

    processor.get_text_with_replacements = watch
    try:
        yield seen
    finally:
        del processor.get_text_with_replacements


def as_tensor(name: str, value: Any) -> torch.Tensor:
    """One output as a tensor.

    Raises:
        UnreadableRun: It is none.
    """
    try:
        return value if isinstance(value, torch.Tensor) else torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UnreadableRun(f"its {name} is no tensor: {first_line(error)}") from error
