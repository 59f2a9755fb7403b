"""How long conversations are, exactly: the processor counts, nothing is estimated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlmprep.automodel.batches import too_long
from vlmprep.automodel.conversations import Conversation, media_of
from vlmprep.automodel.examples import ensure_rgb
from vlmprep.automodel.media import load_media
from vlmprep.automodel.templates import rendered

__all__ = ["count_tokens", "drop_overlong", "image_config", "media_tokens"]


def image_config(processor: Any) -> dict[str, Any] | None:
    """Sizes of a processor's image patches.

    Returns:
        patch_size, merge_size, factor (their product), min_pixels and max_pixels, with Qwen's defaults where the processor
        does not say; None where it has no image processor.
    """
    images = getattr(processor, "image_processor", None)
    if images is None:
        return None
    size = getattr(images, "size", None) or {}
    patch_size, merge_size = getattr(images, "patch_size", 14), getattr(images, "merge_size", 2)

    def pixels(name: str, edge: str, default: int) -> Any:
        return getattr(images, name, None) or size.get(name) or size.get(edge) or default

    return {
        "patch_size": patch_size,
        "merge_size": merge_size,
        "factor": patch_size * merge_size,
        "min_pixels": pixels("min_pixels", "shortest_edge", 56 * 56),
        "max_pixels": pixels("max_pixels", "longest_edge", 14 * 14 * 4 * 1280),
    }


def count_tokens(conversation: Conversation, processor: Any) -> int:
    """Tokens of a conversation with its media, before the shift: the length of what the processor returns for it.

    Raises:
        RefuseSample: A medium cannot be read.
    """
    text = rendered(conversation, processor)
    if not media_of(conversation):
        return _text_tokens(text, processor)
    (conversation,) = ensure_rgb([conversation])
    arguments = load_media([conversation], processor).arguments(processor)
    return len(processor(text=[text], **_special(text, processor), **arguments)["input_ids"][0])


def media_tokens(conversation: Conversation, processor: Any) -> int:
    """Tokens that the media add beyond one placeholder each."""
    if not media_of(conversation):
        return 0
    return count_tokens(conversation, processor) - _text_tokens(rendered(conversation, processor), processor)


def drop_overlong(
    conversations: Sequence[Conversation], processor: Any, max_length: int | None
) -> tuple[list[Conversation], list[int]]:
    """Drop the conversations with more than `max_length` tokens; each is named in the log.

    Returns:
        What stays, and its places.

    Raises:
        ValueError: Nothing stays.
        RefuseSample: A medium cannot be read.
    """
    if max_length is None:
        return list(conversations), list(range(len(conversations)))
    kept = too_long([count_tokens(conversation, processor) for conversation in conversations], max_length)
    return [conversations[row] for row in kept], kept


def _text_tokens(text: str, processor: Any) -> int:
    tokenizer = getattr(processor, "tokenizer", processor)
    return len(tokenizer(text, **_special(text, processor))["input_ids"])


def _special(text: str, processor: Any) -> dict[str, Any]:
    """What keeps the tokenizer from writing a first token that the template wrote."""
    bos = getattr(getattr(processor, "tokenizer", processor), "bos_token", None)
    return {"add_special_tokens": False} if bos is not None and text.startswith(bos) else {}
