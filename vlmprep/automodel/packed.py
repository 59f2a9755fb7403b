"""Packs that are made when they are asked for, from bins of samples: the reference's data set over vlmprep's packs."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset

from vlmprep.automodel.failures import Failures, Policy, check_policy
from vlmprep.automodel.joined import RopeOfDocuments, build_pack, mrope_positions, shift_sample
from vlmprep.automodel.lazy import LazyPacks
from vlmprep.automodel.tokenized import PreTokenizedDatasetWrapper
from vlmprep.runtime.pixels import restore_all
from vlmprep.schema.errors import RefuseSample

__all__ = ["PackedDatasetWrapper"]

logger = logging.getLogger(__name__)


class PackedDatasetWrapper(Dataset[dict[str, Any]]):
    """Packs by number, each made when it is asked for, in a DataLoader's worker or here.

    A pack is a dict of `input_ids`, `labels`, `attention_mask` (document number 1..n; 0 on fake images), `position_ids`
    ([S], or [3, S] where the model's positions have axes), `mm_token_type_ids`, all int64 and shifted, the media fields as the
    processor gives them, `n_images` and `n_videos`. It is what `vlmprep pack` writes for the same samples and plan.

    Args:
        inner_dataset: Tokenizes samples: a PreTokenizedDatasetWrapper, or any data set of such dicts.
        bins: Numbers of the samples of every pack.
        pack_size: Tokens that a pack holds at most, after the shift.
        padding_idx: Token id of padding; packs have none, collate functions put it there.
        get_rope_index: The model's `get_rope_index`, in place of vlmprep's own positions for it.
        max_retries: How many others are tried in place of a sample that fails, with `failures="substitute"`.
        failures: What becomes of samples that fail: `raise`, `refuse` or `substitute`; default: as `inner_dataset` has it.
        packs: What a planner made of the same bins.
    """

    def __init__(
        self,
        inner_dataset: Any,
        bins: Sequence[Sequence[int]],
        pack_size: int,
        padding_idx: int = 0,
        get_rope_index: Callable[..., Any] | None = None,
        max_retries: int = 10,
        *,
        failures: Policy | None = None,
        packs: LazyPacks | None = None,
    ) -> None:
        self.inner, self.bins, self.pack_size, self.padding_idx = inner_dataset, bins, pack_size, padding_idx
        self.get_rope_index, self.has_mrope = get_rope_index, get_rope_index is not None
        self.max_retries = max_retries
        own = inner_dataset if isinstance(inner_dataset, PreTokenizedDatasetWrapper) else None
        self.policy: Policy = failures or (own.policy if own else "raise")
        check_policy(self.policy)
        self.failures = own.failures if own else Failures(len(inner_dataset))
        """Which samples failed, here or in a worker."""
        self._packs = packs
        if own is not None and packs is None:
            self._packs = LazyPacks(
                own.documents,
                bins,
                pack_size,
                policy=self.policy,
                failures=self.failures,
                max_retries=max_retries,
                positions=get_rope_index and RopeOfDocuments(get_rope_index),
            )

    @property
    def packs(self) -> LazyPacks:
        """The same packs in the form that pack sets hold them in, for `vlmprep.Loader`.

        Raises:
            TypeError: The inner data set tokenizes by itself.
        """
        if self._packs is None:
            raise TypeError(
                f"packs of {type(self.inner).__name__} have no stored form; PreTokenizedDatasetWrapper's have"
            )
        return self._packs

    def __len__(self) -> int:
        return len(self.bins)

    def __getitem__(self, pack_idx: int) -> dict[str, Any]:
        """Make one pack.

        Raises:
            IndexError: There is no such pack.
            RefuseSample: A sample of it fails, and nothing is to be done about that.
        """
        if not 0 <= pack_idx < len(self):
            raise IndexError(f"pack {pack_idx} of {len(self)}")
        if self._packs is None:
            samples = list(self._shifted(pack_idx))
            return build_pack(samples, self.pack_size, self.padding_idx, self.has_mrope)
        made = self._packs.pack(pack_idx)
        stored: dict[str, Any] = self._packs.tensors(made)
        pack = restore_all(stored, self._packs.manifest.pixels)
        kinds = [medium.kind for _, medium in made.media]
        whole = {
            name: value.long() for name, value in pack.items() if name in TOKEN_FIELDS and not value.is_floating_point()
        }
        return {**pack, **whole, "n_images": kinds.count("image"), "n_videos": kinds.count("video")}

    def robust_collate(self, collate_fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Wrap a collate function as the inner data set does it; as it is where that does not."""
        wrap = getattr(self.inner, "robust_collate", None)
        wrapped: Callable[[Any], Any] = collate_fn if wrap is None else wrap(collate_fn)
        return wrapped

    def _shifted(self, pack_idx: int) -> Iterator[Mapping[str, Any]]:
        """Samples of a data set that tokenizes by itself, each held against the room that is left."""
        taken = 0
        for number in self.bins[pack_idx]:
            try:
                sample = self._sample(number, self.pack_size - taken)
            except Exception as error:  # data sets raise what they like: passed on, or recorded as the policy says
                if self.policy == "raise":
                    raise
                found = self._other(number, error, self.pack_size - taken) if self.policy == "substitute" else None
                if found is None:
                    self.failures.record(number, error, f"pack {pack_idx} goes without it")
                    continue
                sample = found
            taken += len(sample["input_ids"])
            yield sample

    def _sample(self, number: int, room: int) -> Mapping[str, Any]:
        sample = dict(self.inner[number])
        if self.get_rope_index is not None:
            sample["position_ids"] = mrope_positions(sample, self.get_rope_index)
        shifted = shift_sample(sample, self.has_mrope)
        if (length := len(shifted["input_ids"])) > room:
            raise RefuseSample(
                "overlong", f"sample {number}: {length} tokens after the shift, {room} are left in its pack"
            )
        return shifted

    def _other(self, number: int, error: Exception, room: int) -> Mapping[str, Any]:
        for _ in range(self.max_retries):
            other = random.randrange(len(self.inner))
            try:
                sample = self._sample(other, room)
            except Exception as again:  # noqa: BLE001 - whatever broken samples raise; the last one is told
                last = again
                continue
            self.failures.record(number, error, f"sample {other} takes its place")
            return sample
        raise RuntimeError(f"sample {number} fails, and so do {self.max_retries} others; last error: {last}") from error


TOKEN_FIELDS = ("input_ids", "labels", "attention_mask", "position_ids", "mm_token_type_ids")
