"""Plain PyTorch: a loop, a checkpoint, and the same loop again where it stopped.

vlmprep demo
python examples/plain_torch.py vlmprep-demo --steps 4 --checkpoint run.pt
python examples/plain_torch.py vlmprep-demo --steps 8 --checkpoint run.pt    # goes on at step 5
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tiny_model import tiny_model

import vlmprep


def main() -> None:
    """Train to a number of steps, a checkpoint behind every other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="folder that `vlmprep demo` made")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--packs-per-rank", type=int, default=1)
    parser.add_argument("--checkpoint", type=Path)
    options = parser.parse_args()

    model = tiny_model(options.demo / "processor")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    packs = vlmprep.open(options.demo / "packset")
    loader = vlmprep.Loader(packs, packs_per_rank=options.packs_per_rank, collate="hf", seed=0)

    step = 0
    if options.checkpoint and options.checkpoint.exists():
        saved = torch.load(options.checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])  # a few numbers: the packs that the loop has consumed
        step = saved["step"]

    while step < options.steps:
        for batch in loader:  # what is left of this epoch; the next one begins where it ends
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            print(f"step {step} loss {loss.item():.6f} packs {list(batch.pack_ids)}")
            if options.checkpoint and (step % 2 == 0 or step == options.steps):
                torch.save(
                    {
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "loader": loader.state_dict(),
                        "step": step,
                    },
                    options.checkpoint,
                )
            if step == options.steps:
                break


if __name__ == "__main__":
    main()
