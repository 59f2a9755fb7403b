"""The plan stage: candidates to packs to files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vlmprep.counting.ledger import Ledger
from vlmprep.pipeline.output import output_folder
from vlmprep.pipeline.plan.bounds import Fake, make_room
from vlmprep.pipeline.plan.budget import no_sample
from vlmprep.pipeline.plan.candidates import Candidates, find_candidates
from vlmprep.pipeline.plan.costs import Costing, costing_of
from vlmprep.pipeline.plan.cuts import Cuts
from vlmprep.pipeline.plan.file import (
    CUTS,
    PLAN_FILE,
    PLAN_VERSION,
    Plan,
    PlannedPacks,
    check_version,
    open_plan,
    write_plan,
)
from vlmprep.pipeline.plan.forecast import forecast
from vlmprep.pipeline.plan.layout import Layout, lay_out
from vlmprep.pipeline.plan.mixture import check_weights, uses_of_rows
from vlmprep.pipeline.recognize import Kind
from vlmprep.pipeline.settings import PlanSettings, refuse_other_settings
from vlmprep.planning import PackPlan
from vlmprep.schema.errors import StopRun
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.files import read_json
from vlmprep.schema.ledger import ENCODER_WORK

__all__ = ["fake_of", "make_plan"]

ONE_PROJECTION = ("phi4_multimodal",)
"""Families whose models project all sounds of a batch another way as soon as any image is in it; see docs/leaks.md."""


def make_plan(
    ledger: Ledger, settings: PlanSettings, out: Path, *, frozen: bool = False, model_config: str | None = None
) -> Plan:
    """Write the plan of a ledger, or open the one that is there; make it anew where the ledger changed since.

    Args:
        ledger: What to plan.
        settings: How.
        out: Folder of the plan.
        frozen: Packing from the plan began: stop where the ledger changed.
        model_config: Folder, file or hub name of the model's config, for predicted costs; None: the processor's sibling.

    Raises:
        StopRun: `out` holds a plan made with other settings, or no sample can be packed.
    """
    family = ledger.settings["fingerprint"]["family"]
    costing = costing_of(settings.balance, _family_settings(ledger), model_config, family=family)
    decisive = {**settings.to_json(), "cost": costing.to_json()}
    with output_folder(out, Kind.PLAN):
        if (found := read_json(out / PLAN_FILE)) is not None:
            check_version(out, found)
            refuse_other_settings(f"the plan {out}", found["settings"], decisive)
            if found["ledger"] == ledger.digest:
                return open_plan(out)
            if frozen:
                raise StopRun(
                    f"the ledger {ledger.root} is no longer the one that {out} was made from, and packing from it began",
                    "Give another --out to pack what the ledger holds now.",
                )
            (out / PLAN_FILE).unlink()
        _make(ledger, settings, costing, out, {"version": PLAN_VERSION, "settings": decisive, "ledger": ledger.digest})
    return open_plan(out)


def _make(ledger: Ledger, settings: PlanSettings, costing: Costing, out: Path, identity: dict[str, Any]) -> None:
    _check_fake_counts(ledger, settings)
    check_weights(ledger, settings.weights)
    fake = fake_of(ledger, settings, costing)
    room = make_room(settings, fake)
    found = find_candidates(ledger, uses_of_rows(ledger, settings.weights), settings, room, costing)
    candidates = found.candidates
    if not len(candidates.rows):
        raise no_sample(ledger, found.unfit)
    _check_sounds(ledger, candidates, settings)
    plan = lay_out(candidates, room, settings)
    plan = plan if settings.max_packs is None else plan.first(settings.max_packs)
    packs = _packs(plan, candidates, settings)
    numbers = forecast(
        Layout(
            ledger=ledger,
            settings=settings,
            costing=costing,
            fake=fake,
            room=room,
            candidates=candidates,
            unfit=found.unfit,
            cuts=found.cuts,
            plan=plan,
            packs=packs,
        )
    )
    write_plan(
        out, packs, found.unfit, _cut_table(found.cuts), {**identity, "fake": asdict(fake), "statistics": numbers}
    )


def _cut_table(cuts: Cuts | None) -> pa.Table:
    if cuts is None:
        return CUTS.empty_table()
    return pa.table([cuts.rows, cuts.counts["num_tokens"], cuts.num_cut_tokens, cuts.num_cut_media], schema=CUTS)


def _packs(plan: PackPlan, candidates: Candidates, settings: PlanSettings) -> PlannedPacks:
    """The planner's packs in words of the ledger."""
    samples = plan.samples

    def total(values: NDArray[Any], kind: type[np.generic]) -> NDArray[Any]:
        return np.add.reduceat(values[samples], plan.offsets[:-1], dtype=kind)

    needs_fake = plan.needs_fake & (settings.fake_image == "pack")
    return PlannedPacks(
        samples=candidates.rows[samples],
        costs=candidates.costs[samples],
        offsets=plan.offsets,
        num_tokens=total(candidates.num_tokens, np.int64),
        num_visual_tokens=plan.pack_visual_tokens,
        num_images=total(candidates.num_images, np.int64),
        pack_costs=plan.pack_costs,
        needs_fake=needs_fake,
        num_fakes=int(np.count_nonzero(needs_fake) + np.count_nonzero(candidates.gets_fake[samples])),
    )


def _family_settings(ledger: Ledger) -> FamilySettings:
    processor = dict(ledger.settings["processor"])
    processor["options"] = tuple((name, value) for name, value in processor["options"])
    return FamilySettings(**processor)


def fake_of(ledger: Ledger, settings: PlanSettings, costing: Costing) -> Fake:
    """What a pack without pictures keeps room for."""
    if settings.fake_image != "pack":
        return Fake()
    counts = ledger.settings["fake_image"]
    num_tokens = int(counts["num_tokens"]) - 1
    return Fake(
        num_tokens=num_tokens,
        num_visual_tokens=int(counts["num_visual_tokens"]),
        cost=costing.cost_of(
            {**{name: counts[name] for name in ("num_visual_tokens", *ENCODER_WORK)}, "num_tokens": num_tokens}
        ),
    )


def _check_fake_counts(ledger: Ledger, settings: PlanSettings) -> None:
    if settings.fake_image == "sample" and not ledger.settings["limits"].get("count_with_fake"):
        raise StopRun(
            f"the ledger {ledger.root} does not say how long samples are with a fake image in them",
            "Count them with `vlmprep estimate --count-with-fake`, into a ledger of its own.",
        )


def _check_sounds(ledger: Ledger, candidates: Candidates, settings: PlanSettings) -> None:
    """Stop where a family's sounds would not be what they are alone.

    Raises:
        StopRun: Samples with sounds and no image would stand beside images, real or fake.
    """
    family = ledger.settings["fingerprint"]["family"]
    images = candidates.num_images > 0
    alone = candidates.has_sound & ~images
    if family not in ONE_PROJECTION or not alone.any():
        return
    if images.any() or settings.fake_image != "none":
        beside = f"{np.count_nonzero(images)} samples with images" if images.any() else "fake images"
        raise StopRun(
            f"{family} projects the sounds of a batch by another layer as soon as any image is in it, so "
            f"{np.count_nonzero(alone)} samples with sounds and no image cannot be packed beside {beside}",
            "Make a pack set of them by themselves, with --fake-image none.",
        )
