"""What a worker of the pack stage does: one shard at a time, from source rows to a committed tar and its receipt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlmprep.packing.document import Document
from vlmprep.packing.pack import Pack, assemble_pack
from vlmprep.pipeline.documents import BuiltDocument, DocumentMaker, SampleLocator
from vlmprep.pipeline.settings import CountSettings, PackSettings
from vlmprep.schema.at_work import at_work
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.packset import shard_name
from vlmprep.shardformat.pack import encode_pack
from vlmprep.shardformat.packinfo import FakeImage, MediumInfo, PackInfo, SampleRef
from vlmprep.shards.receipts import PackRecord, Receipt, Refusal, write_receipt
from vlmprep.shards.upload import upload_shard
from vlmprep.shards.writer import ShardWriter
from vlmprep.sources.media import own_the_pixel_limit
from vlmprep.sources.spec import SourceSpec
from vlmprep.stores.folder import StoreFolder

__all__ = ["PackJob", "ShardUnit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardUnit:
    """One shard to write."""

    shard: int
    first_pack: int
    packs: tuple[tuple[SampleLocator, ...], ...]
    """The samples of each pack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackJob:
    """Writes shards."""

    root: Path
    """The pack set, or its working copy."""
    specs: tuple[SourceSpec, ...]
    counts: CountSettings
    settings: PackSettings
    pack_size: int
    document_alignment: int
    """Every document takes a multiple of so many tokens of it."""
    fake_image: Literal["pack", "sample", "none"]
    fake_cost: float
    """Of a fake image that is a document of its own."""
    digest: str
    """Of everything that the shards' bytes depend on."""
    store: StoreFolder | None = None
    """Where shards go, if not to stay beneath `root`."""

    def open(self) -> Callable[[ShardUnit], Receipt]:
        """The worker's function; loads the processor."""
        own_the_pixel_limit()
        return ShardMaker(self)


class ShardMaker:
    """Makes one shard after another."""

    def __init__(self, job: PackJob) -> None:
        self._job = job
        self._build = DocumentMaker(job.specs, job.counts, job.fake_image, job.settings.pixels)
        self._fake = self._build.fake_document()
        self._white = self._build.white

    def __call__(self, unit: ShardUnit) -> Receipt:
        """Write, commit and receipt one shard."""
        records: list[PackRecord] = []
        refused: list[Refusal] = []
        path = self._job.root / shard_name(unit.shard)
        with ShardWriter(path) as writer:
            for pack_id, locators in enumerate(unit.packs, start=unit.first_pack):
                records.append(self._write_pack(writer, pack_id, locators, refused))
        receipt = Receipt(
            shard=unit.shard,
            first_pack=unit.first_pack,
            size=writer.size,
            sha256=writer.sha256,
            job=self._job.digest,
            packs=tuple(records),
            refused=tuple(refused),
        )
        if self._job.store is not None:
            upload_shard(self._job.store, self._job.root, receipt)
        write_receipt(self._job.root, receipt)
        return receipt

    def _write_pack(
        self, writer: ShardWriter, pack_id: int, locators: tuple[SampleLocator, ...], refused: list[Refusal]
    ) -> PackRecord:
        built = list(self._documents(locators, refused))
        at_work(f"pack {pack_id}, all of its rows decoded")
        documents = [each.document for each in built]
        fake = self._fake_for(documents)
        pack = assemble_pack(documents, fake)
        self._check_length(pack_id, pack)
        info = self._info(pack_id, pack, [each.reference for each in built])
        members = encode_pack(info, pack.fields, compression=self._job.settings.compression)
        offset, size, xxh3 = writer.add_pack(pack_id, members)
        return PackRecord(
            offset=offset,
            size=size,
            xxh3=xxh3,
            num_tokens=pack.num_tokens,
            num_visual_tokens=pack.num_visual_tokens,
            num_label_tokens=pack.num_label_tokens,
            num_samples=len(documents),
            num_images=info.num_media("image"),
            num_videos=info.num_media("video"),
            cost=sum((each.cost for each in built), self._job.fake_cost if fake else 0.0),
        )

    def _check_length(self, pack_id: int, pack: Pack) -> None:
        step = self._job.document_alignment
        length = sum(-(-each // step) * step for each in (*pack.document_lengths, pack.fake_length))
        assert length <= self._job.pack_size, f"pack {pack_id}: {length} tokens were never planned"

    def _documents(self, locators: tuple[SampleLocator, ...], refused: list[Refusal]) -> Iterator[BuiltDocument]:
        for locator in locators:
            try:
                yield self._build(locator)
            except RefuseSample as refusal:
                refused.append(Refusal(sample=locator.sample, code=refusal.code, reason=refusal.reason))

    def _fake_for(self, documents: list[Document]) -> Document | None:
        """The fake image, for a pack without pictures; also for one whose samples were all refused: it must hold something."""
        pictures = any(medium.kind != "audio" for document in documents for medium in document.media)
        wanted = self._job.fake_image == "pack" and not pictures
        return self._fake if wanted or not documents else None

    def _info(self, pack_id: int, pack: Pack, references: list[SampleRef]) -> PackInfo:
        fake = None
        if length := pack.fake_length or pack.hidden_length:
            kind = "pack" if pack.fake_length else "sample"
            fake = FakeImage(kind=kind, length=length, height=self._white.height, width=self._white.width)
        return PackInfo(
            pack_id=pack_id,
            samples=tuple(references),
            document_lengths=pack.document_lengths,
            fake=fake,
            media=tuple(
                MediumInfo(
                    document=document,
                    kind=medium.kind,
                    shape=medium.shape,
                    num_tokens=medium.num_placeholders,
                    num_framing=medium.num_framing,
                    rows={name: len(tensor) for name, tensor in medium.tensors.items()},
                    fake=medium.fake and document > 0,
                    files=medium.files,
                    listed=bool(medium.files) and medium.source is not None and medium.source.frames is not None,
                    decoded=medium.decoded,
                )
                for document, medium in pack.media
            ),
        )
