"""Ledgers of made-up counts, for what depends on a ledger alone: no rows lie behind them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vlmprep.counting.ledger import LEDGER_FILE, SETTINGS_FILE, Ledger, chunk_path, open_ledger
from vlmprep.schema.ledger import ENCODER_WORK, LEDGER, LEDGER_VERSION

__all__ = ["FAKE_TOKENS", "made_up_ledger", "made_up_rows"]

FAKE_TOKENS = 20
"""Of the fake image after the shift."""


def made_up_rows(lengths: Any, visual_tokens: Any, **columns: Any) -> pa.Table:
    """Usable rows of one image each, or none where there are no visual tokens.

    Args:
        lengths: [n] tokens after the shift.
        visual_tokens: [n]
        columns: More of a ledger's columns, [n] each.
    """
    lengths, visual_tokens = np.asarray(lengths), np.asarray(visual_tokens)
    num_rows = len(lengths)
    zeros = np.zeros(num_rows, np.int64)
    given = {
        "row": np.arange(num_rows),
        "status": ["ok"] * num_rows,
        "num_tokens": lengths + 1,
        "num_visual_tokens": visual_tokens,
        "num_label_tokens": np.minimum(lengths - visual_tokens, 10),
        "num_images": (visual_tokens > 0).astype(int),
        "num_videos": zeros,
        "num_audios": zeros,
        **dict.fromkeys(ENCODER_WORK, zeros),
        **columns,
    }
    arrays = [
        pa.array(given[field.name], field.type) if field.name in given else pa.nulls(num_rows, field.type)
        for field in LEDGER
    ]
    return pa.table(arrays, schema=LEDGER)


def made_up_ledger(root: Path, sources: Mapping[str, pa.Table], chunk_rows: int = 1000) -> Ledger:
    """Write a ledger that a plan can be made from.

    Args:
        root: Its folder.
        sources: Rows by name of their source.
        chunk_rows: Rows of a chunk.
    """
    listed = []
    for name, rows in sources.items():
        starts = range(0, rows.num_rows, chunk_rows)
        for number, start in enumerate(starts):
            path = chunk_path(root, name, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(rows.slice(start, chunk_rows), path)
        listed.append({"name": name, "num_chunks": len(starts), "sample_ratio": 1.0})
    num_rows = sum(rows.num_rows for rows in sources.values())
    summary = {"sources": listed, "rows": {"all": num_rows, "ok": num_rows, "refused": []}, "digest": root.name}
    fake = {"num_tokens": FAKE_TOKENS + 1, "num_visual_tokens": 4, "stored_bytes": 0, **dict.fromkeys(ENCODER_WORK, 0)}
    settings = {
        "version": LEDGER_VERSION,
        "processor": {"processor": "none", "options": []},
        "fingerprint": {"family": "made up"},
        "limits": {},
        "fake_image": fake,
    }
    (root / LEDGER_FILE).write_text(json.dumps(summary))
    (root / SETTINGS_FILE).write_text(json.dumps(settings))
    return open_ledger(root)
