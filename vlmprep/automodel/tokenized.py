"""Data sets that tokenize a sample when it is asked for, and data sets that put another in the place of one that fails."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from vlmprep.automodel.conversations import Conversation, items_of, kind_of, medium_in
from vlmprep.automodel.documents import ExampleDocuments, Examples, FakeChoice
from vlmprep.automodel.examples import ensure_rgb
from vlmprep.automodel.failures import Failures, Policy, check_policy
from vlmprep.automodel.fake_image import _conversation_has_media as has_pictures
from vlmprep.automodel.fake_image import inject_fake_image_into_conversation
from vlmprep.automodel.media import image_of
from vlmprep.automodel.retries import RobustCollate
from vlmprep.schema.errors import RefuseSample

__all__ = ["PreTokenizedDatasetWrapper", "RobustDatasetWrapper"]

logger = logging.getLogger(__name__)


class PreTokenizedDatasetWrapper(Dataset[dict[str, Tensor]]):
    """Examples, tokenized when they are asked for, so that the collate function only pads and stacks.

    Each is what the model's processor gives, bit for bit, with labels: `input_ids`, `attention_mask`, `labels`,
    `mm_token_type_ids` [S] int64, not shifted, and the media fields.

    Args:
        dataset: Examples by number: `{"conversation": [...]}`.
        processor: The model's.
        max_length: Tokens that an example may have, before the shift; a longer one fails, in packs too.
        max_retries: How many others are tried in place of one that fails, with `failures="substitute"`.
        failures: `raise` an example's error (default); `substitute` another at random, as the reference does. `refuse` raises
            here too, and packs of these examples go without those that fail.
        fake_image: Every example without pictures gets a fake image into its first user turn (`sample`, as in the
            reference); or packs of them get one where they have none (`pack`); or nobody does (`none`).
        model_config: The model's config; default: the one beside the processor, else the family's defaults.
    """

    def __init__(
        self,
        dataset: Examples,
        processor: Any,
        max_length: int | None = None,
        max_retries: int = 10,
        *,
        failures: Policy = "raise",
        fake_image: FakeChoice = "sample",
        model_config: Any = None,
    ) -> None:
        check_policy(failures)
        if fake_image not in ("sample", "pack", "none"):
            raise ValueError(f"fake_image must be sample, pack or none, got {fake_image!r}")
        if max_retries < 1:
            raise ValueError(f"max_retries must be at least 1, got {max_retries}")
        self.dataset, self.processor = dataset, processor
        self.max_length, self.max_retries = max_length, max_retries
        self.policy: Policy = failures
        self.failures = Failures(len(dataset))
        """Which examples failed."""
        self.documents = ExampleDocuments(dataset, processor, fake_image, model_config, max_length)
        """What packs are made with."""
        self.preload_media = False
        """Read by the reference's loaders; media are loaded here in any case."""

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, idx: int) -> dict[str, Tensor]:
        """Tokenize one example.

        Raises:
            IndexError: There is no such example.
            RefuseSample: It fails, and is not substituted.
            RuntimeError: So did every other that was drawn.
        """
        check_number(idx, len(self))
        wanted = idx
        for _ in range(self.max_retries):
            try:
                return self.documents.tokenized(idx)
            except RefuseSample as refusal:
                if self.policy != "substitute":
                    raise RefuseSample(refusal.code, f"sample {idx}: {refusal.reason}") from refusal
                last = refusal
                other = random.randrange(len(self))
                self.failures.record(idx, refusal, f"sample {other} takes its place")
                idx = other
        raise RuntimeError(
            f"sample {wanted} and its substitutes failed {self.max_retries} times; last error: {last}"
        ) from last

    def robust_collate(self, collate_fn: Callable[[Any], Any]) -> RobustCollate:
        """Wrap a collate function so that a batch that fails is replaced by another, and its error told."""
        return RobustCollate(self, collate_fn, self.max_retries)


class RobustDatasetWrapper(Dataset[Any]):
    """Another sample, drawn at random, in the place of one that fails; counted and told in `failures`.

    For those who must: the data set is no longer what it was, and `vlmprep estimate` says before training what fails.

    Args:
        dataset: Samples by number.
        max_retries: How many are tried before giving up.
    """

    def __init__(self, dataset: Examples, max_retries: int = 10) -> None:
        if max_retries < 1:
            raise ValueError(f"max_retries must be at least 1, got {max_retries}")
        self.dataset, self.max_retries = dataset, max_retries
        self.failures = Failures(len(dataset))
        """Which samples failed."""
        self.preload_media = False
        """Decode images here rather than in the collate function, and give examples without pictures a fake image."""
        self.processor: Any = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, idx: int) -> Any:
        """A sample, or another in its place.

        Raises:
            IndexError: There is no such sample.
            RuntimeError: All that were tried failed; the last one's error is the cause.
        """
        check_number(idx, len(self))
        for _ in range(self.max_retries):
            try:
                example = self.dataset[idx]
                return preloaded(example) if self.preload_media else example
            except Exception as error:  # noqa: BLE001 - whatever broken samples raise; it is recorded
                last, other = error, random.randrange(len(self))
                self.failures.record(idx, error, f"sample {other} takes its place")
                idx = other
        raise RuntimeError(f"{self.max_retries} samples failed; last error: {last}") from last

    def robust_collate(self, collate_fn: Callable[[Any], Any]) -> RobustCollate:
        """Wrap a collate function so that a batch that fails is replaced by another, and its error told."""
        return RobustCollate(self, collate_fn, self.max_retries)


def check_number(number: int, num_samples: int) -> None:
    """Raises IndexError where there is no such sample; it ends a loop, and is no failure of one."""
    if not -num_samples <= number < num_samples:
        raise IndexError(f"sample {number} of {num_samples}")


def preloaded(example: Mapping[str, Any]) -> dict[str, Any]:
    """An example with its images decoded and in RGB; without pictures, with a fake image that is marked as one."""
    conversation: Conversation = example["conversation"]
    if not has_pictures(conversation):
        return {**example, "conversation": inject_fake_image_into_conversation(conversation), "_injected_fake": True}
    loaded: list[Mapping[str, Any]] = [
        message
        if isinstance(message.get("content"), str)
        else {**message, "content": [_with_image(item) for item in items_of(message)]}
        for message in conversation
    ]
    return {**example, "conversation": ensure_rgb([loaded])[0]}


def _with_image(item: Mapping[str, Any]) -> Mapping[str, Any]:
    if kind_of(item) != "image":
        return item
    value = medium_in("image", item).value
    return {"type": "image", "image": image_of(value)}
