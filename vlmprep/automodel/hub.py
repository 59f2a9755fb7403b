"""Public data sets as examples, converted when they are asked for; how their rows read is `sources.named`'s to know."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset

from vlmprep.mediafiles.sounds import decoded_sound
from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.folders import SAVED_SPLITS, SAVED_STATE, loading
from vlmprep.sources.named import NAMED, messages_of

__all__ = ["NamedExamples", "load_named"]

AUDIO_TAG = "<|audio_1|>"
"""Where Phi-4-multimodal's collate function puts the sound that stands beside a conversation."""


class NamedExamples(Dataset[dict[str, Any]]):
    """Examples of a public data set, by number.

    Args:
        name: The data set.
        rows: Its rows by number, as it publishes them.
    """

    def __init__(self, name: str, rows: Any) -> None:
        self.name, self.rows = name, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Convert one row.

        Raises:
            RefuseSample: It is not as its data set publishes it.
        """
        conversation = messages_of(self.name, self.rows[number])
        sounds = [item["audio"] for message in conversation for item in message["content"] if item["type"] == "audio"]
        return beside(conversation, sounds[0]) if sounds else {"conversation": conversation}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[number] for number in range(len(self)))


def beside(conversation: Sequence[Mapping[str, Any]], sound: Any) -> dict[str, Any]:
    """An example with its sound beside the conversation, as (samples, rate), and a tag in its place."""
    messages = []
    for message in conversation:
        texts = [AUDIO_TAG if item["type"] == "audio" else item["text"] for item in message["content"]]
        messages.append({"role": message["role"], "content": "".join(texts)})
    return {"conversation": messages, "audio": samples_of(sound)}


def samples_of(sound: Any) -> tuple[Any, int]:
    """Samples and rate of a sound as data sets have it: decoded, or an encoded file.

    Raises:
        RefuseSample: It is neither, or does not decode.
    """
    if not isinstance(sound, Mapping):
        raise RefuseSample("audio-shape", f"a sound is {type(sound).__name__}, expected a mapping")
    if sound.get("array") is not None:
        return sound["array"], int(sound["sampling_rate"])
    if isinstance(content := sound.get("bytes"), bytes):
        return decoded_sound(io.BytesIO(content), str(sound.get("path")))
    with open(str(sound.get("path")), "rb") as file:
        return decoded_sound(file, str(sound.get("path")))


def load_named(name: str, path_or_dataset: Any, split: str) -> NamedExamples:
    """Load a public data set.

    Args:
        name: In `sources.named`.
        path_or_dataset: Its name on the hub, a folder that holds a copy of it, or its rows.
        split: Which of its splits.

    Raises:
        StopRun: `datasets` is not installed, or cannot load it.
    """
    assert name in NAMED, name
    if not isinstance(path_or_dataset, str | os.PathLike):
        return NamedExamples(name, path_or_dataset)
    where = os.fspath(path_or_dataset)
    with loading(where) as datasets:
        rows: Any = _saved(datasets, where, split) if _is_saved(where) else datasets.load_dataset(where, split=split)
    for column, feature in getattr(rows, "features", {}).items():
        if isinstance(feature, datasets.Audio):  # decoded here, by libsndfile, as everywhere
            rows = rows.cast_column(column, datasets.Audio(decode=False))
    return NamedExamples(name, rows)


def _is_saved(where: str) -> bool:
    return any(os.path.isfile(os.path.join(where, name)) for name in (SAVED_SPLITS, SAVED_STATE))


def _saved(datasets: Any, where: str, split: str) -> Any:
    loaded = datasets.load_from_disk(where)
    return loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
