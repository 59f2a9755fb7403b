"""Small runs of the real stages, as tests of several packages start them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vlmprep.counting.ledger import Ledger
from vlmprep.engines.local import LocalEngine
from vlmprep.pipeline.estimate import estimate
from vlmprep.pipeline.run import PackedRun, run_pack
from vlmprep.pipeline.settings import CountSettings, PackSettings, PlanSettings
from vlmprep.schema.engine import Engine
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.progress import Silent

__all__ = ["chat", "count", "count_settings", "picture", "run", "write_jsonl"]


def count_settings(processor: Path, *, keep: tuple[str, ...] = (), **family: Any) -> CountSettings:
    """Settings of counting with a processor."""
    return CountSettings(family=FamilySettings(processor=str(processor), **family), keep=keep)


def count(source: Path | str, processor: Path, out: Path, **settings: Any) -> Ledger:
    """`vlmprep estimate` in this process."""
    return estimate([str(source)], count_settings(processor, **settings), out, LocalEngine(0), Silent())


def run(
    source: Path | str,
    processor: Path,
    out: Path | str,
    *,
    planning: PlanSettings | None = None,
    writing: PackSettings | None = None,
    engine: Engine | None = None,
    max_refused: float = 1.0,
    **settings: Any,
) -> PackedRun:
    """`vlmprep pack` in this process."""
    return run_pack(
        [str(source)],
        count_settings(processor, **settings),
        planning or PlanSettings(pack_size=1024),
        writing or PackSettings(shard_bytes=1 << 20),
        out=out,
        plan=None,
        max_refused=max_refused,
        engine=engine or LocalEngine(0),
        progress=Silent(),
    )


def chat(key: str, question: str, answer: str, images: Sequence[str] = ()) -> dict[str, Any]:
    """One row: a question, with an image tag for every image before it, and its answer."""
    messages = [
        {"role": "user", "content": "<image>" * len(images) + question},
        {"role": "assistant", "content": answer},
    ]
    return {"id": key, "messages": messages, "images": list(images)}


def write_jsonl(path: Path, rows: Sequence[dict[str, Any] | bytes]) -> Path:
    """Rows as lines; bytes go in as they are."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def picture(path: Path, height: int = 60, width: int = 90, colour: str = "navy") -> str:
    """Draw an image file; its name, for a row."""
    Image.new("RGB", (width, height), colour).save(path)
    return path.name
