"""Pipeline parallelism: two stages, media beside the schedule.

    vlmprep demo
    torchrun --nproc-per-node 2 examples/pipeline.py vlmprep-demo --steps 8

The first stage has the vision encoder and the first layer, the second one the rest.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from tiny_model import tiny_model
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.distributed.pipelining.microbatch import TensorChunkSpec
from torch.nn.functional import cross_entropy

import vlmprep
from vlmprep.automodel.pp_media import prepare_vlm_media_for_pp, stage_vlm_media_for_pp
from vlmprep.runtime.microbatches import staged_media

NUM_MICROBATCHES = 2
ROWS = {"attention_mask": 0, "position_ids": 1}
"""Which axis of each input has the rows: positions lead with their own."""


class FirstStage(nn.Module):
    """Media and tokens to hidden states."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model.model
        language = self.model.language_model
        language.layers, language.norm = language.layers[:1], nn.Identity()

    def forward(self, input_ids: Tensor, **inputs: Any) -> Tensor:
        """[B, S] to [B, S, hidden]."""
        hidden: Tensor = self.model(input_ids, **inputs, **staged_media(self), use_cache=False).last_hidden_state
        return hidden


class LastStage(nn.Module):
    """Hidden states to logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.language, self.head = model.model.language_model, model.lm_head
        self.language.layers = self.language.layers[1:]

    def forward(self, hidden: Tensor, **inputs: Any) -> Tensor:
        """[B, S, hidden] to [B, S, vocabulary]."""
        logits: Tensor = self.head(self.language(inputs_embeds=hidden, **inputs, use_cache=False).last_hidden_state)
        return logits


def summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Of all label tokens of a microbatch; divided for the whole step behind the schedule."""
    return cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")


def main() -> None:
    """Train for a number of steps in two processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="folder that `vlmprep demo` made")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--packs-per-rank", type=int, default=2)
    options = parser.parse_args()

    dist.init_process_group("gloo")  # "nccl" on GPUs
    rank, model = dist.get_rank(), tiny_model(options.demo / "processor")
    module = FirstStage(model) if rank == 0 else LastStage(model)
    stage = PipelineStage(module, rank, 2, torch.device("cpu"))
    schedule = Schedule1F1B(
        stage,
        NUM_MICROBATCHES,
        loss_fn=summed_loss,
        kwargs_chunk_spec=TensorChunkSpec.from_dict(ROWS),
        scale_grads=False,
    )
    pp = SimpleNamespace(
        info=SimpleNamespace(has_first_stage=rank == 0, stages=[stage])
    )  # Automodel's AutoPipeline has it
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    packs = vlmprep.open(options.demo / "packset")
    rows, size = options.packs_per_rank, packs.manifest.pack_size  # stages agree on one shape
    loader = vlmprep.Loader(
        packs, packs_per_rank=rows, collate="neat", attn_implementation="sdpa", max_length=size, seed=0
    )

    step = 0
    while step < options.steps:
        for batch in loader:  # the same on both stages
            prepare_vlm_media_for_pp(batch, rows, NUM_MICROBATCHES)
            inputs: dict[str, Any] = {name: batch[name] for name in ROWS}
            losses: list[Tensor] = []
            with stage_vlm_media_for_pp(pp, [module], batch):
                if rank == 0:
                    schedule.step(batch["input_ids"], **inputs)
                else:
                    schedule.step(target=batch["labels"], losses=losses, **inputs)
            for weight in module.parameters():
                if weight.grad is not None:
                    weight.grad /= batch.num_label_tokens_in_step
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if rank == 1:
                loss = sum(part.item() for part in losses) / batch.num_label_tokens_in_step
                print(f"step {step} loss {loss:.6f} packs {list(batch.pack_ids)}")
            if step == options.steps:
                break
    dist.barrier()  # a rank that leaves early would take its connections from the others
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
