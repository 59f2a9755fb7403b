"""--overlong truncate: cut before a medium, never through it; recorded in the plan, the pack and the account."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import vlmprep
from tests.conftest import ProcessorDir
from tests.runs import chat, picture, run, write_jsonl
from vlmprep.engines.local import LocalEngine
from vlmprep.pipeline.run import PackedRun
from vlmprep.pipeline.settings import PlanSettings
from vlmprep.pipeline.verify import verify
from vlmprep.schema.packset import IGNORE_INDEX
from vlmprep.schema.progress import Silent

PACK_SIZE = 1_152


@pytest.fixture(scope="module")
def packed(processor_dir: ProcessorDir, tmp_path_factory: pytest.TempPathFactory) -> tuple[PackedRun, Path]:
    root = tmp_path_factory.mktemp("overlong")
    name = picture(root / "a.png", 224, 224)  # 64 visual tokens of the demo's processors
    rows = [
        chat("short", "Hi?", "Yes."),
        chat("text", "Hi?", "words and words " * 300),
        chat("pictures", "Which?", "word " * 900, [name] * 3),
        {
            "id": "picture-at-the-cut",
            "messages": [
                {"role": "user", "content": "Hi?"},
                {"role": "assistant", "content": "word " * 540},
                {"role": "user", "content": "<image>Which?"},
                {"role": "assistant", "content": "word " * 300},
            ],
            "images": [name],
        },
        chat("no-label", "word " * 900, "Yes.", []),
    ]
    source = write_jsonl(root / "rows.jsonl", rows)
    planning = PlanSettings(pack_size=PACK_SIZE, overlong="truncate")
    return run(source, processor_dir(max_pixels=50_176), root / "set", planning=planning), root / "set"


def test_cuts_are_recorded_everywhere_and_whole_documents_have_none(packed: tuple[PackedRun, Path]) -> None:
    done, root = packed
    account = {row["sample_id"]: row for row in pq.read_table(root / "samples.parquet").to_pylist()}
    planned = {row["sample"]: row for row in done.plan.cuts.to_pylist()}
    lengths = dict(zip(account, done.ledger.read(["num_tokens"])["num_tokens"].to_pylist(), strict=True))
    packs = vlmprep.open(root)
    seen = {}
    for pack_id in range(len(packs)):
        info = packs.info(pack_id)
        for reference, length in zip(info.samples, info.document_lengths, strict=True):
            seen[reference.sample_id] = (reference.num_cut_tokens, length)
    assert account["short"]["num_cut_tokens"] == seen["short"][0] == 0
    assert set(planned) == {1, 2, 3}
    for row, name in enumerate(account):
        if name in ("short", "no-label"):
            continue
        cut, length = seen[name]
        assert cut == account[name]["num_cut_tokens"] == planned[row]["num_cut_tokens"] > 0
        assert length == lengths[name] - cut - 1 <= PACK_SIZE
    assert seen["text"][1] == PACK_SIZE - done.plan.summary["fake"]["num_tokens"]
    assert seen["pictures"][1] == PACK_SIZE
    assert PACK_SIZE - 70 < seen["picture-at-the-cut"][1] < PACK_SIZE
    assert planned[3]["num_cut_media"] == 1
    assert account["no-label"]["status"] == "refused"
    assert "no label token" in account["no-label"]["reason"]
    assert list(verify(root, LocalEngine(0), Silent()).problems) == []


def test_what_is_kept_is_the_whole_samples_beginning(
    packed: tuple[PackedRun, Path], processor_dir: ProcessorDir, tmp_path: Path
) -> None:
    _, root = packed
    whole = tmp_path / "whole"
    run(root.parent / "rows.jsonl", processor_dir(max_pixels=50_176), whole, planning=PlanSettings(pack_size=4096))
    cut_documents, documents = documents_of(root), documents_of(whole)
    assert len(cut_documents) == 4
    for name, cut in cut_documents.items():
        for field, values in cut.items():
            expected = documents[name][field][..., : values.shape[-1]]
            if field == "labels":
                expected = np.where(np.arange(len(expected)) < len(values), expected, IGNORE_INDEX)
            np.testing.assert_array_equal(values, expected, err_msg=f"{name} {field}")


def documents_of(root: Path) -> dict[str, dict[str, np.ndarray]]:
    packs = vlmprep.open(root)
    found = {}
    for pack_id in range(len(packs)):
        info, pack, start = packs.info(pack_id), packs[pack_id], 0
        for reference, length in zip(info.samples, info.document_lengths, strict=True):
            fields = ("input_ids", "labels", "position_ids", "mm_token_type_ids")
            found[reference.sample_id] = {field: pack[field][..., start : start + length].numpy() for field in fields}
            start += length
    return found
