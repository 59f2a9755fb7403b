"""What to read: one entry per data file, from the command line's SOURCE arguments."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlmprep.schema.errors import StopRun
from vlmprep.sources.folders import HUB, braced, expanded, files_of, hub_files
from vlmprep.sources.meta import DATASET_INFO, check_words, chosen, read_meta, without_formatting
from vlmprep.sources.named import NAMED_HUB, named_files
from vlmprep.sources.remote import beside, local_copy, remote_files
from vlmprep.sources.row_files import ENDINGS
from vlmprep.sources.wording import names, shown
from vlmprep.stores.file import look_at
from vlmprep.stores.urls import is_url, local_path

__all__ = ["SourceSpec", "find_sources"]

COLUMNS = (
    *("messages", "images", "videos", "audios", "tools", "system"),
    *("prompt", "query", "response", "history"),
)
"""The second line's make messages where there are none: Alpaca's form."""
TAGS = ("role_tag", "content_tag", "user_tag", "assistant_tag", "system_tag", "function_tag", "observation_tag")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """One data file and how its rows are spelled."""

    name: str
    """Unique within a run; the ledger's `source` column."""
    path: str
    """Absolute path of a file of rows."""
    media_dir: str
    """Absolute folder that relative media paths start at and may not leave."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """messages, images, videos, audios, tools, system, or Alpaca's prompt, query, response and history -> the row's own column
    names; empty: the usual spellings."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """role_tag, content_tag, and what roles are called (user_tag, assistant_tag, system_tag, function_tag,
    observation_tag) -> the row's own words; empty: the usual spellings."""
    sample_ratio: float = 1.0
    """How often the rows are used: up to 1 a seeded sample of them, above 1 all of them several times."""
    named: str = ""
    """Which public data set's own columns the rows have (`sources.named`); empty: none's."""

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
    """Resolve SOURCE arguments: meta files, files of rows, folders, globs and brace patterns of them, `hf:` names.

    Raises:
        StopRun: Nothing matches, a file is missing, a meta file is malformed.
    """
    specs: list[SourceSpec] = []
    for argument in arguments:
        if argument.startswith(NAMED_HUB):
            specs.extend(
                SourceSpec(name=name, path=path, media_dir=os.path.dirname(path), named=named)
                for name, path, named in named_files(argument)
            )
            continue
        if is_url(argument):
            url, wanted = _with_names(argument)
            specs.extend(spec for each in braced(url) for spec in _specs_of_url(each, wanted))
            continue
        if argument.startswith(HUB):
            specs.extend(
                SourceSpec(name=name, path=path, media_dir=os.path.dirname(path)) for name, path in hub_files(argument)
            )
            continue
        place, wanted = _with_names(argument)
        for path in expanded(place):
            specs.extend(_specs_of(os.path.abspath(local_path(path)), wanted))
    return _uniquely_named(specs)


def _with_names(argument: str) -> tuple[str, str]:
    """A meta file and the entries of it that are wanted: `data/dataset_info.json#birds,trees`."""
    place, mark, wanted = argument.rpartition("#")
    return (place, wanted) if mark and place.endswith(".json") and not os.path.exists(argument) else (argument, "")


def _specs_of(path: str, wanted: str) -> Iterator[SourceSpec]:
    if os.path.isdir(path):
        yield from _specs_of_folder(path)
        return
    _check_is_there(path)
    meta = read_meta(path)
    if meta is not None:
        for name, entry in chosen(path, meta, wanted).items():
            yield from _specs_of_entry(path, name, entry)
        return
    if wanted:
        raise StopRun(f"{path} is no meta file, so nothing in it is called {wanted!r}")
    if not path.endswith(ENDINGS):
        raise StopRun(f"{path}: unknown kind of source", f"Known are a meta JSON and {', '.join(ENDINGS)} files.")
    yield SourceSpec(name=_stem(path), path=path, media_dir=os.path.dirname(path))


def _check_is_there(path: str) -> None:
    if not os.path.isfile(path):
        raise StopRun(f"{path} does not exist", f"Give a meta JSON, or a file that ends in {', '.join(ENDINGS)}.")


def _specs_of_folder(folder: str) -> Iterator[SourceSpec]:
    """A file each, called after its place in the folder; relative media paths start at the folder."""
    info = os.path.join(folder, DATASET_INFO)
    if os.path.isfile(info) and (meta := read_meta(info)) is not None:
        raise StopRun(
            f"{folder} holds a {DATASET_INFO}, which names {names(meta)}", f"Give {info}, or {info}#NAME,NAME."
        )
    for path in files_of(folder):
        _check_is_there(path)
        name = _stem(os.path.relpath(path, os.path.dirname(folder)), whole=True)
        yield SourceSpec(name=name, path=path, media_dir=folder)


def _specs_of_entry(meta: str, name: str, entry: Mapping[str, Any]) -> Iterator[SourceSpec]:
    """An entry of a meta file; where its file_name is a folder or a pattern, a source for each file, called NAME/FILE."""
    check_words(meta, name, entry)
    entry = without_formatting(meta, name, entry)
    media_dir = entry.get("media_dir") or "."
    if not isinstance(media_dir, str):
        raise StopRun(f"source {name!r}: media_dir is {shown(media_dir)}, expected a folder")
    places = _places_at_url if is_url(meta) else _places_on_disk
    data, paths, media_dir = places(meta, name, entry["file_name"], media_dir)
    for path in paths:
        yield SourceSpec(
            name=name if paths == [data] else f"{name}/{_stem(path)}",
            path=path,
            media_dir=media_dir,
            columns=entry.get("columns") or {},
            tags=entry.get("tags") or {},
            sample_ratio=entry.get("sample_ratio", 1.0),
        )


def _places_on_disk(meta: str, name: str, file_name: str, media_dir: str) -> tuple[str, list[str], str]:
    """What an entry's file_name says, the files that it names, its media folder."""
    folder = os.path.dirname(meta)
    data = os.path.normpath(os.path.join(folder, file_name))
    paths = [file for path in expanded(data) for file in (files_of(path) if os.path.isdir(path) else [path])]
    for path in paths:
        if not os.path.isfile(path):
            raise StopRun(f"{meta}: the file of {name!r} does not exist: {path}", "Correct its file_name.")
    return data, paths, media_dir if "://" in media_dir else os.path.normpath(os.path.join(folder, media_dir))


def _places_at_url(meta: str, name: str, file_name: str, media_dir: str) -> tuple[str, list[str], str]:
    """The same for a meta file at a URL."""
    data = beside(meta, file_name)
    return data, [path for each in braced(data) for path in remote_files(each, ENDINGS)], beside(meta, media_dir)


def _specs_of_url(url: str, wanted: str) -> Iterator[SourceSpec]:
    """A meta file, a file of rows, a folder or a pattern of them; relative media paths start where the file lies."""
    meta = None
    if url.endswith(".json") and look_at(url) is not None:
        meta = read_meta(local_copy(url, ENDINGS))
    if meta is None:
        if wanted:
            raise StopRun(f"{url} is no meta file, so nothing in it is called {wanted!r}")
        for path in remote_files(url, ENDINGS):
            inside = path.startswith(url.rstrip("/") + "/")
            name = (
                _stem(path.removeprefix(url.rstrip("/").rpartition("/")[0] + "/"), whole=True)
                if inside
                else _stem(path)
            )
            yield SourceSpec(name=name, path=path, media_dir=url.rstrip("/") if inside else os.path.dirname(path))
        return
    for name, entry in chosen(url, meta, wanted).items():
        yield from _specs_of_entry(url, name, entry)


def _stem(path: str, *, whole: bool = False) -> str:
    """A file's name without its ending; `whole` keeps the folders."""
    ending = max((ending for ending in ENDINGS if path.endswith(ending)), key=len, default=os.path.splitext(path)[1])
    return (path if whole else os.path.basename(path)).removesuffix(ending)


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
