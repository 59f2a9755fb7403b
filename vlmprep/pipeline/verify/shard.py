"""What a worker of verification does: one shard with everything that speaks of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from itertools import zip_longest
from pathlib import Path

import numpy as np
import xxhash

from vlmprep.pipeline.verify.members import Owner, member_problems, owner_of
from vlmprep.pipeline.verify.problem import Problem
from vlmprep.pipeline.verify.receipt import load_receipt, receipt_problems
from vlmprep.pipeline.verify.remote import shard_here
from vlmprep.pipeline.verify.tensors import PackRules, tensor_problems
from vlmprep.schema.at_work import at_work
from vlmprep.schema.files import sha256_file
from vlmprep.schema.packset import PACKS_FILE, SAMPLES_FILE, shard_name
from vlmprep.shardformat.errors import BrokenPack
from vlmprep.shardformat.memory import pooled_empty
from vlmprep.shardformat.pack import decode_pack
from vlmprep.shardformat.packinfo import PackInfo, SampleRef
from vlmprep.shardformat.shardrecords import ShardRecord
from vlmprep.shards.receipts import PackRecord, Receipt, Refusal

__all__ = ["ShardFindings", "ShardUnit", "VerifyJob"]

END_OF_ARCHIVE = bytes(1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardUnit:
    """One shard and what the rest of the pack set says of it."""

    shard: int
    record: ShardRecord
    """Of the manifest."""
    first_pack: int
    rows: tuple[PackRecord, ...] | None
    """Its rows of the index; None where that cannot be read."""
    believe_index: bool
    """The index is what was written."""
    samples: tuple[tuple[SampleRef, ...], ...] | None
    """The documents of each of its packs by the account of the rows; None where that cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFindings:
    """What came out."""

    shard: int
    num_packs: int
    problems: tuple[Problem, ...]
    sha256: str | None
    """Of the shard as it is; None where it cannot be read."""
    owner: Owner | None
    """Of its first member."""
    job: str | None
    """By its receipt."""
    refused: tuple[Refusal, ...]
    """By its receipt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyJob:
    """Verifies shards."""

    place: Path | str
    """The pack set, a folder or a URL."""
    rules: PackRules

    def open(self) -> Callable[[ShardUnit], ShardFindings]:
        """The worker's function; there is nothing to start up."""
        return self.check

    def check(self, unit: ShardUnit) -> ShardFindings:
        """Verify one shard."""
        at_work(shard_name(unit.shard))
        with shard_here(self.place, unit.shard) as root:
            return ShardCheck(root, self.rules, unit).run()


class ShardCheck:
    """The checks of one shard, with what they found so far.

    Args:
        root: The pack set.
        rules: What the manifest says of every pack.
        unit: The shard.
    """

    def __init__(self, root: Path, rules: PackRules, unit: ShardUnit) -> None:
        self._root, self._rules, self._unit = root, rules, unit
        self._name = shard_name(unit.shard)
        self._path = root / self._name
        self._problems: list[Problem] = []
        self._owner: Owner | None = None
        self._sha256: str | None = None

    def run(self) -> ShardFindings:
        """All of them."""
        unit, rows = self._unit, self._unit.rows
        receipt = load_receipt(self._root, unit.shard)
        if isinstance(receipt, Problem):
            self._problems.append(receipt)
        else:
            self._problems += receipt_problems(
                receipt, unit.shard, unit.record, unit.first_pack, rows or (), believe_index=unit.believe_index
            )
            rows = receipt.packs if rows is None else rows
        try:
            with self._path.open("rb") as file:
                self._check_bytes()
                if rows is not None:
                    self._check_packs(file, rows)
        except FileNotFoundError:
            self._wrong("it is missing")
        except OSError as error:
            self._wrong(f"it cannot be read: {error.strerror or error}")
        return ShardFindings(
            shard=unit.shard,
            num_packs=unit.record.num_packs,
            problems=tuple(self._problems),
            sha256=self._sha256,
            owner=self._owner,
            job=receipt.job if isinstance(receipt, Receipt) else None,
            refused=receipt.refused if isinstance(receipt, Receipt) else (),
        )

    def _wrong(self, what: str, *, file: str | None = None, pack_id: int | None = None) -> None:
        self._problems.append(Problem(file=file or self._name, pack_id=pack_id, what=what))

    def _check_bytes(self) -> None:
        """Size and digest of the whole shard."""
        record, size = self._unit.record, self._path.stat().st_size
        if size != record.size:
            self._wrong(f"it has {size} bytes, the manifest says {record.size}")
        self._sha256 = sha256_file(self._path)
        if self._sha256 != record.sha256:
            self._wrong(f"its SHA-256 is {self._sha256[:16]}..., the manifest says {record.sha256[:16]}...")

    def _check_packs(self, file: BufferedReader, rows: tuple[PackRecord, ...]) -> None:
        """Every pack, that they lie side by side from the first byte on, and what lies behind them."""
        if len(rows) != self._unit.record.num_packs:
            self._wrong(f"the manifest gives it {self._unit.record.num_packs} packs, {PACKS_FILE} has {len(rows)}")
        end = 0
        for place, row in enumerate(rows):
            if row.offset != end:
                what = f"{PACKS_FILE} puts it at byte {row.offset}, what is before it ends at {end}"
                self._wrong(what, pack_id=self._unit.first_pack + place)
            end = row.offset + row.size
            self._check_pack(file, place, row)
        file.seek(max(0, end))
        if file.read(len(END_OF_ARCHIVE) + 1) != END_OF_ARCHIVE:
            self._wrong(f"behind its last pack, at byte {end}, is not the end of a tar archive and nothing else")
        self._check_energon_index([*(row.offset for row in rows), end])

    def _check_energon_index(self, expected: list[int]) -> None:
        """`X.tar.idx`: where every pack starts, and where the last one ends."""
        path, name = self._path.with_name(self._path.name + ".idx"), f"{self._name}.idx"
        if not path.is_file():
            self._wrong("it is missing", file=name)
        elif path.read_bytes() != np.array(expected, dtype=np.int64).tobytes():
            self._wrong(f"it does not hold the {len(expected)} offsets that {PACKS_FILE} makes", file=name)

    def _check_pack(self, file: BufferedReader, place: int, row: PackRecord) -> None:
        """One pack: its digest, its members, what it says about itself, its tensors."""
        pack_id = self._unit.first_pack + place
        raw = self._read(file, pack_id, row)
        if raw is None:
            return
        if xxhash.xxh3_64_intdigest(raw) != row.xxh3:
            self._wrong(f"its bytes do not have the digest that {PACKS_FILE} says", pack_id=pack_id)
            return
        try:
            info, fields = decode_pack(raw, shard=self._name, pack_id=pack_id)
        except BrokenPack as error:
            _, _, what = error.message.partition(": ")  # shard and pack, which the problem names anyway
            self._wrong(what, pack_id=pack_id)
            return
        self._owner = self._owner or owner_of(raw)
        for what in (
            *member_problems(raw, pack_id, self._owner),
            *self._sample_problems(info, place),
            *tensor_problems(info, fields, row, self._rules),
        ):
            self._wrong(what, pack_id=pack_id)

    def _read(self, file: BufferedReader, pack_id: int, row: PackRecord) -> memoryview | None:
        """The pack's bytes, where the shard has them."""
        size = self._path.stat().st_size
        if not (row.offset >= 0 and row.size > 0 and row.offset + row.size <= size):
            self._wrong(f"{PACKS_FILE} puts it at {row.offset}+{row.size}, the shard has {size} bytes", pack_id=pack_id)
            return None
        raw = memoryview(pooled_empty((row.size,)).data)
        file.seek(row.offset)
        if (done := file.readinto(raw)) != row.size:
            self._wrong(f"only {done} of its {row.size} bytes can be read", pack_id=pack_id)
            return None
        return raw

    def _sample_problems(self, info: PackInfo, place: int) -> Iterator[str]:
        """Where key.json and the account of the rows name different samples."""
        if self._unit.samples is None:
            return
        expected = self._unit.samples[place] if place < len(self._unit.samples) else ()
        for document, (found, wanted) in enumerate(zip_longest(info.samples, expected), start=1):
            if found != wanted:
                yield f"document {document} is {sample_name(found)}, {SAMPLES_FILE} has {sample_name(wanted)} there"


def sample_name(sample: SampleRef | None) -> str:
    """A sample for people."""
    return f"{sample.source} row {sample.row} ({sample.sample_id})" if sample else "nothing"
