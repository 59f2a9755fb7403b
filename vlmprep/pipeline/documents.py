"""From a row's place in its source to the document that a pack holds: for writing packs, and for holding them against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vlmprep.families.loading import load_family
from vlmprep.packing.document import Document, build_document, build_fake_document
from vlmprep.pipeline.estimate import row_reader
from vlmprep.pipeline.fakes import FAKE_COLUMNS
from vlmprep.pipeline.pixel_forms import form_writer
from vlmprep.pipeline.settings import CountSettings
from vlmprep.schema.at_work import at_work
from vlmprep.schema.errors import StopRun
from vlmprep.schema.fake_image import has_pictures
from vlmprep.schema.pixels import PixelForm
from vlmprep.shardformat.packinfo import SampleRef
from vlmprep.sources.blobs import RowData, row_digest
from vlmprep.sources.row_files import OpenFiles
from vlmprep.sources.spec import SourceSpec

__all__ = ["LOCATOR_COLUMNS", "BuiltDocument", "DocumentMaker", "SampleLocator", "locator_of"]

LOCATOR_COLUMNS = ("source", "row", "row_offset", "row_bytes", "row_xxh3", "num_tokens", *FAKE_COLUMNS)
"""What of the ledger a locator is made from; FAKE_COLUMNS count in where samples get a fake image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleLocator:
    """Where a planned sample is read from, and what was counted there."""

    sample: int
    """Its number in the ledger."""
    source: int
    """Which of the job's sources."""
    row: int
    row_offset: int
    row_bytes: int
    row_xxh3: int
    num_tokens: int
    """Before the shift; with the fake image, where it gets one."""
    keep_tokens: int | None
    """How many of them are kept; None: all."""
    cost: float
    """As planned."""

    @property
    def num_cut_tokens(self) -> int:
        """How many of its last tokens are cut off."""
        return 0 if self.keep_tokens is None else self.num_tokens - self.keep_tokens


def locator_of(
    sample: int, cost: float, keep_tokens: int | None, row: Mapping[str, Any], sources: Mapping[str, int]
) -> SampleLocator:
    """A locator from a row of the ledger.

    Args:
        sample: The row's number in the ledger.
        cost: As planned.
        keep_tokens: How many tokens are kept, before the shift; None: all.
        row: LOCATOR_COLUMNS, `num_tokens` with the fake image where the sample gets one.
        sources: Numbers of the sources by name.
    """
    return SampleLocator(
        sample=sample,
        source=sources[row["source"]],
        row=row["row"],
        row_offset=row["row_offset"],
        row_bytes=row["row_bytes"],
        row_xxh3=row["row_xxh3"],
        num_tokens=row["num_tokens"],
        keep_tokens=keep_tokens,
        cost=cost,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BuiltDocument:
    """A planned sample that made a document."""

    document: Document
    reference: SampleRef
    kept: str | None
    """Columns of its row that are kept as provenance."""
    cost: float


class DocumentMaker:
    """Makes one document after another; loads the processor when it is made.

    Args:
        specs: The sources, by number.
        counts: How rows and media were read when they were counted.
        fake_image: Of the plan's settings.
        pixels: Form in which packs hold pixels.
    """

    def __init__(
        self,
        specs: Sequence[SourceSpec],
        counts: CountSettings,
        fake_image: Literal["pack", "sample", "none"],
        pixels: PixelForm = "uint8",
    ) -> None:
        self.family = load_family(counts.family)
        self.white = self.family.fake_image()[2]
        """The fake image."""
        self._specs, self._fake_image = specs, fake_image
        self._media = counts.media_reader()
        self._form = form_writer(pixels, self.family, self._media)
        self._rows = [row_reader(spec, counts) for spec in specs]
        self._files = OpenFiles()

    def __call__(self, locator: SampleLocator) -> BuiltDocument:
        """Read a row back and make its document.

        Raises:
            RefuseSample: The sample cannot be used.
            StopRun: The source cannot be read, or the row is not the one that was counted.
        """
        at_work(f"row {locator.row} of {self._specs[locator.source].path}")
        sample = self._form.sample(self._rows[locator.source].sample(locator.row, self._read(locator)))
        gets_fake = self._fake_image == "sample" and not has_pictures(sample)
        document = build_document(
            sample,
            family=self.family,
            media=self._media,
            num_tokens=locator.num_tokens,
            white=self.white if gets_fake else None,
            keep_tokens=locator.keep_tokens,
        )
        reference = SampleRef(
            source=sample.source, row=sample.row, sample_id=sample.sample_id, num_cut_tokens=locator.num_cut_tokens
        )
        return BuiltDocument(
            document=self._form.document(document), reference=reference, kept=sample.kept, cost=locator.cost
        )

    def fake_document(self) -> Document:
        """The fake image as a document of its own."""
        return self._form.document(build_fake_document(self.family))

    def _read(self, locator: SampleLocator) -> RowData:
        path = self._specs[locator.source].path
        try:
            data = self._files[path].read(locator.row_offset, locator.row_bytes)
        except OSError as error:
            raise StopRun(
                f"{path} cannot be read: {error.strerror or error}", "Bring it back and run the same command again."
            ) from error
        if row_digest(data) != locator.row_xxh3:
            raise StopRun(
                f"{path}, row {locator.row}: not the row that was counted",
                "Run `vlmprep estimate` again, then plan and pack.",
            )
        return data
