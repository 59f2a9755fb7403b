"""Counts from sizes alone against the processor's full run: ids, token types and grids, bit for bit."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from tests.families.truth import AN_IMAGE, BACKENDS, FAMILIES, encode, full_run, image_of_size, make_family, sample_of
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.media import AudioSize, ImageSize

IMAGE = Media(kind="image", content=b"-")
SMALL = 100_000
"""Bound on a resized image's pixels, which keeps full runs cheap."""

REAL_SIZES = [
    (480, 640), (427, 640), (640, 427), (333, 500), (1080, 1920), (720, 1280), (1600, 1200), (224, 224), (336, 336),
    (299, 299), (512, 512), (768, 1024), (1754, 1240), (2200, 1700), (850, 1169), (375, 1242), (96, 96), (600, 800),
    (1024, 576), (1440, 2560), (3024, 4032), (2160, 3840),
]  # fmt: skip
EDGES = [
    (1, 1), (1, 2), (2, 1), (1, 200), (200, 1), (2, 400), (7, 1400), (3, 599), (1, 199), (13, 13), (14, 14), (15, 15),
    (27, 27), (28, 28), (29, 29), (41, 42), (42, 42), (43, 42), (55, 57), (56, 56), (57, 55), (56, 28), (84, 28),
    (70, 70), (31, 33), (32, 32), (48, 48), (64, 16), (16, 64), (256, 256), (255, 257), (255, 255), (257, 257),
    (316, 316), (317, 316), (280, 357), (357, 280), (354, 283), (10, 2_000), (2_000, 10), (30, 6_000), (100, 20_000),
    (316, 317), (1, 150), (9_000, 45), (4_000, 4_000), (6_000, 3_000),
]  # fmt: skip


def sizes_to_try() -> list[tuple[int, int]]:
    rng = random.Random(0)
    log_uniform = [(int(2 ** rng.uniform(0, 11)), int(2 ** rng.uniform(0, 11))) for _ in range(300)]
    near_multiples = [
        (
            max(1, factor * rng.randint(1, 12) + rng.randint(-1, 1)),
            max(1, factor * rng.randint(1, 12) + rng.randint(-1, 1)),
        )
        for factor in (14, 16, 28, 32) * 20
    ]
    halves = [(28 * rng.randint(0, 9) + 14, 32 * rng.randint(0, 9) + 16) for _ in range(20)]
    return REAL_SIZES + EDGES + log_uniform + near_multiples + halves


def is_refused(height: int, width: int) -> bool:
    return max(height, width) > 200 * min(height, width)


def assert_equal_to_full_run(family: Any, sample: Any, sizes: list[tuple[int, int]]) -> None:
    counts = family.measure([ImageSize(height=h, width=w, num_bytes=1) for h, w in sizes])
    encoded = family.encode(sample, counts)
    tokens = encoded.expand()
    truth = full_run(family, sample, [image_of_size(family.loader, *size) for size in sizes])
    assert tokens.input_ids.tolist() == truth["input_ids"].tolist()
    assert tokens.mm_token_type_ids.tolist() == truth["mm_token_type_ids"].tolist()
    assert encoded.num_tokens == len(truth["input_ids"])
    assert (truth["attention_mask"] == 1).all()
    if sizes:
        grids = np.concatenate([count.inputs["image_grid_thw"] for count in counts])
        assert grids.tolist() == truth["image_grid_thw"].tolist()
        assert grids.dtype == truth["image_grid_thw"].dtype
        assert sum(count.num_patches for count in counts) == len(truth["pixel_values"])
    assert sum(count.num_visual_tokens for count in counts) == (truth["mm_token_type_ids"] == 1).sum()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_size_counts_as_the_processor_counts_it(name, backend, processor_dir):
    family = make_family(processor_dir, name, backend, SMALL)
    taken = [size for size in sizes_to_try() if not is_refused(*size)]
    if backend == "pil":  # slower, and the sizes are computed by the same code
        taken = [size for size in taken if size[0] * size[1] < 300_000][::3]
    assert len(taken) > (400 if backend == "torchvision" else 100)
    for at in range(0, len(taken), 5):
        sizes = taken[at : at + 5]
        sample = sample_of(
            ("user", [*[IMAGE] * (len(sizes) - 1), "What\n", IMAGE, "is this?"]), ("assistant", "It is a picture.\n")
        )
        assert_equal_to_full_run(family, sample, sizes)


@pytest.mark.parametrize("name", FAMILIES)
def test_published_bounds_count_as_the_processor_counts_them(name, processor_dir):
    family = make_family(processor_dir, name, "torchvision")
    sizes = [(480, 640), (1_200, 900), (1, 200), (36, 36), (1_004, 1_000), (2_000, 1_000)]
    sample = sample_of(("user", [*[IMAGE] * len(sizes), "Compare."]), ("assistant", "No."))
    assert_equal_to_full_run(family, sample, sizes)


@pytest.mark.parametrize("name", FAMILIES)
def test_shapes_that_the_processor_refuses_are_refused_and_no_others(name, processor_dir):
    family = make_family(processor_dir, name, "torchvision", SMALL)
    shapes = [size for size in sizes_to_try() if is_refused(*size)]
    shapes += [(1, 201), (201, 1), (2, 401), (401, 2), (5, 1_001), (1_001, 5), (1, 10_000), (3, 601), (10, 2_001)]
    assert len(shapes) > 15
    for height, width in shapes:
        with pytest.raises(RefuseSample, match=f"a {width} x {height} image: absolute aspect ratio"):
            family.measure([ImageSize(height=height, width=width, num_bytes=1)])
        with pytest.raises(ValueError, match="absolute aspect ratio"):
            family.processor.image_processor(images=[image_of_size("torchvision", height, width)])


CONVERSATIONS: dict[str, list[Any]] = {
    "text": [("user", "Hello"), ("assistant", "Hi.")],
    "a system turn": [("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi.")],
    "one image": [("user", [IMAGE, "Look"]), ("assistant", "Yes.")],
    "an image behind the text": [("user", ["Look", IMAGE]), ("assistant", "Yes.")],
    "an image alone": [("user", [IMAGE]), ("assistant", "Yes.")],
    "images side by side": [("user", [IMAGE, IMAGE, IMAGE, "Look"]), ("assistant", "Yes.")],
    "images in several turns": [
        ("user", [IMAGE, "Look"]),
        ("assistant", "Yes."),
        ("user", ["and", IMAGE, "here", IMAGE]),
        ("assistant", "No."),
    ],
    "an image in a system turn": [("system", ["As here:", IMAGE]), ("user", "Look"), ("assistant", "Yes.")],
    "an image in an answer": [("user", "Draw"), ("assistant", [IMAGE, "Here."])],
    "two user turns": [("user", "One"), ("user", [IMAGE, "two"]), ("assistant", "Yes."), ("assistant", "Really.")],
    "strange characters": [
        ("user", [IMAGE, "e\u0301 \U0001f600 \ue000\x00 \u200d\n\n\n"]),
        ("assistant", "\u4e2d\u6587 \t"),
    ],
    "a tool": [("user", "Count"), ("assistant", "[count]"), ("tool", "5"), ("assistant", "Five.")],
}


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_conversation_counts_as_the_processor_counts_it(name, conversation, processor_dir):
    family = make_family(processor_dir, name, "torchvision", SMALL)
    sample = sample_of(*CONVERSATIONS[conversation])
    sizes = [(40, 60), (300, 200), (64, 64)][: len(sample.media())]
    assert_equal_to_full_run(family, sample, sizes)


def test_settings_of_the_processor_count(processor_dir):
    sizes = [(480, 640), (30, 30), (1_000, 90)]
    sample = sample_of(("user", [IMAGE] * 3), ("assistant", "Yes."))
    lengths = set()
    for options in (
        (),
        (("max_pixels", 50_176),),
        (("min_pixels", 200_704),),
        (("max_pixels", 50_176), ("min_pixels", 784)),
    ):
        family = make_family(processor_dir, "qwen2_5_vl", "torchvision", SMALL * 4, options=options)
        assert_equal_to_full_run(family, sample, sizes)
        lengths.add(encode(family, sample, sizes).num_tokens)
    assert len(lengths) == 4


@pytest.mark.parametrize("name", FAMILIES)
def test_sounds_are_refused_by_models_that_do_not_hear(name, processor_dir):
    family = make_family(processor_dir, name, "torchvision", SMALL)
    with pytest.raises(RefuseSample, match="with audio are not packed"):
        family.measure([AudioSize(num_samples=16_000, sampling_rate=16_000, num_bytes=1)])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_fake_image_is_what_the_processor_makes_of_it(name, backend, processor_dir):
    family = make_family(processor_dir, name, backend)
    encoded, count, pixels = family.fake_image()
    tokens = encoded.expand()
    truth = full_run(family, sample_of(("user", [IMAGE])), [pixels])
    shown = truth["mm_token_type_ids"].nonzero()[0]
    around = truth["input_ids"][shown[0] - 1 : shown[-1] + 2]
    assert tokens.input_ids.tolist() == around.tolist()
    assert (
        family.decode(tokens.input_ids.tolist()) == "<|vision_start|>" + "<|image_pad|>" * len(shown) + "<|vision_end|>"
    )
    assert not tokens.is_label.any()
    assert count.num_visual_tokens == len(shown) == {"qwen3_vl": 64}.get(name, 4)
    assert (np.asarray(pixels) == 255).all()
    made = family.tensors(pixels, AN_IMAGE)
    assert (
        made["image_grid_thw"].tolist() == truth["image_grid_thw"].tolist() == count.inputs["image_grid_thw"].tolist()
    )
