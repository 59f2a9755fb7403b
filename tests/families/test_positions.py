"""Positions from a config alone against the model class's own method."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from tests.families.truth import FAMILIES, encode, image_of_size, make_family, sample_of
from vlmprep.families.mrope import MropePositions
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.family import Tokens
from vlmprep.schema.media import ImageSize

IMAGE = Media(kind="image", content=b"-")
SMALL = 100_000
CONVERSATIONS: dict[str, list[Any]] = {
    "text": [("user", "Hello"), ("assistant", "Hi.")],
    "one image": [("user", [IMAGE, "Look"]), ("assistant", "Yes.")],
    "an image between texts": [("user", ["Look", IMAGE, "there"]), ("assistant", "Yes.")],
    "images side by side": [("user", [IMAGE, IMAGE, IMAGE]), ("assistant", "Yes.")],
    "images in several turns": [
        ("user", [IMAGE, "and", IMAGE]),
        ("assistant", "Yes."),
        ("user", [IMAGE]),
        ("assistant", "No."),
    ],
}
SIZES = [(300, 100), (28, 28), (64, 640)]


@cache
def model_on_meta(family: Any) -> Any:
    """The family's model class with its own config, shrunk where positions do not look, and without weights."""
    model_class, _ = family._model_classes()
    config = family.config.__class__.from_dict(family.config.to_dict())
    config.text_config.num_hidden_layers = 1
    config.vision_config.depth = 1
    with torch.device("meta"):
        return model_class(config)


@pytest.fixture(params=FAMILIES)
def family(request, processor_dir):
    return make_family(processor_dir, request.param, "torchvision", SMALL)


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_positions_are_the_models_own(family, conversation):
    sample = sample_of(*CONVERSATIONS[conversation])
    sizes = SIZES[: len(sample.media())]
    tokens = encode(family, sample, sizes).expand()
    images = [
        family.tensors(image_of_size("torchvision", *size), count)
        for size, count in zip(sizes, family.measure([size_of(s) for s in sizes]), strict=True)
    ]
    grids = {"image_grid_thw": np.concatenate([made["image_grid_thw"] for made in images])} if images else {}
    found = family.positions(tokens, grids)
    truth, _ = model_on_meta(family).get_rope_index(
        input_ids=torch.from_numpy(tokens.input_ids.astype(np.int64))[None],
        mm_token_type_ids=torch.from_numpy(tokens.mm_token_type_ids.astype(np.int64))[None],
        **{name: torch.from_numpy(grid) for name, grid in grids.items()},
    )
    assert found.shape == (family.position_axes, len(tokens.input_ids))
    assert found.dtype == np.int32
    assert found.tolist() == truth[:, 0].tolist()
    if conversation == "text":
        assert found.tolist() == [list(range(len(tokens.input_ids)))] * 3
    else:
        assert len({tuple(axis) for axis in found.tolist()}) == 3


def test_many_shapes_of_images_are_where_the_model_puts_them(family):
    rng = np.random.default_rng(0)
    for _ in range(20):
        sizes = [tuple(size) for size in rng.integers(20, 700, (rng.integers(1, 5), 2)).tolist()]
        sample = sample_of(("user", [IMAGE] * len(sizes)), ("assistant", "Yes."))
        tokens = encode(family, sample, sizes).expand()
        counts = family.measure([size_of(size) for size in sizes])
        grids = {"image_grid_thw": np.concatenate([count.inputs["image_grid_thw"] for count in counts])}
        walked = family.positions(tokens, grids)
        assert walked.tolist() == family._positions._model_positions(tokens, grids).tolist()


def test_the_short_way_is_taken(family):
    assert family._positions._walks_pictures == (family.name != "qwen3_vl")
    assert family._positions._walks_frames == (family.name == "qwen3_vl")


def size_of(size: tuple[int, int]) -> ImageSize:
    return ImageSize(height=size[0], width=size[1], num_bytes=1)


def test_images_that_nothing_keeps_apart_are_refused(family):
    # Their tokens are one run, in which the model would see one image.
    grids = {"image_grid_thw": np.array([[1, 4, 4], [1, 4, 4]])}
    types = np.repeat(np.array([0, 1, 0], dtype=np.uint8), [2, 8, 2])
    tokens = Tokens(input_ids=types.astype(np.int32), is_label=types > 0, mm_token_type_ids=types)
    with pytest.raises(RefuseSample, match="cannot be placed"):
        family.positions(tokens, grids)


def test_a_model_that_walks_otherwise_is_asked_itself(family):
    """The short way is taken only where it was seen to agree."""

    class Otherwise(family._model_classes()[0]):  # type: ignore[misc]
        def get_rope_index(self, input_ids: Any, **_: Any) -> Any:
            return torch.arange(input_ids.shape[1]).expand(3, 1, -1) + 7, None

    positions = MropePositions(Otherwise, family.config)
    tokens = encode(family, sample_of(("user", "Q"), ("assistant", "A"))).expand()
    assert positions(tokens, {}).tolist() == [list(range(7, 7 + len(tokens.input_ids)))] * 3
