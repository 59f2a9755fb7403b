"""NeMo Automodel's `datasets.vlm.neat_packing_vlm`: packs that are planned from exact counts and made when they are asked for.

    from vlmprep.automodel.datasets import PreTokenizedDatasetWrapper, make_meta_dataset
    from vlmprep.automodel.neat_packing_vlm import neat_pack_dataset_vlm

    examples = make_meta_dataset("meta.json")
    packs = neat_pack_dataset_vlm(PreTokenizedDatasetWrapper(examples, processor), pack_size=8192)
    loader = vlmprep.Loader(packs.packs, num_workers=4)          # or a DataLoader over `packs`

Counting, planning and building are those of `vlmprep pack`: for the same samples and plan, a pack made here equals the one on
disk bit for bit. docs/automodel.md says where this differs from the reference.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from vlmprep.automodel.estimates import image_tokens as _estimate_image_tokens
from vlmprep.automodel.estimates import sample_length as _estimate_sample_length
from vlmprep.automodel.estimates import video_tokens as _estimate_video_tokens
from vlmprep.automodel.failures import Policy, check_policy
from vlmprep.automodel.joined import MEDIA_KEYS, build_pack, mrope_positions
from vlmprep.automodel.joined import shift_sample as _shift_sample
from vlmprep.automodel.knapsack import balanced_bins, pack_examples, pack_tokenized
from vlmprep.automodel.packed import PackedDatasetWrapper
from vlmprep.automodel.tokenized import PreTokenizedDatasetWrapper
from vlmprep.pipeline.settings import PlanSettings

__all__ = [
    "MEDIA_KEYS",
    "PackedDatasetWrapper",
    "_build_packed_vlm_sample",
    "_compute_mrope_position_ids",
    "_estimate_image_tokens",
    "_estimate_sample_length",
    "_estimate_video_tokens",
    "_shift_sample",
    "greedy_knapsack_vt_balanced",
    "neat_pack_dataset_vlm",
]

logger = logging.getLogger(__name__)


def greedy_knapsack_vt_balanced(
    lengths: Sequence[int], max_length: int, visual_tokens: Sequence[int]
) -> list[list[int]]:
    """Full bins of nearly equal visual tokens, by vlmprep's planner; neighbours have the most alike.

    Args:
        lengths: Tokens of each sample.
        max_length: Tokens that a bin may hold.
        visual_tokens: How many of them the vision encoder fills.

    Returns:
        Sample numbers of every bin.

    Raises:
        ValueError: A sample is longer than a bin.
    """
    return balanced_bins(lengths, max_length, visual_tokens)


def neat_pack_dataset_vlm(
    dataset: Any,
    pack_size: int,
    padding_idx: int = 0,
    drop_long_samples: bool = False,
    max_packs: int | None = None,
    get_rope_index: Callable[..., Any] | None = None,
    ds_raw: Any = None,
    packing_ratio: float = 1.0,
    processor: Any = None,
    balance_media_tokens: bool = True,
    *,
    failures: Policy | None = None,
    seed: int = 0,
    document_alignment: int = 1,
) -> PackedDatasetWrapper:
    """Plan packs of a data set from exact counts; each is made when it is asked for.

    Packs stand in a seeded shuffle, in the order of `vlmprep plan`, so that reading them one after the other is a fair mix.

    Args:
        dataset: A PreTokenizedDatasetWrapper; or any data set of tokenized samples, which are then all made once to count them.
        pack_size: Tokens that a pack holds at most, after the shift.
        padding_idx: Token id of padding.
        drop_long_samples: Leave samples out that are longer than a pack; the log says how many. Else they fail.
        max_packs: Packs that are kept: a fair cut of all.
        get_rope_index: The model's, in place of vlmprep's own positions for it.
        ds_raw: Not needed: the examples of `dataset` are counted. Given, it must have as many.
        packing_ratio: Share of a pack that is planned for; counts are exact, so that less than 1 only wastes room.
        processor: Not needed either: that of `dataset` counts.
        balance_media_tokens: Make packs equal in visual tokens; else only few.
        failures: What becomes of samples that fail: `raise`, `refuse` or `substitute`; default: as `dataset` has it.
        seed: Of the order of the packs, as in `vlmprep plan`.
        document_alignment: Every document takes a multiple of so many tokens, as context parallelism pads it; `pack_size` is
            one too. Of `dataset` as a PreTokenizedDatasetWrapper alone.

    Raises:
        RefuseSample: A sample fails or is too long, and nobody said that it may be left out.
        StopRun: No sample can be packed.
    """
    if ds_raw is not None and len(ds_raw) != len(dataset):
        raise ValueError(f"ds_raw has {len(ds_raw)} samples, dataset has {len(dataset)}: they must be the same")
    own = dataset if isinstance(dataset, PreTokenizedDatasetWrapper) else None
    if own is None and document_alignment != 1:
        raise ValueError(
            f"document_alignment is {document_alignment}, which a {type(dataset).__name__} is not packed with"
        )
    policy: Policy = failures or (own.policy if own else "raise")
    check_policy(policy)
    settings = PlanSettings(
        pack_size=pack_size,
        balance="vt" if balance_media_tokens else "none",
        fake_image=own.documents.fake_image if own else "none",
        packing_ratio=packing_ratio,
        max_packs=max_packs,
        seed=seed,
        document_alignment=document_alignment,
    )
    if own is not None:
        return pack_examples(
            own,
            settings,
            padding_idx=padding_idx,
            drop_long_samples=drop_long_samples,
            get_rope_index=get_rope_index,
            policy=policy,
        )
    bins, failed = pack_tokenized(dataset, settings, drop_long_samples=drop_long_samples, policy=policy)
    packed = PackedDatasetWrapper(dataset, bins, pack_size, padding_idx, get_rope_index, failures=policy)
    packed.failures = failed
    return packed


def _build_packed_vlm_sample(
    samples: Sequence[Mapping[str, Any]], pack_size: int, padding_idx: int, has_mrope: bool = False
) -> dict[str, Any]:
    """Lay shifted samples end to end; see `vlmprep.automodel.joined.build_pack`."""
    return build_pack(samples, pack_size, padding_idx, has_mrope)


def _compute_mrope_position_ids(sample: Mapping[str, Any], get_rope_index: Callable[..., Any]) -> Tensor | None:
    """Positions [3, S] that a model gives one sample; None where its function takes no `input_ids`."""
    return mrope_positions(sample, get_rope_index)
