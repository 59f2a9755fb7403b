"""Files that name data sets: meta JSONs, and LLaMA-Factory's dataset_info.json."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from typing import Any

from vlmprep.schema.errors import StopRun
from vlmprep.sources.records import DuplicateNameError, object_of_unique_names
from vlmprep.sources.wording import names, shown

__all__ = ["DATASET_INFO", "check_words", "chosen", "read_meta", "without_formatting"]

META_BYTES = 16 << 20
"""A .json file above this size is data, never a meta file."""
DATASET_INFO = "dataset_info.json"
ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
"""What LLaMA-Factory's entries have instead of a file_name."""
ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
"""The names that LLaMA-Factory gives to columns where an entry says nothing."""
CHANGES_DATA = ("ranking", "subset", "folder", "num_samples")
"""What an entry may say of its data that would be lost."""
WORDS = ("file_name", "columns", "tags", "media_dir", "sample_ratio", "formatting", "split", *CHANGES_DATA, *ELSEWHERE)
"""What entries say; notes of one's own may stand beside, unless they look like one of these misspelt."""


def read_meta(path: str) -> dict[str, Any] | None:
    """The content of a meta file: an object of objects that all name their data; None for anything else.

    Raises:
        StopRun: Some entries name a file and others nothing, or a name is given twice.
    """
    if not path.endswith(".json") or os.path.getsize(path) > META_BYTES:
        return None
    with open(path, "rb") as file:
        if file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"{":
            return None
        file.seek(0)
        text = file.read()
    try:
        meta = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    if not meta or not all(isinstance(entry, dict) for entry in meta.values()):
        return None
    lacking = [name for name, entry in meta.items() if not _names_data(path, entry)]
    if len(lacking) == len(meta):
        return None
    if lacking:
        raise StopRun(f"{path}: no file_name in {names(lacking)}", "Every entry of a meta file names its data file.")
    try:
        return dict(json.loads(text.decode("utf-8-sig"), object_pairs_hook=object_of_unique_names))
    except DuplicateNameError as error:
        raise StopRun(f"{path} gives {shown(error.name)} twice", "Only one would be read: rename the other.") from None


def _names_data(path: str, entry: Mapping[str, Any]) -> bool:
    elsewhere = os.path.basename(path) == DATASET_INFO and any(isinstance(entry.get(name), str) for name in ELSEWHERE)
    return isinstance(entry.get("file_name"), str) or elsewhere


def chosen(path: str, meta: Mapping[str, Any], wanted: str) -> dict[str, Any]:
    """The entries that a SOURCE argument names behind a `#`; all without one.

    Args:
        path: Of the meta file.
        meta: Its content.
        wanted: Names with commas between them; empty for all.

    Raises:
        StopRun: There is no such entry, or one of them lies on a hub.
    """
    known = [name for name in wanted.split(",") if name] or list(meta)
    if unknown := [name for name in known if name not in meta]:
        raise StopRun(f"{path} has no {names(unknown)}; it has {names(meta)}", "Correct the names behind the #.")
    for name in known:
        if not isinstance(meta[name].get("file_name"), str):
            raise StopRun(
                f"{path}: {name!r} has no file_name: its data lie on a hub",
                f"Name it as hf:NAME, or choose others: {path}#NAME,NAME",
            )
    return {name: meta[name] for name in known}


def check_words(path: str, name: str, entry: Mapping[str, Any]) -> None:
    """Refuse an entry with a misspelt word, which would not be read.

    Raises:
        StopRun: A word is nearly one that is known.
    """
    for word in entry:
        if word not in WORDS and (meant := difflib.get_close_matches(word.lower(), WORDS, n=1, cutoff=0.8)):
            raise StopRun(f"{path}: {name!r} says {shown(word)}, which is not read", f"Is {meant[0]!r} meant?")


def without_formatting(path: str, name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of dataset_info.json as a meta JSON has it: what its formatting implies is said in its columns.

    Raises:
        StopRun: It says something that would be lost.
    """
    if os.path.basename(path) != DATASET_INFO and "formatting" not in entry:
        return dict(entry)
    if lost := [word for word in CHANGES_DATA if entry.get(word)]:
        raise StopRun(
            f"{path}: {name!r} has {lost[0]!r}, which is not read",
            "Leave it out; preferences are no conversations, and sample_ratio says how many rows are used.",
        )
    formatting = entry.get("formatting", "alpaca")
    if formatting not in ("alpaca", "sharegpt", "openai"):
        raise StopRun(f"{path}: {name!r} has the formatting {shown(formatting)}, expected alpaca, sharegpt or openai")
    columns = entry.get("columns") or {}
    if formatting == "alpaca" and isinstance(columns, dict):
        columns = {**ALPACA, **{word: column for word, column in columns.items() if column is not None}}
    return {**entry, "columns": columns}
