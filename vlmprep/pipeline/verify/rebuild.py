"""What a worker of verification against sources does: documents made anew and held against what their packs hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from vlmprep.pipeline.documents import DocumentMaker, SampleLocator
from vlmprep.pipeline.inspect.pack import read_pack
from vlmprep.pipeline.settings import CountSettings
from vlmprep.pipeline.verify.compare import document_differences
from vlmprep.pipeline.verify.problem import Problem
from vlmprep.pipeline.verify.shard import sample_name
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.packset import PACKS_FILE, SAMPLES_FILE, shard_name
from vlmprep.schema.pixels import PixelForm
from vlmprep.shardformat.errors import BrokenPack
from vlmprep.shardformat.index import map_index
from vlmprep.shardformat.members import Array
from vlmprep.shardformat.packinfo import PackInfo, SampleRef
from vlmprep.sources.media import own_the_pixel_limit
from vlmprep.sources.spec import SourceSpec
from vlmprep.sources.wording import clipped

__all__ = ["Place", "RebuildJob", "Rebuilt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A document of a pack set, and where it came from."""

    pack_id: int
    document: int
    """1..n"""
    sample: SampleRef
    """By samples.parquet."""
    kept: str | None
    """Likewise: the columns that it keeps as provenance."""
    locator: SampleLocator | None
    """None where the ledger has no such row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What came out of some documents."""

    num_documents: int
    differences: tuple[Problem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildJob:
    """Makes documents anew."""

    place: Path | str
    """The pack set, a folder or a URL."""
    root: Path
    """Where its index lies: it, or a copy of it without its shards."""
    specs: tuple[SourceSpec, ...]
    counts: CountSettings
    fake_image: Literal["pack", "sample", "none"]
    pixels: PixelForm

    def open(self) -> Callable[[tuple[Place, ...]], Rebuilt]:
        """The worker's function; loads the processor."""
        own_the_pixel_limit()
        return Rebuilder(self)


class Rebuilder:
    """Holds some documents after others against their sources."""

    def __init__(self, job: RebuildJob) -> None:
        self._place = job.place
        self._index = map_index(job.root / PACKS_FILE)
        self._build = DocumentMaker(job.specs, job.counts, job.fake_image, job.pixels)

    def __call__(self, places: tuple[Place, ...]) -> Rebuilt:
        """Compare documents that are given by rising pack."""
        found: list[Problem] = []
        for pack_id, own in groupby(places, key=lambda place: place.pack_id):
            shard = shard_name(int(self._index.shard[pack_id]))
            found += [
                Problem(file=shard, pack_id=pack_id, what=what) for what in self._pack_differences(pack_id, list(own))
            ]
        return Rebuilt(num_documents=len(places), differences=tuple(found))

    def _pack_differences(self, pack_id: int, places: Sequence[Place]) -> Iterator[str]:
        try:
            info, fields = read_pack(self._place, self._index, pack_id)
        except BrokenPack as error:
            yield f"it cannot be held against its sources: {error.message.partition(': ')[2]}"
            return
        for place in places:
            for what in self._document_differences(place, info, fields):
                yield f"document {place.document}, {sample_name(place.sample)}: {what}"

    def _document_differences(self, place: Place, info: PackInfo, fields: dict[str, Array]) -> Iterator[str]:
        if place.locator is None:
            yield "the ledger has no such row that could be packed"
            return
        if place.document > len(info.samples):
            yield f"the pack has {len(info.samples)} documents"
            return
        try:
            built = self._build(place.locator)
        except RefuseSample as refusal:
            yield f"it cannot be made anew: {refusal.reason}"
            return
        except StopRun as stop:
            yield f"it cannot be made anew: {stop.message}"
            return
        if (held := info.samples[place.document - 1]) != built.reference:
            yield f"it is {sample_name(held)} in the pack, {sample_name(built.reference)} in {SAMPLES_FILE} and its source"
        if place.kept != built.kept:
            yield f"its kept columns are {clipped(str(place.kept))} in {SAMPLES_FILE}, {clipped(str(built.kept))} in its source"
        yield from document_differences(info, fields, place.document, built.document)
