"""Measure how far documents in packs are from the same documents alone, and write the tables into docs/leaks.md.

    python scripts/measure_leaks.py            prints the tables
    python scripts/measure_leaks.py --write    writes them into docs/leaks.md, between its two marks

Tiny random models of every family (tests/models.py), float32 on a CPU; needs the test dependencies.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.families.processors import FAMILY_NAMES, FamilyName, build_processor  # noqa: E402
from tests.leaks import MEDIA, RECURRENT, Setup, kernels, run, worst_difference  # noqa: E402
from tests.models import FAMILIES, AnyFamily  # noqa: E402
from tests.traps import TRAPS, Trap, spring  # noqa: E402
from tests.varlen import run_varlen, spans_of_flat, spans_of_thd  # noqa: E402
from vlmprep.families.loading import load_family  # noqa: E402
from vlmprep.schema.family import FamilySettings  # noqa: E402

PAGE = ROOT / "docs" / "leaks.md"
MARKS = ("<!-- measured: begin -->", "<!-- measured: end -->")
COLLATES = ("hf", "neat", "documents")
BACKENDS = ("sdpa", "eager")
BOTH_WAYS: tuple[AnyFamily, ...] = ("gemma4_bidirectional",)
"""Families whose images see themselves whole."""
WINDOWS: tuple[AnyFamily, ...] = ("gemma4", "step3p7", "phi4_multimodal")
"""Families whose layers see a window, in their own arithmetic alone."""


def main() -> None:
    """Measure, and print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the tables into docs/leaks.md")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as folder:
        tables = "\n".join(lines(Path(folder)))
    if arguments.write:
        write(tables)
    else:
        print(tables)


def write(tables: str) -> None:
    """Put the tables between the marks of the page."""
    before, rest = PAGE.read_text().split(MARKS[0])
    PAGE.write_text(f"{before}{MARKS[0]}\n{tables}\n{MARKS[1]}{rest.split(MARKS[1])[1]}")


def lines(work: Path) -> Iterator[str]:
    """All tables as Markdown."""
    yield f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}, float32, CPU."
    yield ""
    yield "**Packs, image by image and text by text**: max |dlogit| against each document alone."
    yield ""
    yield "| family | backend | hf | neat | documents |"
    yield "| --- | --- | --- | --- | --- |"
    for family in FAMILIES:
        for backend in BACKENDS:
            values = [measured(family, collate, backend, "images", work) for collate in COLLATES]
            yield f"| {name_of(family)} | {backend} | {' | '.join(values)} |"
    yield ""
    yield "¹ with stand-ins for the CUDA kernels, which see to it that the batch says what kernels need; without kernels"
    yield "transformers raises. Refused: no mask stops a state."
    yield ""
    yield from end_to_end(work)
    yield ""
    yield "**Clips and sounds** (sdpa)."
    yield ""
    yield "| family | media | hf | documents |"
    yield "| --- | --- | --- | --- |"
    for media, families in MEDIA.items():
        for family in families:
            values = [measured(family, collate, "sdpa", media, work) for collate in ("hf", "documents")]
            yield f"| {name_of(family)} | {media} | {' | '.join(values)} |"
    yield ""
    yield "**Fake image**: tokens that it takes in a pack without pictures, with each family's processor at its class's sizes."
    yield ""
    yield "| processor | image, height x width | tokens |"
    yield "| --- | --- | --- |"
    for name in FAMILY_NAMES:
        yield fake_image_of(name, work)
    yield ""
    yield "**Traps**: max |dlogit| of the same packs with one thing changed; without the change they are those above."
    yield ""
    yield f"| family | backend | {' | '.join(trap.name for trap in TRAPS)} |"
    yield "| --- | --- |" + " --- |" * len(TRAPS)
    for family in FAMILIES:
        for backend in BACKENDS:
            values = [sprung(trap, family, backend, work) for trap in TRAPS]
            yield f"| {name_of(family)} | {backend} | {' | '.join(values)} |"


def end_to_end(work: Path) -> Iterator[str]:
    """The table of `flat` and `thd`."""
    yield "**Documents end to end**, the same packs (sdpa): `flat` through transformers, which finds documents by positions; both"
    yield "through attention that is told lengths alone, in the arithmetic of varlen kernels (tests/varlen.py)."
    yield ""
    yield "| family | flat, by positions | flat, by cu_seqlens | thd, by seq_lens |"
    yield "| --- | --- | --- | --- |"
    for family in FAMILIES:
        values = [by_positions(family, work), *(by_lengths(family, collate, work) for collate in ("flat", "thd"))]
        yield f"| {name_of(family)} | {' | '.join(values)} |"
    yield ""
    yield "Not measured: layers with a window or a state need more of the kernel than sequences. Refused: no mask to say that"
    yield "images see themselves whole, or a state would run through padding."


def by_positions(family: AnyFamily, work: Path) -> str:
    """One cell: `flat` as transformers takes it."""
    if family in BOTH_WAYS:
        return "refused"
    setup = Setup(family=family, collate="flat", backend="sdpa")
    recurrent = family in RECURRENT
    batch = setup.batch(fresh(work), setup.split)
    for name in ("cu_seqlens", "max_seqlen"):
        batch.pop(name)  # its vision encoders would take them for their own
    with torch.no_grad(), kernels(installed=recurrent):
        logits, _ = run(setup.model, batch)
    return f"{worst_difference(setup, logits):.0e}{' ¹' if recurrent else ''}"


def by_lengths(family: AnyFamily, collate: str, work: Path) -> str:
    """One cell: sequences by their lengths alone."""
    if family in BOTH_WAYS or (family in RECURRENT and collate == "thd"):
        return "refused"
    if family in (*RECURRENT, *WINDOWS):
        return "not measured"
    setup = Setup(family=family, collate=collate, backend="sdpa")
    batch = setup.batch(fresh(work), setup.split)
    spans = spans_of_flat(batch) if collate == "flat" else spans_of_thd(batch)
    with torch.no_grad():
        return f"{worst_difference(setup, run_varlen(setup.model, batch, spans)):.0e}"


def fake_image_of(name: FamilyName, work: Path) -> str:
    """One row: what a family's fake image costs."""
    folder = fresh(work)
    build_processor(name).save_pretrained(folder)
    family = load_family(FamilySettings(processor=str(folder)))
    height, width = family.fake_image_size
    return f"| {name} | {height} x {width} | {family.fake_image()[0].num_tokens - 1} |"


def sprung(trap: Trap, family: AnyFamily, backend: str, work: Path) -> str:
    """One cell of the last table; empty where there is no such trap."""
    if family not in trap.families or backend not in trap.backends:
        return ""
    return f"{spring(trap, family, backend, fresh(work))[1]:.1f}"


def measured(family: AnyFamily, collate: str, backend: str, media: str, work: Path) -> str:
    """One cell."""
    if family in RECURRENT and collate == "neat":
        return "refused"
    setup = Setup(family=family, collate=collate, backend=backend, media=media)
    packed_states = family in RECURRENT and collate == "hf"
    with torch.no_grad(), kernels(installed=packed_states):
        logits, _ = run(setup.model, setup.batch(fresh(work), setup.split))
    return f"{worst_difference(setup, logits):.0e}{' ¹' if packed_states else ''}"


def name_of(family: str) -> str:
    """As the table calls it."""
    return family.replace("gemma4_bidirectional", "gemma4, images both ways")


def fresh(work: Path) -> Path:
    """A folder that is not there yet."""
    return work / f"{len(list(work.iterdir()))}"


if __name__ == "__main__":
    main()
