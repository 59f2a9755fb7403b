"""Real processes that train together: through the ends of epochs, through the loss of a rank, and under FSDP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.documents import fake_document, lay_pack, make_document, rules_of
from tests.models import tiny_model
from tests.packsets import text_pack, write_pack_set
from tests.rank_training import train
from tests.rank_work import go, go_through, make_loader
from tests.ranks import run_ranks
from tests.tiny_media import Clip


def alone(root: Path, global_batch: int, options: dict[str, Any], epochs: int) -> list[list[int]]:
    """The steps as one process takes them."""
    loader = make_loader(root, 0, {**options, "packs_per_rank": global_batch})
    taken = []
    while loader.epoch < epochs:
        taken += [[k for k, r in zip(b.pack_ids, b.repeated, strict=True) if not r] for b in loader]
    return taken


def text_set(root: Path, num_packs: int) -> Path:
    return write_pack_set(root, [text_pack(k) for k in range(num_packs)])


CASES: dict[int, list[tuple[int, dict[str, Any]]]] = {
    2: [
        (13, {"tail": "drop", "packs_per_rank": 2}),
        (13, {"tail": "carry", "num_workers": 1, "worker_kind": "processes", "persistent_workers": True}),
        (13, {"tail": "drop", "num_workers": 2}),
    ],
    4: [(13, {"tail": "pad"}), (13, {"tail": "drop"}), (12, {"tail": "carry"}), (3, {"tail": "pad"})],
}
"""By number of ranks: (packs, options), with packs that divide and that do not."""


@pytest.mark.parametrize("num_ranks", CASES)
def test_ranks_go_through_the_ends_of_epochs_together(num_ranks: int, tmp_path: Path) -> None:
    cases = [(text_set(tmp_path / f"{place}", size), made) for place, (size, made) in enumerate(CASES[num_ranks])]
    outcomes = run_ranks(go_through, num_ranks, tmp_path / "run", cases)
    assert [outcome.kind for outcome in outcomes] == ["done"] * num_ranks, outcomes
    for place, (root, options) in enumerate(cases):
        batch = num_ranks * options.get("packs_per_rank", 1)
        expected = alone(root, batch, {"tail": options["tail"]}, 3)
        assert len(expected) >= 3
        assert all(outcome.value[place] == expected for outcome in outcomes)


def test_a_killed_rank_and_a_restart_with_more_ranks(tmp_path: Path) -> None:
    root, saved, options = text_set(tmp_path / "set", 13), tmp_path / "state", {"tail": "carry", "num_workers": 1}
    outcomes = run_ranks(go, 2, tmp_path / "first", root, {**options, "packs_per_rank": 2}, 3, saved, 5, patience=30)
    assert outcomes[1].kind == "killed"
    assert outcomes[0].kind in ("raised", "hung"), outcomes
    taken = json.loads(saved.with_suffix(".taken").read_text())
    assert 4 <= len(taken) <= 5
    outcomes = run_ranks(go, 4, tmp_path / "second", root, options, 3, saved)
    assert [outcome.kind for outcome in outcomes] == ["done"] * 4, outcomes
    expected = alone(root, 4, {"tail": "carry"}, 3)
    assert all(taken + outcome.value == expected for outcome in outcomes)


def picture_set(root: Path, *, fake: bool, clips: bool = False) -> Path:
    """Packs with pictures, and clips too, at even places, packs of text alone at odd ones: rank 1 of two never sees a picture."""
    model = tiny_model("qwen2_5_vl")
    packs = []
    for number in range(6):
        clip = [Clip(frames=2, rows=4, columns=4), 3] if clips else []
        recipes: Any = [[5, (4, 6), 7 + number, *clip], [9]] if number % 2 == 0 else [[8 + number], [5]]
        documents = [make_document(model, recipe, seed=10 * number + place) for place, recipe in enumerate(recipes)]
        packs.append(lay_pack(documents, fake_document(model) if fake and number % 2 else None))
    return write_pack_set(root, packs, pixels=rules_of(model))


@pytest.mark.parametrize("clips", [False, True], ids=["pictures", "pictures and clips"])
def test_fsdp_trains_packs_without_pictures_like_one_process(clips: bool, tmp_path: Path) -> None:
    root = picture_set(tmp_path / "set", fake=True, clips=clips)
    outcomes = run_ranks(train, 2, tmp_path / "run", root, True, 1, not clips)
    assert [outcome.kind for outcome in outcomes] == ["done"] * 2, outcomes
    losses, weights = train(0, root, False, 2)
    initial = {name: weight.detach().numpy() for name, weight in tiny_model("qwen2_5_vl").named_parameters()}
    assert len(losses) == 3
    for outcome in outcomes:
        assert outcome.value[0] == pytest.approx(losses, abs=1e-5)
        for name, weight in weights.items():
            np.testing.assert_allclose(outcome.value[1][name], weight, atol=1e-5, rtol=1e-4)
    moved = [name for name, weight in weights.items() if (weight != initial[name]).any()]
    assert any("visual" in name for name in moved)
    assert any("language_model" in name for name in moved)


def test_fsdp_hangs_or_dies_without_the_fake_image(tmp_path: Path) -> None:
    root = picture_set(tmp_path / "set", fake=False)
    outcomes = run_ranks(train, 2, tmp_path / "run", root, True, 1, patience=20)
    assert {outcome.kind for outcome in outcomes} & {"hung", "raised"}, outcomes
    assert len(train(0, root, False, 2)[0]) == 3  # one process has no trouble
