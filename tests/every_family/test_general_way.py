"""Models without a family, from files on disk to packs: each document is what the processor makes of its row alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import vlmprep
from tests.every_family.alone import run_alone
from tests.every_family.corpus import write_corpus
from tests.every_family.packed import documents_of, rows_of
from tests.families.other_processors import build_other
from tests.runs import run
from vlmprep.engines.local import LocalEngine
from vlmprep.pipeline.settings import PlanSettings
from vlmprep.pipeline.verify.run import verify
from vlmprep.schema.progress import Silent

SEQUENCE = {"input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"}


@pytest.mark.parametrize("name", ["gemma3", "llava_next", "pixtral"])
def test_every_document_is_what_the_processor_makes_of_its_row(name: str, tmp_path: Path) -> None:
    processor: Any = build_other(name)
    processor.save_pretrained(tmp_path / "processor")
    source = write_corpus(tmp_path / "corpus", frozenset({"image"}), num_rows=8)
    planning = PlanSettings(pack_size=2_048)
    run(source, tmp_path / "processor", tmp_path / "set", planning=planning, max_refused=0.0)
    packs, rows, seen = vlmprep.open(tmp_path / "set"), rows_of(source), set()
    assert packs.manifest.position_axes == 1
    for document in documents_of(packs):
        if document.row is None:
            continue
        truth = run_alone(processor, rows[document.row], tmp_path / "corpus")
        assert document.sequence["input_ids"].tolist() == truth["input_ids"][0, :-1].tolist()
        media = {field: value for field, value in truth.items() if field not in SEQUENCE and value is not None}
        assert document.media.keys() == media.keys()
        for field, value in media.items():
            assert document.media[field].dtype == value.dtype
            assert torch.equal(document.media[field], value), field
        seen.add(document.row)
    assert seen == set(range(len(rows)))
    assert verify(tmp_path / "set", LocalEngine(0), Silent()).problems == ()
