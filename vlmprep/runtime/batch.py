"""What a loader yields."""

from __future__ import annotations

from typing import Any

__all__ = ["Batch"]


class Batch(dict[str, Any]):
    """The model's inputs by name, and beside them, where `model(**batch)` does not see it, what the loop may want.

    The loss of a step, exact over ranks and gradient accumulation, is the sum of every rank's token losses divided by
    `num_label_tokens_in_step`. transformers' models do that when they get it as `num_items_in_batch`; where gradients
    are then averaged over ranks (DDP, FSDP), pass `num_label_tokens_in_step / world_size`.
    """

    num_label_tokens_in_step: int = 0
    """Tokens with a label in this whole global step, over all ranks."""
    pack_ids: tuple[int, ...] = ()
    """The packs of this batch, in row order."""
    repeated: tuple[bool, ...] = ()
    """Of each: whether it only fills the last step of an epoch (`tail="pad"`); all its labels are -100."""
