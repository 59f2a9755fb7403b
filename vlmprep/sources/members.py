"""From the members of a WebDataset row to a record: its JSON with its media put where they are named.

    key.json + key.jpg ...      the JSON is a row as .jsonl has it, or a list of messages
    key.txt + key.jpg ...       a caption: the media are the user's turn, the text the assistant's

The JSON names a member by its whole name or by what is left of it behind the key (`jpg`, `1.jpg`). Where it names none, the media
members are its media, in the tar's order. A medium that nothing asks for refuses the row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vlmprep.schema.conversation import MediaKind
from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.columns import MEDIA_COLUMNS
from vlmprep.sources.records import ID_COLUMNS, decoded_object
from vlmprep.sources.wording import names, shown

__all__ = ["record_of_members"]

CAPTIONS = ("txt", "caption", "text")
ENDINGS: dict[MediaKind, tuple[str, ...]] = {
    "image": ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "img"),
    "video": ("mp4", "mkv", "webm", "mov", "avi", "m4v", "mpg", "mpeg"),
    "audio": ("wav", "mp3", "flac", "ogg", "opus", "m4a", "aac"),
}
KINDS = {ending: kind for kind, endings in ENDINGS.items() for ending in endings}
SOURCES = {"image_url", "video_url", "audio_url", "path", "url", "frames"} | set(MEDIA_COLUMNS)
"""Names in content parts under which media stand."""


def record_of_members(key: str, members: Mapping[str, bytes], own: Mapping[str, str]) -> dict[str, Any]:
    """A row's record.

    Args:
        key: What the members' names have in common.
        members: Their contents by the rest of their names.
        own: The source's own column names.

    Raises:
        RefuseSample: There is no JSON or caption, it is broken, or media and their names do not match.
    """
    media = {name: kind for name in members if (kind := _kind(name)) is not None}
    record = _record(key, members, media)
    if not any(isinstance(record.get(name), (str, int)) for name in ID_COLUMNS):
        record["id"] = key
    if not media:
        return record
    files = _Files(key, members, media)
    columns = {kind: (own[f"{kind}s"],) if f"{kind}s" in own else usual for kind, usual in MEDIA_COLUMNS.items()}
    for kind, candidates in columns.items():
        for name in candidates:
            if record.get(name):
                record[name] = files.placed(kind, record[name])
    for message in _messages(record, own):
        _place_in_parts(message, files)
    files.fill(record, {kind: candidates[0] for kind, candidates in columns.items()})
    return record


def _kind(name: str) -> MediaKind | None:
    """What a member is by the ending of its name; None for texts and all else."""
    return KINDS.get(name.rpartition(".")[2].lower())


def _record(key: str, members: Mapping[str, bytes], media: Mapping[str, MediaKind]) -> dict[str, Any]:
    texts = [name for name in members if name not in media]
    if texts == ["json"]:
        record = decoded_object(f"{key}.json", members["json"], or_list=True)
        return {"messages": record} if isinstance(record, list) else record
    if len(texts) == 1 and texts[0] in CAPTIONS:
        return _captioned(f"{key}.{texts[0]}", members[texts[0]], media)
    raise RefuseSample(
        "bad-member",
        f"{shown(key)} has the members {names(members)}, expected one .json (or one .txt) and media: leave others out",
    )


def _captioned(name: str, caption: bytes, media: Mapping[str, MediaKind]) -> dict[str, Any]:
    try:
        text = caption.decode()
    except UnicodeDecodeError as error:
        raise RefuseSample("not-utf8", f"{shown(name)} is not UTF-8: {error.reason} at byte {error.start}") from None
    question = [{"type": kind} for kind in media.values()]
    answer = [{"type": "text", "text": text}]  # as parts: a caption's "<image>" is no tag
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


class _Files:
    """The media of a row, and which of them were asked for."""

    def __init__(self, key: str, members: Mapping[str, bytes], media: Mapping[str, MediaKind]) -> None:
        self._key, self._members, self._media = key, members, media
        self._left = dict(media)

    def placed(self, kind: MediaKind, value: Any) -> Any:
        """A value of a media column or part, with the contents of the members that it names."""
        if isinstance(value, list):
            return [self.placed(kind, inner) for inner in value]
        if isinstance(value, dict):
            return {name: self.placed(kind, inner) if name in SOURCES else inner for name, inner in value.items()}
        if not isinstance(value, str):
            return value
        rest = value.removeprefix(f"{self._key}.") if value not in self._media else value
        if rest not in self._media:
            rest = value.removeprefix(f"{self._key.rpartition('/')[2]}.")
        if rest not in self._media:
            return self._alone(kind, value)
        self._left.pop(rest, None)
        return self._members[rest]

    def _alone(self, kind: MediaKind, value: str) -> Any:
        """A name that is no member's: of the row's one medium of that kind, as data sets keep the names files once had."""
        of_kind = [name for name, its in self._media.items() if its == kind]
        if len(of_kind) != 1 or of_kind[0] not in self._left or "://" in value or value.startswith("data:"):
            return value
        del self._left[of_kind[0]]
        return self._members[of_kind[0]]

    def fill(self, record: dict[str, Any], columns: Mapping[MediaKind, str]) -> None:
        """Give the media that nothing named to the columns of their kinds, where these are empty.

        Raises:
            RefuseSample: Some were named, so that the others would be left out.
        """
        if self._left and len(self._left) < len(self._media):
            raise RefuseSample(
                "unused-member",
                f"{shown(self._key)} names some of its media, but not {names(self._left)}: leave them out",
            )
        for kind, column in columns.items() if self._left else ():
            if found := [self._members[name] for name, its in self._left.items() if its == kind]:
                if record.get(column):
                    raise RefuseSample(
                        "unused-member",
                        f"column {column!r} of {shown(self._key)} names other files than the members "
                        f"{names(name for name, its in self._left.items() if its == kind)}",
                    )
                record[column] = found


def _messages(record: Mapping[str, Any], own: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for column in (own["messages"],) if "messages" in own else ("messages", "conversations"):
        found = record.get(column)
        if isinstance(found, list):
            yield from (message for message in found if isinstance(message, dict))


def _place_in_parts(message: dict[str, Any], files: _Files) -> None:
    for content in message.values():
        for part in content if isinstance(content, list) else ():
            type_ = part.get("type") if isinstance(part, dict) else None
            kind = next((known for known in MEDIA_COLUMNS if isinstance(type_, str) and type_.startswith(known)), None)
            if kind is not None:
                part.update({name: files.placed(kind, value) for name, value in part.items() if name in SOURCES})
