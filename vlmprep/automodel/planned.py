"""Counting examples and planning packs of them: the pipeline's own counting and planning, on a ledger in memory."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vlmprep.automodel.documents import FAMILY_SETTINGS, ExampleDocuments
from vlmprep.automodel.samples import SOURCE, example_bytes, sample_of_example
from vlmprep.automodel.statistics import RECORDED_TOKENS
from vlmprep.counting.ledger import Ledger
from vlmprep.counting.rows import count_rows
from vlmprep.families.fingerprint import fingerprint
from vlmprep.pipeline.estimate import ROWS_AT_ONCE, fake_image_counts, update_digest
from vlmprep.pipeline.fakes import gets_fake_image, with_fakes
from vlmprep.pipeline.plan.bounds import make_room
from vlmprep.pipeline.plan.candidates import Candidates, find_candidates
from vlmprep.pipeline.plan.costs import costing_of
from vlmprep.pipeline.plan.layout import lay_out
from vlmprep.pipeline.plan.make import fake_of
from vlmprep.pipeline.settings import PlanSettings
from vlmprep.planning import PackPlan
from vlmprep.schema.conversation import Sample
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.files import canonical_json
from vlmprep.schema.ledger import LEDGER, REFUSED
from vlmprep.sources.blobs import row_digest

__all__ = ["CountedExamples", "Planned", "count_examples", "plan_examples"]


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedExamples(Ledger):
    """A ledger that lies in memory: one row per example."""

    table: pa.Table
    """LEDGER."""

    def chunks(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """All rows, as one chunk."""
        yield self.table.select(list(columns))

    @property
    def digest(self) -> str:
        """Identity of the examples, their counts, and the processor that they were counted with."""
        made = hashlib.sha256(canonical_json(self.settings["fingerprint"]))
        update_digest(made, self.table)
        return made.hexdigest()

    def refusals(self) -> dict[int, RefuseSample]:
        """Examples that cannot be used, by number."""
        columns = (self.table[name].to_pylist() for name in ("row", "status", "reason_code", "reason"))
        return {
            row: RefuseSample(code, reason)
            for row, status, code, reason in zip(*columns, strict=True)
            if status == REFUSED
        }

    def num_tokens(self, fake_image: str) -> NDArray[np.int64]:
        """[n] tokens of each example before the shift, with the fake image where it gets one; 0 where it cannot be used."""
        table = self.table.select(["num_tokens", "num_tokens_with_fake", "num_images", "num_videos"])
        counted = with_fakes(table, gets_fake_image(table, fake_image), self)["num_tokens"]
        return np.asarray(counted.fill_null(0).combine_chunks().to_numpy(zero_copy_only=False), np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Planned:
    """Packs of examples."""

    packs: PackPlan
    """Of numbers of candidates."""
    candidates: Candidates
    unfit: dict[int, RefuseSample]
    """Examples that no pack takes, by number."""

    @property
    def bins(self) -> list[list[int]]:
        """Numbers of the examples of every pack."""
        return [self.candidates.rows[samples].tolist() for samples in self.packs.bins]


class ReadExample:
    """One example, read once for counting: a row that carries what it says."""

    offset = 0

    def __init__(self, documents: ExampleDocuments, row: int) -> None:
        self.row = row
        self.example: Any = None
        self.refusal: RefuseSample | None = None
        try:
            self.example = documents.example(row)
        except RefuseSample as refusal:
            self.refusal = refusal
        self.data = example_bytes(self.example)
        self.xxh3 = row_digest(self.data)


class ReadExamples:
    """Converts examples that were read."""

    def __init__(self, rows: Sequence[ReadExample]) -> None:
        self._rows = {row.row: row for row in rows}

    def sample(self, row: int, _: bytes) -> Sample:
        """As counting asks for it."""
        read = self._rows[row]
        if read.refusal is not None:
            raise read.refusal
        return sample_of_example(read.example, row)


def count_examples(documents: ExampleDocuments) -> CountedExamples:
    """Count every example exactly: its text is tokenized, of its media the headers are read."""
    family, rows = documents.family, iter(range(len(documents.dataset)))
    records: list[dict[str, Any]] = []
    num_differing = 0
    while group := [ReadExample(documents, row) for row in islice(rows, ROWS_AT_ONCE)]:
        counted = count_rows(
            SOURCE,
            group,
            rows=ReadExamples(group),
            media=documents.media,
            family=family,
            count_with_fake=documents.fake_image == "sample",
        )
        for record in counted:
            refuse_overlong(record, documents)
        num_differing += sum(differs(read.example, record) for read, record in zip(group, counted, strict=True))
        records += counted
    if num_differing:
        logger.warning(
            "%d of %d samples have other counts recorded than were counted now, which hold: another processor, or other media?",
            num_differing,
            len(records),
        )
    return CountedExamples(
        root=Path(),
        summary={},
        settings={"fake_image": fake_image_counts(family), "fingerprint": fingerprint(family, FAMILY_SETTINGS)},
        table=pa.Table.from_pylist(records, schema=LEDGER),
    )


def refuse_overlong(record: dict[str, Any], documents: ExampleDocuments) -> None:
    """Mark an example as refused that is longer than it may be."""
    if record["status"] == REFUSED:
        return
    with_fake = record.get("num_tokens_with_fake") if documents.fake_image == "sample" else None
    try:
        documents.check_length(with_fake or record["num_tokens"])
    except RefuseSample as refusal:
        record |= {"status": REFUSED, "reason": refusal.reason, "reason_code": refusal.code}


def differs(example: Any, record: Mapping[str, Any]) -> bool:
    """Whether an example's row has exact counts written into it that are not those of its record."""
    text = example.get("_text_tokens") if isinstance(example, Mapping) else None
    if text is None or record["status"] == REFUSED:
        return False
    meta = example.get("mm_inputs_meta") or {}
    try:
        if any(meta.get(sizes) and not meta.get(tokens) for sizes, tokens in RECORDED_TOKENS.items()):
            return False
        of_media = sum(sum(meta.get(tokens) or ()) for tokens in RECORDED_TOKENS.values())
        return bool(int(text) + of_media != record["num_tokens"])
    except (AttributeError, TypeError, ValueError):  # what was recorded are no counts
        return True


def plan_examples(counted: CountedExamples, settings: PlanSettings) -> Planned:
    """Lay examples into packs as `vlmprep plan` does."""
    costing = costing_of("vt", FAMILY_SETTINGS)
    room = make_room(settings, fake_of(counted, settings, costing))
    found = find_candidates(counted, np.ones(counted.table.num_rows, np.int32), settings, room, costing)
    packs = lay_out(found.candidates, room, settings)
    return Planned(
        packs=packs if settings.max_packs is None else packs.first(settings.max_packs),
        candidates=found.candidates,
        unfit={sample.sample: RefuseSample(sample.code, sample.reason) for sample in found.unfit},
    )
