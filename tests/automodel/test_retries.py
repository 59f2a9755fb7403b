from __future__ import annotations

import logging
import pickle
import random
from typing import Any

import pytest

from tests.automodel.examples import examples, plain, processor
from vlmprep.automodel.collate_fns import default_collate_fn, make_robust_collate
from vlmprep.schema.errors import RefuseSample


class Numbers:
    """A data set of ten numbers that counts what is drawn from it."""

    def __init__(self) -> None:
        self.drawn: list[int] = []

    def __len__(self) -> int:
        return 10

    def __getitem__(self, at: int) -> int:
        self.drawn.append(at)
        return at


def fails_on(*bad: int) -> Any:
    def collate(rows: list[int]) -> list[int]:
        if set(rows) & set(bad):
            raise RefuseSample("broken", f"{rows} is broken")
        return rows

    return collate


def test_a_batch_that_collates_stays_as_it_is():
    numbers = Numbers()
    collate = make_robust_collate(numbers, fails_on(99))
    assert collate([3, 4]) == [3, 4]
    assert numbers.drawn == []
    assert collate.failures == []


def test_a_failing_batch_is_replaced_whole_and_told(caplog):
    random.seed(0)
    numbers = Numbers()
    collate = make_robust_collate(numbers, fails_on(99))
    with caplog.at_level(logging.WARNING):
        assert collate([99, 4, 5]) == numbers.drawn
    assert len(numbers.drawn) == 3
    assert collate.failures == ["RefuseSample: [99, 4, 5] is broken"]
    assert "a batch of 3 failed (1 of 10): RefuseSample: [99, 4, 5] is broken" in caplog.text


@pytest.mark.parametrize("max_retries", [1, 3])
def test_it_gives_up_with_the_last_error(max_retries: int, caplog):
    numbers = Numbers()
    collate = make_robust_collate(numbers, fails_on(*range(10)), max_retries=max_retries)
    with pytest.raises(RuntimeError, match=f"failed {max_retries} times; last error: .* is broken") as caught:
        collate([1, 2])
    assert isinstance(caught.value.__cause__, RefuseSample)
    assert len(collate.failures) == len(caplog.records) == max_retries
    assert len(numbers.drawn) == 2 * (max_retries - 1)


def test_what_is_no_error_of_a_batch_goes_through():
    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_robust_collate(Numbers(), stop)([1])
    with pytest.raises(ValueError, match="max_retries"):
        make_robust_collate(Numbers(), stop, max_retries=0)


def collate_numbers(rows: list[int]) -> list[int]:
    return rows


def test_it_goes_to_workers():
    again = pickle.loads(pickle.dumps(make_robust_collate(Numbers(), collate_numbers)))
    assert again([1]) == [1]


def test_conversations_that_cannot_be_collated_are_replaced():
    broken = {"conversation": plain(("user", [{"type": "image", "image": "/nowhere.png"}]), ("assistant", "A"))}
    collate = make_robust_collate(examples()[1:2], lambda rows: default_collate_fn(rows, processor("qwen2_vl")))
    batch = collate([broken, broken])
    assert batch["input_ids"].shape[0] == 2
    assert "nowhere.png" in collate.failures[0]
