"""Hugging Face Trainer: a pack set as its data, and a resumed run that sees exactly the packs that are left.

vlmprep demo
python examples/hf_trainer.py vlmprep-demo --steps 4 --out run
python examples/hf_trainer.py vlmprep-demo --steps 8 --out run    # goes on at step 5
torchrun --nproc-per-node 2 examples/hf_trainer.py vlmprep-demo --steps 8 --out two
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tiny_model import tiny_model
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

import vlmprep

STATE = "vlmprep_loader.json"


class Stream:
    """One epoch after the other. It has no length, so the Trainer counts steps (`max_steps`) and skips nothing by itself."""

    def __init__(self, loader: vlmprep.Loader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            yield from self.loader


class SaveLoader(TrainerCallback):
    """Puts the loader's state into every checkpoint; it is the same on every rank."""

    def __init__(self, loader: vlmprep.Loader) -> None:
        self.loader = loader

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: D102 - the Trainer's
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (folder / STATE).write_text(json.dumps(self.loader.state_dict()))


class PackTrainer(Trainer):
    """A Trainer over a loader of packs, which are collated and on their device already."""

    def __init__(self, *, loader: vlmprep.Loader, **more: Any) -> None:
        super().__init__(**more, callbacks=[SaveLoader(loader)])
        self.loader = loader

    def get_train_dataloader(self) -> Any:  # noqa: D102 - the Trainer's
        return Stream(self.loader)


def main() -> None:
    """Train to a number of steps, from the last checkpoint where there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="folder that `vlmprep demo` made")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("trainer-run"))
    options = parser.parse_args()

    arguments = TrainingArguments(
        output_dir=str(options.out),
        max_steps=options.steps,
        gradient_accumulation_steps=options.accumulate,
        per_device_train_batch_size=1,  # packs
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        save_steps=2,
        logging_steps=1,
        ignore_data_skip=True,  # the loader's state says where the data goes on
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    packs = vlmprep.open(options.demo / "packset")
    loader = vlmprep.Loader(
        packs,
        dp_rank=arguments.process_index,
        dp_world_size=arguments.world_size,
        packs_per_rank=arguments.per_device_train_batch_size,
        collate="hf",
        seed=0,
    )
    model = tiny_model(options.demo / "processor")
    checkpoint = get_last_checkpoint(str(options.out)) if options.out.is_dir() else None  # type: ignore[no-untyped-call]
    if checkpoint:
        loader.load_state_dict(json.loads((Path(checkpoint) / STATE).read_text()))
        # The Trainer of transformers 5.23 finds none of Qwen2.5-VL's weights again: checkpoints have their published names,
        # and it warns of "unexpected keys" only. So they are loaded here.
        model = type(model).from_pretrained(checkpoint)
    # A mean over all label tokens of a step, whatever packs, devices and accumulated batches hold. The classes of Qwen-VL, Gemma
    # and others say False, and the Trainer then takes the mean of the batches' means.
    model.accepts_loss_kwargs = True
    PackTrainer(model=model, args=arguments, loader=loader).train(resume_from_checkpoint=checkpoint)


if __name__ == "__main__":
    main()
