"""The data sets that a meta JSON names, as one list of examples; all of them, or one rank's rows of each."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vlmprep.automodel.failures import Policy
from vlmprep.automodel.rank_rows import rows_of_rank
from vlmprep.automodel.sharegpt import example_of_row
from vlmprep.automodel.statistics import STATS, ExamplesWithStats, sample_stats
from vlmprep.automodel.summary import loading_summary
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.sources.blobs import RowData
from vlmprep.sources.conversation import RowReader
from vlmprep.sources.meta import read_meta
from vlmprep.sources.remote import local_copy
from vlmprep.sources.row_files import ENDINGS
from vlmprep.sources.rows import RawRow
from vlmprep.sources.spec import SourceSpec, find_sources

__all__ = ["Share", "load_meta", "share_of"]

logger = logging.getLogger("vlmprep.automodel.datasets")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Which rows a process loads."""

    rank: int | None = None
    world_size: int | None = None
    """None: all rows."""


def share_of(shard_data: bool, rank: int | None, world_size: int | None) -> Share:
    """Which rows this process loads; what is not said is asked of torch.distributed.

    Args:
        shard_data: Whether ranks share the rows.
        rank: Of this process.
        world_size: Processes.
    """
    if not shard_data:
        return Share()
    if rank is not None and world_size is not None:
        return Share(rank=rank, world_size=world_size)
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        logger.warning(
            "shard_data=True, but torch.distributed is not initialized and rank or world_size is not given: "
            "all rows are loaded by this process"
        )
        return Share()
    return Share(
        rank=torch.distributed.get_rank() if rank is None else rank,
        world_size=torch.distributed.get_world_size() if world_size is None else world_size,
    )


def load_meta(path: str, dataset_names: Sequence[str] | None, share: Share, policy: Policy) -> ExamplesWithStats:
    """Load the data sets of a meta file, in its order, and say how long it took.

    Args:
        path: Of the meta file, local or at a URL.
        dataset_names: Which of them, in this order; None: all.
        share: Which rows.
        policy: `raise` where a row makes no example, or `refuse` to leave it out.

    Raises:
        ValueError: A name is not in the file, the file is no meta file, or there is no such rank.
        StopRun: A file cannot be read, or a row makes no example; the message names both.
    """
    started = time.monotonic()
    examples, timings = ExamplesWithStats(), {}
    for spec in _specs(path, dataset_names):
        found, timing = _load(spec, share, policy)
        _tell_missing(spec.name, timing, len(found))
        examples.extend(found)
        timings[spec.name] = timing
    logger.info("\n%s", loading_summary(timings, time.monotonic() - started, len(examples), share.rank))
    examples.stats = {name: sum(timing[name] for timing in timings.values()) for name in STATS}
    return examples


def _specs(path: str, dataset_names: Sequence[str] | None) -> list[SourceSpec]:
    meta = read_meta(local_copy(path, ENDINGS))
    if meta is None:
        raise ValueError(f"{path} is no meta JSON: an object of objects that each name their file_name")
    if dataset_names is None:
        return find_sources([path])
    if isinstance(dataset_names, str) or len(set(dataset_names)) < len(dataset_names):
        raise ValueError(f"dataset_names is {dataset_names!r}, expected a list of names, each once")
    if missing := [name for name in dataset_names if name not in meta]:
        raise ValueError(f"not in {path}: {', '.join(missing)}; it has {', '.join(meta)}")
    return find_sources([f"{path}#{','.join(dataset_names)}"]) if dataset_names else []


def _load(spec: SourceSpec, share: Share, policy: Policy) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    started = time.monotonic()
    found, _, total = rows_of_rank(spec.path, spec.sample_ratio, share.rank, share.world_size)
    raws = list(found)
    read = time.monotonic()
    rows = RowReader(spec=spec, allow_outside_media=True, allow_remote_media=True)
    examples = list(_examples(raws, rows, policy))
    done = time.monotonic()
    if share.world_size is not None and share.world_size > 1:
        _tell_share(spec.name, share, len(raws), total)
    stats = sample_stats(examples)
    timing = {
        "io": read - started,
        "convert": done - read,
        "total": done - started,
        "n_samples": len(examples),
        **stats,
    }
    return examples, timing


def _examples(raws: Sequence[RawRow[RowData]], rows: RowReader, policy: Policy) -> Iterator[dict[str, Any]]:
    refused: list[tuple[int, RefuseSample]] = []
    for raw in raws:
        try:
            yield example_of_row(rows.record(raw.row, raw.data), rows)
        except RefuseSample as refusal:
            if policy == "raise":
                raise StopRun(
                    f"{rows.spec.path}, row {raw.row}: {refusal.reason}",
                    "Correct it, or give failures='refuse' to leave such rows out.",
                ) from refusal
            refused.append((raw.row, refusal))
    if refused:
        row, first = refused[0]
        logger.warning(
            "dataset %r: %d of %d rows are left out; the first is row %d: %s",
            rows.spec.name,
            len(refused),
            len(raws),
            row,
            first,
        )


def _tell_share(name: str, share: Share, own: int, total: int) -> None:
    logger.info("rank %s of %s: %d of the %d rows of dataset %r", share.rank, share.world_size, own, total, name)
    if own == 0:
        logger.warning("dataset %r gives rank %s nothing: %d rows, %s ranks", name, share.rank, total, share.world_size)
    elif total % (share.world_size or 1):
        logger.info(
            "ranks differ by one row of dataset %r: stop all at the shortest, or they wait for each other", name
        )


def _tell_missing(name: str, timing: dict[str, Any], num_examples: int) -> None:
    """One message for each data set whose tokens are guessed."""
    for count, field, guess in (
        (timing.pop("n_missing_text_tokens"), "_text_tokens", "a third of the characters"),
        (timing.pop("n_missing_mm_inputs_meta"), "mm_inputs_meta", "500 tokens a medium"),
    ):
        if count:
            logger.warning(
                "dataset %r: %d of %d examples have no %s that is a count, so that statistics take %s; "
                "`vlmprep estimate --annotate` writes exact counts",
                name,
                count,
                num_examples,
                field,
                guess,
            )
