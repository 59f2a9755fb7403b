"""The published vocabulary, real photographs and real instructions, counted and labelled as the processors have them."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.families.truth import full_run, scanned_labels
from vlmprep.families.loading import load_family
from vlmprep.families.qwen.vl import Qwen2VL
from vlmprep.runtime.pixels import restore
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.family import FamilySettings
from vlmprep.sources.conversation import RowReader
from vlmprep.sources.media import MediaReader
from vlmprep.sources.rows import rows_of, scan_chunks
from vlmprep.sources.spec import find_sources

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def run_tool(script: Path, *arguments: Path | str) -> None:
    subprocess.run([sys.executable, script, *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def made(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Processors with the published vocabulary and a small corpus, some of it damaged."""
    out = tmp_path_factory.mktemp("real")
    tools = shared_data.parent / "tools"
    run_tool(tools / "make_processors.py", out)
    run_tool(tools / "make_corpus.py", out / "corpus", "--samples", "24", "--damaged", "15", "--seed", "5")
    return out


@pytest.mark.parametrize(
    ("folder", "backend"), [("qwen2-vl", "torchvision"), ("qwen2.5-vl", "pil"), ("qwen3-vl", "torchvision")]
)
def test_real_samples_are_counted_and_labelled_exactly(folder, backend, made):
    family = load_family(FamilySettings(processor=str(made / folder), image_backend=backend))
    assert isinstance(family, Qwen2VL)
    assert len(family.processor.tokenizer) > 151_000
    (spec,) = find_sources([str(made / "corpus" / "sharegpt.jsonl")])
    reader, media = RowReader(spec=spec), MediaReader()
    outcomes: Counter[str] = Counter()
    for raw in (raw for chunk in scan_chunks(spec.path) for raw in rows_of(spec.path, chunk)):
        try:
            sample = reader.sample(raw.row, raw.data)
            counts = family.measure([media.size(medium, family.loader) for medium in sample.media()])
            tokens = family.encode(sample, counts).expand()
            images = [
                family.tensors(family.load(medium), count) for medium, count in zip(sample.media(), counts, strict=True)
            ]
        except RefuseSample as refusal:
            outcomes[refusal.code] += 1
            continue
        outcomes["images" if images else "text"] += 1
        truth = full_run(family, sample)
        assert tokens.input_ids.tolist() == truth["input_ids"].tolist()
        assert tokens.mm_token_type_ids.tolist() == truth["mm_token_type_ids"].tolist()
        assert tokens.is_label.tolist() == scanned_labels(family, tokens.input_ids).tolist()
        if images:
            grids = np.concatenate([image["image_grid_thw"] for image in images])
            assert grids.tolist() == truth["image_grid_thw"].tolist()
            stored = torch.from_numpy(np.concatenate([image["pixel_values"] for image in images]))
            restored = restore(stored, family.pixel_rules()["pixel_values"]).numpy()
            assert np.array_equal(restored, truth["pixel_values"])
    assert outcomes["images"] > 12
    assert outcomes["text"] > 2
    refused = set(outcomes) - {"images", "text"}
    assert refused >= {
        "undecodable-media",
        "missing-media",
        "empty-media",
        "not-an-image",
        "image-too-large",
        "outside-media",
    }
    assert refused >= {
        "tag-mismatch",
        "no-label-tokens",
        "empty-answer",
        "image-shape",
        "not-json",
        "not-utf8",
        "control-token",
    }
