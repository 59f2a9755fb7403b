#!/usr/bin/env python3
"""What finding, reading and converting rows takes of counting's time, for every kind of file; and the memory of a large array.

    python scripts/bench_sources.py                                       2,000 drawn samples, the demo's processor
    python scripts/bench_sources.py --sources chats.jsonl --processor P   your own
    python scripts/bench_sources.py --memory 10000                        peak memory over a JSON array of 10 GB, in $TMPDIR

The same rows, of those that can be used the ones without clips, are written as every kind of file. Seconds are CPU time. `copy`
is what unpacking or decoding to a plain copy takes, once for a file; `find` is the pass that finds rows; `read` reads and
converts them, headers of media not included. The share is that of find and read in the whole of `vlmprep estimate` over the same
file, with the copy there.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import resource
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from rich.console import Console
from rich.table import Table

from vlmprep.demo.corpus import make_corpus
from vlmprep.demo.processor import save_processor
from vlmprep.engines.local import LocalEngine
from vlmprep.pipeline.estimate import estimate, row_reader
from vlmprep.pipeline.settings import CountSettings
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.ledger import OK
from vlmprep.schema.progress import Silent
from vlmprep.sources.conversation import RowReader
from vlmprep.sources.row_files import open_rows
from vlmprep.sources.spec import find_sources

ROUNDS = 5
LARGE_ROW = {
    "id": "row",
    "messages": [{"role": "user", "content": 'Q "[{,' * 100}, {"role": "assistant", "content": "x" * 2_000}],
    "list": list(range(50)),
}


def seconds_of(work: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    before = time.process_time()
    work()
    return time.process_time() - before


def rows_of(path: Path, settings: CountSettings, out: Path) -> list[dict[str, Any]]:
    """The rows of one spelling that can be used: ids, texts and images."""
    ledger = estimate([str(path)], settings, out, LocalEngine(0), Silent())
    table = pa.concat_tables(ledger.chunks(["row", "status", "num_videos"]))
    usable = {row["row"] for row in table.to_pylist() if row["status"] == OK and not row["num_videos"]}
    lines = path.read_bytes().split(b"\n")
    rows = [json.loads(lines[at]) for at in sorted(usable)]
    return [
        {"id": str(row["id"]), "messages": row["messages"], "images": row.get("images") or []}
        for row in rows
        if all(isinstance(message["content"], str) for message in row["messages"])
    ]


def copy_images(rows: list[dict[str, Any]], source: Path, folder: Path) -> None:
    """Bring the images of some rows below another folder."""
    for name in {name for row in rows for name in row["images"]}:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)


def with_bytes(rows: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Rows with their images inside."""
    return [{**row, "images": [{"bytes": (folder / name).read_bytes()} for name in row["images"]]} for row in rows]


def write_all(rows: list[dict[str, Any]], folder: Path) -> list[Path]:
    """The same rows as every kind of file."""
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    (folder / "lines.jsonl").write_bytes(lines)
    (folder / "lines-gz.jsonl.gz").write_bytes(gzip.compress(lines))
    (folder / "lines-zst.jsonl.zst").write_bytes(zstandard.compress(lines))
    pq.write_table(pa.Table.from_pylist(rows), folder / "paths.parquet")
    table = pa.Table.from_pylist(with_bytes(rows, folder))
    pq.write_table(table, folder / "bytes.parquet", row_group_size=100)
    with pa.OSFile(str(folder / "bytes-plain.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1_000)
    with tarfile.open(folder / "members.tar", "w") as tar:
        for number, row in enumerate(with_bytes(rows, folder)):
            members = {"json": json.dumps({**row, "images": None}).encode()}
            members |= {f"{at}.jpg": image["bytes"] for at, image in enumerate(row["images"])}
            for name, data in members.items():
                info = tarfile.TarInfo(f"{number:06d}.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    names = ("lines.jsonl", "lines-gz.jsonl.gz", "lines-zst.jsonl.zst", "paths.parquet", "bytes.parquet")
    return [folder / name for name in (*names, "bytes-plain.arrow", "members.tar")]


def measure(path: Path, settings: CountSettings, out: Path) -> tuple[float, ...]:
    """Seconds of the copy; the least of finding, of reading and converting, of the whole estimate; and the number of rows."""
    (spec,) = find_sources([str(path)])
    reader = row_reader(spec, settings)

    def convert() -> None:
        for chunk in chunks:
            for row in file.rows(chunk):
                try:
                    reader.sample(row.row, row.data)
                except RefuseSample:
                    refused.append(row.row)

    refused: list[int] = []
    copy = seconds_of(lambda: open_rows(spec.path))
    file = open_rows(spec.path)
    chunks = list(file.chunks())
    rounds = [
        (
            seconds_of(lambda: list(open_rows(spec.path).chunks())),
            seconds_of(convert),
            seconds_of(partial(estimate, [str(path)], settings, out / str(at), LocalEngine(0), Silent())),
        )
        for at in range(ROUNDS)
    ]
    if refused:
        raise SystemExit(f"{path.name}: {len(refused)} rows are refused, for example {refused[0]}")
    return copy, *map(min, zip(*rounds, strict=True)), sum(chunk.num_rows for chunk in chunks)


def table_of_kinds(source: Path | None, processor: str | None, num_samples: int) -> Table:
    """Every kind of file, one a line."""
    columns = ("MB", "rows", "copy, s", "find, us a row", "read, us a row", "estimate, us a row", "share")
    table = Table("file", *columns)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["VLMPREP_CACHE"] = str(folder / "cache")
        if source is None:
            make_corpus(folder / "drawn", num_samples=num_samples, damaged=False)
            source = folder / "drawn" / "sharegpt.jsonl"
        if processor is None:
            save_processor(folder / "processor", "qwen2_5_vl")
            processor = str(folder / "processor")
        settings = CountSettings(family=FamilySettings(processor=processor))
        rows = rows_of(source, settings, folder / "usable")
        (folder / "files").mkdir()
        copy_images(rows, source.parent, folder / "files")
        paths = write_all(rows, folder / "files")
        for number, path in enumerate(paths):
            copy, found, read, whole, num_rows = measure(path, settings, folder / f"{number}")
            table.add_row(
                path.name,
                f"{path.stat().st_size / 1e6:.1f}",
                str(num_rows),
                f"{copy:.2f}",
                *(f"{each / num_rows * 1e6:.0f}" for each in (found, read, whole)),
                f"{(found + read) / whole:.1%}",
            )
    return table


def table_of_memory(megabytes: int) -> Table:
    """Peak memory over a large array."""
    table = Table("array MB", "rows", "CPU s to find", "CPU s to read and convert", "peak memory above the start, MB")
    with tempfile.TemporaryDirectory() as name:
        path, row = Path(name) / "a.json", json.dumps(LARGE_ROW).encode()
        num_rows = megabytes * 1_000_000 // (len(row) + 2)
        with path.open("wb") as file:
            file.write(b"[" + row)
            for _ in range(num_rows - 1):
                file.write(b",\n" + row)
            file.write(b"]")
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        (spec,) = find_sources([str(path)])
        rows, reader = open_rows(spec.path), RowReader(spec=spec)
        chunks = list(rows.chunks())
        found = time.process_time() - began
        samples = (reader.sample(row.row, row.data) for chunk in chunks for row in rows.rows(chunk))
        count = sum(1 for sample in samples if len(sample.messages) == 2)
        read = time.process_time() - began - found
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        table.add_row(
            f"{path.stat().st_size / 1e6:.0f}", str(count), f"{found:.0f}", f"{read:.0f}", f"{peak / 1024:.0f}"
        )
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=Path, metavar="FILE", help="a .jsonl file; default: a drawn corpus")
    parser.add_argument("--processor", help="folder or hub name; default: the demo's")
    parser.add_argument("--samples", type=int, default=2_000, help="of the drawn corpus")
    parser.add_argument("--memory", type=int, metavar="MB", help="measure the memory that an array of this size takes")
    options = parser.parse_args()
    if options.memory:
        table = table_of_memory(options.memory)
    else:
        table = table_of_kinds(options.sources, options.processor, options.samples)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
