"""Public data sets that people know by name: where they lie, and how a row of each is a conversation.

name          data set                          a row's columns
rdr           quintend/rdr-items                image, text
cord_v2       naver-clova-ix/cord-v2            image, ground_truth (JSON)
medpix        medpix-dataset/medpix-dataset     image_id, question, answer
cv17          ysdede/commonvoice_17_tr_fixed    audio, transcription
unimm_chat    Yirany/UniMM-Chat                 image, conversation (JSON)
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.sources.folders import hub_files
from vlmprep.sources.wording import kind_of, names, shown

__all__ = ["NAMED", "NAMED_HUB", "NamedData", "json2token", "messages_of", "named_files"]

NAMED_HUB = "hub:"
DESCRIBE = "Describe this image."
TRANSCRIBE = "Transcribe the Turkish audio clip."
IMAGE_TAG = re.compile(r"<image\s*>", re.IGNORECASE)
SPEAKERS = {"human": "user", "gpt": "assistant"}

Row = Mapping[str, Any]
Messages = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedData:
    """One public data set."""

    path: str
    """Its name on the Hugging Face hub."""
    messages: Callable[[Row], Messages]
    """A row as messages of content parts."""


def named_files(argument: str) -> Iterator[tuple[str, str, str]]:
    """The files of a named data set, downloaded and kept by `datasets`.

    Args:
        argument: hub:NAME[:SPLIT], or hub:NAME=PLACE[:SPLIT], where PLACE is a folder or another name on the hub that holds a
            copy; the split is `train` where none is given.

    Yields:
        A name for each file, its path, and the data set's name.

    Raises:
        StopRun: There is no such name, or `datasets` cannot load it.
    """
    what, _, split = argument.removeprefix(NAMED_HUB).partition(":")
    wanted, _, place = what.partition("=")
    name = wanted.replace("-", "_")
    if name not in NAMED:
        raise StopRun(f"{argument}: there is no data set called {wanted!r}", f"Known are {', '.join(NAMED)}.")
    where, split = place or NAMED[name].path, split or "train"
    before = f"{where.replace('/', '--')}-"
    for file_name, path in hub_files(f"hf:{where}:{split}"):
        yield f"{name}-{file_name.removeprefix(before)}", path, name


def messages_of(name: str, row: Row) -> Messages:
    """A row of a named data set as messages of content parts.

    Raises:
        RefuseSample: It is not as its data set publishes it.
    """
    return NAMED[name].messages(row)


def json2token(value: Any, sort_json_key: bool = True) -> str:
    """JSON as a sequence of tags, as Donut's authors write it: `{"a": ["x", "y"]}` is `<s_a>x<sep/>y</s_a>`.

    Args:
        value: JSON's.
        sort_json_key: Names of an object in falling order; else as they stand.
    """
    if isinstance(value, list):
        return "<sep/>".join(json2token(item, sort_json_key) for item in value)
    if not isinstance(value, dict):
        return str(value)
    if list(value) == ["text_sequence"]:
        return str(value["text_sequence"])
    keys = sorted(value, reverse=True) if sort_json_key else value
    return "".join(f"<s_{key}>{json2token(value[key], sort_json_key)}</s_{key}>" for key in keys)


def _rdr(row: Row) -> Messages:
    return _asked([_medium("image", _column(row, "image")), _text(DESCRIBE)], _words(row, "text"))


def _cord(row: Row) -> Messages:
    truth = _json(row, "ground_truth")
    parses = truth.get("gt_parses") if isinstance(truth, dict) else None
    parse = (
        parses[0] if isinstance(parses, list) and parses else truth.get("gt_parse") if isinstance(truth, dict) else None
    )
    if not isinstance(parse, dict):
        raise RefuseSample("bad-message", f"'ground_truth' is {shown(truth)}, expected an object with gt_parse")
    return _asked([_medium("image", _column(row, "image")), _text(DESCRIBE)], json2token(parse))


def _medpix(row: Row) -> Messages:
    question = [_medium("image", _column(row, "image_id")), _text(_words(row, "question"))]
    return _asked(question, _words(row, "answer"))


def _cv17(row: Row) -> Messages:
    return _asked([_medium("audio", _column(row, "audio")), _text(TRANSCRIBE)], _words(row, "transcription"))


def _unimm(row: Row) -> Messages:
    image, turns = _column(row, "image"), _json(row, "conversation")
    if not isinstance(turns, list):
        raise RefuseSample("bad-message", f"'conversation' is {kind_of(turns)}, expected a list of turns")
    messages = []
    for at, turn in enumerate(turns):
        speaker = turn.get("from") if isinstance(turn, dict) else None
        if speaker not in SPEAKERS or not isinstance(turn.get("value"), str):
            raise RefuseSample("bad-message", f"turn {at} is {shown(turn)}, expected from human or gpt, and value")
        said = turn["value"]
        parts = [_text(said.strip())] if speaker == "gpt" else list(_tagged(said, image))
        messages.append({"role": SPEAKERS[speaker], "content": parts})
    return messages


def _tagged(text: str, image: Any) -> Iterator[dict[str, Any]]:
    """A user's text around its image tags; an empty one is the image alone."""
    pieces = IMAGE_TAG.split(text)
    for at, piece in enumerate(pieces):
        if at:
            yield _medium("image", image)
        if stripped := piece.strip():
            yield _text(stripped)
    if len(pieces) == 1 and not text.strip():
        yield _medium("image", image)


def _asked(content: list[dict[str, Any]], answer: str) -> Messages:
    return [{"role": "user", "content": content}, {"role": "assistant", "content": [_text(answer)]}]


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _medium(kind: str, value: Any) -> dict[str, Any]:
    """A content part; an image as base64 becomes a data URI."""
    if kind == "image" and isinstance(value, str) and _is_base64(value):
        value = f"data:image/any;base64,{value}"
    return {"type": kind, kind: value}


def _is_base64(value: str) -> bool:
    """Whether a text is an encoded file rather than a path."""
    if len(value) % 4 or len(value) < 64:
        return False
    try:
        base64.b64decode(value[:64], validate=True)
    except binascii.Error:
        return False
    return True


def _column(row: Row, name: str) -> Any:
    if row.get(name) is None:
        raise RefuseSample("missing-column", f"no column {name!r}; the row has {names(row)}")
    return row[name]


def _words(row: Row, name: str) -> str:
    value = _column(row, name)
    if not isinstance(value, str):
        raise RefuseSample("bad-message", f"column {name!r} is {kind_of(value)}, expected text")
    return value


def _json(row: Row, name: str) -> Any:
    try:
        return json.loads(_words(row, name))
    except (ValueError, RecursionError) as error:
        raise RefuseSample("not-json", f"column {name!r} is not JSON: {error}") from None


NAMED = {
    "rdr": NamedData(path="quintend/rdr-items", messages=_rdr),
    "cord_v2": NamedData(path="naver-clova-ix/cord-v2", messages=_cord),
    "medpix": NamedData(path="medpix-dataset/medpix-dataset", messages=_medpix),
    "cv17": NamedData(path="ysdede/commonvoice_17_tr_fixed", messages=_cv17),
    "unimm_chat": NamedData(path="Yirany/UniMM-Chat", messages=_unimm),
}
"""By the name behind `hub:`."""
