"""Where media lie among the tokens: against the places that the tokenizer itself gives in the text written out in full."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import FamilyProcessorDir
from tests.families.chat_templates import TEMPLATES
from tests.families.labelling import labeller
from tests.families.processors import FAMILY_NAMES, FamilyName
from vlmprep.families.loading import load_family
from vlmprep.schema.conversation import Media, MediaKind, Message, Sample, Text
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.media import AudioSize, ImageSize, MediaCount, MediaSize, VideoSize

SIZES: dict[MediaKind, tuple[MediaSize, ...]] = {
    "image": (
        ImageSize(height=120, width=130, num_bytes=0),
        ImageSize(height=30, width=61, num_bytes=0),
        ImageSize(height=300, width=90, num_bytes=0),
    ),
    "video": (VideoSize(num_frames=40, frames_per_second=8.0, height=96, width=64, num_bytes=0),) * 3,
    "audio": (AudioSize(num_samples=9_000, sampling_rate=16_000, num_bytes=0),) * 3,
}
APART: frozenset[str] = frozenset({"smolvlm", "nemotron_omni"})
"""Families that take no clips beside images, or one alone."""
ENDS = ("It:", "naïve<", "0", "多", "\n", " ", "<0.", "x")
"""Ends of texts that some tokenizer would like to join with what follows."""


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def family(request: pytest.FixtureRequest, family_processor_dir: FamilyProcessorDir) -> Any:
    folder = family_processor_dir(request.param, small_tiles=request.param in TILED)
    return load_family(FamilySettings(processor=str(folder)))


TILED: frozenset[FamilyName] = frozenset({"llava_onevision", "internvl", "idefics3", "smolvlm", "step3p7"})


def arrangements(family: Any) -> list[tuple[MediaKind, ...]]:
    """Which media stand in a sample, in order."""
    kinds: list[MediaKind] = sorted(family.kinds)
    if family.name in APART or family.name == "nemotron_h_omni":
        return [("image", "image"), ("video",)]
    mixed = tuple(kinds)
    return [("image",), ("image", "image"), mixed, (*reversed(mixed), "image")]


def sample_of(kinds: Sequence[MediaKind], texts: Sequence[str]) -> Sample:
    """Media of these kinds, each behind a text, in one turn of a user."""
    parts: list[Text | Media] = []
    for kind, text in zip(kinds, texts, strict=False):
        parts += [Text(text=text), Media(kind=kind, content=b"-")]
    parts.append(Text(text=texts[len(kinds)]))
    answer = Message(role="assistant", parts=(Text(text="It is."),))
    return Sample(source="s", row=0, sample_id="0", messages=(Message(role="user", parts=tuple(parts)), answer))


def in_full(count: MediaCount, tokens: Sequence[str]) -> str:
    """What the processor writes for a medium, every placeholder as often as it stands there."""
    lengths = iter(count.run_lengths)
    return re.sub("|".join(map(re.escape, tokens)), lambda match: match[0] * next(lengths), count.replacement)


def check(family: Any, kinds: Sequence[MediaKind], texts: Sequence[str]) -> None:
    """Hold the spans of a sample's media against the tokenizer's own places."""
    left = {kind: iter(sizes) for kind, sizes in SIZES.items()}
    sample = sample_of(kinds, texts)
    counts = family.measure([next(left[kind]) for kind in kinds])
    encoded = family.encode(sample, counts)
    text, places = written_out(family, sample, counts)
    encoding = family.processor.tokenizer(
        text, add_special_tokens=not text.startswith(family.processor.tokenizer.bos_token or "\ue000")
    ).encodings[0]
    assert encoding.ids == encoded.expand().input_ids.tolist()
    expected = []
    for start, stop in places:
        over = [at for at, (first, end) in enumerate(encoding.offsets) if first < stop and end > start]
        expected.append([over[0], over[-1] + 1])
    if family.name == "llava_onevision":
        images = [at for at, kind in enumerate(kinds) if kind == "image"][:2]
        for at in images:
            expected[at] = [expected[images[0]][0], expected[images[-1]][1]] if len(images) > 1 else expected[at]
    spans = encoded.media_spans
    assert spans is not None
    assert spans.tolist() == expected
    assert len(expected) == len(kinds)
    assert encoded.first_label == int(encoded.expand().is_label.argmax())


def written_out(family: Any, sample: Sample, counts: Sequence[MediaCount]) -> tuple[str, list[tuple[int, int]]]:
    """The text as the processor tokenizes it, and the characters of each medium.

    These are all that stands between the texts around it, less line ends that a template writes behind an image.
    """
    text = family._rendered(sample).text
    per_kind = {kind: [count for count in counts if count.kind == kind] for kind in ("image", "video", "audio")}
    tokens = family._encoder._tokens
    made, (moves,) = family.processor.get_text_with_replacements(
        [text], *([in_full(count, tokens) for count in per_kind[kind]] for kind in ("image", "video", "audio"))
    )
    places = []
    for move in moves:
        before, behind = FRAMES.get(text[slice(*move["span"])], ("", ""))
        start, stop = move["new_span"]
        assert made[0][start - len(before) : start] == before
        assert made[0][stop : stop + len(behind)] == behind
        places.append((start - len(before), stop + len(behind)))
    return made[0], places


FRAMES = {
    "<|image_pad|>": ("<|vision_start|>", "<|vision_end|>"),
    "<|video_pad|>": ("<|vision_start|>", "<|vision_end|>"),
    "<|audio_pad|>": ("<|audio_start|>", "<|audio_end|>"),
    "<|media_pad|>": ("<|media_begin|>image<|media_content|>", "<|media_end|>"),
}
"""What the templates of the test processors write around placeholders."""


def test_media_lie_where_the_tokenizer_sees_what_is_written_for_them(family: Any) -> None:
    for kinds in arrangements(family):
        for shift in range(3):
            ends = [ENDS[(shift * 3 + at) % len(ENDS)] for at in range(len(kinds) + 1)]
            check(family, kinds, [f"Look, {number}. {end}" for number, end in enumerate(ends)])


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_whatever_the_texts_beside_media_are(family: Any, data: st.DataObject) -> None:
    kinds = data.draw(st.sampled_from(arrangements(family)))
    words = st.text(st.sampled_from("a <>0.:\n\tFrame1é多s"), min_size=1, max_size=8)
    texts = [f"{data.draw(words)}q{data.draw(words)}" for _ in range(len(kinds) + 1)]
    check(family, kinds, texts)


def test_without_media_there_is_nothing_to_cut_through(family: Any) -> None:
    encoded = family.encode(sample_of((), ["What?"]), [])
    assert encoded.media_spans is not None
    assert encoded.media_spans.shape == (0, 2)


def test_a_template_that_writes_media_in_other_ways_than_it_seems_to_is_not_trusted(
    family_processor_dir: FamilyProcessorDir,
) -> None:
    family: Any = load_family(FamilySettings(processor=str(family_processor_dir("qwen2_5_vl"))))
    sample, counts = sample_of(("image",), ["Look:", "What?"]), family.measure([SIZES["image"][0]])
    assert family.encode(sample, counts).media_spans is not None
    family._turns._literals["image"] = "<|vision_start|><|image_pad|><|audio_end|><|vision_end|>"
    assert family.encode(sample, counts).media_spans is None
    family._turns._literals["image"] = ""
    assert family.encode(sample, counts).media_spans is None


def test_where_a_template_puts_images_before_all_text_they_are_placeholders_with_nothing_around() -> None:
    assert labeller("llava_onevision").turns.media_literal("image") == "<image>"


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - {"llava_onevision"}))
def test_published_templates_show_what_they_write_for_an_image(name: str) -> None:
    literal = labeller(name).turns.media_literal("image")
    assert literal.count(labeller(name).processor.image_token) == 1
