"""The drawn corpus twice: as a pack set on disk, and as examples in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.packed import without_images
from tests.runs import run
from vlmprep.automodel.sharegpt import example_of_row, row_reader
from vlmprep.demo.corpus import make_corpus
from vlmprep.pipeline.plan.file import Plan
from vlmprep.pipeline.settings import PlanSettings

__all__ = ["PACK_SIZE", "BothWays", "examples_of", "pack_both_ways", "qwen"]

PACK_SIZE = 768


@dataclass(frozen=True, slots=True, kw_only=True)
class BothWays:
    """What `pack_both_ways` made."""

    examples: list[dict[str, Any]]
    processor: Any
    packset: Path
    plan: Plan

    @property
    def bins(self) -> list[list[int]]:
        return [self.plan.bin(pack_id).tolist() for pack_id in range(self.plan.num_packs)]


def qwen(folder: Path) -> Any:
    """The tiny processor that was saved to a folder."""
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder)


def examples_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl as examples."""
    rows = row_reader(None, None, str(path.parent))
    return [example_of_row(json.loads(line), rows) for line in path.read_bytes().splitlines()]


def pack_both_ways(
    root: Path,
    processor: Path,
    fake_image: Literal["pack", "sample", "none"],
    *,
    num_samples: int = 32,
    text_only: bool = False,
) -> BothWays:
    """Draw a corpus without damage and pack it."""
    corpus = root / "corpus"
    make_corpus(corpus, num_samples=num_samples, damaged=False)
    rows = corpus / "sharegpt.jsonl"
    rows = without_images(corpus) if text_only else rows
    planning = PlanSettings(pack_size=PACK_SIZE, fake_image=fake_image)
    made = run(rows, processor, root / "packset", planning=planning)
    return BothWays(examples=examples_of(rows), processor=qwen(processor), packset=root / "packset", plan=made.plan)
