"""NeMo Automodel's `datasets.vlm.collate_fns`: examples of conversations to a batch, by processor.

    from vlmprep.automodel.collate_fns import COLLATE_FNS
    collate = COLLATE_FNS.get(type(processor).__name__, COLLATE_FNS["default"])
    batch = collate(examples, processor)

Every batch is shifted: `input_ids` [B, S - 1] beside `labels` [B, S - 1], which are the next tokens where the assistant says
them, -100 elsewhere.
docs/automodel.md says where this differs from the reference.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vlmprep.automodel.batches import Batch, Call, collate
from vlmprep.automodel.conversations import assistant_text as _extract_assistant_text
from vlmprep.automodel.conversations import count_media as _count_media_per_sample
from vlmprep.automodel.conversations import extract_media as _extract_media_from_conversations
from vlmprep.automodel.examples import conversations_of
from vlmprep.automodel.examples import ensure_rgb as _ensure_rgb
from vlmprep.automodel.gemma4 import MODEL_TURN as _GEMMA4_MODEL_TURN
from vlmprep.automodel.gemma4 import THINKING_PREFIX as _GEMMA4_THINKING_PREFIX
from vlmprep.automodel.gemma4 import inject_thinking_prefix_tokens as _inject_thinking_prefix_tokens
from vlmprep.automodel.kimi import collate_kimi_k25
from vlmprep.automodel.kimi import expand_image_tokens as _expand_image_tokens
from vlmprep.automodel.labels import build_labels
from vlmprep.automodel.lengths import drop_overlong as _drop_overlong_samples
from vlmprep.automodel.lengths import image_config as _extract_image_config
from vlmprep.automodel.lengths import media_tokens as _estimate_media_tokens
from vlmprep.automodel.markers import IMSTART_TEMPLATE_PROCESSORS as _IMSTART_TEMPLATE_PROCESSORS
from vlmprep.automodel.markers import assistant_marker as _get_assistant_marker
from vlmprep.automodel.markers import decode_single_token as _decode_single_token
from vlmprep.automodel.markers import find_pattern_indices as _find_pattern_indices
from vlmprep.automodel.markers import stop_token_id as _get_stop_token_id
from vlmprep.automodel.nemotron_parse import TASK_PROMPT, collate_nemotron_parse
from vlmprep.automodel.phi4 import collate_phi4
from vlmprep.automodel.pretokenized import collate_packs, collate_padded
from vlmprep.automodel.retries import RobustCollate

__all__ = [
    "COLLATE_FNS",
    "_GEMMA4_MODEL_TURN",
    "_GEMMA4_THINKING_PREFIX",
    "_IMSTART_TEMPLATE_PROCESSORS",
    "_count_media_per_sample",
    "_decode_single_token",
    "_drop_overlong_samples",
    "_ensure_rgb",
    "_estimate_media_tokens",
    "_expand_image_tokens",
    "_extract_assistant_text",
    "_extract_image_config",
    "_extract_media_from_conversations",
    "_find_pattern_indices",
    "_get_assistant_marker",
    "_get_stop_token_id",
    "_inject_thinking_prefix_tokens",
    "build_labels",
    "build_labels_from_template",
    "default_collate_fn",
    "gemma4_prefix_collate_fn",
    "kimi_k25_vl_collate_fn",
    "kimi_vl_collate_fn",
    "make_robust_collate",
    "neat_packed_vlm_collater",
    "nemotron_parse_collate_fn",
    "pad_collate_fn",
    "phi4_mm_collate_fn",
    "qwen2_5_collate_fn",
    "qwen3_omni_collate_fn",
]

logger = logging.getLogger(__name__)

Examples = Sequence[Mapping[str, Any]]


def make_robust_collate(dataset: Any, collate_fn: Callable[[Any], Any], max_retries: int = 10) -> RobustCollate:
    """Wrap a collate function so that a batch that fails is replaced by another, and its error told; see RobustCollate."""
    return RobustCollate(dataset, collate_fn, max_retries)


def build_labels_from_template(
    input_ids_batch: Tensor, conversations: Sequence[Sequence[Mapping[str, Any]]], processor: Any
) -> Tensor:
    """Labels of a batch [B, S], not shifted; as `build_labels`, which never scans for markers either."""
    return build_labels(input_ids_batch, conversations, processor)


def default_collate_fn(
    examples: Examples,
    processor: Any,
    max_length: int | None = None,
    _post_tokenize_hook: Callable[[Any, Any], Any] | None = None,
) -> Batch:
    """Collate for any processor with a chat template; pixels as bfloat16.

    Args:
        examples: Conversations.
        processor: The model's.
        max_length: Tokens of every row before the shift: longer conversations are dropped, shorter ones padded.
        _post_tokenize_hook: (batch, processor) -> batch, between tokens and labels.
    """
    return _in_bfloat16(_collated(examples, processor, Call(max_length=max_length, hook=_post_tokenize_hook)))


def qwen2_5_collate_fn(examples: Examples, processor: Any) -> Batch:
    """Collate for Qwen2.5-VL."""
    return _collated(examples, processor, Call())


def qwen3_omni_collate_fn(examples: Examples, processor: Any, use_audio_in_video: bool = False) -> Batch:
    """Collate for Qwen3-Omni.

    Args:
        examples: Conversations.
        processor: The model's.
        use_audio_in_video: Interleave the sound of every clip that has one with its frames.
    """
    return _collated(examples, processor, Call(padding_side="right", use_audio_in_video=use_audio_in_video))


def kimi_vl_collate_fn(examples: Examples, processor: Any, max_length: int | None = None) -> Batch:
    """Collate for Kimi-VL, whose processor is remote code: images in one list, no special tokens but the template's."""
    return _collated(examples, processor, Call(max_length=max_length, flat_images=True, adds_no_special=True))


def kimi_k25_vl_collate_fn(examples: Examples, processor: Any, max_length: int | None = None) -> Batch:
    """Collate for Kimi K2.5, placeholders written out, every row `max_length` long before the shift where it is given."""
    return collate_kimi_k25(examples, processor, max_length)


def phi4_mm_collate_fn(examples: Examples, processor: Any) -> Batch:
    """Collate for Phi-4-multimodal, sounds in the conversation or beside it as `example["audio"]`."""
    return collate_phi4(examples, processor)


def nemotron_parse_collate_fn(examples: Examples, processor: Any, task_prompt: str = TASK_PROMPT) -> Batch:
    """Collate for Nemotron-Parse: one page and one answer each, behind a task prompt that is not learned."""
    return collate_nemotron_parse(examples, processor, task_prompt)


def gemma4_prefix_collate_fn(examples: Examples, processor: Any, max_length: int | None = None) -> Batch:
    """Collate for Gemma4 with an empty thinking channel, which the loss does not count, before every answer."""
    call = Call(max_length=max_length, prefix=_GEMMA4_THINKING_PREFIX)
    return _in_bfloat16(_collated(examples, processor, call))


def pad_collate_fn(examples: Examples, processor: Any, max_length: int | None = None) -> Batch:
    """Collate for samples that were tokenized before: pad, join media, shift."""
    return collate_padded(examples, processor, max_length)


def neat_packed_vlm_collater(
    batch: list[dict[str, Any]],
    padding_idx: int = 0,
    max_length: int | None = None,
    attn_implementation: str = "sdpa",
) -> dict[str, Any]:
    """Collate packs, shifted when they were packed; see `vlmprep.runtime.collate.neat`."""
    return collate_packs(batch, padding_idx, max_length, attn_implementation)


def _collated(examples: Examples, processor: Any, call: Call) -> Batch:
    return collate(examples, conversations_of(examples), processor, call)


def _in_bfloat16(batch: Batch) -> Batch:
    for name in ("pixel_values", "pixel_values_videos"):
        if name in batch:
            batch[name] = batch[name].to(torch.bfloat16)
    return batch


COLLATE_FNS: dict[str, Callable[..., Batch]] = {
    "Qwen2_5_VLProcessor": qwen2_5_collate_fn,
    "Qwen3OmniMoeProcessor": qwen3_omni_collate_fn,
    "KimiVLProcessor": kimi_vl_collate_fn,
    "KimiK25Processor": kimi_k25_vl_collate_fn,
    "Kimi_K25Processor": kimi_k25_vl_collate_fn,
    "NemotronParseProcessor": nemotron_parse_collate_fn,
    "default": default_collate_fn,
}
"""By the class of the processor."""
