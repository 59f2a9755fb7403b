"""settings.json against manifest and receipts: all three say what the pack set was made with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmprep.pipeline.verify.problem import Problem
from vlmprep.schema.files import canonical_json, read_json
from vlmprep.schema.packset import SETTINGS_FILE, receipt_name
from vlmprep.shardformat.manifest import Manifest

__all__ = ["origin_problems"]


def origin_problems(root: Path, manifest: Manifest, jobs: Mapping[int, str | None]) -> Iterator[Problem]:
    """Hold settings.json against the manifest, and the receipts' jobs against settings.json.

    Args:
        root: The pack set.
        manifest: Its manifest.
        jobs: By shard, the digest of settings.json that its receipt holds; None where it cannot be read.
    """
    try:
        settings = read_json(root / SETTINGS_FILE)
    except ValueError as error:
        yield Problem(file=SETTINGS_FILE, what=f"it is no JSON: {error}")
        return
    if settings is None:
        yield Problem(file=SETTINGS_FILE, what="it is missing")
    elif found := list(differences(settings, manifest)):
        yield from (Problem(file=SETTINGS_FILE, what=what) for what in found)
    else:
        expected = hashlib.sha256(canonical_json(settings)).hexdigest()
        for shard, job in jobs.items():
            if job is not None and job != expected:
                what = f"it is of job {job[:16]}..., {SETTINGS_FILE} makes {expected[:16]}..."
                yield Problem(file=receipt_name(shard), what=what)


def differences(settings: Any, manifest: Manifest) -> Iterator[str]:
    """Where settings.json says something else than the manifest."""
    parts = ("plan", "writing", "limits", "fingerprint", "format")
    if not isinstance(settings, dict) or sorted(settings) != sorted(parts):
        yield f"it does not hold {', '.join(parts)}"
        return
    if settings["format"] != {"vlmprep": manifest.vlmprep_version}:
        yield f"it was written by {settings['format']}, the manifest by vlmprep {manifest.vlmprep_version}"
    if settings["fingerprint"] != manifest.fingerprint:
        yield "its fingerprint is not the manifest's"
    said = {**settings["plan"], **settings["writing"], **settings["limits"]}
    known = {name: value for name, value in manifest.settings.items() if name != "processor"}
    for name in sorted(said.keys() | known.keys()):
        if name not in said or name not in known or said[name] != known[name]:
            yield f"{name} is {said.get(name)!r}, the manifest says {known.get(name)!r}"
