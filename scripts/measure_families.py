#!/usr/bin/env python3
"""Measure every family against its own processor and write the table of docs/families.md.

    python scripts/measure_families.py                      all families, docs/families.md rewritten
    python scripts/measure_families.py --only gemma4 --sizes 20 --print

Processors are the families' own classes with a small vocabulary, as the tests build them. Counts: samples of one to three
images of random sizes, thin ones among them, counted from sizes alone and run through the processor in full; equal means the
whole input_ids. Documents: a small corpus of pictures, clips and sounds, packed by `vlmprep pack`, each document cut out of its
pack again, restored as a reader does it, and compared with the processor's output for its row alone: ids, token types and
every media tensor, values, shape and type; what is learned must be the assistant's words and ends of turn. Packed = alone:
the largest difference of logits under `hf` that scripts/measure_leaks.py found, read from docs/leaks.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.every_family.facts import Facts, measure_family  # noqa: E402 - the tests lie beside the scripts
from tests.families.processors import FAMILY_NAMES, build_processor  # noqa: E402
from tests.families.test_kimi_vl import save_with_code  # noqa: E402

NAMES = (*FAMILY_NAMES, "qwen3_5", "kimi_vl")
PAGE = ROOT / "docs" / "families.md"
LEAKS = ROOT / "docs" / "leaks.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--sizes", type=int, default=60, help="samples of random sizes")
    parser.add_argument("--print", action="store_true", help="print the table and leave the page alone")
    args = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="vlmprep-families-") as folder:
        for name in args.only:
            work = Path(folder) / name
            settings = save_processor(name, work / "processor")
            found.append(measure_family(work / "processor", work, num_sizes=args.sizes, **settings))
            print(f"{name}: {found[-1]}", file=sys.stderr)
    table = "\n".join(table_lines(found))
    if args.print:
        print(table)
        return
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}")


def save_processor(name: Any, folder: Path) -> dict[str, Any]:
    """Save a family's processor; returns what else the family needs to be loaded."""
    if name == "kimi_vl":
        folder.mkdir(parents=True)
        save_with_code(folder)
        return {"trust_remote_code": True}
    build_processor("qwen3_vl" if name == "qwen3_5" else name).save_pretrained(folder)
    if name == "qwen3_5":  # the same processor: the model's config tells them apart
        transformers.Qwen3_5Config().save_pretrained(folder)
    return {}


def packed_as_alone(family: str) -> str:
    """What docs/leaks.md measured of a family's packs, the largest difference of logits by backend."""
    found: dict[str, float] = {}
    first_table = LEAKS.read_text().split("**Packs,")[1].split("\n¹ ")[0]
    for line in first_table.splitlines():
        cells = [cell.strip().rstrip(" ¹") for cell in line.strip("| ").split("|")]
        if len(cells) == 5 and cells[0].split(",")[0] == family and cells[1] in ("sdpa", "eager"):
            found[cells[1]] = max(found.get(cells[1], 0.0), float(cells[2]))
    return ", ".join(f"{backend} {value:.0e}" for backend, value in found.items()) or "no model in transformers"


def table_lines(found: Iterable[Facts]) -> Iterator[str]:
    """Markdown."""
    torch_version = torch.__version__.split("+")[0]
    yield f"Measured with transformers {transformers.__version__} and torch {torch_version}, torchvision's image processors."
    yield ""
    yield "| family | media | counts equal | documents equal | positions | packed = alone | fake image | stored in a pack |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for facts in found:
        yield (
            f"| {facts.family} | {', '.join(facts.kinds)} | {counts(facts)} | {documents(facts)} | {positions(facts)} "
            f"| {packed_as_alone(facts.family)} | {facts.fake_tokens} tokens | "
            + "; ".join(f"`{name}` {form}" for name, form in sorted(facts.stored.items()))
            + " |"
        )


def counts(facts: Facts) -> str:
    """`60 of 60, 3 refused by both`."""
    refused = f", {facts.num_refused_by_both} of them refused by both" if facts.num_refused_by_both else ""
    return f"{facts.num_counted_right} of {facts.num_counted}{refused}"


def documents(facts: Facts) -> str:
    """`12: 4 image, 3 text`, and what differs."""
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(facts.documents.items()))
    unequal = "; ".join(f"{name} differs in {number}" for name, number in sorted(facts.unequal.items()))
    return f"{'all' if not unequal else 'not all'} of {sum(facts.documents.values())} ({kinds})" + (
        f": {unequal}" if unequal else ""
    )


def positions(facts: Facts) -> str:
    """1-D or mRoPE."""
    return "mRoPE [3, S]" if facts.position_axes == 3 else "1-D"


if __name__ == "__main__":
    main()
