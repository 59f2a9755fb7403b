"""The reference's small searches in token ids.

Labels do not rest on them (labels.py knows by construction where answers lie), but for processors without a chat template,
where an answer's tokens are all there is to go by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "IMSTART_TEMPLATE_PROCESSORS",
    "assistant_marker",
    "decode_single_token",
    "find_pattern_indices",
    "stop_token_id",
]

IMSTART_TEMPLATE_PROCESSORS = frozenset(
    {
        "Qwen2VLProcessor",
        "Qwen2_5_VLProcessor",
        "Qwen3OmniMoeProcessor",
        "Qwen3VLMoeProcessor",
        "Qwen3VLProcessor",
    }
)
"""Processors whose turns stand between `<|im_start|>` and `<|im_end|>`."""


def find_pattern_indices(
    template: Tensor,
    pattern: Tensor | Sequence[int],
    search_start_index: int = 0,
    allow_first_token_mismatch: bool = False,
) -> tuple[int, int]:
    """Find a run of token ids.

    Args:
        template: [S] token ids that are searched.
        pattern: [P] token ids that are looked for.
        search_start_index: Where the search begins.
        allow_first_token_mismatch: Let the first token of the run be any.

    Returns:
        (start, end) of the first such run, (-1, -1) where there is none.
    """
    wanted = torch.as_tensor(pattern, dtype=template.dtype, device=template.device)
    length = len(wanted)
    if length == 0 or len(template) - search_start_index < length:
        return -1, -1
    equal = template[search_start_index:].unfold(0, length, 1) == wanted
    if allow_first_token_mismatch:
        equal[:, 0] = True
    found = equal.all(dim=1).nonzero()
    if not len(found):
        return -1, -1
    start = search_start_index + int(found[0])
    return start, start + length


def decode_single_token(tokenizer: Any, token_id: int) -> str:
    """A token's text; tokenizers take an id alone, a list of ids, or a tensor of them.

    Raises:
        TypeError: This one takes neither.
    """
    for form in (token_id, [token_id], torch.tensor([token_id])):
        try:
            return str(tokenizer.decode(form))
        except Exception:  # noqa: BLE001 - tokenizers of remote code reject a form each in their own way
            continue
    raise TypeError(f"{type(tokenizer).__name__}.decode takes no single token id")


def assistant_marker(tokenizer: Any) -> list[int] | None:
    r"""The tokens of `<|im_start|>assistant\n`, None where the tokenizer has no `<|im_start|>`."""
    start = _known_id(tokenizer, "<|im_start|>")
    return None if start is None else [start, *tokenizer.encode("assistant\n", add_special_tokens=False)]


def stop_token_id(tokenizer: Any) -> int | None:
    """The id of `<|im_end|>`, None where the tokenizer has none."""
    return _known_id(tokenizer, "<|im_end|>")


def _known_id(tokenizer: Any, token: str) -> int | None:
    found = tokenizer.convert_tokens_to_ids(token)
    return None if found is None or found == getattr(tokenizer, "unk_token_id", None) else int(found)
