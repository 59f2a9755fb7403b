"""What would improve a plan: findings with their size, each measured, and the option that changes it.

Only what is worth half a percent is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from vlmprep.pipeline.plan.fill import LowerBound, Places
from vlmprep.pipeline.plan.layout import Layout
from vlmprep.pipeline.plan.refusals import Refusal
from vlmprep.pipeline.plan.stragglers import Stragglers
from vlmprep.pipeline.plan.trials import Trial, Trials, judged_ranks
from vlmprep.planning.merit import expected_straggler_ratio

__all__ = ["Advice", "Measured", "advise"]

GAIN = 0.005
"""What is told has to be worth so much: of an epoch's time, in straggler ratio, or of all tokens."""
HEAVY = 1.03
"""A sample is heavy where it has more than so much of the mean pack's work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One finding."""

    code: str
    finding: str
    """What is so, with numbers."""
    remedy: str
    """What changes it; empty where no option does."""
    numbers: Mapping[str, float]
    """The same for machines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What is known of a plan when advice is asked for."""

    fill: float
    bound: LowerBound
    places: Places
    stragglers: Stragglers
    refusals: tuple[Refusal, ...]
    trials: Trials


def advise(layout: Layout, measured: Measured) -> tuple[Advice, ...]:
    """Everything worth telling, what costs most time first."""
    return (
        *_heavy_samples(layout, measured),
        *_other_settings(measured),
        *_other_bounds(layout, measured),
        *_fakes(layout, measured),
        *_refused(layout, measured),
    )


def _heavy_samples(layout: Layout, measured: Measured) -> Iterator[Advice]:
    """Samples with more work than a mean pack: what they cost even if all other packs were equal."""
    work = layout.packs.pack_costs
    costs = layout.packed(layout.candidates.costs)
    heavy = costs[costs > HEAVY * work.mean()]
    ranks = judged_ranks(len(work))
    num_others = len(work) - len(heavy)
    if not len(heavy) or not num_others:
        return
    others = np.full(num_others, (work.sum() - heavy.sum()) / num_others)
    forced = expected_straggler_ratio(np.concatenate([heavy, others]), ranks)
    if forced < 1 + GAIN:
        return
    grouped = measured.stragglers.grouped.get(str(ranks), 1.0)
    yield Advice(
        code="heavy-samples",
        finding=f"{_samples(len(heavy))} over {HEAVY - 1:.0%} more {_work(layout)} than the mean pack. Were all other packs "
        f"equal, these alone would make the straggler ratio {forced:.3f} at {ranks} ranks",
        remedy=f"with similar packs sharing a step, the default of the loader (group_by='cost'): {grouped:.3f}",
        numbers={"samples": len(heavy), "straggler_ratio": forced, "ranks": ranks, "straggler_ratio_grouped": grouped},
    )


def _other_settings(measured: Measured) -> Iterator[Advice]:
    trials = measured.trials
    now = trials.now
    if trials.balance is not None and _is_better(trials.balance, now):
        yield _trial_advice("balance", "Packs are not balanced", "--balance vt", trials.balance, trials)
    if trials.pack_size is not None and _is_better(trials.pack_size, now):
        option = f"--pack-size {trials.pack_size.pack_size}"
        yield _trial_advice("pack-size", "Packs of twice the size even out more", option, trials.pack_size, trials)
    for trial in trials.fill_weights:
        if _is_better(trial, now):
            option = f"--fill-weight {trial.fill_weight:g}"
            yield _trial_advice("fill-weight", "Fill and balance can be traded", option, trial, trials)


def _is_better(trial: Trial, now: Trial) -> bool:
    """Whether an epoch gets shorter by enough, as the planner predicts it; see `vlmprep.planning.merit`."""
    for_places = 1 / now.fill - 1 / trial.fill
    for_work = now.straggler_ratio - trial.straggler_ratio
    return now.fill_weight * for_places + (1 - now.fill_weight) * for_work > GAIN


def _trial_advice(code: str, finding: str, option: str, trial: Trial, trials: Trials) -> Advice:
    now = trials.now
    of = f", on {trials.num_samples:,} samples drawn" if trials.num_samples < trials.of_samples else ""
    return Advice(
        code=code,
        finding=finding,
        remedy=f"with {option}: straggler ratio {trial.straggler_ratio:.3f} instead of {now.straggler_ratio:.3f} at "
        f"{trials.ranks} ranks where any packs share a step, fill {_instead(trial.fill, now.fill)}{of}",
        numbers={
            "straggler_ratio": trial.straggler_ratio,
            "straggler_ratio_now": now.straggler_ratio,
            "ranks": trials.ranks,
            "fill": trial.fill,
            "fill_now": now.fill,
        },
    )


def _instead(fill: float, now: float) -> str:
    return f"{fill:.1%}, as now" if f"{fill:.1%}" == f"{now:.1%}" else f"{fill:.1%} instead of {now:.1%}"


def _other_bounds(layout: Layout, measured: Measured) -> Iterator[Advice]:
    """What asks for more packs than tokens do."""
    bound, num_packs = measured.bound, layout.packs.num_packs
    by_tokens = bound.reasons["tokens"]
    if bound.num_packs - by_tokens <= GAIN * num_packs:
        return
    numbers = {"packs": bound.num_packs, "packs_by_tokens": by_tokens}
    if bound.tight == "long samples":
        finding = (
            f"{_samples(bound.num_packs)} more than half a pack of tokens, and no two of them share one: at least "
            f"{bound.num_packs:,} packs, where tokens alone ask for {by_tokens:,}"
        )
        remedy = (
            f"a --pack-size of twice the longest of them, {2 * _longest(layout):,} at most, lets any two share a pack"
        )
        yield Advice(code="long-samples", finding=finding, remedy=remedy, numbers=numbers)
        return
    value = getattr(layout.settings, bound.tight.removeprefix("--").replace("-", "_"))
    yield Advice(
        code="bound",
        finding=f"{bound.tight} {value:,} asks for at least {bound.num_packs:,} packs, tokens alone for {by_tokens:,}",
        remedy=f"raise {bound.tight} where memory allows, or take a smaller --pack-size",
        numbers=numbers,
    )


def _longest(layout: Layout) -> int:
    return int(layout.packed(layout.candidates.places).max())


def _fakes(layout: Layout, measured: Measured) -> Iterator[Advice]:
    """Packs without pictures, where their fake images take room worth telling."""
    packs = layout.packs
    share = measured.places.fake_images / (packs.num_packs * layout.settings.pack_size)
    if share <= GAIN:
        return
    num_media = int(np.count_nonzero(layout.packed(layout.candidates.num_visual_tokens)))
    num_fakes = int(np.count_nonzero(packs.needs_fake))
    why = f"{_samples(num_media)} pictures" if num_media else "no sample has pictures"
    yield Advice(
        code="fake-images",
        finding=f"{num_fakes:,} of {packs.num_packs:,} packs need a fake image ({why}); they take {share:.2%} of all places",
        remedy="larger packs are fewer; a model trained without its vision encoder needs none: --fake-image none",
        numbers={"packs": num_fakes, "samples_with_pictures": num_media, "share": share},
    )


def _refused(layout: Layout, measured: Measured) -> Iterator[Advice]:
    """Samples that no pack takes."""
    for refusal in measured.refusals:
        remedies = {"overlong": f"--pack-size {refusal.pack_size} takes all of them", **REMEDIES}
        remedy = remedies.get(refusal.code, "")
        if refusal.code == "overlong" and layout.settings.overlong == "refuse":
            remedy += "; --overlong truncate keeps what fits"
        yield Advice(
            code=refusal.code,
            finding=f"{refusal.samples:,} {'sample is' if refusal.samples == 1 else 'samples are'} refused as "
            f"{refusal.code}, {refusal.share:.2%} of the tokens",
            remedy=remedy,
            numbers={"samples": refusal.samples, "num_tokens": refusal.num_tokens, "share": refusal.share},
        )


REMEDIES = {
    "too-many-visual-tokens": "raise --max-visual-tokens",
    "too-many-images": "raise --max-images",
    "too-costly": "raise --max-cost",
    "no-fake-image": "--fake-image pack needs no place in the conversation",
}


def _samples(count: int) -> str:
    """`12 samples have`, for what follows."""
    return "1 sample has" if count == 1 else f"{count:,} samples have"


def _work(layout: Layout) -> str:
    return "visual tokens" if layout.costing.model is None else "predicted work"
