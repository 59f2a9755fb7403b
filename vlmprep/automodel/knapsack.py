"""Bins of samples from their lengths alone, and packs of a data set from exact counts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmprep.automodel.failures import Failures, Policy
from vlmprep.automodel.joined import RopeOfDocuments
from vlmprep.automodel.lazy import LazyPacks, index_of
from vlmprep.automodel.packed import PackedDatasetWrapper
from vlmprep.automodel.planned import CountedExamples, Planned, count_examples, plan_examples
from vlmprep.automodel.tokenized import PreTokenizedDatasetWrapper
from vlmprep.pipeline.settings import PlanSettings
from vlmprep.planning import plan_packs
from vlmprep.schema.errors import RefuseSample, StopRun

__all__ = ["balanced_bins", "pack_examples", "pack_tokenized"]

logger = logging.getLogger(__name__)

PICTURES = (1, 2)
"""Token types of images and clips."""


def balanced_bins(lengths: Sequence[int], max_length: int, visual_tokens: Sequence[int]) -> list[list[int]]:
    """Full bins of nearly equal visual tokens, those with fewer before those with more.

    Args:
        lengths: Tokens of each sample.
        max_length: Tokens that a bin may hold.
        visual_tokens: How many of them the vision encoder fills.

    Raises:
        ValueError: A sample fits into no bin.
    """
    plan = plan_packs(np.asarray(lengths, np.int64), np.asarray(visual_tokens, np.int64), pack_size=max_length)
    order = np.argsort(plan.pack_visual_tokens, kind="stable")
    bins = [samples.tolist() for samples in plan.bins]
    return [bins[number] for number in order.tolist()]


def pack_examples(
    dataset: PreTokenizedDatasetWrapper,
    settings: PlanSettings,
    *,
    padding_idx: int,
    drop_long_samples: bool,
    get_rope_index: Callable[..., Any] | None,
    policy: Policy,
) -> PackedDatasetWrapper:
    """Count every example, plan as `vlmprep plan` does, and make packs of the plan when they are asked for.

    Raises:
        RefuseSample: An example cannot be packed, and the policy is to raise.
        StopRun: None can.
    """
    counted = count_examples(dataset.documents)
    planned = plan_examples(counted, settings)
    _leave_out(dataset, counted, planned, policy, drop_long_samples=drop_long_samples)
    if not planned.packs.num_packs:
        raise StopRun("no sample can be packed", "Look at the reasons in the log, or raise pack_size.")
    bins = planned.bins
    packs = LazyPacks(
        dataset.documents,
        bins,
        settings.pack_size,
        policy=policy,
        failures=dataset.failures,
        max_retries=dataset.max_retries,
        num_tokens=counted.num_tokens(dataset.documents.fake_image),
        num_label_tokens=labels_of(counted),
        positions=get_rope_index and RopeOfDocuments(get_rope_index),
        document_alignment=settings.document_alignment,
    ).with_index(index_of(planned_counts(counted, planned, settings)), counted.digest)
    _tell(planned)
    return PackedDatasetWrapper(
        dataset,
        bins,
        settings.pack_size,
        padding_idx,
        get_rope_index,
        dataset.max_retries,
        failures=policy,
        packs=packs,
    )


def pack_tokenized(
    dataset: Any, settings: PlanSettings, *, drop_long_samples: bool, policy: Policy
) -> tuple[list[list[int]], Failures]:
    """Bins of a data set that tokenizes by itself; every sample is tokenized once to count it.

    Raises:
        RefuseSample: A sample is longer than a pack.
    """
    failures, errors = Failures(len(dataset)), dict[int, Exception]()
    lengths, visual, rows = [], [], []
    for number in range(len(dataset)):
        try:
            length, num_visual = _lengths_of(dataset[number], settings.pack_size)
        except Exception as error:  # data sets raise what they like: passed on, or recorded as the policy says
            if policy == "raise" and not (drop_long_samples and isinstance(error, RefuseSample)):
                raise
            errors[number] = error
            continue
        rows.append(number)
        lengths.append(length)
        visual.append(num_visual)
    failures.leave_out(errors, len(dataset))
    plan = plan_packs(
        np.asarray(lengths, np.int64),
        np.asarray(visual, np.int64),
        pack_size=int(settings.pack_size * settings.packing_ratio),
        balance=settings.balance,
    )
    plan = plan if settings.max_packs is None else plan.first(settings.max_packs)
    return [[rows[sample] for sample in samples.tolist()] for samples in plan.bins], failures


def _lengths_of(sample: Mapping[str, Any], pack_size: int) -> tuple[int, int]:
    """Tokens of a tokenized sample after the shift, and how many of them are visual where it says so.

    Raises:
        RefuseSample: It is longer than a pack.
    """
    length = len(sample["input_ids"]) - 1
    if length > pack_size:
        raise RefuseSample("overlong", f"{length} tokens after the shift, a pack holds {pack_size}")
    return length, int(np.isin(np.asarray(sample.get("mm_token_type_ids", ())), PICTURES).sum())


def _leave_out(
    dataset: PreTokenizedDatasetWrapper,
    counted: CountedExamples,
    planned: Planned,
    policy: Policy,
    *,
    drop_long_samples: bool,
) -> None:
    """Account for the examples that no pack takes.

    Raises:
        RefuseSample: There is one, and nobody said that it may be left out.
    """
    refused: dict[int, RefuseSample] = {**counted.refusals(), **planned.unfit}
    fatal = [
        number
        for number, refusal in refused.items()
        if policy == "raise" and not (drop_long_samples and refusal.code == "overlong")
    ]
    if fatal:
        first, others = fatal[0], len(fatal) - 1
        more = f" (and {others} more samples fail)" if others else ""
        raise RefuseSample(
            refused[first].code,
            f"sample {first}: {refused[first].reason}{more}; failures='refuse' leaves such samples out, and "
            "drop_long_samples=True those that are too long",
        )
    dataset.failures.leave_out(dict(sorted(refused.items())), len(dataset))


def planned_counts(counted: CountedExamples, planned: Planned, settings: PlanSettings) -> list[dict[str, float]]:
    """What is known of every planned pack."""
    num_label_tokens, num_videos = labels_of(counted), np.asarray(counted.table["num_videos"].fill_null(0))
    fake = counted.settings["fake_image"] if settings.fake_image == "pack" else None
    packs, candidates = planned.packs, planned.candidates
    counts = []
    for number, samples in enumerate(packs.bins):
        rows = candidates.rows[samples]
        needs_fake = fake is not None and bool(packs.needs_fake[number])
        counts.append(
            {
                "num_tokens": int(candidates.num_tokens[samples].sum())
                + (fake["num_tokens"] - 1 if fake and needs_fake else 0),
                "num_visual_tokens": int(packs.pack_visual_tokens[number])
                + (fake["num_visual_tokens"] if fake and needs_fake else 0),
                "num_label_tokens": int(num_label_tokens[rows].sum()),
                "num_samples": len(rows),
                "num_images": int((candidates.num_images[samples] - candidates.gets_fake[samples]).sum()),
                "num_videos": int(num_videos[rows].sum()),
                "cost": float(packs.pack_costs[number]) + (fake["num_visual_tokens"] if fake and needs_fake else 0),
            }
        )
    return counts


def labels_of(counted: CountedExamples) -> NDArray[np.int32]:
    """[examples] label tokens of each; 0 where it cannot be used."""
    return np.asarray(counted.table["num_label_tokens"].fill_null(0))


def _tell(planned: Planned) -> None:
    packs = planned.packs
    logger.info(
        "%d samples in %d packs, %.2f%% full; most visual tokens over the mean of 8 ranks: %.3f",
        len(packs.samples),
        packs.num_packs,
        100 * packs.fill,
        packs.straggler_ratio(8),
    )
