"""One call of the processor for a batch, and what every collate function does to its result.

prompts ── processor ── hook ── labels ── shift ── masks of fake images ── counts of media
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from vlmprep.automodel.conversations import Conversation, count_media
from vlmprep.automodel.fake_image import mask_fake_vision_tokens_batch
from vlmprep.automodel.labels import Prompt, build_labels, labels_of, prompt_of, with_prefix
from vlmprep.automodel.media import BatchMedia, load_media
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.packset import IGNORE_INDEX, SEQUENCE_FIELDS

__all__ = [
    "Batch",
    "Call",
    "collate",
    "counted",
    "finished",
    "padded",
    "row_lengths",
    "shifted",
    "too_long",
]

logger = logging.getLogger(__name__)

Batch: TypeAlias = MutableMapping[str, Any]
"""What a processor returns."""
Hook: TypeAlias = Callable[[Any, Any], Any]

MEDIA_NAMES = ("pixel", "image", "video", "audio", "input_features", "feature", "input_audio", "input_image", "grid")
"""How names of media fields begin; such a field is never cut with the tokens, whatever its shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """How a collate function calls its processor; what is None or False is the processor's own choice."""

    max_length: int | None = None
    """Tokens of every row before the shift; conversations with more are dropped, shorter ones padded."""
    hook: Hook | None = None
    """(batch, processor) -> batch, between tokens and labels."""
    prefix: str = ""
    """Text before every answer, which the loss does not count."""
    padding_side: str | None = None
    flat_images: bool = False
    """Images in one list and decoded, as processors of remote code take them."""
    adds_no_special: bool = False
    """The template writes every special token itself."""
    use_audio_in_video: bool = False
    """Load the sound of clips, too."""


def collate(
    examples: Sequence[Mapping[str, Any]],
    conversations: Sequence[Conversation],
    processor: Any,
    call: Call,
) -> Batch:
    """Examples to a shifted batch with labels.

    Args:
        examples: Of which `_injected_fake` marks those with a fake image.
        conversations: Theirs.
        processor: The model's.
        call: How it is called.

    Raises:
        RefuseSample: A medium cannot be read, or the turns of a conversation cannot be located.
        ValueError: All conversations are longer than `call.max_length`.
    """
    if any(example.get("tools") for example in examples):
        raise RefuseSample("unsupported-tools", "the tools of an example are not read here; `vlmprep pack` reads them")
    prompts = [_prompt(conversation, row, processor, call) for row, conversation in enumerate(conversations)]
    batch = tokenized(conversations, prompts, processor, call)
    kept = too_long(row_lengths(batch, processor), call.max_length)
    if len(kept) < len(conversations):
        examples = [examples[row] for row in kept]
        conversations = [conversations[row] for row in kept]
        prompts = [prompts[row] for row in kept]
        batch = tokenized(conversations, prompts, processor, call)
    batch = padded(batch, processor, call.max_length, call.padding_side)
    if call.hook is not None:
        batch = call.hook(batch, processor)
        labels = build_labels(batch["input_ids"], conversations, processor)
    else:
        rows = zip(batch["input_ids"], conversations, prompts, strict=True)
        labels = torch.stack([labels_of(*row, processor) for row in rows])
    return finished(batch, labels, examples, conversations, processor)


def _prompt(conversation: Conversation, row: int, processor: Any, call: Call) -> Prompt:
    """The text that goes into the processor, with the answers in it."""
    try:
        return with_prefix(prompt_of(conversation, row, processor), call.prefix)
    except RefuseSample as refusal:
        raise RefuseSample(refusal.code, f"conversation {row} of the batch: {refusal.reason}") from refusal


def tokenized(conversations: Sequence[Conversation], prompts: Sequence[Prompt], processor: Any, call: Call) -> Batch:
    """What the processor makes of a batch, rows padded to the longest and never cut."""
    media = load_media(conversations, processor, use_audio_in_video=call.use_audio_in_video, by_pillow=call.flat_images)
    texts = [prompt.text for prompt in prompts]
    arguments: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
    if call.padding_side is not None:
        arguments["padding_side"] = call.padding_side
    bos = getattr(processor.tokenizer, "bos_token", None)
    if call.adds_no_special or (bos is not None and texts[0].startswith(bos)):
        arguments["add_special_tokens"] = False
    batch: Batch = processor(text=texts, **arguments, **_media_arguments(media, processor, call))
    return batch


def _media_arguments(media: BatchMedia, processor: Any, call: Call) -> dict[str, Any]:
    arguments = media.arguments(processor)
    if call.flat_images and "images" in arguments:
        arguments["images"] = [image for images in media.images for image in images]
    if call.use_audio_in_video and media.videos:
        arguments |= {"load_audio_from_video": True, "audio_from_video_indices": media.sound_videos}
    return arguments


def row_lengths(batch: Batch, processor: Any) -> list[int]:
    """Tokens of every row, padding aside."""
    if "attention_mask" in batch:
        return [int(length) for length in batch["attention_mask"].sum(dim=1)]
    return [int(length) for length in (batch["input_ids"] != pad_id(processor)).sum(dim=1)]


def too_long(lengths: Sequence[int], max_length: int | None) -> list[int]:
    """The rows that stay; the others are named in the log.

    Raises:
        ValueError: None stays.
    """
    if max_length is None:
        return list(range(len(lengths)))
    kept = [row for row, length in enumerate(lengths) if length <= max_length]
    if not kept:
        raise ValueError(
            f"all {len(lengths)} conversations of the batch are longer than max_length={max_length}: "
            f"they have {', '.join(map(str, lengths))} tokens"
        )
    for row in sorted(set(range(len(lengths))) - set(kept)):
        logger.warning(
            "conversation %d of the batch is dropped: %d tokens, max_length is %d", row, lengths[row], max_length
        )
    return kept


def padded(batch: Batch, processor: Any, length: int | None, side: str | None = None) -> Batch:
    """Lengthen every row to one length, as the tokenizer would; rows that are longer stay as they are."""
    size = batch["input_ids"].shape[1]
    if length is None or size >= length:
        return batch
    if side is None:
        own = getattr(processor, "text_kwargs", {})
        side = own.get("padding_side", getattr(processor.tokenizer, "padding_side", "right"))
    fills = {"input_ids": pad_id(processor), "labels": IGNORE_INDEX}
    margins = (length - size, 0) if side == "left" else (0, length - size)
    for name in token_fields(batch):
        batch[name] = torch.nn.functional.pad(batch[name], margins, value=fills.get(name, 0))
    return batch


def pad_id(processor: Any) -> int:
    """The token id that fills a row; 0 where the tokenizer has none."""
    tokenizer = getattr(processor, "tokenizer", processor)
    return int(getattr(tokenizer, "pad_token_id", None) or 0)


def token_fields(batch: Batch) -> list[str]:
    """Names of the fields with one entry per token: those known as such, and those of their shape that media do not own."""
    shape = batch["input_ids"].shape
    return [
        name
        for name, value in batch.items()
        if isinstance(value, Tensor)
        and (
            (name in SEQUENCE_FIELDS and value.shape[-1] == shape[-1])
            or (value.shape == shape and not name.startswith(MEDIA_NAMES))
        )
    ]


def finished(
    batch: Batch,
    labels: Tensor,
    examples: Sequence[Mapping[str, Any]],
    conversations: Sequence[Conversation],
    processor: Any,
) -> Batch:
    """Shift a batch, hide fake images, count media.

    Args:
        batch: [B, S] tokens.
        labels: [B, S], not shifted.
        examples: Of which `_injected_fake` marks those with a fake image.
        conversations: Theirs.
        processor: The model's.

    Returns:
        The same mapping with token fields [B, S - 1].
    """
    batch = shifted(batch, labels)
    fakes = [row for row, example in enumerate(examples) if example.get("_injected_fake")]
    mask_fake_vision_tokens_batch(batch, processor, fakes)
    return counted(batch, *count_media(conversations))


def shifted(batch: Batch, labels: Tensor) -> Batch:
    """Every token beside the next one's label: fields lose their last token, labels their first."""
    batch.pop("labels", None)
    for name in token_fields(batch):
        if name != "input_ids":
            batch[name] = batch[name][..., :-1]
    batch["input_ids"] = batch["input_ids"][:, :-1]
    batch["labels"] = labels[:, 1:]
    return batch


def counted(batch: Batch, num_images: Sequence[int], num_videos: Sequence[int]) -> Batch:
    """Add `n_images_per_sample` and `n_videos_per_sample` [B] int64, each where there are any."""
    for name, counts in (("n_images_per_sample", num_images), ("n_videos_per_sample", num_videos)):
        if any(counts):
            batch[name] = torch.tensor(counts, dtype=torch.int64)
    return batch
