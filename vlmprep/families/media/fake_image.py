"""Which tokens are a fake image's: the rule that hides them, online and in packs alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["place_of", "written_tokens"]


def written_tokens(tokenizer: Any, ids: Sequence[int]) -> slice:
    """What stands for an image among the tokens that template and processor write for it.

    Args:
        tokenizer: The processor's.
        ids: Token ids of the image by itself, possibly between the tokens that begin and end any text.

    Returns:
        From its first to its last added token: text between these (newlines between tiles) is hidden with them, text
        around them (a newline behind the image) is not. Empty where no token is an added one.
    """
    added = tokenizer.added_tokens_decoder
    spared = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    own = [at for at, number in enumerate(ids) if number in added and number not in spared]
    return slice(own[0], own[-1] + 1) if own else slice(0, 0)


def place_of(pattern: NDArray[np.int32], ids: NDArray[np.int32]) -> int | None:
    """Where a run of token ids stands first among others; None where it does not, or is empty."""
    if not 0 < len(pattern) <= len(ids):
        return None
    found = (np.lib.stride_tricks.sliding_window_view(ids, len(pattern)) == pattern).all(axis=1)
    return int(found.argmax()) if found.any() else None
