"""A pack set made by the pipeline itself: the drawn corpus with its damaged samples, a tiny processor, several shards."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vlmprep.demo.processor import Family

__all__ = ["PackedDemo", "pack_demo", "without_images"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedDemo:
    """What `pack_demo` made."""

    corpus: Path
    processor: Path
    packset: Path

    @property
    def ledger(self) -> Path:
        return self.packset / "ledger"

    @property
    def plan(self) -> Path:
        return self.packset / "plan"


def pack_demo(
    root: Path,
    *,
    num_samples: int = 40,
    pack_size: int = 384,
    compression: Literal["zstd", "lz4", "none"] = "zstd",
    shard_bytes: int = 2 << 20,
    fake_image: Literal["pack", "sample", "none"] = "pack",
    family: Family = "qwen2_5_vl",
    text_only: bool = False,
    num_workers: int = 0,
) -> PackedDemo:
    """Make corpus, processor and pack set in a folder, ledger and plan inside the pack set.

    Args:
        root: Folder to make them in.
        num_samples: Usable samples; one of every kind of damage comes on top, one of them found only when packed.
        pack_size: Tokens that a pack holds at most.
        compression: Codec of the tensors.
        shard_bytes: Bytes of tensors in a shard, before compression.
        fake_image: Whether packs without pictures get a fake image, or samples without them.
        family: Of the processor.
        text_only: Leave out samples with images, so that every pack needs a fake image.
        num_workers: Worker processes.
    """
    from vlmprep.demo.corpus import make_corpus
    from vlmprep.demo.processor import save_processor
    from vlmprep.engines.local import LocalEngine
    from vlmprep.pipeline.run import run_pack
    from vlmprep.pipeline.settings import CountSettings, PackSettings, PlanSettings
    from vlmprep.schema.family import FamilySettings
    from vlmprep.schema.progress import Silent

    made = PackedDemo(corpus=root / "corpus", processor=root / "processor", packset=root / "packset")
    make_corpus(made.corpus, num_samples=num_samples)
    save_processor(made.processor, family, max_pixels=200_704)
    run_pack(
        [str(without_images(made.corpus) if text_only else made.corpus / "meta.json")],
        CountSettings(family=FamilySettings(processor=str(made.processor))),
        PlanSettings(pack_size=pack_size, fake_image=fake_image),
        PackSettings(compression=compression, shard_bytes=shard_bytes),
        out=made.packset,
        plan=None,
        max_refused=1.0,
        engine=LocalEngine(num_workers),
        progress=Silent(),
    )
    return made


def without_images(corpus: Path) -> Path:
    """A file of the corpus's whole samples that have no image."""
    kept = []
    for line in (corpus / "sharegpt.jsonl").read_bytes().splitlines():
        with suppress(ValueError):
            if not json.loads(line)["images"]:
                kept.append(line)
    assert kept, "the corpus has samples without images"
    path = corpus / "text.jsonl"
    path.write_bytes(b"\n".join(kept) + b"\n")
    return path
