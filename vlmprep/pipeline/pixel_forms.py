"""What a pack holds of pixels: levels, the model's numbers, or the original files (`--pixels`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from vlmprep.packing.document import Document, Medium
from vlmprep.pipeline.encoded import EncodedForm
from vlmprep.runtime.pixels import computed, rule_behind
from vlmprep.schema.conversation import Sample
from vlmprep.schema.family import Family
from vlmprep.schema.pixels import PixelForm, PixelRule
from vlmprep.shardformat.members import PIXEL_FIELDS
from vlmprep.sources.media import MediaReader

__all__ = ["FormWriter", "bytes_a_level", "form_writer", "rules_of_form"]

VALUE_BYTES = {"float32": 4, "bfloat16": 2}


class FormWriter(Protocol):
    """Brings a document's pixels into the form that packs hold."""

    def sample(self, sample: Sample) -> Sample:
        """The sample, as a document is to be made of it."""
        ...

    def document(self, document: Document) -> Document:
        """The document, as a pack is to hold it.

        Raises:
            RefuseSample: It has no such form.
        """
        ...


def form_writer(form: PixelForm, family: Family, media: MediaReader) -> FormWriter:
    """What brings documents of a family into a form.

    Args:
        form: Of the pack set.
        family: Made the documents.
        media: Reads headers, as it did when they were counted.
    """
    if form == "encoded":
        return EncodedForm(family, media)
    return Levels() if form == "uint8" else Values(form, family.pixel_rules())


def rules_of_form(rules: Mapping[str, PixelRule], form: PixelForm) -> dict[str, PixelRule]:
    """The manifest's rules: what is left to do where packs hold numbers."""
    if form not in VALUE_BYTES:
        return dict(rules)
    return {name: rule_behind(rule) if rule.arithmetic != "stored" else rule for name, rule in rules.items()}


def bytes_a_level(rules: Mapping[str, PixelRule], form: PixelForm) -> int:
    """Bytes that a pack holds for a level of 8 bits: of the field that takes most."""
    repeats = [rule.repeat for rule in rules.values() if rule.arithmetic != "stored"]
    return VALUE_BYTES[form] * max(repeats, default=1) if form in VALUE_BYTES else 1


class Levels:
    """Documents as families make them."""

    def sample(self, sample: Sample) -> Sample:
        """As it is."""
        return sample

    def document(self, document: Document) -> Document:
        """As it is."""
        return document


class Values(Levels):
    """The model's numbers instead of levels.

    Args:
        form: float32, or bfloat16 as its bits.
        rules: The family's.
    """

    def __init__(self, form: PixelForm, rules: Mapping[str, PixelRule]) -> None:
        self._dtype = torch.bfloat16 if form == "bfloat16" else torch.float32
        self._rules = rules

    def document(self, document: Document) -> Document:
        """Every medium's pixels computed."""
        return replace(document, media=tuple(map(self._medium, document.media)))

    def _medium(self, medium: Medium) -> Medium:
        beside = {name: torch.from_numpy(array) for name, array in medium.tensors.items() if array.dtype != np.uint16}
        tensors = {name: self._values(name, array, beside) for name, array in medium.tensors.items()}
        return replace(medium, tensors=tensors)

    def _values(self, name: str, stored: NDArray[Any], beside: Mapping[str, torch.Tensor]) -> NDArray[Any]:
        rule = self._rules.get(name)
        if rule is not None and rule.arithmetic != "stored":
            values = computed(torch.from_numpy(stored), rule, self._dtype, beside)
        elif name in PIXEL_FIELDS and stored.dtype == np.float32:  # pixels that are no levels in any form
            values = torch.from_numpy(stored).to(self._dtype)
        else:
            return stored
        as_bits = values.view(torch.uint16) if values.dtype == torch.bfloat16 else values
        bits: NDArray[Any] = as_bits.numpy()
        return bits
