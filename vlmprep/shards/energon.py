"""The folder that lets Megatron-Energon open a pack set as a crude WebDataset."""

from __future__ import annotations

from pathlib import Path

import yaml

from vlmprep.schema.files import publish, write_json

__all__ = ["write_energon_metadata"]

ENERGON_VERSION = "7.4.0"
"""The version whose layout this is."""


def write_energon_metadata(root: Path, pack_counts: dict[str, int]) -> None:
    """Write `.nv-meta/`.

    Args:
        root: The pack set.
        pack_counts: Packs by shard path inside the set, in order.
    """
    folder = root / ".nv-meta"
    write_json(folder / ".info.json", {"energon_version": ENERGON_VERSION, "shard_counts": pack_counts})
    split = {"split_parts": {"train": list(pack_counts), "val": [], "test": []}, "exclude": []}
    dataset = {"__module__": "megatron.energon", "__class__": "CrudeWebdataset"}
    for name, content in (("split.yaml", split), ("dataset.yaml", dataset)):
        with publish(folder / name) as attempt:
            attempt.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
