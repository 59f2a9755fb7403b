"""A finished pack set as a map-style data set: `packs[k]` is pack `k`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from operator import index as as_int
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vlmprep.runtime.encoded import DecodedBy, PackDecoder
from vlmprep.runtime.remote import DEFAULT_CACHE_BYTES, Part, RemoteStore
from vlmprep.runtime.store import Store, open_store
from vlmprep.schema.files import sha256_file
from vlmprep.schema.packset import MANIFEST, PACKS_FILE
from vlmprep.shardformat.errors import BrokenPack, BrokenPackSet, broken_pack
from vlmprep.shardformat.index import PackIndex, map_index, read_index
from vlmprep.shardformat.manifest import Manifest, missing_manifest
from vlmprep.shardformat.members import ENCODED, Array
from vlmprep.shardformat.memory import give_back
from vlmprep.shardformat.pack import check_digest, decode_info, decode_pack
from vlmprep.shardformat.packinfo import PackInfo
from vlmprep.shardformat.shardrecords import ShardRecord

__all__ = ["PackSet", "open"]

REDO = (
    "Or delete it with manifest.json, and a shard with its receipt, too, and run the same `vlmprep pack` command again: "
    "it keeps the rest."
)


class PackSet(Dataset[dict[str, Tensor]]):
    """Packs by number. Cheap to pickle and to fork; made by `open`."""

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        index: PackIndex,
        *,
        verify: bool,
        decoded_by: DecodedBy | None = None,
    ) -> None:
        self.manifest = manifest
        self.index = index
        self._store = store
        self._verify = verify
        self._decoded_by = decoded_by or DecodedBy()
        self._decoder: PackDecoder | None = None

    def __len__(self) -> int:
        return self.manifest.num_packs

    def __getitem__(self, pack_id: int) -> dict[str, Tensor]:
        """A pack's tensors by field, with the dtypes that they are stored in (a uint16 attention_mask becomes int32).

        Pixels are uint8 [patches, channels, height, width], in memory possibly ordered otherwise, or what the pack set was
        written with; `vlmprep.runtime.pixels.restore_all` turns them into the processor's.

        Raises:
            IndexError: There is no such pack.
            BrokenPack: Its bytes are not what the writer wrote.
        """
        pack_id = self._checked(pack_id)
        info, fields = decode_pack(self._read(pack_id), shard=self._where(pack_id), pack_id=pack_id)
        if ENCODED in fields:
            fields = self._decoded(info, fields)
        return {name: _tensor(array, name in self.manifest.pixels) for name, array in fields.items()}

    def info(self, pack_id: int) -> PackInfo:
        """What a pack says about itself: its samples, document lengths, media sizes and fake image.

        Raises:
            IndexError: There is no such pack.
            BrokenPack: Its bytes are not what the writer wrote.
        """
        pack_id = self._checked(pack_id)
        return decode_info(self._read(pack_id), shard=self._where(pack_id), pack_id=pack_id).as_read(ENCODED)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "index": None, "_decoder": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.index = _open_index(self._store, self.manifest, verify=False)

    def _checked(self, pack_id: int) -> int:
        number = as_int(pack_id)
        if not 0 <= number < len(self):
            raise IndexError(f"pack {number} of {len(self)}")
        return number

    def _decoded(self, info: PackInfo, fields: dict[str, Array]) -> dict[str, Array]:
        """A pack's tensors with pixels in the place of original files."""
        if self._decoder is None:
            self._decoder = self._decoded_by.open(self.manifest)
        try:
            return self._decoder(info, fields)
        except ValueError as error:
            raise broken_pack(self._where(info.pack_id), info.pack_id, str(error)) from error

    def _shard(self, pack_id: int) -> ShardRecord:
        number = int(self.index.shard[pack_id])
        if not 0 <= number < len(self.manifest.shards):
            raise broken_pack(f"{self._store.where}/{PACKS_FILE}", pack_id, f"there is no shard {number}")
        return self.manifest.shards[number]

    def _where(self, pack_id: int) -> str:
        return f"{self._store.where}/{self._shard(pack_id).name}"

    @property
    def remote(self) -> bool:
        """Whether reading waits for a network, so that reading ahead is worth while."""
        return isinstance(self._store, RemoteStore)

    def read_ahead(self, pack_ids: Sequence[int]) -> None:
        """Begin to read packs that will be asked for soon, where they lie on a store: several at a time, in this order.

        Raises:
            IndexError: There is no such pack.
        """
        self._store.read_ahead([self._part(self._checked(pack_id)) for pack_id in pack_ids])

    def _read(self, pack_id: int) -> memoryview:
        """The bytes of one pack; a copy that proves wrong is read again from where it was copied."""
        part, where = self._part(pack_id), self._where(pack_id)
        try:
            return self._checked_bytes(pack_id, part, where)
        except BrokenPack:
            if not self._store.forget(part):
                raise
        return self._checked_bytes(pack_id, part, where)

    def _checked_bytes(self, pack_id: int, part: Part, where: str) -> memoryview:
        try:
            raw = self._store.read_part(part)
        except FileNotFoundError as error:
            raise broken_pack(where, pack_id, "the shard is missing") from error
        if len(raw) != part.size:
            raise broken_pack(
                where, pack_id, f"the shard ends after {len(raw)} of its {part.size} bytes at {part.offset}"
            )
        if self._verify:
            check_digest(raw, int(self.index.xxh3[pack_id]), shard=where, pack_id=pack_id)
        return raw

    def _part(self, pack_id: int) -> Part:
        """Where a pack lies."""
        shard = self._shard(pack_id)
        offset, size = int(self.index.offset[pack_id]), int(self.index.size[pack_id])
        if offset < 0 or size < 0 or offset + size > shard.size:
            raise broken_pack(
                self._where(pack_id),
                pack_id,
                f"{PACKS_FILE} puts it at {offset}+{size} of the shard's {shard.size} bytes",
            )
        return Part(shard.name, shard.sha256, offset, size)


def open(  # noqa: A001 - vlmprep.open is the contract
    path: str | os.PathLike[str],
    *,
    verify: bool = True,
    processor: str | None = None,
    trust_remote_code: bool = False,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
) -> PackSet:
    """Open a finished pack set.

    Args:
        path: Local folder, or URL of one that fsspec knows.
        verify: Check the size of every file and the digest of packs.arrow now, and the digest of every pack when it is read.
        processor: Folder or hub name of the processor that decodes the media of a set packed with `--pixels encoded`;
            default: where it lay then. Other sets need none.
        trust_remote_code: Whether code that comes with that processor may run.
        cache_bytes: What packs read from URLs may take on the local disk, all pack sets and processes of this host together,
            beneath `$VLMPREP_CACHE` or `~/.cache/vlmprep`; 0: they are read anew every time.

    Raises:
        IncompletePackSet: There is no manifest.
        NewerFormat: A later release wrote it.
        BrokenPackSet: A file is missing or has another size than the manifest says, or packs.arrow or the manifest itself
            is not what was written.
    """
    store = open_store(path, cache_bytes)
    try:
        manifest = Manifest.from_bytes(store.read(MANIFEST), store.where)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise missing_manifest(store.where) from error
    if verify:
        _check_sizes(store, manifest)
    index = _open_index(store, manifest, verify=verify)
    if len(index) != manifest.num_packs:
        raise BrokenPackSet(
            f"{store.where}: {PACKS_FILE} lists {len(index)} packs, {MANIFEST} says {manifest.num_packs}"
        )
    give_back()
    by = DecodedBy(processor=processor, trust_remote_code=trust_remote_code)
    return PackSet(store, manifest, index, verify=verify, decoded_by=by)


def _open_index(store: Store, manifest: Manifest, *, verify: bool) -> PackIndex:
    """packs.arrow, mapped; held against its digest before anything of it is believed, where that is wanted."""
    record = manifest.files.get(PACKS_FILE)
    path = store.file(PACKS_FILE, record.size, record.sha256) if record else None
    if path is None:
        data = store.read(PACKS_FILE)
        if verify:
            _check_index(hashlib.sha256(data).hexdigest(), manifest, store.where)
        return read_index(data, f"{store.where}/{PACKS_FILE}")
    if verify:
        _check_index(sha256_file(path), manifest, store.where)
    return map_index(path)


def _check_index(sha256: str, manifest: Manifest, where: str) -> None:
    record = manifest.files.get(PACKS_FILE)
    if record is None or record.sha256 != sha256:
        says = f"says {record.sha256[:16]}..." if record else "has no digest of it"
        raise BrokenPackSet(
            f"{where}/{PACKS_FILE} has SHA-256 {sha256[:16]}..., {MANIFEST} {says}.", f"Restore it from a copy. {REDO}"
        )


def _check_sizes(store: Store, manifest: Manifest) -> None:
    """Hold the size of every file against the manifest."""
    expected = {shard.name: shard.size for shard in manifest.shards}
    expected |= {name: record.size for name, record in manifest.files.items()}
    sizes = store.sizes(expected)
    for name, size in expected.items():
        found = sizes.get(name)
        if found != size:
            has = "is missing" if found is None else f"has {found} bytes"
            raise BrokenPackSet(
                f"{store.where}/{name} {has}, {MANIFEST} says {size} bytes.",
                f"Restore it from a copy. {REDO}",
            )


def _tensor(array: Array, has_rule: bool) -> Tensor:
    """The array as a tensor, without a copy; uint16 is bfloat16 in a media field, else int32: torch has few operations for it."""
    if array.dtype != "uint16":
        return torch.from_numpy(array)
    return torch.from_numpy(array).view(torch.bfloat16) if has_rule else torch.from_numpy(array.astype("int32"))
