"""NeMo Automodel's `datasets.vlm.fake_image`: a white image for text-only samples, and the masks that hide it.

Under FSDP and ZeRO-3 every rank must run the vision encoder in every step; a batch without media would skip it and hang. A tiny
white image in a user's turn keeps it running; its tokens get attention 0 and, standing in no assistant turn, no label.

`vlmprep pack` needs none of this: one fake image a pack, as a document of its own, or with `--fake-image sample` the same
images with the same masks, written into the packs (docs/format.md).
"""

from __future__ import annotations

import copy
import logging
import weakref
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from PIL import Image

from vlmprep.automodel.anchors import finder_of
from vlmprep.automodel.conversations import Conversation, items_of, kind_of
from vlmprep.automodel.markers import find_pattern_indices
from vlmprep.automodel.templates import template_of
from vlmprep.families.base import FAKE_IMAGE_SIDE
from vlmprep.families.media.fake_image import written_tokens

__all__ = [
    "inject_fake_image_into_conversation",
    "mask_fake_vision_tokens_batch",
    "mask_fake_vision_tokens_single",
]

logger = logging.getLogger(__name__)

_FAKE_IMAGE = Image.new("RGB", (FAKE_IMAGE_SIDE, FAKE_IMAGE_SIDE), (255, 255, 255))

_VISION_TOKEN_ID_ATTRS = (
    "image_token_id",
    "video_token_id",
    "image_token_index",
    "video_token_index",
    "media_placeholder_token_id",
    "boi_token_id",
    "eoi_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
    "vision_bos_token_id",
    "vision_eos_token_id",
    "image_start_token_id",
    "image_end_token_id",
    "start_image_token_id",
    "end_image_token_id",
    "context_image_token_id",
    "fake_image_token_id",
    "global_image_token_id",
)
_VISION_TOKEN_STRINGS = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|media_start|>",
    "<|media_begin|>",
    "<|media_content|>",
    "<|media_end|>",
    "<|media_pad|>",
    "<|image|>",
    "<|image>",
    "<image|>",
    "<|video|>",
    "<image>",
    "<video>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<fake_token_around_image>",
    "<global-img>",
    "<|endoftext10|>",
    "<im_patch>",
    "<im_start>",
    "<im_end>",
    "<patch_start>",
    "<patch_end>",
    "<patch_newline>",
)
_VISION_TOKEN_KEYWORDS = ("image", "video", "media", "vision", "img_pad", "vid_pad")

_warned_unknown_processors: set[str] = set()
_written: weakref.WeakKeyDictionary[Any, list[int]] = weakref.WeakKeyDictionary()
"""Of each processor: what it writes for the fake image."""


def _conversation_has_media(conversation: Conversation) -> bool:
    """Whether a conversation holds an image or a video."""
    return any(kind_of(item) in ("image", "video") for message in conversation for item in items_of(message))


def _batch_has_media(conversations: Iterable[Conversation]) -> bool:
    """Whether any of the conversations holds an image or a video."""
    return any(map(_conversation_has_media, conversations))


def inject_fake_image_into_conversation(conversation: Conversation) -> list[dict[str, Any]]:
    """Put a fake image at the head of the first user turn; a turn of its own comes first where no user speaks.

    Args:
        conversation: Left as it is.

    Returns:
        A copy with the image.
    """
    item = {"type": "image", "image": _FAKE_IMAGE}
    injected: list[dict[str, Any]] = copy.deepcopy([dict(message) for message in conversation])
    for message in injected:
        if message.get("role") == "user":
            message["content"] = [item, *items_of(message)]
            return injected
    return [{"role": "user", "content": [item]}, *injected]


def _scan_attrs(source: Any, attr_names: Iterable[str]) -> Iterator[int]:
    """The token ids among some attributes of an object."""
    for name in attr_names:
        value = getattr(source, name, None)
        if isinstance(value, int) and not isinstance(value, bool):
            yield value


def _get_vision_token_ids(processor: Any) -> set[int]:
    """Ids of the tokens that stand for images and videos, wrappers included.

    Four sources: attributes of the processor, its tokenizer and its config; tokens known by name; added tokens whose name
    speaks of images; and what the processor itself writes for the fake image.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    ids: set[int] = set()
    for source in (processor, tokenizer, getattr(processor, "config", None)):
        ids.update(_scan_attrs(source, _VISION_TOKEN_ID_ATTRS))
    ids.update(_known_strings(tokenizer))
    for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items():
        if any(keyword in str(token).lower() for keyword in _VISION_TOKEN_KEYWORDS):
            ids.add(int(number))
    return ids.union(number for number in _written_ids(processor) if number in tokenizer.added_tokens_decoder)


def _known_strings(tokenizer: Any) -> Iterator[int]:
    convert = getattr(tokenizer, "convert_tokens_to_ids", None)
    if convert is None:
        return
    unknown = getattr(tokenizer, "unk_token_id", None)
    for token in _VISION_TOKEN_STRINGS:
        number = convert(token)
        if isinstance(number, int) and number != unknown:
            yield number


def _written_ids(processor: Any) -> list[int]:
    """What template and processor write for the fake image, from the first to the last added token; nothing without hooks."""
    placeholder = getattr(processor, "image_token", None)
    if not isinstance(placeholder, str) or not hasattr(processor, "replace_image_token"):
        return []
    if processor not in _written:
        template = template_of([], processor)
        text = finder_of(processor, template).turns.image_literal() if template else placeholder
        ids = [int(number) for number in processor(text=[text], images=[[_FAKE_IMAGE]])["input_ids"][0]]
        _written[processor] = ids[written_tokens(processor.tokenizer, ids)]
    return _written[processor]


def _warn_no_vision_tokens(processor: Any) -> None:
    """Say once for each class of processor that no vision tokens were found, so that a fake image stays visible."""
    name = type(processor).__name__
    if name in _warned_unknown_processors:
        return
    _warned_unknown_processors.add(name)
    logger.warning("%s has no vision tokens that vlmprep recognizes; a fake image stays visible to attention", name)


def mask_fake_vision_tokens_single(sample_dict: MutableMapping[str, Any], processor: Any) -> None:
    """Set `attention_mask` to 0 on the vision tokens of one sample, and on what stands between those of the fake image.

    Args:
        sample_dict: `input_ids` [S] and `attention_mask` [S], which is changed.
        processor: Whose tokens they are.
    """
    if "attention_mask" in sample_dict:
        _mask_row(sample_dict["input_ids"], sample_dict["attention_mask"], processor)


def mask_fake_vision_tokens_batch(
    batch: Mapping[str, Any] | MutableMapping[str, Any], processor: Any, sample_indices: Sequence[int]
) -> None:
    """The same for some samples of a batch.

    Args:
        batch: `input_ids` [B, S] and `attention_mask` [B, S], which is changed.
        processor: Whose tokens they are.
        sample_indices: The rows that hold a fake image.
    """
    if "attention_mask" not in batch:
        return
    for row in sample_indices:
        _mask_row(batch["input_ids"][row], batch["attention_mask"][row], processor)


def _mask_row(input_ids: torch.Tensor, attention_mask: torch.Tensor, processor: Any) -> None:
    """Hide the fake image in one row: [S] and [S], of which the second is changed."""
    ids = _get_vision_token_ids(processor)
    if not ids:
        _warn_no_vision_tokens(processor)
        return
    attention_mask[torch.isin(input_ids, torch.tensor(sorted(ids), device=input_ids.device))] = 0
    start, end = find_pattern_indices(input_ids, _written_ids(processor))
    if start >= 0:  # newlines between the tiles of an image are text by their ids
        attention_mask[start:end] = 0
