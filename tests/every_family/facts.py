"""What is measured of a family: how many of its counts, sequences and tensors are its processor's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import vlmprep
from tests.every_family.alone import images_of_one, run_alone
from tests.every_family.corpus import write_corpus
from tests.every_family.packed import Document, documents_of, rows_of
from tests.runs import run
from vlmprep.families.loading import load_family
from vlmprep.pipeline.settings import PlanSettings
from vlmprep.schema.conversation import Media, Message, Sample, Text
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.media import ImageSize
from vlmprep.schema.packset import IGNORE_INDEX

__all__ = ["Facts", "differences", "measure_family"]

TEXT = {"input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"}
"""What a processor returns of the text; all else belongs to the media."""
SIDES = (8, 900)
"""Pixels of random images; a third of them is thin."""


@dataclass(slots=True, kw_only=True)
class Facts:
    """One family's line of the table."""

    family: str
    processor: str
    kinds: tuple[str, ...]
    position_axes: int
    num_counted: int = 0
    """Samples of random sizes that were counted and run through the processor."""
    num_counted_right: int = 0
    num_refused_by_both: int = 0
    """Of the sizes: refused by vlmprep, and not taken by the processor either."""
    documents: Counter[str] = field(default_factory=Counter)
    """Documents by the kinds of their media."""
    unequal: Counter[str] = field(default_factory=Counter)
    """Documents in which something differs, by what."""
    stored: dict[str, str] = field(default_factory=dict)
    """Form of each media field in a pack."""
    fake_tokens: int = 0


def measure_family(processor_folder: Path, work: Path, *, num_sizes: int, seed: int = 0, **settings: Any) -> Facts:
    """Count random sizes, pack a small corpus, and hold both against the processor.

    Args:
        processor_folder: A saved processor.
        work: An empty folder.
        num_sizes: Samples of random sizes.
        seed: Of the sizes.
        settings: Further settings of the family.
    """
    family: Any = load_family(FamilySettings(processor=str(processor_folder), **settings))
    facts = Facts(
        family=family.name,
        processor=type(family.processor).__name__,
        kinds=tuple(sorted(family.kinds)),
        position_axes=family.position_axes,
        fake_tokens=family.fake_image()[0].num_tokens,
    )
    count_sizes(facts, family, num_sizes, seed)
    source = write_corpus(work / "corpus", family.kinds, sounds_beside_images=family.name == "phi4_multimodal")
    planning = PlanSettings(pack_size=16_384)
    run(source, processor_folder, work / "set", planning=planning, max_refused=0.0, **settings)
    packs = vlmprep.open(work / "set")
    rows = rows_of(source)
    for document in documents_of(packs):
        if document.row is not None:
            truth = run_alone(family.processor, rows[document.row], work / "corpus")
            facts.documents["+".join(sorted(document.media_kinds)) or "text"] += 1
            facts.unequal.update(differences(document, truth))
            facts.unequal["labels"] += learned_answers(document, family.processor) != answers_of(rows[document.row])
    facts.unequal = +facts.unequal
    facts.stored = stored_forms(packs)
    return facts


def count_sizes(facts: Facts, family: Any, num_sizes: int, seed: int) -> None:
    """Samples of one to three black images of random sizes, from sizes alone and through the processor."""
    for sizes in random_sizes(num_sizes, seed):
        facts.num_counted += 1
        parts: tuple[Any, ...] = (*(Media(kind="image", content=b"") for _ in sizes), Text(text="What is this?"))
        turns = (Message(role="user", parts=parts), Message(role="assistant", parts=(Text(text="Black."),)))
        sample = Sample(source="s", row=0, sample_id="0", messages=turns)
        try:
            counts = family.measure([ImageSize(height=h, width=w, num_bytes=0) for h, w in sizes])
            counted: list[int] | None = family.encode(sample, counts).expand().input_ids.tolist()
        except vlmprep.schema.errors.RefuseSample:
            counted = None
        truth = ids_of_black_images(family.processor, sizes)
        facts.num_counted_right += counted == truth
        facts.num_refused_by_both += counted is None and truth is None


def random_sizes(number: int, seed: int) -> Iterator[list[tuple[int, int]]]:
    """(height, width) of the images of a sample."""
    rng = np.random.default_rng(seed)
    for at in range(number):
        sizes = rng.integers(*SIDES, (rng.integers(1, 4), 2))
        if at % 3 == 0:
            sizes[:, 0] = np.maximum(2, sizes[:, 1] // rng.integers(8, 60))
        yield [(int(height), int(width)) for height, width in sizes]


def ids_of_black_images(processor: Any, sizes: list[tuple[int, int]]) -> list[int] | None:
    """The processor's sequence; None where it does not take an image."""
    conversation = [
        {"role": "user", "content": [*({"type": "image"} for _ in sizes), {"type": "text", "text": "What is this?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Black."}]},
    ]
    template = processor.chat_template or processor.tokenizer.chat_template  # where a reloaded Phi-4 has it
    text = processor.apply_chat_template(conversation, chat_template=template, tokenize=False)
    images = [Image.new("RGB", (width, height)) for height, width in sizes]
    try:
        made = processor(text=[text], images=images_of_one(processor, images), return_tensors="pt")
    except (ValueError, RuntimeError, ZeroDivisionError):
        return None
    ids: list[int] = made["input_ids"][0].tolist()
    return ids


def differences(document: Document, truth: dict[str, Any]) -> list[str]:
    """What of a document is not what the processor returns for its row alone, by field."""
    sequences: list[str] = [name for name in ("input_ids", "mm_token_type_ids") if name in truth]
    found: list[str] = [
        n for n in sequences if document.sequence[n].tolist() != torch.as_tensor(truth[n])[0, :-1].tolist()
    ]
    wanted = {name: value for name, value in truth.items() if name not in TEXT and value is not None and len(value)}
    for name in sorted(wanted.keys() | document.media.keys()):
        if name not in wanted or name not in document.media or not same(document.media[name], wanted[name]):
            found += [name]
    return found


def learned_answers(document: Document, processor: Any) -> list[str]:
    """What is learned, turn by turn, as text without its end of turn; the end must be a control token."""
    labels = document.sequence["labels"].numpy()
    runs = np.split(labels, np.flatnonzero(np.diff(labels != IGNORE_INDEX)) + 1)
    *texts, ends = zip(*((run[:-1], run[-1]) for run in runs if run[0] != IGNORE_INDEX), strict=True)
    assert all(processor.tokenizer.decode([end]) in processor.tokenizer.all_special_tokens for end in ends)
    return [processor.tokenizer.decode(text).strip() for text in texts[0]]


def answers_of(row: dict[str, Any]) -> list[str]:
    """What the assistant says in a row, without white space around it, which may share a token with the turn's head."""
    return [message["content"].strip() for message in row["messages"] if message["role"] == "assistant"]


def same(found: torch.Tensor, value: Any) -> bool:
    """Bit for bit, shape and type included."""
    expected = torch.as_tensor(value)
    return found.dtype == expected.dtype and found.shape == expected.shape and torch.equal(found, expected)


def stored_forms(packs: Any) -> dict[str, str]:
    """`uint8 [N, 3, 14, 14], fused` by media field."""
    forms: dict[str, str] = {}
    sequence = {"input_ids", "labels", "attention_mask", "position_ids", "mm_token_type_ids"}
    for pack_id in range(len(packs)):
        for name, value in packs[pack_id].items():
            if name not in sequence and name not in forms:
                shape = ", ".join(["N", *map(str, value.shape[1:])])
                rule = packs.manifest.pixels.get(name)
                forms[name] = f"{str(value.dtype).removeprefix('torch.')} [{shape}]" + (
                    f", {rule.arithmetic}" if rule else ""
                )
    return forms
