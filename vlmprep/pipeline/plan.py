"""Ledger to plan: which samples are used, which fit, and what pack each goes to."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vlmprep.counting.ledger import Ledger
from vlmprep.pipeline.fakes import FAKE_COLUMNS, gets_fake_image, with_fakes
from vlmprep.pipeline.output import output_folder
from vlmprep.pipeline.planfile import PLAN_FILE, Plan, Unfit, open_plan, write_plan
from vlmprep.pipeline.recognize import Kind
from vlmprep.pipeline.settings import PlanSettings, refuse_other_settings
from vlmprep.planning import PackPlan, plan_packs
from vlmprep.schema.errors import StopRun
from vlmprep.schema.files import read_json
from vlmprep.schema.ledger import OK

__all__ = ["STRAGGLER_RANKS", "check_refusal_budget", "make_plan", "num_refused"]

SAMPLE_RATIO_SEED = 42
"""The reference's own seed for `sample_ratio`."""
STRAGGLER_RANKS = (8, 64, 512)
COLUMNS = ("status", "num_tokens", "num_visual_tokens", "num_audios", *FAKE_COLUMNS)
ONE_PROJECTION = ("phi4_multimodal",)
"""Families whose models project all sounds of a batch another way as soon as any image is in it; see docs/leaks.md."""


def make_plan(ledger: Ledger, settings: PlanSettings, out: Path, *, frozen: bool = False) -> Plan:
    """Write the plan of a ledger, or open the one that is there; make it anew where the ledger changed since.

    Args:
        ledger: What to plan.
        settings: How.
        out: Folder of the plan.
        frozen: Packing from the plan began: stop where the ledger changed.

    Raises:
        StopRun: `out` holds a plan made with other settings, or no sample can be packed.
    """
    identity = {"settings": settings.to_json(), "ledger": ledger.digest}
    with output_folder(out, Kind.PLAN):
        if (found := read_json(out / PLAN_FILE)) is not None:
            refuse_other_settings(f"the plan {out}", found["settings"], settings.to_json())
            if found["ledger"] == ledger.digest:
                return open_plan(out)
            if frozen:
                raise StopRun(
                    f"the ledger {ledger.root} is no longer the one that {out} was made from, and packing from it began",
                    "Give another --out to pack what the ledger holds now.",
                )
            (out / PLAN_FILE).unlink()
        table = ledger.read(COLUMNS)
        if settings.fake_image == "sample" and not ledger.settings["limits"].get("count_with_fake"):
            raise StopRun(
                f"the ledger {ledger.root} does not say how long samples are with a fake image in them",
                "Count them with `vlmprep estimate --count-with-fake`, into a ledger of its own.",
            )
        gets_fake = gets_fake_image(table, settings.fake_image)
        table = with_fakes(table, gets_fake, ledger)
        fake_tokens = _fake_tokens(ledger, settings)
        used, refused = _select(ledger, table, settings, fake_tokens, gets_fake)
        if not len(used):
            raise StopRun(
                f"no sample can be packed{_with_reasons(_refusals(ledger, refused))}",
                "Repair the rows, or the settings.",
            )
        chosen = table.take(pa.array(used))
        _check_sounds(ledger, chosen, settings)
        plan = plan_packs(
            _column(chosen, "num_tokens") - 1,
            _column(chosen, "num_visual_tokens"),
            pack_size=settings.pack_size,
            balance=settings.balance,
            seed=settings.seed,
            fake_tokens=fake_tokens,
        )
        num_fakes = int(np.count_nonzero(plan.needs_fake) + np.count_nonzero(gets_fake[used]))
        write_plan(
            out, plan, used, refused, {**identity, "statistics": statistics(plan, settings.pack_size, num_fakes)}
        )
    return open_plan(out)


def statistics(plan: PackPlan, pack_size: int, num_fakes: int) -> dict[str, Any]:
    """What a plan promises."""
    visual = plan.pack_visual_tokens
    return {
        "num_packs": plan.num_packs,
        "num_samples": len(plan.samples),
        "num_tokens": int(plan.pack_tokens.sum()),
        "num_visual_tokens": int(visual.sum()),
        "min_packs": -(-int(plan.pack_tokens.sum()) // pack_size),
        "fill": plan.fill,
        "fake_images": num_fakes,
        "visual_tokens_per_pack": {
            "min": int(visual.min()), "mean": float(visual.mean()), "max": int(visual.max())
        },
        "straggler_ratio": {
            str(ranks): plan.straggler_ratio(ranks) for ranks in STRAGGLER_RANKS if ranks <= plan.num_packs
        },
    }  # fmt: skip


def check_refusal_budget(ledger: Ledger, plan: Plan, max_refused: float) -> None:
    """Stop before the expensive stage when too many rows are refused.

    Args:
        ledger: Rows and refusals by reason.
        plan: Adds the samples that fit into no pack.
        max_refused: Share of the rows.

    Raises:
        StopRun: With the reasons, their counts and an example each.
    """
    num_rows = ledger.summary["rows"]["all"]
    unfit = [
        Unfit(sample=row["sample"], code=row["reason_code"], reason=row["reason"]) for row in plan.refused.to_pylist()
    ]
    refused = num_refused(ledger, plan)
    if refused > max_refused * num_rows:
        raise StopRun(
            f"{refused} of {num_rows} rows are refused ({refused / num_rows:.2%}), "
            f"more than --max-refused {max_refused:g} allows{_with_reasons(_refusals(ledger, unfit))}",
            "Repair the rows, or allow a larger share with --max-refused.",
        )


def num_refused(ledger: Ledger, plan: Plan) -> int:
    """Rows that the ledger or the plan refuses."""
    rows: dict[str, Any] = ledger.summary["rows"]
    return int(rows["all"] - rows["ok"] + plan.refused.num_rows)


def _refusals(ledger: Ledger, unfit: Sequence[Unfit]) -> list[dict[str, Any]]:
    """Refusals by reason, as `counting.ledger.refusal_counts` has them, with the plan's own behind the ledger's."""
    refusals: list[dict[str, Any]] = list(ledger.summary["rows"]["refused"])
    for code in dict.fromkeys(sample.code for sample in unfit):
        alike = [sample for sample in unfit if sample.code == code]
        place = ledger.read(["source", "row"]).slice(alike[0].sample, 1).to_pylist()[0]
        refusals.append({"code": code, "rows": len(alike), "example": {**place, "reason": alike[0].reason}})
    return refusals


def _with_reasons(refusals: Sequence[dict[str, Any]]) -> str:
    """`: ` and a line for each reason with an example, or nothing."""
    lines = (
        f"{refusal['rows']:>8}  {refusal['code']}, e.g. {example['source']}, row {example['row']}: {example['reason']}"
        for refusal in refusals
        for example in [refusal["example"]]
    )
    return "".join([":" if refusals else "", *(f"\n{line}" for line in lines)])


def _fake_tokens(ledger: Ledger, settings: PlanSettings) -> int:
    """Tokens of the fake image's document, after the shift."""
    return int(ledger.settings["fake_image"]["num_tokens"]) - 1 if settings.fake_image == "pack" else 0


def _check_sounds(ledger: Ledger, chosen: pa.Table, settings: PlanSettings) -> None:
    """Stop where a family's sounds would not be what they are alone.

    Raises:
        StopRun: Samples with sounds and no image would stand beside images, real or fake.
    """
    family = ledger.settings["fingerprint"]["family"]
    images = _column(chosen, "num_images") > 0
    alone = (_column(chosen, "num_audios") > 0) & ~images
    if family not in ONE_PROJECTION or not alone.any():
        return
    if images.any() or settings.fake_image != "none":
        beside = f"{np.count_nonzero(images)} samples with images" if images.any() else "fake images"
        raise StopRun(
            f"{family} projects the sounds of a batch by another layer as soon as any image is in it, so "
            f"{np.count_nonzero(alone)} samples with sounds and no image cannot be packed beside {beside}",
            "Make a pack set of them by themselves, with --fake-image none.",
        )


def _select(
    ledger: Ledger, table: pa.Table, settings: PlanSettings, fake_tokens: int, gets_fake: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], list[Unfit]]:
    """Ledger numbers of the samples to pack; and those that are too long, or should hold an image and have no place for it."""
    usable = pc.equal(table["status"], OK).to_numpy(zero_copy_only=False) & _within_ratio(ledger, table.num_rows)
    length = _column(table, "num_tokens") - 1
    room = settings.pack_size - np.where(_column(table, "num_visual_tokens") > 0, 0, fake_tokens)
    fits = (length >= 0) & (length <= room)
    refused = [
        _unfit(sample, int(length[sample]), settings.pack_size, int(room[sample]), bool(gets_fake[sample]))
        for sample in np.flatnonzero(usable & ~fits).tolist()
    ]
    return np.flatnonzero(usable & fits), refused


def _unfit(sample: int, length: int, pack_size: int, room: int, gets_fake: bool) -> Unfit:
    if length < 0:
        reason = (
            "the chat template takes no image in this conversation's first user turn; --fake-image pack needs no place"
        )
        return Unfit(sample=sample, code="no-fake-image", reason=reason)
    return Unfit(sample=sample, code="overlong", reason=_overlong_reason(length, pack_size, room, gets_fake))


def _overlong_reason(length: int, pack_size: int, room: int, gets_fake: bool) -> str:
    with_fake = " with the fake image in it" if gets_fake else ""
    beside = "" if room == pack_size else f" less {pack_size - room} for the fake image that a text-only pack needs"
    return f"{length} tokens after the shift{with_fake}, a pack holds {pack_size}{beside}"


def _within_ratio(ledger: Ledger, num_rows: int) -> NDArray[np.bool_]:
    """Rows that their source's `sample_ratio` draws, by the reference's rule: Random(42).sample over all rows."""
    sources: Sequence[dict[str, Any]] = ledger.summary["sources"]
    if all(source["sample_ratio"] == 1 for source in sources):
        return np.ones(num_rows, dtype=np.bool_)
    names = ledger.read(["source"])["source"].to_numpy()
    drawn = np.zeros(num_rows, dtype=np.bool_)
    for source in sources:
        rows = np.flatnonzero(names == source["name"])
        count = int(len(rows) * source["sample_ratio"])
        drawn[rows[random.Random(SAMPLE_RATIO_SEED).sample(range(len(rows)), count)]] = True
    return drawn


def _column(table: pa.Table, name: str) -> NDArray[np.int64]:
    """An integer column, 0 where a refused row has none."""
    filled = pc.fill_null(table[name], 0).combine_chunks()
    return np.asarray(filled.to_numpy(zero_copy_only=False), dtype=np.int64)
