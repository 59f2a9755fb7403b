"""Documents end to end, `flat` and `thd`: where each begins, what padding is, and which alignments are offered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vlmprep
from tests.packsets import WrittenPack, text_pack, write_pack_set
from vlmprep.runtime import PackSet
from vlmprep.runtime.joined import flat, thd
from vlmprep.runtime.rows import Pack

LENGTHS = ((5, 3), (7,), (1, 1, 2), (6, 2))


def open_set(root: Path, pack_size: int = 16, alignment: int | None = None, **changes: Any) -> PackSet:
    settings = {} if alignment is None else {"document_alignment": alignment}
    packs = [text_pack(k, lengths) for k, lengths in enumerate(LENGTHS)]
    changes = {"pack_size": pack_size, "settings": settings, **changes}
    return vlmprep.open(write_pack_set(root, packs, changes=changes))


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> list[Pack]:
    found = open_set(tmp_path_factory.mktemp("packs") / "set")
    return [found[k] for k in range(len(found))]


def test_flat_is_one_row_of_all_documents(packs: list[Pack]) -> None:
    batch = flat(packs)
    assert batch["cu_seqlens"].tolist() == [0, 5, 8, 15, 16, 17, 19, 25, 27]
    assert batch["cu_seqlens"].dtype == torch.int32
    assert batch["max_seqlen"] == 7
    for field in ("input_ids", "labels"):
        assert torch.equal(batch[field], torch.cat([pack[field] for pack in packs])[None].long())
    assert torch.equal(batch["shift_labels"], batch["labels"])
    assert batch["position_ids"].tolist() == [[*range(5), *range(3), *range(7), 0, 0, 0, 1, *range(6), 0, 1]]
    assert "attention_mask" not in batch


def test_padding_of_a_flat_row_is_a_document_without_labels(packs: list[Pack]) -> None:
    batch = flat(packs, padding_idx=9, max_length=40)
    assert batch["input_ids"].shape == (1, 40)
    assert batch["cu_seqlens"].tolist()[-3:] == [25, 27, 40]
    assert batch["max_seqlen"] == 13
    assert (batch["input_ids"][0, 27:] == 9).all()
    assert (batch["labels"][0, 27:] == -100).all()
    assert batch["position_ids"][0, 27:].tolist() == list(range(13))
    with pytest.raises(ValueError, match="27 tokens does not fit into max_length=26"):
        flat(packs, max_length=26)


def test_thd_pads_every_document_to_a_multiple(packs: list[Pack]) -> None:
    batch = thd(packs, padding_idx=9, document_alignment=4)
    assert batch["qkv_format"] == "thd"
    assert batch["seq_lens"].tolist() == [[5, 3, -1000], [7, -1000, -1000], [1, 1, 2], [6, 2, -1000]]
    assert batch["seq_lens_padded"].tolist() == [[8, 4, -1000], [12, -1000, -1000], [4, 4, 4], [8, 4, -1000]]
    assert batch["seq_lens"].dtype == batch["seq_lens_padded"].dtype == torch.int32
    ids, labels = packs[0]["input_ids"].tolist(), packs[0]["labels"].tolist()
    assert batch["input_ids"][0].tolist() == [*ids[:5], 9, 9, 9, *ids[5:], 9]
    assert batch["labels"][0].tolist() == [*labels[:5], -100, -100, -100, *labels[5:], -100]
    assert batch["position_ids"][0].tolist() == [*range(5), 0, 0, 0, *range(3), 0]


def test_thd_rows_are_made_of_their_documents(packs: list[Pack]) -> None:
    for max_length in (None, 20):
        batch = thd(packs, document_alignment=2, max_length=max_length)
        sums = batch["seq_lens_padded"].clamp(min=0).sum(dim=1)
        assert (sums == batch["input_ids"].shape[1]).all()
        assert batch["input_ids"].shape[1] == (max_length or 10)


def test_context_parallel_ranks_get_equal_shares_of_every_document(packs: list[Pack]) -> None:
    """As Transformer Engine deals them: `2 * ranks` chunks a document, rank r takes chunk r and the r-th from behind."""
    ranks = 2
    batch = thd(packs, document_alignment=2 * ranks)
    taken = []
    for row, padded in zip(batch["input_ids"], batch["seq_lens_padded"].tolist(), strict=True):
        for document in row.split([length for length in padded if length > 0]):
            chunks = document.chunk(2 * ranks)
            assert {len(chunk) for chunk in chunks} == {len(document) // (2 * ranks)}
            taken.append([torch.cat([chunks[rank], chunks[-1 - rank]]) for rank in range(ranks)])
    assert len(taken) == 8
    shares = [torch.cat([document[rank] for document in taken]) for rank in range(ranks)]
    assert len(shares[0]) == len(shares[1]) == batch["input_ids"].numel() // 2


def test_a_length_that_is_no_multiple_is_refused(packs: list[Pack]) -> None:
    with pytest.raises(ValueError, match="max_length=18 is no multiple of document_alignment=4"):
        thd(packs, document_alignment=4, max_length=18)


@pytest.mark.parametrize("collate", [flat, thd])
def test_tokens_hidden_inside_a_document_are_refused(packs: list[Pack], collate: Any) -> None:
    hidden = packs[0]["attention_mask"].clone()
    hidden[2] = 0
    with pytest.raises(ValueError, match=f"collate='{collate.__name__}' cannot hide tokens inside a document"):
        collate([{**packs[0], "attention_mask": hidden}])


@pytest.mark.parametrize(
    ("planned", "asked", "pack_size", "used"),
    [(4, None, 16, 4), (4, 2, 16, 2), (4, 1, 16, 1), (None, None, 16, 1), (1, 3, 16, 3), (2, 8, 36, 8)],
)
def test_alignments_that_fit_are_offered(
    planned: int | None, asked: int | None, pack_size: int, used: int, tmp_path: Path
) -> None:
    found = open_set(tmp_path / "set", pack_size, planned)
    [batch] = vlmprep.Loader(found, packs_per_rank=4, collate="thd", document_alignment=asked, shuffle=False)
    assert batch["seq_lens_padded"].tolist()[2][:2] == [used, used]


def test_alignments_that_may_not_fit_are_refused(tmp_path: Path) -> None:
    found = open_set(tmp_path / "set", 16, 2)
    with pytest.raises(ValueError, match=r"document_alignment=8, .*planned for 2: .* --document-alignment 8"):
        vlmprep.Loader(found, collate="thd", document_alignment=8)
    with pytest.raises(ValueError, match="document_alignment is what collate='thd' pads"):
        vlmprep.Loader(found, collate="flat", document_alignment=2)
    with pytest.raises(ValueError, match="document_alignment must be at least 1"):
        vlmprep.Loader(found, collate="thd", document_alignment=0)


@pytest.mark.parametrize(
    ("collate", "max_length"), [("neat", 16), ("hf", 16), ("flat", 32), ("thd", 16), ("documents", 16)]
)
def test_one_length_gives_every_batch_one_shape(collate: Any, max_length: int, tmp_path: Path) -> None:
    found = open_set(tmp_path / "set")
    loader = vlmprep.Loader(found, packs_per_rank=2, collate=collate, max_length=max_length, seed=2)
    widths = {tuple(batch[field].shape[-1:]) for batch in loader for field in ("input_ids", "labels", "position_ids")}
    assert widths == {(max_length,)}
    assert len(loader.packs) == 4


def test_batches_of_one_shape_are_compiled_once(tmp_path: Path) -> None:
    compiled: list[int] = []

    def count(module: torch.fx.GraphModule, _: list[torch.Tensor]) -> Any:
        compiled.append(1)
        return module.forward

    found = open_set(tmp_path / "set")
    work = torch.compile(lambda ids, labels: (ids * 2 + labels).sum(), backend=count, dynamic=False)
    for length in (16, None):
        compiled.clear()
        torch.compiler.reset()
        for batch in vlmprep.Loader(found, collate="hf", max_length=length, shuffle=False):
            work(batch["input_ids"], batch["labels"])
        assert len(compiled) == (1 if length else 3)


def test_three_axes_of_positions_go_along(tmp_path: Path) -> None:
    pack = text_pack(0)
    axes = np.stack([pack.fields["position_ids"] * factor for factor in (1, 2, 3)]).astype(np.int32)
    written = WrittenPack(fields={**pack.fields, "position_ids": axes}, document_lengths=pack.document_lengths)
    found = vlmprep.open(write_pack_set(tmp_path / "set", [written, written]))
    both = [found[0], found[1]]
    positions = flat(both)["position_ids"]
    assert positions.shape == (4, 1, 16)
    assert positions[0, 0].tolist() == [*range(5), *range(3)] * 2
    assert positions[3, 0, :8].tolist() == axes[2].tolist()
    assert thd(both, document_alignment=4)["position_ids"].shape == (3, 2, 12)
