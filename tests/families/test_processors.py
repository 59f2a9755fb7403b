"""The small processors that other tests stand on: loadable, and with turns that can be located."""

from __future__ import annotations

import pytest

from tests.conftest import FamilyProcessorDir
from tests.families.processors import FAMILY_NAMES, FamilyName, build_processor
from tests.families.truth import sample_of
from vlmprep.families.loading import load_processor
from vlmprep.families.text.control import control_pattern
from vlmprep.families.text.turns import TurnFinder
from vlmprep.schema.conversation import Media
from vlmprep.schema.family import FamilySettings

TURNS = sample_of(
    ("system", "be short"),
    ("user", [Media(kind="image", content=b""), "what is it?"]),
    ("assistant", "a cat"),
    ("user", "sure?"),
    ("assistant", "\n\nyes"),
)


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_saved_processor_loads_and_its_answers_are_found(
    family_processor_dir: FamilyProcessorDir, name: FamilyName, marked: bool
) -> None:
    processor = load_processor(FamilySettings(processor=str(family_processor_dir(name, marked=marked))))
    assert type(processor) is type(build_processor(name))
    rendered = TurnFinder(processor, control_pattern(processor)).render(TURNS)
    said = [rendered.text[start:end] for start, end in rendered.label_spans]
    end_of_turn = processor.tokenizer.eos_token
    assert said == ["a cat" + end_of_turn, "\n\nyes" + end_of_turn]
