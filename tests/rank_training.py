"""What ranks train in the tests of tests/runtime/test_distributed.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tests.models import tiny_model
from tests.rank_work import make_loader

__all__ = ["train"]


def train(
    rank: int, root: Path, sharded: bool, packs_per_rank: int, vision_apart: bool = True
) -> tuple[list[float], dict[str, NDArray[Any]]]:
    """Steps of descent over an epoch; the loss of each over all ranks, and the weights."""
    model = tiny_model("qwen2_5_vl")
    num_ranks = distributed.get_world_size() if sharded else 1
    if sharded:
        _shard(model, num_ranks, vision_apart)
    descent = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    loader = make_loader(root, rank, {"collate": "hf", "shuffle": False, "packs_per_rank": packs_per_rank})
    for batch in loader:
        loss = model(**batch, num_items_in_batch=torch.tensor(batch.num_label_tokens_in_step / num_ranks)).loss
        loss.backward()
        descent.step()
        descent.zero_grad()
        mean = loss.detach() / num_ranks
        if sharded:
            distributed.all_reduce(mean)
        losses.append(mean.item())
    return losses, {name: _whole(weight).numpy().copy() for name, weight in model.named_parameters()}


def _shard(model: Any, num_ranks: int, vision_apart: bool) -> None:
    """Every layer by itself; the vision encoder's too, or all of it with what the root gathers."""
    mesh = init_device_mesh("cpu", (num_ranks,))
    vision = [*model.model.visual.blocks, model.model.visual] if vision_apart else []
    for layer in (*vision, *model.model.language_model.layers):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _whole(weight: Any) -> torch.Tensor:
    whole: torch.Tensor = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
    return whole.detach()
