"""Documents of examples, by their number: the very code that writes packs, on samples that lie in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlmprep.automodel.samples import sample_of_example
from vlmprep.families.loading import family_of
from vlmprep.packing.document import Document, build_document, build_fake_document
from vlmprep.packing.pack import assemble_pack
from vlmprep.runtime.pixels import restore_all
from vlmprep.schema.conversation import Sample
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.fake_image import FAKE_IMAGE, has_pictures, with_fake_image
from vlmprep.schema.family import Family, FamilySettings
from vlmprep.schema.media import ImageSize, MediaSize
from vlmprep.schema.packset import IGNORE_INDEX, SEQUENCE_FIELDS
from vlmprep.sources.media import MediaReader

__all__ = ["FAMILY_SETTINGS", "ExampleDocuments", "Examples", "FakeChoice", "config_of"]

FakeChoice: TypeAlias = Literal["sample", "pack", "none"]
FAMILY_SETTINGS = FamilySettings(processor="")
"""Of a processor that is loaded already."""


class Examples(Protocol):
    """A map-style data set of examples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class ExampleDocuments:
    """Makes documents of examples.

    Args:
        dataset: Examples by number.
        processor: The model's.
        fake_image: Whether samples without pictures get a fake image, or packs (which is not for this class to do).
        model_config: The model's config; None: the one beside the processor, else the family's defaults.
        max_length: Tokens that an example may have, before the shift.
    """

    def __init__(
        self,
        dataset: Examples,
        processor: Any,
        fake_image: FakeChoice,
        model_config: Any = None,
        max_length: int | None = None,
    ) -> None:
        self.dataset, self.processor, self.fake_image = dataset, processor, fake_image
        self.max_length = max_length
        self._model_config = model_config
        self._family: Family | None = None
        self._media = MediaReader()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_family": None}

    @property
    def family(self) -> Family:
        """Of the processor; each process makes its own."""
        if self._family is None:
            config = self._model_config if self._model_config is not None else config_of(self.processor)
            self._family = family_of(self.processor, config, FAMILY_SETTINGS)
        return self._family

    @property
    def media(self) -> MediaReader:
        """Reads headers."""
        return self._media

    def example(self, row: int) -> Any:
        """Read an example.

        Raises:
            RefuseSample: The data set does not give it.
        """
        try:
            return self.dataset[row]
        except Exception as error:  # a data set raises what it likes
            raise RefuseSample("unreadable-example", f"{type(error).__name__}: {error}") from error

    def sample(self, row: int) -> Sample:
        """Read and convert an example.

        Raises:
            RefuseSample: It makes no conversation.
        """
        return sample_of_example(self.example(row), row)

    def document(self, row: int, num_tokens: int | None = None) -> Document:
        """Make a document.

        Args:
            row: Number of the example.
            num_tokens: What was counted, before the shift, with the fake image where it gets one; None counts now.

        Raises:
            RefuseSample: The example cannot be used, or is not what was counted.
        """
        sample = self.sample(row)
        if num_tokens is None:
            num_tokens = len(self._tokens(sample)[0])
        self.check_length(num_tokens)
        return self._document(sample, num_tokens)

    def check_length(self, num_tokens: int) -> None:
        """Raises RefuseSample for an example that is longer than it may be."""
        if self.max_length is not None and num_tokens > self.max_length:
            raise RefuseSample("overlong", f"{num_tokens} tokens, max_length is {self.max_length}")

    def fake_document(self) -> Document:
        """The fake image as a document of its own."""
        return build_fake_document(self.family)

    def tokenized(self, row: int) -> dict[str, Tensor]:
        """An example as its processor gives it, with labels; before the shift.

        Args:
            row: Number of the example.

        Returns:
            `input_ids`, `attention_mask` (0 on a fake image), `labels`, `mm_token_type_ids` [S] int64, and the media fields.

        Raises:
            RefuseSample: The example cannot be used, or is longer.
        """
        sample = self.sample(row)
        ids, is_label, kinds = self._tokens(sample)
        self.check_length(len(ids))
        document = self._document(sample, len(ids))
        sequence = {
            "input_ids": ids,
            "attention_mask": np.append(~document.hidden, True),
            "labels": np.where(is_label, ids, IGNORE_INDEX),
            "mm_token_type_ids": kinds,
        }
        made = {name: torch.from_numpy(values.astype(np.int64)) for name, values in sequence.items()}
        return {**made, **self.restored_media([document])}

    def restored_media(self, documents: Sequence[Document]) -> dict[str, Any]:
        """The media fields of some documents as the processor returns them for all of them."""
        fields = assemble_pack(documents).fields
        stored: dict[str, Any] = {
            name: torch.from_numpy(values) for name, values in fields.items() if name not in SEQUENCE_FIELDS
        }
        return restore_all(stored, self.family.pixel_rules())

    def gets_fake(self, sample: Sample) -> bool:
        """Whether a sample gets a fake image into its conversation."""
        return self.fake_image == "sample" and not has_pictures(sample)

    def _tokens(self, sample: Sample) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.uint8]]:
        """Ids, labels and kinds of a sample's tokens, with the fake image where it gets one."""
        sample = with_fake_image(sample) if self.gets_fake(sample) else sample
        for medium in sample.media():
            if medium.kind not in self.family.kinds:
                raise RefuseSample("unsupported-media", f"{self.family.name} samples with {medium.kind} are not packed")
        counts = self.family.measure([self._size(medium) for medium in sample.media()])
        tokens = self.family.encode(sample, counts).expand()
        return tokens.input_ids, tokens.is_label, tokens.mm_token_type_ids

    def _size(self, medium: Any) -> MediaSize:
        if medium is FAKE_IMAGE:
            height, width = self.family.fake_image_size
            return ImageSize(height=height, width=width, num_bytes=0)
        return self._media.size(medium, self.family.loader, with_sound=self.family.hears_clips)

    def _document(self, sample: Sample, num_tokens: int) -> Document:
        return build_document(
            sample,
            family=self.family,
            media=self._media,
            num_tokens=num_tokens,
            white=self.family.fake_image()[2] if self.gets_fake(sample) else None,
        )


def config_of(processor: Any) -> Any:
    """The model's config from where the processor was loaded, without asking the network; None where there is none."""
    from transformers import AutoConfig

    where = getattr(getattr(processor, "tokenizer", None), "name_or_path", "")
    if not where:
        return None
    try:
        return AutoConfig.from_pretrained(where, local_files_only=True)
    except (OSError, ValueError):
        return None
