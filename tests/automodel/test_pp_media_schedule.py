"""Two processes, a stage of a real model in each, a schedule of torch.distributed.pipelining, against one process."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, schedules
from torch.distributed.pipelining.microbatch import TensorChunkSpec
from torch.nn.functional import cross_entropy

import vlmprep
from tests.documents import Recipe, lay_pack, make_document
from tests.models import tiny_model
from tests.packsets import write_pack_set
from tests.ranks import run_ranks
from vlmprep.automodel.pp_media import prepare_vlm_media_for_pp, stage_vlm_media_for_pp
from vlmprep.runtime.microbatches import staged_media

TOLERANCE = 1e-5
NUM_STEPS = 2
PACKS: tuple[tuple[Recipe, ...], ...] = (
    ([6, (4, 6), 9], [3, (2, 2), 2, (6, 4), 5]),
    ([11], [7]),
    ([2, (8, 2), 20],),
    ([4, (2, 2), 3], [5], [1, (2, 4), 6]),
    ([9], [3, (4, 4), 2]),
    ([13],),
)
"""Rows with three images, none, one, two, one and none."""


SCHEDULES = {"ScheduleGPipe": 2, "Schedule1F1B": 6}
"""Microbatches of each."""
Step: TypeAlias = tuple[int, float, dict[str, Tensor]]
"""Label tokens, summed loss, gradients."""


class First(nn.Module):
    """Vision encoder, embedding and the first layer."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model.model
        language = self.model.language_model
        language.layers, language.norm = language.layers[:1], nn.Identity()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Tensor:
        made: Tensor = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=False,
            **staged_media(self),
        ).last_hidden_state
        return made


class Last(nn.Module):
    """The other layers and the head."""

    def __init__(self, model: Any):
        super().__init__()
        self.language, self.head = model.model.language_model, model.lm_head
        self.language.layers = self.language.layers[1:]

    def forward(self, hidden: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Tensor:
        made: Tensor = self.head(
            self.language(
                inputs_embeds=hidden, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
            ).last_hidden_state
        )
        return made


def a_model() -> Any:
    return tiny_model("qwen2_5_vl")


def batches(packset: Path) -> list[vlmprep.runtime.Batch]:
    loader = vlmprep.Loader(
        vlmprep.open(packset), packs_per_rank=len(PACKS), collate="neat", attn_implementation="sdpa"
    )
    made = []
    for epoch in range(NUM_STEPS):  # an epoch is one step, of the same packs in another order
        loader.set_epoch(epoch)
        made += list(loader)
    assert len(made) == NUM_STEPS
    assert made[0].pack_ids != made[1].pack_ids
    return made


def summed(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """By the parameter's name in the whole model."""
    found = {name: weight.grad.clone() for name, weight in module.named_parameters() if weight.grad is not None}
    if not isinstance(module, Last):
        return found
    renamed = {name.replace("language.layers.0", "language.layers.1"): gradient for name, gradient in found.items()}
    places = {"language": "model.language_model", "head": "lm_head"}
    return {name.replace(part := name.split(".")[0], places[part], 1): grad for name, grad in renamed.items()}


def run_stages(rank: int, packset: Path) -> dict[str, list[Step]]:
    """One process: its stage under every schedule."""
    return {name: run_stage(rank, packset, name, n_microbatches) for name, n_microbatches in SCHEDULES.items()}


def run_stage(rank: int, packset: Path, schedule_name: str, n_microbatches: int) -> list[Step]:
    """A stage, trained for some steps without moving a weight."""
    module = (First if rank == 0 else Last)(a_model())
    stage = PipelineStage(module, rank, 2, torch.device("cpu"))
    schedule = getattr(schedules, schedule_name)(
        stage,
        n_microbatches,
        loss_fn=summed,
        scale_grads=False,
        kwargs_chunk_spec={"attention_mask": TensorChunkSpec(0), "position_ids": TensorChunkSpec(1)},
    )
    pp = SimpleNamespace(info=SimpleNamespace(has_first_stage=rank == 0, schedule=schedule, stages=[stage]))
    found = []
    for batch in batches(packset):
        module.zero_grad()
        prepare_vlm_media_for_pp(batch, len(PACKS), n_microbatches)
        losses: list[Tensor] = []
        with stage_vlm_media_for_pp(pp, [module], batch):
            shared = {name: batch[name] for name in ("attention_mask", "position_ids")}
            if rank == 0:
                schedule.step(batch["input_ids"], **shared)
            else:
                schedule.step(target=batch["labels"], losses=losses, **shared)
        loss = sum(part.item() for part in losses)
        found.append((batch.num_label_tokens_in_step, loss, gradients(module)))
    return found


def run_alone(packset: Path) -> list[Step]:
    """One process, the whole model, one forward for the batch."""
    model = a_model()
    found = []
    for batch in batches(packset):
        model.zero_grad()
        fields = ("input_ids", "attention_mask", "position_ids", "pixel_values", "image_grid_thw")
        loss = summed(model(**{name: batch[name] for name in fields}, use_cache=False).logits, batch["labels"])
        loss.backward()
        found.append((batch.num_label_tokens_in_step, loss.item(), gradients(model)))
    return found


@pytest.fixture(scope="module")
def packset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = a_model()
    packs = [
        lay_pack([make_document(model, recipe, seed=10 * row + number) for number, recipe in enumerate(pack)])
        for row, pack in enumerate(PACKS)
    ]
    return write_pack_set(tmp_path_factory.mktemp("pipeline") / "set", packs)


@pytest.fixture(scope="module")
def stages(packset: Path) -> list[dict[str, list[Step]]]:
    """What each of two processes found."""
    outcomes = run_ranks(run_stages, 2, packset.parent / "run", packset)
    assert [outcome.kind for outcome in outcomes] == ["done"] * 2, outcomes
    return [outcome.value for outcome in outcomes]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_two_stages_have_the_loss_and_the_gradients_of_one_process(
    packset: Path, stages: list[dict[str, list[Step]]], schedule: str
):
    first, last = (found[schedule] for found in stages)
    alone = run_alone(packset)
    assert len(first) == len(last) == len(alone) == NUM_STEPS
    for (labels, loss, whole), of_first, of_last in zip(alone, first, last, strict=True):
        assert labels == of_first[0] == of_last[0] > 20
        assert of_last[1] / labels == pytest.approx(loss / labels, rel=TOLERANCE)
        assert not set(of_first[2]) & set(of_last[2])
        cut = of_first[2] | of_last[2]
        assert set(cut) == set(whole)
        assert any("visual" in name for name in of_first[2])
        for name, gradient in whole.items():
            allowed = TOLERANCE * max(1.0, gradient.abs().max().item())
            torch.testing.assert_close(cut[name], gradient, rtol=0, atol=allowed)
