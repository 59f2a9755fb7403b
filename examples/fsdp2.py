"""FSDP2 (`fully_shard`): every rank its own packs, a loss that is exact over all of them.

    vlmprep demo
    torchrun --nproc-per-node 2 examples/fsdp2.py vlmprep-demo --steps 8

A rank whose pack holds no picture runs the vision encoder on the pack's fake image, so no rank waits for another for ever.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
from tiny_model import tiny_model
from torch.distributed.fsdp import fully_shard

import vlmprep


def main() -> None:
    """Train for a number of steps on all ranks that torchrun started."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="folder that `vlmprep demo` made")
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()

    dist.init_process_group("gloo")  # "nccl" on GPUs
    rank, world_size = dist.get_rank(), dist.get_world_size()
    model = tiny_model(options.demo / "processor")
    for layer in model.model.language_model.layers:
        fully_shard(layer)
    fully_shard(model)  # with the vision encoder: a batch with pictures and clips calls it twice, others once
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    packs = vlmprep.open(options.demo / "packset")
    loader = vlmprep.Loader(packs, dp_rank=rank, dp_world_size=world_size, collate="hf", seed=0)

    step = 0
    while step < options.steps:
        for batch in loader:
            # Gradients are averaged over ranks: with this divisor their mean is that of all label tokens of the step.
            loss = model(**batch, num_items_in_batch=batch.num_label_tokens_in_step / world_size).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            mean = loss.detach() / world_size
            dist.all_reduce(mean)
            if rank == 0:
                print(f"step {step} loss {mean.item():.6f} packs of rank 0 {list(batch.pack_ids)}")
            if step == options.steps:
                break
    dist.barrier()  # a rank that leaves early would take its connections from the others
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
