"""Plan to pack set: shards in parallel, each committed with a receipt; then the index, the account of every row, the manifest."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import vlmprep
from vlmprep.counting.ledger import Ledger
from vlmprep.families.loading import load_family
from vlmprep.pipeline.accounts import write_accounts
from vlmprep.pipeline.documents import LOCATOR_COLUMNS, locator_of
from vlmprep.pipeline.fakes import gets_fake_image, with_fakes
from vlmprep.pipeline.packjob import PackJob, ShardUnit
from vlmprep.pipeline.pixel_forms import bytes_a_level, rules_of_form
from vlmprep.pipeline.plan.budget import num_refused
from vlmprep.pipeline.plan.file import Plan
from vlmprep.pipeline.settings import CountSettings, PackSettings, refuse_other_settings
from vlmprep.schema.engine import Engine
from vlmprep.schema.errors import StopRun
from vlmprep.schema.files import canonical_json, publish, publish_bytes, read_json, sha256_file, write_json
from vlmprep.schema.packset import MANIFEST, PACKS, PACKS_FILE, SAMPLES_FILE, SETTINGS_FILE, receipt_name, shard_name
from vlmprep.schema.progress import Progress
from vlmprep.shardformat.index import write_index
from vlmprep.shardformat.manifest import FileRecord, Manifest
from vlmprep.shardformat.shardrecords import ShardRecord, ShardRecords
from vlmprep.shards.energon import write_energon_metadata
from vlmprep.shards.receipts import Receipt, Refusal, SizeOf, read_receipt
from vlmprep.shards.upload import sizes_on
from vlmprep.sources.spec import SourceSpec
from vlmprep.stores.working import WorkingCopy

__all__ = ["pack", "packing_began", "source_specs"]

TOKEN_BYTES = 27
"""Bytes of a token in a pack's tensors: ids 4, labels 4, mask 2 to 4, positions up to 12, type 1, and room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRange:
    """Which packs a shard holds."""

    shard: int
    first_pack: int
    end_pack: int


def pack(
    ledger: Ledger,
    plan: Plan,
    counts: CountSettings,
    settings: PackSettings,
    out: Path,
    engine: Engine,
    progress: Progress,
    *,
    max_refused: float = 1.0,
    copy: WorkingCopy | None = None,
) -> Manifest:
    """Write the pack set of a plan, going on where an earlier run stopped; the caller holds `out` (see `output_folder`).

    Args:
        ledger: Where the samples lie and what was counted.
        plan: Which samples make which pack.
        counts: How rows and media were read when they were counted.
        settings: What the shards' bytes depend on beside the plan.
        out: The pack set.
        engine: Writes the shards.
        progress: Is told how far it is.
        max_refused: Share of the rows that may be refused, those included that ledger and plan refused already.
        copy: Where `out` is the working copy of a pack set on a store.

    Raises:
        StopRun: `out` holds a pack set of another plan or other settings, a source changed, or too much is refused.
    """
    identity = {
        "plan": {**plan.summary["settings"], "digest": plan.digest},
        "writing": settings.to_json(),
        "fingerprint": ledger.settings["fingerprint"],
        "limits": ledger.settings["limits"],
        "format": {"vlmprep": vlmprep.__version__},
    }
    if (found := read_json(out / SETTINGS_FILE)) is not None:
        _check_same_plan(out, found, identity)
        refuse_other_settings(f"the pack set {out}", found, identity)
    if (out / MANIFEST).exists():
        if found is None:
            raise StopRun(f"{out} is a pack set that lost its {SETTINGS_FILE}", "Give another --out.")
        return Manifest.from_bytes((out / MANIFEST).read_bytes(), str(out))
    write_json(out / SETTINGS_FILE, identity)
    if copy is not None:
        copy.push()  # whoever goes on with the shards, from wherever, needs ledger and plan
    job = PackJob(
        root=out,
        specs=source_specs(ledger),
        counts=counts,
        settings=settings,
        pack_size=plan.summary["settings"]["pack_size"],
        document_alignment=plan.summary["settings"]["document_alignment"],
        fake_image=plan.summary["settings"]["fake_image"],
        fake_cost=plan.summary["fake"]["cost"],
        digest=hashlib.sha256(canonical_json(identity)).hexdigest(),
        store=None if copy is None else copy.store,
    )
    num_shards = _write_shards(job, ledger, plan, engine, progress, max_refused)
    return _finish(job, ledger, plan, num_shards, identity)


def packing_began(out: Path) -> bool:
    """Whether the pack stage wrote to a folder: from then on its sources, ledger and plan are what they are."""
    return (out / SETTINGS_FILE).exists()


def _check_same_plan(out: Path, found: dict[str, Any], identity: dict[str, Any]) -> None:
    """Digests tell nobody what differs: where they alone do, the rows behind the plan changed."""
    old, new = dict(found["plan"]), dict(identity["plan"])
    if old.pop("digest") != new.pop("digest") and old == new:
        raise StopRun(
            f"{out} holds packs of another plan: its rows, or what was counted of them, are not those of this plan",
            "Give another --out, or the ledger and plan that it was begun with.",
        )


def source_specs(ledger: Ledger) -> tuple[SourceSpec, ...]:
    """The sources as the ledger recorded them."""
    return tuple(
        SourceSpec(**{name: value for name, value in source.items() if name != "num_chunks"})
        for source in ledger.summary["sources"]
    )


def _write_shards(
    job: PackJob, ledger: Ledger, plan: Plan, engine: Engine, progress: Progress, max_refused: float
) -> int:
    """How many shards there are; only those without a receipt are written."""
    table = ledger.read((*LOCATOR_COLUMNS, "stored_bytes", "media_bytes"))
    table = with_fakes(table, gets_fake_image(table, job.fake_image), ledger)
    ranges = list(_shard_ranges(plan, table, job))
    missing: list[ShardRange] = []
    late: dict[int, Refusal] = {}
    size_of = _sizes(job)
    for shards in ranges:
        if (receipt := read_receipt(job.root, shards.shard, job.digest, size_of)) is None:
            missing.append(shards)
        else:
            late.update({refusal.sample: refusal for refusal in receipt.refused})
    num_missing = sum(shards.end_pack - shards.first_pack for shards in missing)
    progress.start("Packing", plan.num_packs, "packs", plan.num_packs - num_missing)
    with closing(engine.run(job, (_unit(shards, plan, table, job) for shards in missing))) as receipts:
        for receipt in receipts:
            late.update({refusal.sample: refusal for refusal in receipt.refused})
            progress.advance(len(receipt.packs))
            if receipt.refused and num_refused(ledger, plan) + len(late) > max_refused * table.num_rows:
                break
        else:
            progress.finish()
            return len(ranges)
    forget_shards_with_refusals(job, len(ranges))
    raise _too_many_refused(ledger, plan, late, receipt.refused[0].reason, max_refused)


def forget_shards_with_refusals(job: PackJob, num_shards: int) -> None:
    """Media may come back (a folder that was not mounted): these shards are written again by the next run."""
    size_of = _sizes(job)
    for shard in range(num_shards):
        receipt = read_receipt(job.root, shard, job.digest, size_of)
        if receipt is not None and receipt.refused:
            (job.root / receipt_name(shard)).unlink()
            if job.store is not None:
                job.store.delete(receipt_name(shard))


def _sizes(job: PackJob) -> SizeOf | None:
    """How large shards are that lie elsewhere."""
    return None if job.store is None else sizes_on(job.store)


def _too_many_refused(
    ledger: Ledger, plan: Plan, late: Mapping[int, Refusal], example: str, max_refused: float
) -> StopRun:
    codes = Counter(refusal.code for refusal in late.values())
    reasons = ", ".join(f"{rows} {code}" for code, rows in codes.most_common())
    return StopRun(
        f"{num_refused(ledger, plan) + len(late)} of {ledger.summary['rows']['all']} rows are refused, more than "
        f"--max-refused {max_refused:g} allows; of them while packing: {reasons}, e.g. {example}",
        "Bring the media back, or allow a larger share with --max-refused, and run the same command again.",
    )


def _shard_ranges(plan: Plan, table: pa.Table, job: PackJob) -> Iterator[ShardRange]:
    """Consecutive packs up to `shard_bytes` of tensors; a pure function of plan and settings."""
    name = "media_bytes" if job.settings.pixels == "encoded" else "stored_bytes"
    stored = table[name].combine_chunks().fill_null(0).to_numpy(zero_copy_only=False)[plan.samples]
    stored *= bytes_a_level(load_family(job.counts.family).pixel_rules(), job.settings.pixels)
    sizes = np.add.reduceat(stored, plan.offsets[:-1]) + plan.num_tokens * TOKEN_BYTES
    first, room, shard = 0, job.settings.shard_bytes, 0
    for pack_id, size in enumerate(sizes.tolist()):
        if pack_id > first and size > room:
            yield ShardRange(shard=shard, first_pack=first, end_pack=pack_id)
            first, room, shard = pack_id, job.settings.shard_bytes, shard + 1
        room -= size
    yield ShardRange(shard=shard, first_pack=first, end_pack=plan.num_packs)


def _unit(shards: ShardRange, plan: Plan, table: pa.Table, job: PackJob) -> ShardUnit:
    names = {spec.name: number for number, spec in enumerate(job.specs)}
    own = slice(plan.offsets[shards.first_pack], plan.offsets[shards.end_pack])
    samples = plan.samples[own]
    kept = kept_tokens(plan, samples)
    found = table.take(pa.array(samples)).to_pylist()
    rows = iter(zip(samples.tolist(), plan.costs[own].tolist(), kept, found, strict=True))
    packs = []
    for pack_id in range(shards.first_pack, shards.end_pack):
        size = int(plan.offsets[pack_id + 1] - plan.offsets[pack_id])
        packs.append(tuple(locator_of(*next(rows), names) for _ in range(size)))
    return ShardUnit(shard=shards.shard, first_pack=shards.first_pack, packs=tuple(packs))


def kept_tokens(plan: Plan, samples: NDArray[np.int64]) -> list[int | None]:
    """How many tokens samples keep, before the shift; None where they keep all."""
    cut, num_tokens = (plan.cuts[name].to_numpy() for name in ("sample", "num_tokens"))
    at = np.searchsorted(cut, samples)
    is_cut = np.append(cut, -1)[at] == samples
    kept = np.append(num_tokens, 0)[at]
    return [number if found else None for number, found in zip(kept.tolist(), is_cut.tolist(), strict=True)]


def _receipts(job: PackJob, num_shards: int) -> Iterator[Receipt]:
    """All receipts in shard order, one in memory at a time."""
    size_of = _sizes(job)
    for shard in range(num_shards):
        receipt = read_receipt(job.root, shard, job.digest, size_of)
        if receipt is None:
            raise StopRun(
                f"{job.root / shard_name(shard)} vanished while others were written", "Run the same command again."
            )
        yield receipt


def _finish(job: PackJob, ledger: Ledger, plan: Plan, num_shards: int, identity: dict[str, Any]) -> Manifest:
    root, family = job.root, load_family(job.counts.family)
    columns = {field.name: np.empty(plan.num_packs, dtype=field.type.to_pandas_dtype()) for field in PACKS}
    shards: list[ShardRecord] = []
    refused: list[Refusal] = []
    for receipt in _receipts(job, num_shards):
        name = shard_name(receipt.shard)
        shards.append(ShardRecord(name=name, size=receipt.size, sha256=receipt.sha256, num_packs=len(receipt.packs)))
        refused.extend(receipt.refused)
        _fill_index(columns, receipt)
    _check_all_or_none(job, plan, refused, num_shards)
    with publish(root / PACKS_FILE) as attempt:
        write_index(attempt, columns)
    rows = write_accounts(root / SAMPLES_FILE, ledger, plan, refused)
    write_energon_metadata(root, {shard.name: shard.num_packs for shard in shards})
    total = {name: int(column.sum()) for name, column in columns.items() if name.startswith("num_")}
    manifest = Manifest(
        vlmprep_version=vlmprep.__version__,
        family=family.name,
        pack_size=job.pack_size,
        num_packs=len(columns["shard"]),
        **total,
        rows=rows,
        pad_token_id=family.pad_token_id,
        position_axes=family.position_axes,
        pixels=rules_of_form(family.pixel_rules(), job.settings.pixels),
        compression=job.settings.compression,
        shards=ShardRecords(shards),
        files={
            name: FileRecord(size=(root / name).stat().st_size, sha256=sha256_file(root / name))
            for name in (PACKS_FILE, SAMPLES_FILE)
        },
        settings={
            **identity["plan"],
            **identity["writing"],
            **identity["limits"],
            "processor": ledger.settings["processor"],
        },
        fingerprint=identity["fingerprint"],
        plan={"digest": plan.digest, "seed": plan.summary["settings"]["seed"]},
    )
    publish_bytes(root / MANIFEST, manifest.to_bytes())
    return manifest


def _check_all_or_none(job: PackJob, plan: Plan, refused: Sequence[Refusal], num_shards: int) -> None:
    """Hold the refusals of a row that is used several times against each other.

    Raises:
        StopRun: One of its uses was packed and another refused; the shards concerned are written again by the next run.
    """
    times = Counter(refusal.sample for refusal in refused)
    rows = np.array(sorted(times), np.int64)
    uses = np.bincount(np.searchsorted(rows, plan.samples[np.isin(plan.samples, rows)]), minlength=len(rows))
    for row, used in zip(rows.tolist(), uses.tolist(), strict=True):
        if times[row] != used:
            forget_shards_with_refusals(job, num_shards)
            raise StopRun(
                f"sample {row} of the ledger is used {used} times and failed {times[row]} times: its media changed meanwhile",
                "Run the same command again.",
            )


def _fill_index(columns: dict[str, NDArray[Any]], receipt: Receipt) -> None:
    """Put a shard's packs into the columns of packs.arrow."""
    packs = slice(receipt.first_pack, receipt.first_pack + len(receipt.packs))
    for name, column in columns.items():
        column[packs] = receipt.shard if name == "shard" else [getattr(record, name) for record in receipt.packs]
