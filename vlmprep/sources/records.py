"""From a row's bytes to a JSON object, or the reason why they are none."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.wording import kind_of, shown

__all__ = ["ID_COLUMNS", "DuplicateNameError", "decoded_object", "object_of_unique_names", "parse_record", "sample_id"]

ID_COLUMNS = ("id", "sample_id", "uid")
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""JSON's spelling of one half of a surrogate pair."""


def parse_record(row: int, data: bytes) -> dict[str, Any]:
    """Parse one row's JSON object.

    Args:
        row: 0-based row number; in a .jsonl file, the line number less one.
        data: The row's bytes.

    Raises:
        RefuseSample: Not UTF-8, not JSON, not an object, a name given twice, or half a surrogate pair in a text.
    """
    return dict(decoded_object(f"line {row + 1}", data))


def decoded_object(line: str, data: bytes, *, or_list: bool = False) -> Any:
    """Parse a JSON object.

    Args:
        line: What a person calls the place where it stands.
        data: Its bytes.
        or_list: A list will do too.

    Raises:
        RefuseSample: Not UTF-8, not JSON, not an object, a name given twice, or half a surrogate pair in a text.
    """
    try:
        record = _DECODER.decode(data.decode())
    except UnicodeDecodeError as error:
        raise RefuseSample("not-utf8", f"{line} is not UTF-8: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise RefuseSample(
            "not-json", f"{line} is not JSON: {error.msg.removesuffix(' at')} at character {error.pos + 1}"
        ) from None
    except DuplicateNameError as error:
        raise RefuseSample("duplicate-name", f"{line} gives {shown(error.name)} twice: which one is meant?") from None
    except RecursionError:
        raise RefuseSample("not-json", f"{line} is nested too deeply") from None
    except ValueError as error:
        raise RefuseSample("not-json", f"{line} is not JSON: {error}") from None
    if not isinstance(record, dict) and not (or_list and isinstance(record, list)):
        raise RefuseSample("not-an-object", f"{line} is {kind_of(record)}, expected a JSON object")
    if SURROGATE.search(data):
        _refuse_half_pairs(line, record)
    return record


def sample_id(record: Mapping[str, Any], row: int) -> str:
    """The row's own id, or its number."""
    own = next((record[name] for name in ID_COLUMNS if isinstance(record.get(name), (str, int))), None)
    return str(row) if own is None else str(own)


class DuplicateNameError(Exception):
    """A JSON object gives a name twice; parsers differ in which value they keep."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def object_of_unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object_pairs_hook that raises DuplicateNameError."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise DuplicateNameError(Counter(name for name, _ in pairs).most_common(1)[0][0])
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=object_of_unique_names)


def _refuse_half_pairs(line: str, record: Any) -> None:
    r"""JSON may spell half a surrogate pair (`"\ud800"`), which no UTF-8 file, tokenizer or table can hold."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RefuseSample(
            "not-unicode", rf"{line} holds half a surrogate pair (\ud800 to \udfff), no character"
        ) from None
    except RecursionError:
        raise RefuseSample("not-json", f"{line} is nested too deeply") from None
