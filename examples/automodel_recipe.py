"""A recipe in NeMo Automodel's shape over a pack set: a YAML file, setup, a step of several batches, a checkpoint.

    vlmprep demo
    python examples/automodel_recipe.py -c examples/automodel_recipe.yaml
    python examples/automodel_recipe.py -c examples/automodel_recipe.yaml --step_scheduler.max_steps 8   # goes on at step 5

It needs no NeMo Automodel. In a recipe of your own, what matters is the loader: `self.dataloader = vlmprep.Loader(...)` with the
data-parallel rank and size of the device mesh; its `state_dict` goes into the checkpoint.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.nn.functional import cross_entropy

NOT_OF_THE_MODEL = ("_packed_seq_ids", "n_images_per_sample", "n_videos_per_sample")


def instantiate(config: dict[str, Any], *positional: Any, **more: Any) -> Any:
    """What `_target_` names, called with the rest of a section."""
    module, name = config["_target_"].rsplit(".", 1)
    given = {key: value for key, value in config.items() if key != "_target_"}
    return getattr(importlib.import_module(module), name)(*positional, **given, **more)


class FinetuneRecipe:
    """Setup, then steps of `grad_acc_steps` batches, then a checkpoint behind every `ckpt_every_steps`."""

    def __init__(self, cfg: dict[str, Any]) -> None:
        self.cfg = cfg

    def setup(self) -> None:
        """Make everything that the config names, and go on from the checkpoint where there is one."""
        self.model = instantiate(self.cfg["model"])
        self.optimizer = instantiate(self.cfg["optimizer"], self.model.parameters())
        packs = instantiate(self.cfg["dataset"])
        self.dataloader = instantiate(self.cfg["dataloader"], packs, dp_rank=0, dp_world_size=1)
        self.step = 0
        self.checkpoint = Path(self.cfg["checkpoint"]["checkpoint_dir"]) / "latest.pt"
        if self.checkpoint.exists():
            saved = torch.load(self.checkpoint)
            for name in ("model", "optimizer", "dataloader"):
                getattr(self, name).load_state_dict(saved[name])
            self.step = saved["step"]

    def run_train_validation_loop(self) -> None:
        """Train to `max_steps`."""
        schedule = self.cfg["step_scheduler"]
        for batches in self.steps(schedule["grad_acc_steps"]):
            if self.step >= schedule["max_steps"]:
                break
            loss = self._run_train_optim_step(batches)
            self.step += 1
            packs = [pack for batch in batches for pack in batch.pack_ids]
            print(f"step {self.step} loss {loss:.6f} packs {packs}")
            if self.step % schedule["ckpt_every_steps"] == 0:
                self.save_checkpoint()

    def steps(self, grad_acc_steps: int) -> Iterator[list[Any]]:
        """Batches of one optimizer step after the other; the last of an epoch may have fewer."""
        while True:
            batches = []
            for batch in self.dataloader:
                batches.append(batch)
                if len(batches) == grad_acc_steps:
                    yield batches
                    batches = []
            if batches:
                yield batches

    def _run_train_optim_step(self, batches: list[Any]) -> float:
        """The mean over all label tokens of the step, over all ranks: the batches know how many, no collective asks."""
        num_label_tokens = sum(batch.num_label_tokens_in_step for batch in batches)
        reported = 0.0
        for batch in batches:
            inputs = {name: value for name, value in batch.items() if name not in (*NOT_OF_THE_MODEL, "labels")}
            logits = self.model(**inputs, use_cache=False).logits
            loss = cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum") / num_label_tokens
            loss.backward()  # several ranks: times their number, because gradients are averaged over them
            reported += loss.item()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return reported

    def save_checkpoint(self) -> None:
        """Model, optimizer and the place in the data."""
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        parts = {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "dataloader")}
        torch.save({**parts, "step": self.step}, self.checkpoint)


def load_config() -> dict[str, Any]:
    """The YAML file, changed by `--section.name value`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", type=Path, required=True)
    options, changes = parser.parse_known_args()
    config: dict[str, Any] = yaml.safe_load(options.config.read_text())
    for name, value in zip(changes[::2], changes[1::2], strict=True):
        section, key = name.removeprefix("--").split(".")
        if key not in config[section]:
            parser.error(f"{section} has no {key}")
        config[section][key] = yaml.safe_load(value)
    return config


def main() -> None:
    """Train as the config says."""
    recipe = FinetuneRecipe(load_config())
    recipe.setup()
    recipe.run_train_validation_loop()


if __name__ == "__main__":
    main()
