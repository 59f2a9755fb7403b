"""One source of broken items through estimate, plan, pack and verify; every document is held against the processor's own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

import vlmprep
from tests.every_family.packed import Document, documents_of
from tests.fuzz.corpus import WHOLE, Item, write_source
from tests.fuzz.truth import truth_of
from vlmprep.engines.local import LocalEngine
from vlmprep.families.loading import load_family
from vlmprep.pipeline.run import PackedRun, run_pack
from vlmprep.pipeline.settings import CountSettings, PackSettings, PlanSettings
from vlmprep.pipeline.verify.run import verify
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.media import Loader
from vlmprep.schema.packset import IGNORE_INDEX, SAMPLES_FILE
from vlmprep.schema.pixels import PixelForm
from vlmprep.schema.progress import Silent
from vlmprep.sources.media import own_the_pixel_limit

__all__ = ["LIMITS", "Batch", "Outcome", "prepare", "run_batch"]

LIMITS: dict[str, Any] = {"max_image_pixels": 1 << 20, "max_clip_frames": 1_000, "max_audio_seconds": 30.0}
MAX_CLIP_BYTES = 16 << 20
LONGEST_REASON = 1_500
"""Characters: a reason is for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one process does before it is looked at."""

    numbers: tuple[int, ...]
    """Of the items; one of them whole, so that there is something to pack."""
    seed: int
    processor: Path
    image_backend: Loader | None = None
    verify_media: bool = False
    """Decode while counting: packing then refuses nothing."""
    inside: bool = False
    """The rows are Parquet with the media inside; all of them are rows then."""
    pixels: PixelForm = "uint8"
    """How pixels are stored."""

    def settings(self) -> CountSettings:
        """How rows and media are counted."""
        family = FamilySettings(
            processor=str(self.processor), image_backend=self.image_backend, max_clip_bytes=MAX_CLIP_BYTES
        )
        return CountSettings(family=family, verify_media=self.verify_media, **LIMITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one item."""

    number: int
    kind: str
    how: str
    seed: str
    result: str
    """packed, or which stage refused it and its code."""
    reason: str = ""
    """Of the refusal."""
    wrong: str = ""
    """What should not be so."""


def prepare(batch: Batch) -> None:
    """Load what every batch of this kind needs."""
    own_the_pixel_limit()
    load_family(batch.settings().family)


def run_batch(batch: Batch, folder: Path) -> list[Outcome]:
    """Take some items all the way.

    Args:
        batch: Which.
        folder: Not there yet; stays behind.

    Returns:
        One outcome per item.
    """
    prepare(batch)
    settings = batch.settings()
    family: Any = load_family(settings.family)
    items = write_source(folder / "corpus", batch.numbers, batch.seed, frozenset(family.kinds), inside=batch.inside)
    done = run_pack(
        [str(folder / "corpus" / ("rows.parquet" if batch.inside else "rows.jsonl"))],
        settings,
        PlanSettings(pack_size=4_096),
        PackSettings(shard_bytes=1 << 22, pixels=batch.pixels),
        out=folder / "set",
        plan=None,
        max_refused=1.0,
        engine=LocalEngine(0),
        progress=Silent(),
    )
    wrong = set_problems(folder / "set")
    packs = vlmprep.open(folder / "set")
    documents: dict[int, list[Document]] = {}
    for document in documents_of(packs):
        if document.row is not None:
            documents.setdefault(document.row, []).append(document)
    accounts = pq.read_table(folder / "set" / SAMPLES_FILE).to_pylist()
    if [account["row"] for account in accounts] != list(range(len(items))):
        wrong += f"rows {[account['row'] for account in accounts]} are accounted for, of {len(items)}; "
    early = refused_early(done)
    if batch.verify_media and (late := [row["row"] for row in accounts if row["reason"] and row["row"] not in early]):
        wrong += f"rows {late} were verified, and refused when they were packed; "
    return [
        outcome(item, account, documents.get(row, []), family.processor, folder / "corpus", row in early, wrong)
        for row, (item, account) in enumerate(zip(items, accounts, strict=True))
    ]


def set_problems(root: Path) -> str:
    """What verification finds."""
    return "".join(f"{problem.file}: {problem.what}; " for problem in verify(root, LocalEngine(0), Silent()).problems)


def refused_early(done: PackedRun) -> set[int]:
    """Rows that were refused before packing."""
    table = done.ledger.read(["row", "status"]).to_pylist()
    refused = {row["row"] for row in table if row["status"] == "refused"}
    return refused | {row["sample"] for row in done.plan.refused.to_pylist()}


def outcome(
    item: Item,
    account: dict[str, Any],
    found: Sequence[Document],
    processor: Any,
    folder: Path,
    early: bool,
    wrong: str,
) -> Outcome:
    """Hold one item's account against what is in the packs, and that against the processor."""
    stage = "estimate" if early else "packing"
    packed = account["status"] == "packed"
    result = "packed" if packed else f"{stage}: {account['reason_code']}"
    problems = [wrong, *account_problems(item, account, found)]
    if packed and len(found) == 1:
        problems += row_problems(item, found[0], processor, folder)
    return Outcome(
        number=item.number,
        kind=item.kind,
        how=item.how,
        seed=item.seed,
        result=result,
        reason=account["reason"] or "",
        wrong=" ".join(filter(None, problems)),
    )


def account_problems(item: Item, account: dict[str, Any], found: Sequence[Document]) -> Iterator[str]:
    """Whether an account is complete and true."""
    if account["status"] not in ("packed", "refused"):
        yield f"its status is {account['status']}"
    if len(found) != (account["status"] == "packed"):
        yield f"{account['status']}, and {len(found)} documents are of it"
    if account["status"] == "refused" and not (account["reason_code"] and account["reason"]):
        yield "refused without a reason"
    if len(account["reason"] or "") > LONGEST_REASON:
        yield f"a reason of {len(account['reason'])} characters"
    if "Traceback" in (account["reason"] or "") or "object at 0x" in (account["reason"] or ""):
        yield f"no reason for people: {account['reason']}"
    if item.how == WHOLE and account["status"] != "packed":
        yield f"whole, and refused: {account['reason']}"


def row_problems(item: Item, document: Document, processor: Any, folder: Path) -> Iterator[str]:
    """Whether a document is the item's own."""
    if item.row is None:
        yield from text_problems(item, document, processor)
        return
    try:
        ids, wanted = truth_of(processor, item.row, folder)
    except Exception as error:  # noqa: BLE001 - decoders raise what they like, and that is the finding
        yield f"packed, and the processor's own loader fails: {error!r:.300}"
        return
    if document.sequence["input_ids"].tolist() != ids[:-1]:
        yield "other tokens than the processor's"
    if document.media.keys() != wanted.keys():
        yield f"has {sorted(document.media)}, the processor {sorted(wanted)}"
    for name, value in wanted.items():
        if name in document.media and not torch.equal(document.media[name], value):
            yield f"{name} is not the processor's"


def text_problems(item: Item, document: Document, processor: Any) -> Iterator[str]:
    """Whether what is learned stands in the row."""
    texts = list(strings_of(json.loads(item.line)))
    labels = document.sequence["labels"].numpy()
    runs = np.split(labels, np.flatnonzero(np.diff(labels != IGNORE_INDEX)) + 1)
    for run in runs:
        if run[0] == IGNORE_INDEX:
            continue
        learned = processor.tokenizer.decode(run, skip_special_tokens=True).strip()
        if not any(learned in text for text in texts):
            yield f"learns {learned[:100]!r}, which is not in its row"


def strings_of(value: Any) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings_of(inner)
