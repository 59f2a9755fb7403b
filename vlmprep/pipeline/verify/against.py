"""Random documents of a pack set, found in the ledger and in the sources that it was packed from, and made anew in parallel."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vlmprep.counting.ledger import Ledger, open_ledger
from vlmprep.families.fingerprint import fingerprint
from vlmprep.families.loading import load_family
from vlmprep.pipeline.documents import LOCATOR_COLUMNS, SampleLocator, locator_of
from vlmprep.pipeline.fakes import gets_fake_image, with_fakes
from vlmprep.pipeline.pack import source_specs
from vlmprep.pipeline.run import count_settings_of
from vlmprep.pipeline.settings import CountSettings, differences
from vlmprep.pipeline.verify.account import Account
from vlmprep.pipeline.verify.asked import Against
from vlmprep.pipeline.verify.problem import Problem
from vlmprep.pipeline.verify.rebuild import Place, RebuildJob
from vlmprep.schema.engine import Engine
from vlmprep.schema.errors import StopRun
from vlmprep.schema.packset import KEPT, MANIFEST
from vlmprep.schema.progress import Progress
from vlmprep.shardformat.manifest import Manifest
from vlmprep.shardformat.packinfo import SampleRef

__all__ = ["prepare_rebuilding", "rebuild_documents"]

DOCUMENTS_AT_ONCE = 16
"""Documents of a unit of work; those of one pack stay together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A document before its row is looked up."""

    pack_id: int
    document: int
    sample: SampleRef
    kept: str | None


def prepare_rebuilding(root: Path, manifest: Manifest, against: Against) -> tuple[Ledger, CountSettings]:
    """Find out before hours of work whether there is anything to hold the packs against.

    Raises:
        StopRun: The ledger or a source is not there, the ledger is another, or the processor cannot be loaded.
    """
    ledger = open_ledger(_ledger_path(root, against))
    if found := differences(manifest.fingerprint, ledger.settings["fingerprint"]):
        raise StopRun(
            f"{root} was not packed from the ledger {ledger.root}: {'; '.join(found)}",
            "Give the ledger that it was packed from as --ledger.",
        )
    for spec in source_specs(ledger):
        if "://" not in spec.path and not os.path.exists(spec.path):
            raise StopRun(
                f"the source {spec.name!r} is no longer where it was packed from: {spec.path}",
                "Bring it back to hold the pack set against it, or verify without --against.",
            )
    counts = count_settings_of(ledger)
    counts = replace(counts, family=replace(counts.family, processor=against.processor))
    load_family(counts.family)
    return ledger, counts


def _ledger_path(root: Path, against: Against) -> Path:
    if against.ledger is not None:
        return against.ledger
    if not (root / "ledger").is_dir():
        raise StopRun(
            f"{root} was packed from a ledger that lies elsewhere",
            "Name it with --ledger: it knows where the sources lie.",
        )
    return root / "ledger"


def rebuild_documents(
    place: Path | str,
    root: Path,
    manifest: Manifest,
    account: Account,
    against: Against,
    prepared: tuple[Ledger, CountSettings],
    engine: Engine,
    progress: Progress,
) -> tuple[int, tuple[Problem, ...]]:
    """Make random documents anew and compare them.

    Returns:
        How many documents, and where they differ, by pack.
    """
    ledger, counts = prepared
    fake_image = manifest.settings["fake_image"]
    places = locate(choose(account, against), ledger, fake_image)
    job = RebuildJob(
        place=place,
        root=root,
        specs=source_specs(ledger),
        counts=counts,
        fake_image=fake_image,
        pixels=manifest.settings["pixels"],
    )
    found: list[Problem] = []
    progress.start("Rebuilding", len(places), "documents")
    with closing(engine.run(job, units_of(places))) as results:
        for rebuilt in results:
            found += rebuilt.differences
            progress.advance(rebuilt.num_documents)
    progress.finish()
    if found:
        found += processor_problems(manifest, counts, against)
    return len(places), tuple(sorted(found, key=lambda p: (p.pack_id is not None, p.pack_id or 0, p.what)))


def choose(account: Account, against: Against) -> list[Chosen]:
    """Random documents, by rising pack; the same for the same seed."""
    total = len(account.pack_ids)
    drawn = sorted(random.Random(against.seed).sample(range(total), min(against.num_samples, total)))
    rows = account.packed.take(pa.array(drawn, pa.int64())).to_pylist()
    pack_ids, documents = account.pack_ids[drawn].tolist(), account.documents[drawn].tolist()
    return [
        Chosen(pack_id=pack_id, document=document, kept=row.pop(KEPT.name, None), sample=SampleRef(**row))
        for pack_id, document, row in zip(pack_ids, documents, rows, strict=True)
    ]


def locate(chosen: Sequence[Chosen], ledger: Ledger, fake_image: str) -> list[Place]:
    """Look documents' rows up in the ledger, one chunk of it in memory at a time."""
    wanted: defaultdict[str, set[int]] = defaultdict(set)
    for each in chosen:
        wanted[each.sample.source].add(each.sample.row)
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for table in ledger.chunks(LOCATOR_COLUMNS):
        source = table["source"][0].as_py()
        here = np.isin(table["row"].to_numpy(), list(wanted[source]))
        found = table.filter(pa.array(here))
        counted = with_fakes(found, gets_fake_image(found, fake_image), ledger)
        rows.update({(source, row["row"]): row for row in counted.to_pylist() if row["num_tokens"] is not None})
    names = {spec.name: number for number, spec in enumerate(source_specs(ledger))}
    return [
        Place(
            pack_id=each.pack_id,
            document=each.document,
            sample=each.sample,
            kept=each.kept,
            locator=_locator(each.sample, rows.get((each.sample.source, each.sample.row)), names),
        )
        for each in chosen
    ]


def _locator(sample: SampleRef, row: dict[str, Any] | None, names: dict[str, int]) -> SampleLocator | None:
    if row is None:
        return None
    keep_tokens = row["num_tokens"] - sample.num_cut_tokens if sample.num_cut_tokens else None
    return locator_of(-1, 0.0, keep_tokens, row, names)


def units_of(places: Sequence[Place]) -> Iterator[tuple[Place, ...]]:
    """Documents in units of work, a pack's together."""
    unit: list[Place] = []
    for _, own in groupby(places, key=lambda place: place.pack_id):
        unit += own
        if len(unit) >= DOCUMENTS_AT_ONCE:
            yield tuple(unit)
            unit = []
    if unit:
        yield tuple(unit)


def processor_problems(manifest: Manifest, counts: CountSettings, against: Against) -> Iterator[Problem]:
    """Where the processor is not what the pack set was made with, which may be why documents differ."""
    now = fingerprint(load_family(counts.family), counts.family)
    if found := differences(manifest.fingerprint, now):
        yield Problem(file=MANIFEST, what=f"{against.processor} is not what it was packed with: {'; '.join(found)}")
