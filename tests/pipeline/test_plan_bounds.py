"""What no pack exceeds: bounds, alignment, packing ratio; a fair cut; samples that alone are too much."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import Qwen2_5_VLConfig

import vlmprep
from tests.conftest import ProcessorDir
from tests.runs import chat, count, picture, run, write_jsonl
from vlmprep.counting.ledger import Ledger
from vlmprep.engines.local import LocalEngine
from vlmprep.families.costs import cost_model
from vlmprep.pipeline.plan import Plan
from vlmprep.pipeline.plan.costs import TERA
from vlmprep.pipeline.plan.make import make_plan
from vlmprep.pipeline.settings import PlanSettings
from vlmprep.pipeline.verify import verify
from vlmprep.schema.cost import COST_COUNTS
from vlmprep.schema.errors import StopRun
from vlmprep.schema.progress import Silent

COUNTS = list(dict.fromkeys([*COST_COUNTS, "num_images"]))


@pytest.fixture(scope="module")
def processor(processor_dir: ProcessorDir) -> Path:
    return processor_dir(max_pixels=50_176)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 rows: texts of many lengths, and up to six images of three sizes."""
    root = tmp_path_factory.mktemp("mixed")
    names = [picture(root / f"{side}.png", side, side) for side in (28, 112, 224)]
    rows = [
        chat(f"s{i}", "Which?", "word " * (1 + i * 7 % 90), [names[(i + j) % 3] for j in range(max(0, i % 9 - 2))])
        for i in range(120)
    ]
    return write_jsonl(root / "rows.jsonl", rows)


@pytest.fixture(scope="module")
def ledger(source: Path, processor: Path, tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return count(source, processor, tmp_path_factory.mktemp("ledger") / "ledger")


def columns(ledger: Ledger) -> dict[str, Any]:
    counts = {name: ledger.read([name])[name].to_numpy().astype(np.int64) for name in COUNTS}
    counts["num_tokens"] = counts["num_tokens"] - 1
    return counts


def per_pack(plan: Plan, values: Any) -> Any:
    return np.add.reduceat(values[plan.samples], plan.offsets[:-1])


def refusals(plan: Plan) -> Counter[str]:
    return Counter(plan.refused["reason_code"].to_pylist())


@pytest.mark.parametrize("balance", ["vt", "none"])
def test_no_pack_exceeds_a_bound_and_what_alone_does_is_refused(ledger: Ledger, tmp_path: Path, balance: Any) -> None:
    counts = columns(ledger)
    settings = PlanSettings(pack_size=1024, balance=balance, max_visual_tokens=150, max_images=4)
    plan = make_plan(ledger, settings, tmp_path / "plan")
    assert per_pack(plan, counts["num_visual_tokens"]).max() <= 150
    assert per_pack(plan, counts["num_images"]).max() <= 4
    too_much = {"too-many-visual-tokens": counts["num_visual_tokens"] > 150}
    too_much["too-many-images"] = (counts["num_images"] > 4) & ~too_much["too-many-visual-tokens"]
    assert refusals(plan) == Counter({code: int(rows.sum()) for code, rows in too_much.items()})
    assert all(refusals(plan).values())
    kept = np.flatnonzero(~np.logical_or(*too_much.values()))
    assert sorted(plan.samples.tolist()) == kept.tolist()
    first = plan.refused.to_pylist()[0]
    assert (
        f"{counts['num_visual_tokens'][first['sample']]} visual tokens, --max-visual-tokens allows 150"
        in first["reason"]
    )


def test_a_fake_image_that_exceeds_a_bound_stops_the_plan(ledger: Ledger, tmp_path: Path) -> None:
    for bound in ({"max_images": 0}, {"max_visual_tokens": 3}):
        with pytest.raises(StopRun, match="the fake image of a pack without pictures takes"):
            make_plan(ledger, PlanSettings(pack_size=1024, **bound), tmp_path / "plan")  # type: ignore[arg-type]
    plan = make_plan(ledger, PlanSettings(pack_size=1024, max_images=0, fake_image="none"), tmp_path / "texts")
    assert plan.num_visual_tokens.sum() == 0
    assert plan.num_packs


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("config")
    Qwen2_5_VLConfig().save_pretrained(root)
    return root


def test_costs_are_those_that_the_config_predicts(ledger: Ledger, config: Path, tmp_path: Path) -> None:
    settings = PlanSettings(pack_size=1024, balance="compute")
    plan = make_plan(ledger, settings, tmp_path / "plan", model_config=str(config))
    expected = cost_model(Qwen2_5_VLConfig.from_pretrained(config)).costs(columns(ledger)) / TERA
    assert expected.min() > 0
    np.testing.assert_array_equal(plan.costs, expected[plan.samples])
    np.testing.assert_allclose(plan.pack_costs, per_pack(plan, expected), rtol=1e-12)
    balanced = plan.pack_costs.max() / plan.pack_costs.mean()
    unbalanced = make_plan(ledger, PlanSettings(pack_size=1024, balance="none"), tmp_path / "unbalanced")
    costs = per_pack(unbalanced, expected)
    assert balanced < costs.max() / costs.mean()
    bound = float(np.quantile(expected, 0.9))
    bounded = make_plan(
        ledger,
        PlanSettings(pack_size=1024, balance="compute", max_cost=bound),
        tmp_path / "bounded",
        model_config=str(config),
    )
    assert bounded.pack_costs.max() <= bound
    assert refusals(bounded)["too-costly"] == bounded.refused.num_rows > 0


def test_another_config_is_another_plan(ledger: Ledger, config: Path, tmp_path: Path) -> None:
    settings = PlanSettings(pack_size=1024, balance="compute")
    make_plan(ledger, settings, tmp_path / "plan", model_config=str(config))
    wider: Any = Qwen2_5_VLConfig.from_pretrained(config)
    wider.text_config.intermediate_size *= 2
    wider.save_pretrained(tmp_path / "wider")
    with pytest.raises(StopRun, match=r"cost\.model\.per_token"):
        make_plan(ledger, settings, tmp_path / "plan", model_config=str(tmp_path / "wider"))


def test_max_cost_goes_with_predicted_costs() -> None:
    with pytest.raises(StopRun, match="--balance compute"):
        PlanSettings(max_cost=1.0)


def test_packs_say_what_they_cost(source: Path, processor: Path, config: Path, tmp_path: Path) -> None:
    planning = PlanSettings(pack_size=1024, balance="compute")
    done = run(source, processor, tmp_path / "set", planning=planning, model_config=str(config))
    packs = vlmprep.open(tmp_path / "set")
    expected = done.plan.pack_costs + done.plan.needs_fake * done.plan.summary["fake"]["cost"]
    np.testing.assert_allclose(packs.index.cost, expected, rtol=1e-12)
    assert done.plan.summary["fake"]["cost"] > 0


def test_documents_take_multiples_of_the_alignment(source: Path, processor: Path, tmp_path: Path) -> None:
    done = run(source, processor, tmp_path / "set", planning=PlanSettings(pack_size=1024, document_alignment=64))
    packs = vlmprep.open(tmp_path / "set")
    longest = 0
    for pack_id in range(len(packs)):
        info = packs.info(pack_id)
        lengths = [*info.document_lengths, *([info.fake.length] if info.fake else [])]
        aligned = sum(-(-length // 64) * 64 for length in lengths)
        assert aligned <= 1024
        longest = max(longest, aligned)
        assert len(packs[pack_id]["input_ids"]) == sum(lengths)
    assert longest > 900
    assert done.manifest.settings["document_alignment"] == 64
    with pytest.raises(StopRun, match="does not divide"):
        PlanSettings(pack_size=1000, document_alignment=64)


def test_packing_ratio_leaves_room_and_loses_no_long_sample(processor: Path, tmp_path: Path) -> None:
    rows = [chat(f"s{i}", "Hi?", "word " * (10 + i)) for i in range(100)] + [chat("long", "Hi?", "word " * 450)]
    ledger = count(write_jsonl(tmp_path / "rows.jsonl", rows), processor, tmp_path / "ledger")
    plan = make_plan(ledger, PlanSettings(pack_size=1024, packing_ratio=0.75), tmp_path / "plan")
    several = np.diff(plan.offsets) > 1
    assert plan.num_tokens[several].max() <= 768
    assert plan.num_tokens[several].max() > 700
    assert len(plan.samples) == 101
    assert plan.num_tokens[~several].max() > 768


def test_max_packs_keeps_a_fair_cut(ledger: Ledger, source: Path, processor: Path, tmp_path: Path) -> None:
    whole = make_plan(ledger, PlanSettings(pack_size=512), tmp_path / "whole")
    cut = make_plan(ledger, PlanSettings(pack_size=512, max_packs=whole.num_packs // 2), tmp_path / "cut")
    assert cut.num_packs == whole.num_packs // 2
    visual = columns(ledger)["num_visual_tokens"]
    assert abs(visual[cut.samples].mean() / visual[whole.samples].mean() - 1) < 0.25
    done = run(source, processor, tmp_path / "set", planning=PlanSettings(pack_size=512, max_packs=2))
    assert done.manifest.num_packs == 2
    status = Counter(pq.read_table(tmp_path / "set" / "samples.parquet")["status"].to_pylist())
    assert status["packed"] == done.manifest.num_samples
    assert status["unused"] == 120 - status["packed"] - status["refused"] > 0
    assert list(verify(tmp_path / "set", LocalEngine(0), Silent()).problems) == []
