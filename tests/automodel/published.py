"""Small local copies of public data sets, in the schemas that they are published with."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from PIL import Image

from tests.automodel.examples import a_picture, a_sound

__all__ = ["PUBLISHED", "publish"]

RECEIPT = {"menu": [{"nm": "TEA", "price": "9"}, {"nm": "CAKE", "price": "12"}], "total": {"total_price": "21"}}
TURNS = [
    {"from": "human", "value": "<image>\nWhat is it?"},
    {"from": "gpt", "value": " A cat. "},
    {"from": "human", "value": "Where?"},
    {"from": "gpt", "value": "Here."},
]


def _wav() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, a_sound(0.3, 48_000), 48_000, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _rdr(datasets: Any) -> tuple[dict[str, Any], Any]:
    columns = {"image": [a_picture(seed=1), a_picture(seed=2)], "text": ["A red thing.", "A <image> blue thing."]}
    return columns, {"image": datasets.Image(), "text": datasets.Value("string")}


def _cord(datasets: Any) -> tuple[dict[str, Any], Any]:
    truths = [{"gt_parse": RECEIPT, "meta": {}}, {"gt_parses": [{"text_sequence": "free"}]}]
    columns = {"image": [a_picture(seed=1)] * 2, "ground_truth": [json.dumps(truth) for truth in truths]}
    return columns, {"image": datasets.Image(), "ground_truth": datasets.Value("string")}


def _medpix(datasets: Any) -> tuple[dict[str, Any], Any]:
    words = datasets.Value("string")
    columns = {
        "image_id": [a_picture(seed=3)],
        "mode": ["CT"],
        "case_id": ["1"],
        "question": ["What is shown?"],
        "answer": ["Nothing."],
    }
    return columns, {"image_id": datasets.Image(), **dict.fromkeys(("mode", "case_id", "question", "answer"), words)}


def _cv17(datasets: Any) -> tuple[dict[str, Any], Any]:
    columns = {"audio": [{"bytes": _wav(), "path": "a.wav"}], "transcription": ["Merhaba."], "duration": [0.3]}
    features = {"transcription": datasets.Value("string"), "duration": datasets.Value("float64")}
    return columns, {"audio": datasets.Audio(sampling_rate=48_000), **features}


def _unimm(datasets: Any) -> tuple[dict[str, Any], Any]:
    columns = {"image_id": ["1"], "image": [a_picture(seed=4)], "conversation": [json.dumps(TURNS)]}
    words = datasets.Value("string")
    return columns, {"image_id": words, "image": datasets.Image(), "conversation": words}


PUBLISHED: dict[str, Callable[[Any], tuple[dict[str, Any], Any]]] = {
    "rdr": _rdr,
    "cord_v2": _cord,
    "medpix": _medpix,
    "cv17": _cv17,
    "unimm_chat": _unimm,
}


def publish(name: str, folder: Path) -> Path:
    """Write a data set as its hub has it: Parquet with media as {bytes, path}, its features in the file's metadata."""
    import datasets

    columns, features = PUBLISHED[name](datasets)
    encoded = {column: [_encoded(value) for value in values] for column, values in columns.items()}
    folder.mkdir(parents=True)
    table = pa.table(encoded, schema=datasets.Features(features).arrow_schema)
    pq.write_table(table, folder / "train-00000-of-00001.parquet")
    return folder


def _encoded(value: Any) -> Any:
    if not isinstance(value, Image.Image):
        return value
    file = io.BytesIO()
    value.save(file, format="PNG")
    return {"bytes": file.getvalue(), "path": "a.png"}
