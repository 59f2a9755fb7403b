"""What to read: one entry per data file, from the command line's SOURCE arguments."""

from __future__ import annotations

import glob
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlmprep.schema.errors import StopRun
from vlmprep.sources.records import DuplicateNameError, object_of_unique_names
from vlmprep.sources.wording import names, shown

__all__ = ["SourceSpec", "find_sources"]

META_BYTES = 16 << 20
"""A .json file above this size is data, never a meta file."""
COLUMNS = ("messages", "images", "videos", "audios", "tools", "system")
TAGS = ("role_tag", "content_tag", "user_tag", "assistant_tag", "system_tag", "function_tag", "observation_tag")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """One data file and how its rows are spelled."""

    name: str
    """Unique within a run; the ledger's `source` column."""
    path: str
    """Absolute path of a .json or .jsonl file."""
    media_dir: str
    """Absolute folder that relative media paths start at and may not leave."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """messages, images, videos, audios, tools, system -> the row's own column names; empty: the usual spellings."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """role_tag, content_tag, and what roles are called (user_tag, assistant_tag, system_tag, function_tag,
    observation_tag) -> the row's own words; empty: the usual spellings."""
    sample_ratio: float = 1.0
    """How often the rows are used: up to 1 a seeded sample of them, above 1 all of them several times."""

    def __post_init__(self) -> None:
        if self.name in ("", ".", "..") or not self.name.isprintable():
            raise StopRun(f"a source is called {shown(self.name)}, which names no folder of a ledger", "Rename it.")
        _check_words(self.name, "columns", self.columns, COLUMNS)
        _check_words(self.name, "tags", self.tags, TAGS)
        ratio = self.sample_ratio
        if type(ratio) not in (int, float) or not 0.0 <= ratio < math.inf:
            raise StopRun(f"source {self.name!r}: sample_ratio is {ratio!r}, expected a number of at least 0")


def _check_words(name: str, what: str, got: Any, known: Sequence[str]) -> None:
    if not isinstance(got, Mapping) or not all(isinstance(word, str) and word for word in got.values()):
        raise StopRun(f"source {name!r}: {what} is {shown(got)}, expected an object of names")
    if unknown := sorted(set(got) - set(known)):
        raise StopRun(f"source {name!r}: unknown {what} {', '.join(unknown)}; known are {', '.join(known)}")


def find_sources(arguments: Sequence[str]) -> list[SourceSpec]:
    """Resolve SOURCE arguments: meta files, .json and .jsonl files, and globs of them.

    Raises:
        StopRun: Nothing matches, a file is missing, a meta file is malformed.
    """
    specs: list[SourceSpec] = []
    for argument in arguments:
        for path in _expand(argument):
            specs.extend(_specs_of(path))
    return _uniquely_named(specs)


def _expand(argument: str) -> list[str]:
    if glob.has_magic(argument) and not os.path.exists(argument):
        paths = sorted(glob.glob(argument, recursive=True))
        if not paths:
            raise StopRun(
                f"no file matches {argument!r}", "Check the pattern; quote it so that the shell leaves it alone."
            )
    else:
        paths = [argument]
    for path in paths:
        if os.path.isdir(path):
            raise StopRun(f"{path} is a folder", f"Name the files in it, for example '{path.rstrip('/')}/*.jsonl'.")
        if not os.path.isfile(path):
            raise StopRun(f"{path} does not exist", "Give a meta JSON, a .json or a .jsonl file of conversations.")
    return [os.path.abspath(path) for path in paths]


def _specs_of(path: str) -> Iterator[SourceSpec]:
    meta = _read_meta(path)
    if meta is None:
        if not path.endswith((".json", ".jsonl")):
            raise StopRun(f"{path}: unknown kind of source", "Known are a meta JSON, .json and .jsonl files.")
        stem = os.path.splitext(os.path.basename(path))[0]
        yield SourceSpec(name=stem, path=path, media_dir=os.path.dirname(path))
        return
    folder = os.path.dirname(path)
    for name, entry in meta.items():
        file_name, media_dir = entry["file_name"], entry.get("media_dir") or "."
        if not isinstance(media_dir, str):
            raise StopRun(f"source {name!r}: media_dir is {shown(media_dir)}, expected a folder")
        data = os.path.normpath(os.path.join(folder, file_name))
        if not os.path.isfile(data):
            raise StopRun(f"{path}: the file of {name!r} does not exist: {data}", "Correct its file_name.")
        yield SourceSpec(
            name=name,
            path=data,
            media_dir=media_dir if "://" in media_dir else os.path.normpath(os.path.join(folder, media_dir)),
            columns=entry.get("columns") or {},
            tags=entry.get("tags") or {},
            sample_ratio=entry.get("sample_ratio", 1.0),
        )


def _read_meta(path: str) -> dict[str, Any] | None:
    """The content of a meta file: an object of objects that all have a file_name; None for anything else."""
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
    lacking = [name for name, entry in meta.items() if not isinstance(entry.get("file_name"), str)]
    if len(lacking) == len(meta):
        return None
    if lacking:
        raise StopRun(f"{path}: no file_name in {names(lacking)}", "Every entry of a meta file names its data file.")
    try:
        return dict(json.loads(text.decode("utf-8-sig"), object_pairs_hook=object_of_unique_names))
    except DuplicateNameError as error:
        raise StopRun(f"{path} gives {shown(error.name)} twice", "Only one would be read: rename the other.") from None


def _uniquely_named(specs: list[SourceSpec]) -> list[SourceSpec]:
    seen: dict[str, str] = {}
    for spec in specs:
        if spec.name in seen:
            raise StopRun(
                f"two sources are called {spec.name!r}: {seen[spec.name]} and {spec.path}",
                "Rename one, or name both in a meta JSON.",
            )
        seen[spec.name] = spec.path
    return specs
