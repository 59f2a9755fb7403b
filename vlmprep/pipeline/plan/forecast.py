"""What a plan promises: the statistics of plan.json.

fill.py        how full packs are, what takes the rest, how few there could be
stragglers.py  how long ranks wait for each other
shares.py      what every source gives
refusals.py    what no pack takes
trials.py      what other settings would give
advice.py      what would improve the plan
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmprep.pipeline.plan.advice import Advice, Measured, advise
from vlmprep.pipeline.plan.fill import LowerBound, Places, lower_bound, places_of
from vlmprep.pipeline.plan.layout import Layout
from vlmprep.pipeline.plan.refusals import Refusal, refusals
from vlmprep.pipeline.plan.shares import Cut, SourceShare, Unused, cut, shares, unused
from vlmprep.pipeline.plan.stragglers import Stragglers, stragglers
from vlmprep.pipeline.plan.trials import Trials, run_trials

__all__ = ["Distribution", "Forecast", "distribution", "forecast"]

PERCENTS = (1, 5, 25, 50, 75, 95, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """How values spread over packs."""

    min: float
    mean: float
    max: float
    percentiles: dict[str, float]
    """By percent of the packs that have less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The numbers of a plan. Tokens are those of samples after the shift, fake images not included where nothing else is said."""

    num_packs: int
    num_samples: int
    """Documents in packs: a row that is used twice counts twice."""
    num_tokens: int
    num_visual_tokens: int
    lower_bound: LowerBound
    fill: float
    """Share of the packs' places that samples take."""
    places: Places
    fake_images: int
    """In packs or in samples."""
    samples_with_visual_tokens: int
    visual_tokens_per_pack: Distribution
    tokens_per_pack: Distribution
    samples_per_pack: Distribution
    cost_unit: str
    """Of costs: `visual tokens`, or `TFLOP` of a forward pass."""
    cost_per_pack: Distribution
    straggler_ratio: Stragglers
    sources: tuple[SourceShare, ...]
    cut: Cut
    unused: Unused
    refused: tuple[Refusal, ...]
    """By the plan; what the ledger refuses stands in `sources` alone."""
    trials: Trials
    advice: tuple[Advice, ...]
    """What would improve the plan; empty where nothing would by half a percent."""


def forecast(layout: Layout) -> dict[str, Any]:
    """The numbers of a plan, as plan.json holds them; see `Forecast`."""
    return asdict(_forecast(layout))


def _forecast(layout: Layout) -> Forecast:
    packs = layout.packs
    places, bound = places_of(layout), lower_bound(layout)
    fill = places.samples / (layout.settings.pack_size * packs.num_packs)
    waiting, trials = stragglers(layout), run_trials(layout)
    measured = Measured(
        fill=fill, bound=bound, places=places, stragglers=waiting, refusals=refusals(layout), trials=trials
    )
    return Forecast(
        num_packs=packs.num_packs,
        num_samples=len(packs.samples),
        num_tokens=places.samples,
        num_visual_tokens=int(packs.num_visual_tokens.sum()),
        lower_bound=bound,
        fill=fill,
        places=places,
        fake_images=packs.num_fakes,
        samples_with_visual_tokens=int(np.count_nonzero(layout.packed(layout.candidates.num_visual_tokens))),
        visual_tokens_per_pack=distribution(packs.num_visual_tokens),
        tokens_per_pack=distribution(packs.num_tokens),
        samples_per_pack=distribution(np.diff(packs.offsets)),
        cost_unit=layout.costing.unit,
        cost_per_pack=distribution(packs.pack_costs),
        straggler_ratio=waiting,
        sources=shares(layout),
        cut=cut(layout),
        unused=unused(layout),
        refused=measured.refusals,
        trials=trials,
        advice=advise(layout, measured),
    )


def distribution(values: NDArray[Any]) -> Distribution:
    """Summarize one value per pack.

    Args:
        values: [num_packs], at least one.
    """
    found = np.percentile(values, PERCENTS)
    return Distribution(
        min=values.min().item(),
        mean=float(values.mean()),
        max=values.max().item(),
        percentiles={str(percent): float(value) for percent, value in zip(PERCENTS, found, strict=True)},
    )
