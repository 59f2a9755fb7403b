"""The plan on disk.

PLAN/
  bins.arrow     one row per pack, in pack order: its samples by ledger number, its counts
  cuts.arrow     samples that are cut to fit, and where
  refused.arrow  samples that this plan cannot take, with the reason
  plan.json      written last: settings, statistics, digest; its presence means complete
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vlmprep.schema.errors import StopRun
from vlmprep.schema.files import canonical_json, publish, read_json, write_json

__all__ = [
    "CUTS",
    "PLAN_FILE",
    "PLAN_VERSION",
    "Plan",
    "PlannedPacks",
    "Unfit",
    "check_version",
    "open_plan",
    "write_plan",
]

PLAN_FILE = "plan.json"
PLAN_VERSION = 2
"""Of a plan's files; one higher with every change that older or newer code cannot read."""
BINS = pa.schema(
    [
        ("samples", pa.large_list(pa.field("item", pa.int64(), nullable=False))),
        ("costs", pa.large_list(pa.field("item", pa.float64(), nullable=False))),
        ("num_tokens", pa.int64()),
        ("num_visual_tokens", pa.int64()),
        ("cost", pa.float64()),
        ("needs_fake", pa.bool_()),
    ]
)
"""Counts and costs are those of the samples, without a fake image that is a document of its own; tokens after the shift."""
REFUSED = pa.schema([("sample", pa.int64()), ("reason_code", pa.string()), ("reason", pa.string())])


CUTS = pa.schema([(name, pa.int64()) for name in ("sample", "num_tokens", "num_cut_tokens", "num_cut_media")])
"""Samples that are cut to fit: tokens that they keep, before the shift, and what is cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfit:
    """A sample that this plan can put into no pack."""

    sample: int
    """Its number in the ledger."""
    code: str
    """`overlong`: it is longer than a pack; `too-many-visual-tokens`, `too-many-images`, `too-costly`: it alone is over a
    bound; `no-fake-image`: it has no place for the fake image that it should get."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlannedPacks:
    """Packs of ledger numbers: pack `k` holds `samples[offsets[k]:offsets[k + 1]]`."""

    samples: NDArray[np.int64]
    """[num_samples] ledger numbers, pack after pack; a row that is used twice stands twice."""
    costs: NDArray[np.float64]
    """[num_samples] what each costs."""
    offsets: NDArray[np.int64]
    """[num_packs + 1]"""
    num_tokens: NDArray[np.int64]
    """[num_packs] after the shift; here and below of the samples alone."""
    num_visual_tokens: NDArray[np.int64]
    """[num_packs]"""
    num_images: NDArray[np.int64]
    """[num_packs]"""
    pack_costs: NDArray[np.float64]
    """[num_packs]"""
    needs_fake: NDArray[np.bool_]
    """[num_packs] the pack gets a fake image as a document of its own."""
    num_fakes: int
    """Fake images in all: of packs, or in samples."""

    @property
    def num_packs(self) -> int:
        """How many packs there are."""
        return len(self.num_tokens)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """A complete plan, its arrays mapped from disk."""

    root: Path
    summary: dict[str, Any]
    """plan.json."""
    samples: NDArray[np.int64]  # [num_samples]: ledger numbers, pack after pack
    costs: NDArray[np.float64]  # [num_samples]: what each costs
    offsets: NDArray[np.int64]  # [num_packs + 1]: where each pack's samples start
    num_tokens: NDArray[np.int64]  # [num_packs]
    num_visual_tokens: NDArray[np.int64]  # [num_packs]
    pack_costs: NDArray[np.float64]  # [num_packs]: of the samples
    needs_fake: NDArray[np.bool_]  # [num_packs]
    refused: pa.Table
    """REFUSED."""
    cuts: pa.Table
    """CUTS, by rising sample."""

    @property
    def num_packs(self) -> int:
        """How many packs there are."""
        return len(self.num_tokens)

    @property
    def digest(self) -> str:
        """Identity of the plan."""
        return str(self.summary["digest"])

    def bin(self, pack_id: int) -> NDArray[np.int64]:
        """Ledger numbers of one pack's samples, in order."""
        return self.samples[self.offsets[pack_id] : self.offsets[pack_id + 1]]


def write_plan(
    root: Path, packs: PlannedPacks, refused: Sequence[Unfit], cuts: pa.Table, summary: dict[str, Any]
) -> None:
    """Publish a plan.

    Args:
        root: Folder of the plan.
        packs: The packs.
        refused: Samples that it cannot take.
        cuts: Samples that are cut to fit, CUTS.
        summary: Settings and statistics; the digest is added.
    """
    offsets = pa.array(packs.offsets)
    columns = [
        pa.LargeListArray.from_arrays(offsets, pa.array(packs.samples), type=BINS.field("samples").type),
        pa.LargeListArray.from_arrays(offsets, pa.array(packs.costs), type=BINS.field("costs").type),
        pa.array(packs.num_tokens, pa.int64()),
        pa.array(packs.num_visual_tokens, pa.int64()),
        pa.array(packs.pack_costs, pa.float64()),
        pa.array(packs.needs_fake),
    ]
    _write(root / "bins.arrow", pa.record_batch(columns, schema=BINS))
    rows = [{"sample": r.sample, "reason_code": r.code, "reason": r.reason} for r in refused]
    _write(root / "refused.arrow", pa.RecordBatch.from_pylist(rows, schema=REFUSED))
    _write(root / "cuts.arrow", cuts.combine_chunks().to_batches()[0] if cuts.num_rows else empty_batch(CUTS))
    digest = hashlib.sha256(canonical_json(summary["settings"]) + summary["ledger"].encode())
    for array in (packs.offsets, packs.samples, packs.costs):
        digest.update(np.ascontiguousarray(array).tobytes())
    write_json(root / PLAN_FILE, {**summary, "digest": digest.hexdigest()})


def open_plan(root: Path) -> Plan:
    """Open a complete plan.

    Raises:
        StopRun: There is none, or another version of vlmprep wrote it.
    """
    summary = read_json(root / PLAN_FILE)
    if summary is None:
        raise StopRun(f"{root} is no complete plan", "Run `vlmprep plan LEDGER --out PLAN`.")
    check_version(root, summary)
    bins = _read(root / "bins.arrow")
    lists = bins["samples"]
    return Plan(
        root=root,
        summary=summary,
        samples=lists.values.to_numpy(),
        costs=bins["costs"].values.to_numpy(),
        offsets=lists.offsets.to_numpy(),
        num_tokens=bins["num_tokens"].to_numpy(),
        num_visual_tokens=bins["num_visual_tokens"].to_numpy(),
        pack_costs=bins["cost"].to_numpy(),
        needs_fake=bins["needs_fake"].to_numpy(zero_copy_only=False),
        refused=pa.Table.from_batches([_read(root / "refused.arrow")]),
        cuts=pa.Table.from_batches([_read(root / "cuts.arrow")]),
    )


def check_version(root: Path, summary: Mapping[str, Any]) -> None:
    """Refuse a plan that this version cannot read.

    Raises:
        StopRun: Its version is another.
    """
    if (version := summary.get("version", 1)) != PLAN_VERSION:
        raise StopRun(
            f"the plan {root} is of format {version}, and this version of vlmprep reads and writes {PLAN_VERSION}",
            "Plan again, into another folder (`vlmprep plan`).",
        )


def empty_batch(schema: pa.Schema) -> pa.RecordBatch:
    """No rows."""
    return pa.RecordBatch.from_pylist([], schema=schema)


def _write(path: Path, batch: pa.RecordBatch) -> None:
    with publish(path) as attempt, pa.ipc.new_file(str(attempt), batch.schema) as writer:
        writer.write_batch(batch)


def _read(path: Path) -> pa.RecordBatch:
    with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
        return reader.get_batch(0)
