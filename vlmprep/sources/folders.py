"""From a SOURCE argument to files of rows: globs, braces, folders, `save_to_disk` folders, data sets of the hub."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vlmprep.schema.errors import StopRun
from vlmprep.sources.row_files import ENDINGS

__all__ = ["HUB", "braced", "expanded", "files_of", "hub_files", "is_meta_name", "loading"]

HUB = "hf:"
BRACES = re.compile(r"\{([^{}]*)\}")
NUMBERS = re.compile(r"(\d+)\.\.(\d+)")
MAX_FILES = 100_000
SAVED_SPLITS, SAVED_STATE = "dataset_dict.json", "state.json"
"""Files in the folders that `datasets` saves."""


def is_meta_name(path: str) -> bool:
    """Whether a folder's file describes data instead of holding them."""
    return os.path.basename(path) in ("dataset_info.json", "meta.json", SAVED_SPLITS, SAVED_STATE)


def expanded(pattern: str) -> list[str]:
    """Files and folders that a path, a glob or a brace pattern (`{000..099}`, `{a,b}`) names, each once.

    Raises:
        StopRun: Nothing matches, or the braces make too many names.
    """
    if os.path.exists(pattern):
        return [pattern]
    paths: list[str] = []
    for alternative in braced(pattern):
        if glob.has_magic(alternative):
            found = sorted(glob.glob(alternative, recursive=True))
            if not found:
                raise StopRun(
                    f"no file matches {alternative!r}", "Check the pattern; quote it so that the shell leaves it alone."
                )
            paths.extend(found)
        else:
            paths.append(alternative)
    return _each_once(paths) if len(paths) > 1 else paths


def files_of(folder: str) -> list[str]:
    """The files of rows in a folder and the folders in it; links to folders are not followed.

    Raises:
        StopRun: There are none, or `datasets` saved it in a way that only it can read.
    """
    if saved := _saved_files(folder):
        return saved
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        folders.sort()  # the order in which they are entered
        rows = (name for name in sorted(files) if name.endswith(ENDINGS) and not is_meta_name(name))
        found.extend(os.path.join(place, name) for name in rows if not name.startswith("."))
    if not found:
        raise StopRun(f"{folder} holds no file of rows", f"Known are {', '.join(ENDINGS)}.")
    return _each_once(found)


@contextmanager
def loading(name: str) -> Iterator[Any]:
    """The package `datasets`, to load something with.

    Args:
        name: What is loaded, for messages.

    Raises:
        StopRun: It is not installed, or cannot load that.
    """
    try:
        import datasets
    except ImportError:
        raise StopRun(f"{name} needs the package datasets", "Install it: pip install 'vlmprep[datasets]'") from None
    try:
        yield datasets
    except Exception as error:  # its builders raise whatever their data sets lead them to
        cause = error.__cause__ or error  # where its builders wrap what went wrong
        raise StopRun(f"{name} cannot be loaded: {type(cause).__name__}: {cause}") from error


def hub_files(name: str) -> Iterator[tuple[str, str]]:
    """A data set of the Hugging Face hub as Arrow files, downloaded and kept by `datasets`.

    Args:
        name: hf:NAME[:CONFIG][:SPLIT]; one word behind the name is a split.

    Yields:
        A name for each file, and its path.

    Raises:
        StopRun: `datasets` is not installed, or cannot load it.
    """
    where, *words = name.removeprefix(HUB).split(":")
    if not where or len(words) > 2:
        raise StopRun(f"{name} is no hf:NAME[:CONFIG][:SPLIT]")
    config, split = (words[0] or None, words[1] or None) if len(words) == 2 else (None, words[0] if words else None)
    with loading(name) as datasets:
        loaded: Any = datasets.load_dataset(where, config, split=split)
    splits = {split: loaded} if split else loaded
    for each, data in splits.items():
        if not data.cache_files:
            raise StopRun(f"{name}: {each} is not on this disk")
        for number, file in enumerate(data.cache_files):
            part = f"-{number:05d}" if len(data.cache_files) > 1 else ""
            yield f"{where.replace('/', '--')}-{each}{part}", os.path.abspath(file["filename"])


def braced(pattern: str) -> list[str]:
    """What a pattern's braces (`{000..099}`, `{a,b}`) make of it; a pattern without any stays itself.

    Raises:
        StopRun: They make too many names.
    """
    return list(_braced(pattern, [MAX_FILES]))


def _braced(pattern: str, left: list[int]) -> Iterator[str]:
    match = BRACES.search(pattern)
    if match is None:
        left[0] -= 1
        if left[0] < 0:
            raise StopRun(f"a pattern names more than {MAX_FILES} files", "Check its numbers.")
        yield pattern
        return
    numbers = NUMBERS.fullmatch(match[1])
    words: Iterable[str] = match[1].split(",")
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        width = len(numbers[1]) if numbers[1].startswith("0") else 0
        words = (f"{number:0{width}d}" for number in range(first, last + 1))
    for word in words:
        for rest in _braced(pattern[match.end() :], left):
            yield pattern[: match.start()] + word + rest


def _saved_files(folder: str) -> list[str]:
    """The Arrow files of a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    if (splits := _json(os.path.join(folder, SAVED_SPLITS))) and isinstance(splits.get("splits"), list):
        return [file for split in splits["splits"] for file in _saved_files(os.path.join(folder, str(split)))]
    state = _json(os.path.join(folder, SAVED_STATE))
    if not state or not isinstance(state.get("_data_files"), list):
        return []
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise StopRun(f"{folder} was saved with an order of its own", "Call flatten_indices() and save it again.")
    return [os.path.join(folder, os.path.basename(file["filename"])) for file in state["_data_files"]]


def _json(path: str) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _each_once(paths: Sequence[str]) -> list[str]:
    """Without the other names that links give a file."""
    real: dict[str, str] = {}
    for path in paths:
        real.setdefault(os.path.realpath(path), path)
    return list(real.values())
