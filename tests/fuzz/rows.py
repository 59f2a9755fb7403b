"""What is done to a row: other types, roles, tags and media lists, JSON that is none, bytes that are no text."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

__all__ = ["ROW_METHODS", "broken_line"]

Row = dict[str, Any]

NUMBERS = (None, True, 0, -1, 1.5, float("nan"), float("inf"), 10**30)
TEXTS = ("", " ", "x", "\0", "\ud800", "\ufeff", "\u202e", "a" * 20_000, "\n" * 3_000)
MARKUP = ("<image>" * 40, "<image", "</s>", "<|im_end|>", "{{ 7 * 7 }}", "{% for %}", "\\u0000")
LISTS: tuple[Any, ...] = ([], [[]], [None], [1, "a"], [{"type": "image"}], [{"type": "text", "text": 5}], [[[[[[]]]]]])
OBJECTS: tuple[Any, ...] = (
    {},
    {"": None},
    {"role": "user"},
    {"url": "http://127.0.0.1:9/a.png"},
    {"bytes": "AAAA"},
    {"path": "../../x"},
)
ODD_VALUES: tuple[Any, ...] = (*NUMBERS, *TEXTS, *MARKUP, *LISTS, *OBJECTS)
OUTSIDE = ("../../../etc/hostname", "/etc/hostname", "/dev/zero", "/proc/self/environ", "~/a.png", "//host/share.png")
NO_FILES = (".", "", " ", "none.png", "\0.png", "a" * 5_000, "*.png", "a.png\n", "\ud800")
URLS = ("http://127.0.0.1:9/a.png", "https://[broken", "file:///etc/hostname", "s3://no/such", "nonsense://x")
DATA_URLS = ("data:,x", "data:image/png;base64,AAAA", "data:image/png;base64,%%%")
ODD_PLACES = (*OUTSIDE, *NO_FILES, *URLS, *DATA_URLS)
ROLES = ("user", "assistant", "system", "tool", "function", "human", "gpt", "USER", "", "observation", 5, None)
TAGS = ("<image>", "<video>", "<audio>", "<IMAGE>", "< image >", "<image><image>", "<|image_pad|>", "<image>\n")
MORE_NAMES = ("tools", "system", "conversations", "image", "video", "audio", "texts", "id", "weight", "name", "images")
PART_TYPES = ("image_url", "input_audio", "video", "", 5)
DEPTH = 3_000
"""Brackets inside each other: Python's own JSON reader gives up before."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values stand inside a row."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, found in inner:
        yield from places(found, (*path, key))


def holder(row: Row, path: tuple[Any, ...]) -> Any:
    """What a value stands in."""
    found: Any = row
    for key in path[:-1]:
        found = found[key]
    return found


def other_value(row: Row, rng: Random) -> None:
    """A value becomes one of another type."""
    path = rng.choice(list(places(row)))
    holder(row, path)[path[-1]] = copy.deepcopy(rng.choice(ODD_VALUES))


def lost_value(row: Row, rng: Random) -> None:
    """A value is gone."""
    path = rng.choice(list(places(row)))
    del holder(row, path)[path[-1]]


def more_values(row: Row, rng: Random) -> None:
    """A column, or a key of a message, that other people write."""
    target = rng.choice([row, *row["messages"]])
    target[rng.choice(MORE_NAMES)] = copy.deepcopy(
        rng.choice((*ODD_VALUES, row["messages"], row.get("images"), "text"))
    )


def other_roles(row: Row, rng: Random) -> None:
    """Turns by somebody else, in another order, or none."""
    for message in row["messages"]:
        if rng.random() < 0.7:
            message["role"] = rng.choice(ROLES)
    rng.shuffle(row["messages"])


def other_tags(row: Row, rng: Random) -> None:
    """More or fewer tags than media, in other turns, in other spellings."""
    message, tag = rng.choice(row["messages"]), rng.choice(TAGS)
    text = message["content"]
    at = rng.randrange(len(text) + 1)
    message["content"] = rng.choice((text[:at] + tag + text[at:], text.replace("<image>", ""), text * 2, tag))


def other_media(row: Row, rng: Random) -> None:
    """Media lists of another length, or that name what they should not."""
    column = rng.choice(("images", "videos", "audios"))
    listed = list(row.get(column) or [])
    place, value = rng.choice(ODD_PLACES), rng.choice(ODD_VALUES)
    row[column] = rng.choice(
        (listed * 2, listed[1:], [listed], [[*listed, *listed]], [place], place, [place, value, *listed])
    )


def nested_parts(row: Row, rng: Random) -> None:
    """Contents as lists of parts, with something wrong in them."""
    parts: list[Any] = [{"type": "text", "text": "Look."}, {"type": "image", "image": rng.choice(ODD_PLACES)}]
    parts += [rng.choice(ODD_VALUES), {"type": rng.choice(PART_TYPES), "image_url": {"url": "x"}}]
    rng.shuffle(parts)
    row["messages"][0]["content"] = parts[: rng.randrange(1, 5)]


def inside(row: Row, rng: Random) -> None:
    """The media inside the row, as a data URL of random bytes."""
    data = base64.b64encode(rng.randbytes(rng.randrange(300))).decode()
    row["images"] = [f"data:image/{rng.choice(('png', 'jpeg', '', 'x'))};base64,{data}"]


VALUE_METHODS: dict[str, Callable[[Row, Random], None]] = {
    "other type": other_value,
    "lost value": lost_value,
    "more columns": more_values,
    "other roles": other_roles,
    "other tags": other_tags,
    "other media list": other_media,
    "lists of parts": nested_parts,
    "media inside": inside,
}


def line_flips(line: bytes, rng: Random) -> bytes:
    """A few bytes become others."""
    data = bytearray(line)
    for _ in range(rng.choice((1, 1, 3, 10))):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def line_cut(line: bytes, rng: Random) -> bytes:
    """It ends in the middle, or begins there."""
    at = rng.randrange(1, len(line))
    return line[:at] if rng.random() < 0.7 else line[at:]


def line_of_brackets(line: bytes, rng: Random) -> bytes:
    """JSON that is too deep, or a number that is too long."""
    deep = rng.choice((b"[", b'{"messages":')) * DEPTH
    number = b'{"id": ' + b"9" * 6_000 + b"}"
    return rng.choice((deep, b"[" * DEPTH + b"]" * DEPTH, number, b'"' + line, line + line))


def line_of_nothing(line: bytes, rng: Random) -> bytes:
    """No object."""
    words = (b"null", b"[]", b"{}", b"0", b'""', b"NaN", b"\0", b"\xff\xfe", b"\xef\xbb\xbf" + line)
    return rng.choice((*words, b"\0vlmprep row\0" + line))


LINE_METHODS: dict[str, Callable[[bytes, Random], bytes]] = {
    "line: byte flips": line_flips,
    "line: cut": line_cut,
    "line: brackets": line_of_brackets,
    "line: no object": line_of_nothing,
}
ROW_METHODS = (*VALUE_METHODS, *LINE_METHODS)
"""What is done to rows, for the table."""


def broken_line(row: Row, how: str, rng: Random) -> bytes:
    """A row as a line without its end, broken in one way.

    Args:
        row: Changed in place.
        how: One of ROW_METHODS.
        rng: Of every choice.
    """
    if how in VALUE_METHODS:
        VALUE_METHODS[how](row, rng)
    line = json.dumps(row).encode()
    if how in LINE_METHODS:
        line = LINE_METHODS[how](line, rng)
    return line.replace(b"\n", b" ").replace(b"\r", b" ")
