"""What a plan says of itself, held against its packs, against other plans, and against the best there could be."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ledgers import FAKE_TOKENS, made_up_ledger, made_up_rows
from vlmprep.counting.ledger import Ledger
from vlmprep.pipeline.plan import Plan, make_plan
from vlmprep.pipeline.plan.bounds import Room
from vlmprep.pipeline.plan.fill import _by_tokens
from vlmprep.pipeline.plan.forecast import distribution
from vlmprep.pipeline.settings import PlanSettings
from vlmprep.planning import straggler_ratio
from vlmprep.planning.mixes import MIXES

PACK_SIZE = 1024


def mixed(num_samples: int, seed: int = 0) -> tuple[Any, Any]:
    """Lengths and visual tokens of samples of up to half a pack, a quarter of them without pictures."""
    random = np.random.default_rng(seed)
    visual = random.integers(20, 400, num_samples) * (random.random(num_samples) < 0.75)
    return visual + random.integers(5, 112, num_samples), visual


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """Two sources, refused rows in the first, an overlong one in the second."""
    lengths, visual = mixed(700)
    status, codes = ["ok"] * 700, [None] * 700
    for row, code in ((3, "not-json"), (600, "not-json"), (601, "missing-media")):
        status[row], codes[row] = "refused", code  # type: ignore[call-overload]
    first = made_up_rows(lengths, visual, status=status, reason_code=codes)
    lengths, visual = mixed(300, seed=1)
    lengths[5] = 1500
    second = made_up_rows(lengths, visual)
    return made_up_ledger(tmp_path_factory.mktemp("two") / "ledger", {"first": first, "second": second}, chunk_rows=512)


def statistics(plan: Plan) -> Any:
    """As plan.json has them on disk."""
    return json.loads((plan.root / "plan.json").read_text())["statistics"]


def planned(ledger: Ledger, out: Path, **settings: Any) -> tuple[Plan, Any]:
    plan = make_plan(ledger, PlanSettings(**{"pack_size": PACK_SIZE, **settings}), out)
    return plan, statistics(plan)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"document_alignment": 16},
        {"packing_ratio": 0.9},
        {"fake_image": "none", "balance": "none"},
        {"document_alignment": 32, "packing_ratio": 0.8, "max_packs": 100, "max_images": 3},
    ],
)
def test_every_place_is_accounted_for(ledger: Ledger, tmp_path: Path, settings: dict[str, Any]) -> None:
    plan, numbers = planned(ledger, tmp_path / "plan", **settings)
    alignment = settings.get("document_alignment", 1)
    tokens = ledger.read(["num_tokens"])["num_tokens"].to_numpy() - 1
    found = dict.fromkeys(("samples", "alignment", "fake_images", "packing_ratio", "slack"), 0)
    for pack_id in range(plan.num_packs):
        own = tokens[plan.bin(pack_id)].tolist()
        padding = sum(-length % alignment for length in own)
        fake = -(-FAKE_TOKENS // alignment) * alignment if plan.needs_fake[pack_id] else 0
        free = PACK_SIZE - sum(own) - padding - fake
        planned_for = int(PACK_SIZE * settings.get("packing_ratio", 1)) // alignment * alignment
        kept = min(free, PACK_SIZE - planned_for)
        for name, amount in zip(found, (sum(own), padding, fake, kept, free - kept), strict=True):
            found[name] += amount
    assert numbers["places"] == found
    assert sum(found.values()) == numbers["num_packs"] * PACK_SIZE
    assert numbers["fill"] == found["samples"] / (numbers["num_packs"] * PACK_SIZE)
    assert numbers["lower_bound"]["num_packs"] <= plan.num_packs
    assert set(found) == {name for name, amount in found.items() if amount >= 0}


def fewest_packs(samples: list[tuple[int, bool]], capacity: int, fake: int) -> int:
    """By trying every way to lay samples into packs."""
    best = len(samples)

    def lay(place: int, packs: list[tuple[int, bool]]) -> None:
        nonlocal best
        if len(packs) >= best and place < len(samples):
            return
        if place == len(samples):
            if all(tokens + (0 if media else fake) <= capacity for tokens, media in packs):
                best = min(best, len(packs))
            return
        length, is_media = samples[place]
        for number, (tokens, media) in enumerate(packs):
            if tokens + length <= capacity:
                lay(place + 1, [*packs[:number], (tokens + length, media or is_media), *packs[number + 1 :]])
        lay(place + 1, [*packs, (length, is_media)])

    lay(0, [])
    return best


@given(st.lists(st.tuples(st.integers(1, 8), st.booleans()), min_size=1, max_size=6), st.integers(0, 2))
def test_no_plan_has_fewer_packs_than_the_bound_says(samples: list[tuple[int, bool]], fake: int) -> None:
    room = Room(
        pack_size=10,
        planned=10,
        alignment=1,
        fake_tokens=fake,
        max_visual_tokens=None,
        max_images=None,
        max_cost=None,
    )
    lengths, visual = (np.array(column, np.int64) for column in zip(*samples, strict=True))
    bound = _by_tokens(lengths, visual, room)
    assert 1 <= bound <= fewest_packs(samples, 10, fake)


@pytest.mark.parametrize(
    ("settings", "tight", "expected"),
    [
        ({"max_images": 1}, "--max-images", 40),
        ({"max_visual_tokens": 120}, "--max-visual-tokens", 34),
        ({"pack_size": 150}, "long samples", 40),
        ({"pack_size": 202}, "tokens", 20),
    ],
)
def test_the_tight_bound_is_named(tmp_path: Path, settings: Any, tight: str, expected: int) -> None:
    ledger = made_up_ledger(tmp_path / "ledger", {"all": made_up_rows([101] * 40, [100] * 40)})
    plan, numbers = planned(ledger, tmp_path / "plan", **settings)
    assert (numbers["lower_bound"]["tight"], numbers["lower_bound"]["num_packs"]) == (tight, expected)
    assert plan.num_packs >= expected
    told = {advice["code"]: advice for advice in numbers["advice"]}
    if tight == "tokens":
        assert not {"bound", "long-samples"} & set(told)
    else:
        advice = told["long-samples" if tight == "long samples" else "bound"]
        assert f"{expected:,} packs" in advice["finding"]
        assert advice["numbers"]["packs_by_tokens"] < expected


def test_waiting_is_that_of_the_packs_and_of_an_unbalanced_plan(ledger: Ledger, tmp_path: Path) -> None:
    plan, numbers = planned(ledger, tmp_path / "plan")
    unbalanced, own = planned(ledger, tmp_path / "unbalanced", balance="none")
    ratios = numbers["straggler_ratio"]
    ranks = [1 << power for power in range(11) if 1 << power <= plan.num_packs]
    assert len(ranks) > 6
    work = plan.pack_costs
    assert ratios["shuffled"] == ratios["visual_tokens"] == {str(n): straggler_ratio(work, n) for n in ranks}
    assert ratios["grouped"] == {str(n): straggler_ratio(work, n, group_by=work) for n in ranks}
    assert ratios["tokens"] == {str(n): straggler_ratio(plan.num_tokens, n) for n in ranks}
    assert ratios["unbalanced"] == {
        str(n): straggler_ratio(unbalanced.pack_costs, n) for n in ranks if n <= unbalanced.num_packs
    }
    assert ratios["unbalanced"]["64"] > ratios["shuffled"]["64"] + 0.05
    assert (ratios["unbalanced_samples"], ratios["grouped_packs"]) == (numbers["num_samples"], plan.num_packs)
    assert own["straggler_ratio"]["unbalanced"] == {}
    assert (numbers["cost_unit"], numbers["cost_per_pack"]) == ("visual tokens", numbers["visual_tokens_per_pack"])


def test_packs_are_summarized(ledger: Ledger, tmp_path: Path) -> None:
    plan, numbers = planned(ledger, tmp_path / "plan")
    for name, values in (
        ("tokens_per_pack", plan.num_tokens),
        ("visual_tokens_per_pack", plan.num_visual_tokens),
        ("samples_per_pack", np.diff(plan.offsets)),
    ):
        found = numbers[name]
        assert (found["min"], found["mean"], found["max"]) == (values.min(), values.mean(), values.max())
        assert found["percentiles"]["50"] == np.median(values)
    assert distribution(np.array([7])).percentiles["99"] == 7


def test_sources_add_up_to_rows_and_packs(ledger: Ledger, tmp_path: Path) -> None:
    plan, numbers = planned(ledger, tmp_path / "plan", weights={"second": 2.5, "first": 0.5}, max_packs=60)
    first, second = numbers["sources"]
    table = ledger.read(["num_tokens", "num_visual_tokens", "num_label_tokens"])
    uses = Counter(plan.samples.tolist())
    for source, rows in ((first, range(700)), (second, range(700, 1000))):
        assert source["rows"] == len(rows)
        assert source["uses"] == sum(uses[row] for row in rows) > 0
        assert source["rows_used"] == sum(row in uses for row in rows)
        assert source["rows_used"] + source["rows_unused"] + source["rows_refused"] == len(rows)
        columns = [table[name].to_pylist() for name in ("num_tokens", "num_visual_tokens", "num_label_tokens")]
        sums = [sum(uses[row] * column[row] for row in rows) for column in columns]
        assert source["num_tokens"] == sums[0] - source["uses"]
        assert [source["num_visual_tokens"], source["num_label_tokens"]] == sums[1:]
    assert first["refused"] == {"not-json": 2, "missing-media": 1}
    assert second["refused"] == {"overlong": 1}
    assert sum(source["num_tokens"] for source in numbers["sources"]) == numbers["num_tokens"]
    whole = planned(ledger, tmp_path / "whole", weights={"second": 2.5, "first": 0.5})[1]
    assert numbers["unused"] == {
        "num_samples": whole["num_samples"] - numbers["num_samples"],
        "num_tokens": whole["num_tokens"] - numbers["num_tokens"],
    }
    assert whole["unused"] == {"num_samples": 0, "num_tokens": 0}
    assert numbers["unused"]["num_samples"] > 0


def test_trials_are_the_plans_that_they_speak_of(ledger: Ledger, tmp_path: Path) -> None:
    plan, numbers = planned(ledger, tmp_path / "plan")
    trials = numbers["trials"]
    assert trials["num_samples"] == trials["of_samples"] == numbers["num_samples"]
    assert (trials["now"]["num_packs"], trials["now"]["fill"]) == (plan.num_packs, numbers["fill"])
    assert [trial["fill_weight"] for trial in trials["fill_weights"]] == [0.1, 0.3, 0.6, 0.9]
    for trial in (*trials["fill_weights"], trials["pack_size"]):
        settings = {"fill_weight": trial["fill_weight"], "pack_size": trial["pack_size"], "overlong": "refuse"}
        name = f"{trial['pack_size']}-{trial['fill_weight']}"
        if trial["pack_size"] == PACK_SIZE:  # a larger pack takes the overlong sample too
            other = planned(ledger, tmp_path / name, **settings)[1]
            assert (trial["num_packs"], trial["fill"]) == (other["num_packs"], other["fill"])
    assert trials["pack_size"]["num_packs"] == pytest.approx(plan.num_packs / 2, rel=0.05)


def test_large_plans_are_tried_on_a_draw(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlmprep.pipeline.plan.trials.TRIAL_SAMPLES", 100)
    monkeypatch.setattr("vlmprep.pipeline.plan.trials.TRIAL_PACKS", 10)
    monkeypatch.setattr("vlmprep.pipeline.plan.stragglers.UNBALANCED_SAMPLES", 500)
    monkeypatch.setattr("vlmprep.pipeline.plan.stragglers.GROUPED_PACKS", 64)
    numbers = planned(ledger, tmp_path / "plan")[1]
    assert (numbers["trials"]["num_samples"], numbers["trials"]["of_samples"]) == (100, numbers["num_samples"])
    assert numbers["trials"]["now"]["num_packs"] < numbers["num_packs"] / 5
    assert (numbers["straggler_ratio"]["unbalanced_samples"], numbers["straggler_ratio"]["grouped_packs"]) == (500, 64)
    assert numbers == planned(ledger, tmp_path / "again")[1], "every draw is seeded"


def test_heavy_samples_are_counted_with_what_they_alone_cost(tmp_path: Path) -> None:
    lengths, visual = mixed(4000)
    lengths[:12], visual[:12] = 1000, 990
    ledger = made_up_ledger(tmp_path / "ledger", {"all": made_up_rows(lengths, visual)})
    plan, numbers = planned(ledger, tmp_path / "plan")
    (advice,) = [advice for advice in numbers["advice"] if advice["code"] == "heavy-samples"]
    assert advice["finding"].startswith("12 samples have over 3% more visual tokens than the mean pack.")
    forced = advice["numbers"]["straggler_ratio"]
    assert 1.1 < forced <= straggler_ratio(plan.pack_costs, 64) + 0.02
    equal = np.full(plan.num_packs - 12, (visual.sum() - 12 * 990) / (plan.num_packs - 12))
    draws = np.random.default_rng(0).choice(np.concatenate([np.full(12, 990), equal]), (20_000, 64))
    assert forced == pytest.approx(draws.max(axis=1).mean() / (visual.sum() / plan.num_packs), abs=0.005)
    assert advice["numbers"]["straggler_ratio_grouped"] == numbers["straggler_ratio"]["grouped"]["64"] < forced


def test_a_larger_pack_is_advised_where_it_helps_and_does(tmp_path: Path) -> None:
    mix = MIXES["chat-8k-hard"](1500, 0)
    ledger = made_up_ledger(tmp_path / "ledger", {"all": made_up_rows(mix.lengths, mix.visual_tokens)})
    numbers = planned(ledger, tmp_path / "plan", pack_size=8192)[1]
    (advice,) = [advice for advice in numbers["advice"] if advice["code"] == "pack-size"]
    assert "with --pack-size 16384: straggler ratio 1.0" in advice["remedy"]
    other = planned(ledger, tmp_path / "other", pack_size=16384)[1]
    assert other["straggler_ratio"]["shuffled"]["32"] < numbers["straggler_ratio"]["shuffled"]["32"] - 0.1


def test_balance_is_advised_where_there_is_none(ledger: Ledger, tmp_path: Path) -> None:
    numbers = planned(ledger, tmp_path / "plan", balance="none")[1]
    (advice,) = [advice for advice in numbers["advice"] if advice["code"] == "balance"]
    assert "with --balance vt" in advice["remedy"]
    assert numbers["trials"]["fill_weights"] == []


def test_the_pack_size_advised_for_overlong_samples_takes_them_all(ledger: Ledger, tmp_path: Path) -> None:
    numbers = planned(ledger, tmp_path / "plan", document_alignment=16)[1]
    (advice,) = [advice for advice in numbers["advice"] if advice["code"] == "overlong"]
    (refusal,) = numbers["refused"]
    assert (advice["numbers"]["num_tokens"], refusal["num_tokens"], refusal["samples"]) == (1500, 1500, 1)
    enough = refusal["pack_size"]
    assert f"--pack-size {enough} takes all of them" in advice["remedy"]
    assert planned(ledger, tmp_path / "enough", document_alignment=16, pack_size=enough)[1]["refused"] == []
    short = planned(ledger, tmp_path / "short", document_alignment=16, pack_size=enough - 16)[1]
    assert [refusal["code"] for refusal in short["refused"]] == ["overlong"]


def test_text_alone_needs_no_advice_but_for_its_fake_images(tmp_path: Path) -> None:
    lengths = mixed(1000)[0]
    ledger = made_up_ledger(tmp_path / "ledger", {"all": made_up_rows(lengths, np.zeros(1000, int))})
    plan, numbers = planned(ledger, tmp_path / "plan")
    assert [advice["code"] for advice in numbers["advice"]] == ["fake-images"]
    assert numbers["advice"][0]["finding"].startswith(
        f"{plan.num_packs:,} of {plan.num_packs:,} packs need a fake image"
    )
    assert numbers["fake_images"] == plan.num_packs
    assert planned(ledger, tmp_path / "none", fake_image="none")[1]["advice"] == []


def test_what_was_cut_is_counted(tmp_path: Path) -> None:
    lengths, visual = mixed(300)
    lengths[7], visual[7] = 2000, 0
    labels = [1 if length > PACK_SIZE else None for length in lengths]
    media: list[Any] = [[] if length > PACK_SIZE else None for length in lengths]
    rows = made_up_rows(lengths, visual, first_label=labels, media=media)
    ledger = made_up_ledger(tmp_path / "ledger", {"all": rows})
    numbers = planned(ledger, tmp_path / "plan", overlong="truncate", weights={"all": 2.0})[1]
    kept = PACK_SIZE - FAKE_TOKENS
    assert numbers["cut"] == {"num_samples": 2, "num_tokens": 2 * (2000 - kept), "num_media": 0}
    assert numbers["num_tokens"] == 2 * (int(lengths.sum()) - 2000 + kept)
    uncut = planned(ledger, tmp_path / "uncut", overlong="refuse", weights={"all": 2.0})[1]
    assert uncut["cut"] == {"num_samples": 0, "num_tokens": 0, "num_media": 0}


def test_one_sample_has_a_forecast(tmp_path: Path) -> None:
    ledger = made_up_ledger(tmp_path / "ledger", {"all": made_up_rows([100], [50])})
    numbers = planned(ledger, tmp_path / "plan")[1]
    assert numbers["straggler_ratio"]["shuffled"] == {"1": 1.0}
    assert numbers["trials"]["ranks"] == 1
    assert numbers["lower_bound"]["num_packs"] == numbers["num_packs"] == 1
