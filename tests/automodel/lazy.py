"""The drawn corpus twice: as a pack set on disk, and as examples in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.packed import without_images
from tests.runs import run
from vlmprep.automodel.datasets import make_meta_dataset
from vlmprep.demo.corpus import make_corpus
from vlmprep.pipeline.plan.file import Plan
from vlmprep.pipeline.settings import PlanSettings

__all__ = ["PACK_SIZE", "BothWays", "pack_both_ways", "qwen"]

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
    source = corpus / "meta.json"
    if text_only:
        source.write_text(json.dumps({"text": {"file_name": without_images(corpus).name}}))
    planning = PlanSettings(pack_size=PACK_SIZE, fake_image=fake_image)
    made = run(source, processor, root / "packset", planning=planning)
    return BothWays(
        examples=make_meta_dataset(str(source)), processor=qwen(processor), packset=root / "packset", plan=made.plan
    )
