"""Verification of a pack set: its files, every shard in parallel, and that all accounts agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vlmprep.pipeline.places import local_folder
from vlmprep.pipeline.verify.account import Account, account_problems, read_account, refusal_problems
from vlmprep.pipeline.verify.asked import Against
from vlmprep.pipeline.verify.files import file_problems, index_problems, stray_files
from vlmprep.pipeline.verify.origin import origin_problems
from vlmprep.pipeline.verify.problem import Problem
from vlmprep.pipeline.verify.shard import ShardFindings, ShardUnit, VerifyJob
from vlmprep.pipeline.verify.tensors import PackRules
from vlmprep.schema.engine import Engine
from vlmprep.schema.packset import MANIFEST, PACKS_FILE, SAMPLES_FILE
from vlmprep.schema.progress import Progress
from vlmprep.shardformat.errors import BrokenPackSet
from vlmprep.shardformat.index import PackIndex, map_index
from vlmprep.shardformat.manifest import Manifest, missing_manifest
from vlmprep.shards.receipts import PackRecord

__all__ = ["Verification", "verify"]

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What came out of verifying a pack set."""

    packset: str
    """Its folder."""
    num_shards: int
    num_packs: int
    num_samples: int
    num_bytes: int
    """Of all shards, as the manifest has them."""
    problems: tuple[Problem, ...]
    """Files as a whole first, then packs by number."""
    num_rebuilt: int = 0
    """Documents that were made anew from their sources."""
    differences: tuple[Problem, ...] = ()
    """Where these are not what the packs hold."""


def verify(place: Path | str, engine: Engine, progress: Progress, against: Against | None = None) -> Verification:
    """Check digests, structure and every invariant of a complete pack set; collect all that is wrong.

    Args:
        place: The pack set, a folder or a URL.
        engine: Runs the shards.
        progress: Is told how far it is.
        against: Make some documents anew from their sources and compare them, too.

    Raises:
        IncompletePackSet: There is no manifest.
        BrokenPackSet: The manifest cannot be understood.
        StopRun: There is nothing to make documents anew from.
    """
    root = local_folder(place)
    manifest = read_manifest(root, str(place))
    prepared = None
    if against is not None:  # what it needs takes seconds to import, in every worker
        from vlmprep.pipeline.verify.against import prepare_rebuilding, rebuild_documents

        prepared = prepare_rebuilding(root, manifest, against)
    problems = [*file_problems(root, manifest), *stray_files(place, root, manifest)]
    index = open_index(root, manifest, problems)
    account = open_account(root, manifest, problems)
    believe_index = not any(found.file == PACKS_FILE for found in problems)
    findings = _check_shards(place, manifest, _units(manifest, index, account, believe_index), engine, progress)
    problems += [problem for found in findings for problem in found.problems]
    problems += between_shards(findings, manifest)
    problems += origin_problems(root, manifest, {found.shard: found.job for found in findings})
    if account is not None:
        believe = not any(found.file == SAMPLES_FILE for found in problems)
        problems += refusal_problems(account, {found.shard: found.refused for found in findings}, believe=believe)
    num_rebuilt, differences = 0, tuple[Problem, ...]()
    sound = not any(found.file in (PACKS_FILE, SAMPLES_FILE) for found in problems)
    if against and prepared and account is not None and sound:  # what is not is a problem already
        num_rebuilt, differences = rebuild_documents(
            place, root, manifest, account, against, prepared, engine, progress
        )
    return Verification(
        packset=str(place),
        num_shards=len(manifest.shards),
        num_packs=manifest.num_packs,
        num_samples=manifest.num_samples,
        num_bytes=sum(shard.size for shard in manifest.shards),
        problems=tuple(sorted(problems, key=lambda p: (p.pack_id is not None, p.pack_id or 0, p.file))),
        num_rebuilt=num_rebuilt,
        differences=differences,
    )


def read_manifest(root: Path, where: str) -> Manifest:
    """The manifest, without which nothing can be held against anything."""
    try:
        return Manifest.from_bytes((root / MANIFEST).read_bytes(), where)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise missing_manifest(where) from error


def open_index(root: Path, manifest: Manifest, problems: list[Problem]) -> PackIndex | None:
    """The index, where it can be read."""
    if not (root / PACKS_FILE).is_file():
        return None
    try:
        index = map_index(root / PACKS_FILE)
    except BrokenPackSet as error:
        problems.append(Problem(file=PACKS_FILE, what=error.message))
        return None
    problems += index_problems(index, manifest)
    return index


def open_account(root: Path, manifest: Manifest, problems: list[Problem]) -> Account | None:
    """The account of the rows, where it can be read."""
    account = read_account(root / SAMPLES_FILE)
    if isinstance(account, str):
        if (root / SAMPLES_FILE).is_file():
            problems.append(Problem(file=SAMPLES_FILE, what=account))
        return None
    problems += account_problems(account, manifest)
    return account


def rules_of(manifest: Manifest) -> PackRules:
    """What the manifest says of every pack."""
    is_qwen = manifest.family.startswith("qwen")
    merge_size = manifest.fingerprint.get("image_processor", {}).get("merge_size")
    return PackRules(
        pack_size=manifest.pack_size,
        position_axes=manifest.position_axes,
        fake_image=str(manifest.settings.get("fake_image")),
        pixel_fields=frozenset(name for name, rule in manifest.pixels.items() if rule.arithmetic != "stored"),
        patches_per_visual_token=merge_size**2 if is_qwen and isinstance(merge_size, int) and merge_size > 0 else None,
    )


def _check_shards(
    place: Path | str,
    manifest: Manifest,
    units: Iterator[ShardUnit],
    engine: Engine,
    progress: Progress,
) -> list[ShardFindings]:
    """What every shard holds, in shard order."""
    job = VerifyJob(place=place, rules=rules_of(manifest))
    findings: dict[int, ShardFindings] = {}
    progress.start("Verifying", manifest.num_packs, "packs")
    with closing(engine.run(job, units)) as results:
        for found in results:
            findings[found.shard] = found
            progress.advance(found.num_packs)
    progress.finish()
    return [findings[shard] for shard in sorted(findings)]


def _units(
    manifest: Manifest, index: PackIndex | None, account: Account | None, believe_index: bool
) -> Iterator[ShardUnit]:
    first_pack = 0
    for number, record in enumerate(manifest.shards):
        yield ShardUnit(
            shard=number,
            record=record,
            first_pack=first_pack,
            rows=None if index is None else rows_of(index, first_pack, record.num_packs),
            believe_index=believe_index,
            samples=None if account is None else account.samples(first_pack, record.num_packs),
        )
        first_pack += record.num_packs


def rows_of(index: PackIndex, first_pack: int, num_packs: int) -> tuple[PackRecord, ...]:
    """Consecutive rows of the index."""
    place = slice(first_pack, first_pack + num_packs)
    columns: dict[str, list[Any]] = {name: getattr(index, name)[place].tolist() for name in PackRecord.__slots__}
    return tuple(PackRecord(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True))


def between_shards(findings: Sequence[ShardFindings], manifest: Manifest) -> Iterator[Problem]:
    """Shards that took each other's place, and ones that were made otherwise than the rest."""
    known = {record.sha256: record.name for record in manifest.shards}
    for found in findings:
        record = manifest.shards[found.shard]
        if found.sha256 is not None and found.sha256 != record.sha256 and found.sha256 in known:
            yield Problem(file=record.name, what=f"its content is that of {known[found.sha256]}")
    for shard, owner, usual_owner in odd_ones({found.shard: found.owner for found in findings}):
        yield Problem(file=manifest.shards[shard].name, what=f"its members belong to {owner}, others to {usual_owner}")


def odd_ones(values: dict[int, Value | None]) -> Iterator[tuple[int, Value, Value]]:
    """(shard, its value, the most frequent value) of shards that differ from most; None is no value."""
    counts = Counter(value for value in values.values() if value is not None)
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        yield from ((shard, value, usual) for shard, value in values.items() if value is not None and value != usual)
