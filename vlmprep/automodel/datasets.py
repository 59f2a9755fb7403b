"""NeMo Automodel's `datasets.vlm.datasets`: conversations from meta files and public data sets, and wrappers that tokenize them.

    from vlmprep.automodel.datasets import PreTokenizedDatasetWrapper, make_meta_dataset

    examples = make_meta_dataset("meta.json", shard_data=True)
    tokenized = PreTokenizedDatasetWrapper(examples, processor)

docs/automodel.md says where this differs from the reference.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from vlmprep.automodel.failures import Policy, check_policy
from vlmprep.automodel.hub import NamedExamples, load_named
from vlmprep.automodel.meta import load_meta, share_of
from vlmprep.automodel.rank_rows import rows_of_rank
from vlmprep.automodel.sharegpt import example_of_row, row_reader
from vlmprep.automodel.statistics import ExamplesWithStats as _ExamplesWithStats
from vlmprep.automodel.statistics import sample_stats as _collect_sample_stats
from vlmprep.automodel.summary import loading_summary
from vlmprep.automodel.tokenized import PreTokenizedDatasetWrapper, RobustDatasetWrapper
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.sources.blobs import RowData
from vlmprep.sources.records import parse_record
from vlmprep.sources.rows import RawRow

__all__ = [
    "PreTokenizedDatasetWrapper",
    "RobustDatasetWrapper",
    "_ExamplesWithStats",
    "_collect_sample_stats",
    "_convert_sharegpt_to_conversation",
    "_load_json_or_jsonl",
    "_load_jsonl_for_rank",
    "_log_dataset_loading_summary",
    "make_cord_v2_dataset",
    "make_cv17_dataset",
    "make_medpix_dataset",
    "make_meta_dataset",
    "make_rdr_dataset",
    "make_unimm_chat_dataset",
]

logger = logging.getLogger(__name__)


def make_rdr_dataset(path_or_dataset: Any = "quintend/rdr-items", split: str = "train", **kwargs: Any) -> NamedExamples:
    """RDR items: an image, and what it shows.

    Args:
        path_or_dataset: Its name on the hub, a folder that holds a copy, or its rows.
        split: Which of its splits.
        kwargs: Not read, as in the reference.
    """
    return load_named("rdr", path_or_dataset, split)


def make_cord_v2_dataset(
    path_or_dataset: Any = "naver-clova-ix/cord-v2", split: str = "train", **kwargs: Any
) -> NamedExamples:
    """CORD-V2: a receipt, and what stands on it as a sequence of tags (`json2token`, names in falling order)."""
    return load_named("cord_v2", path_or_dataset, split)


def make_medpix_dataset(
    path_or_dataset: Any = "medpix-dataset/medpix-dataset", split: str = "train", **kwargs: Any
) -> NamedExamples:
    """MedPix: a medical image, a question, an answer."""
    return load_named("medpix", path_or_dataset, split)


def make_cv17_dataset(
    path_or_dataset: Any = "ysdede/commonvoice_17_tr_fixed", split: str = "train", **kwargs: Any
) -> NamedExamples:
    """CommonVoice 17 in Turkish: a sound beside the conversation (`audio`: samples and rate), and what is said."""
    return load_named("cv17", path_or_dataset, split)


def make_unimm_chat_dataset(
    path_or_dataset: Any = "Yirany/UniMM-Chat", split: str = "train", **kwargs: Any
) -> NamedExamples:
    """UniMM-Chat: several turns about one image."""
    return load_named("unimm_chat", path_or_dataset, split)


def _convert_sharegpt_to_conversation(
    example: Mapping[str, Any],
    columns: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
    media_dir: str | None = None,
) -> dict[str, Any]:
    """Convert one row in ShareGPT's form, or in any other that vlmprep's sources read.

    Args:
        example: The row.
        columns: messages, images, videos -> its own column names.
        tags: role_tag, content_tag, user_tag, assistant_tag -> its own words.
        media_dir: Folder that relative paths start at; None leaves them as they are.

    Returns:
        `conversation`, and `_text_tokens` and `mm_inputs_meta` where the row has them.

    Raises:
        RefuseSample: It makes no conversation; tags and media must be as many.
    """
    return example_of_row(example, row_reader(columns, tags, media_dir))


def _load_json_or_jsonl(file_path: str) -> list[dict[str, Any]]:
    """All rows of a JSON array or of lines of JSON, compressed or not.

    Raises:
        StopRun: The file cannot be read, or a row is no JSON object; the message names both.
    """
    rows, _, _ = rows_of_rank(str(file_path))
    return [_parsed(str(file_path), raw) for raw in rows]


def _load_jsonl_for_rank(
    file_path: str, sample_ratio: float, rank: int | None, world_size: int | None
) -> tuple[list[dict[str, Any]], int]:
    """One rank's rows; the lines of others are not parsed.

    Args:
        file_path: Of the file.
        sample_ratio: 1: all rows in order; below, `random.Random(42).sample` of all rows; above, all several times.
        rank: Which of the ranks; each takes every `world_size`-th of these rows.
        world_size: How many there are; None: all rows.

    Returns:
        (this rank's rows, how many rows the file has).

    Raises:
        ValueError: There is no such rank, or no such ratio.
        StopRun: The file cannot be read, or one of these rows is no JSON object.
    """
    rows, _, total = rows_of_rank(str(file_path), sample_ratio, rank, world_size)
    return [_parsed(str(file_path), raw) for raw in rows], total


def _parsed(path: str, raw: RawRow[RowData]) -> dict[str, Any]:
    if not isinstance(raw.data, bytes):
        raise StopRun(f"{path} holds no JSON", "Name it in a meta JSON, and load that.")
    try:
        return parse_record(raw.row, raw.data)
    except RefuseSample as refusal:
        raise StopRun(f"{path}: {refusal.reason}", "Correct the row, or leave it out.") from refusal


def _log_dataset_loading_summary(
    timings: Mapping[str, Mapping[str, Any]], wall_time: float, total_samples: int, rank: int | None = None
) -> None:
    """Log a table of how long each data set took to load and what it holds; nothing where there are none.

    Args:
        timings: By data set: io, convert, total (seconds), n_samples, and where counted n_images, n_videos, n_text_only.
        wall_time: Seconds that all took.
        total_samples: Of all.
        rank: Whose table it is.
    """
    if timings:
        logger.info("\n%s", loading_summary(timings, wall_time, total_samples, rank))


def make_meta_dataset(
    path_or_dataset: Any,
    dataset_names: Sequence[str] | None = None,
    split: str = "train",
    shard_data: bool = False,
    rank: int | None = None,
    world_size: int | None = None,
    *,
    failures: Policy = "raise",
    **kwargs: Any,
) -> _ExamplesWithStats:
    """Load the data sets that a meta JSON names, as one list of examples with `stats`.

    Args:
        path_or_dataset: Path of the meta JSON; see docs for what an entry may say.
        dataset_names: Which data sets, in this order; None: all, in the file's.
        split: Not read, as in the reference.
        shard_data: Load every `world_size`-th row of each data set alone; do not shard them again with a sampler.
        rank: Of this process; None: as torch.distributed says.
        world_size: Processes; None: as torch.distributed says.
        failures: `raise` where a row makes no example, or `refuse` to leave it out, counted and told.
        kwargs: Not read, as in the reference.

    Raises:
        ValueError: A name is not in the file, it is no meta file, or there is no such rank.
        StopRun: A file cannot be read, or a row makes no example; the message names both.
    """
    check_policy(failures, "raise", "refuse")
    return load_meta(str(path_or_dataset), dataset_names, share_of(shard_data, rank, world_size), failures)
