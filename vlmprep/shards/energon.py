"""The folder that lets Megatron-Energon open a pack set as a crude WebDataset."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from vlmprep.schema.files import publish_bytes

__all__ = ["energon_files", "write_energon_metadata"]

ENERGON_VERSION = "7.4.0"
"""The version whose layout this is."""


def write_energon_metadata(root: Path, pack_counts: dict[str, int]) -> None:
    """Write `.nv-meta/`.

    Args:
        root: The pack set.
        pack_counts: Packs by shard path inside the set, in order.
    """
    for name, content in energon_files(pack_counts).items():
        publish_bytes(root / name, content)


def energon_files(pack_counts: dict[str, int]) -> dict[str, bytes]:
    """What `.nv-meta/` holds, by path inside the pack set."""
    info = {"energon_version": ENERGON_VERSION, "shard_counts": pack_counts}
    split = {"split_parts": {"train": list(pack_counts), "val": [], "test": []}, "exclude": []}
    dataset = {"__module__": "megatron.energon", "__class__": "CrudeWebdataset"}
    return {
        ".nv-meta/.info.json": (json.dumps(info, indent=1) + "\n").encode(),
        ".nv-meta/split.yaml": yaml.safe_dump(split, sort_keys=False).encode(),
        ".nv-meta/dataset.yaml": yaml.safe_dump(dataset, sort_keys=False).encode(),
    }
