"""Restored pixels against the image processors of transformers, bit for bit."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

from vlmprep.runtime.pixels import concatenate, restore, restore_all
from vlmprep.schema.pixels import PixelRule
from vlmprep.shardformat.members import COMPRESSIONS, Compression, decode_member, describe_member, encode_member

PROCESSORS: dict[str, Any] = {"fused": Qwen2VLImageProcessor, "two_step": Qwen2VLImageProcessorPil}
MEANS = {"clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)), "half": ((0.5,) * 3,) * 2}


def image(kind: str) -> np.ndarray:
    """[height, width, 3] uint8."""
    rng = np.random.default_rng(1)
    if kind == "noise":
        return rng.integers(0, 256, (140, 196, 3), dtype=np.uint8)
    if kind == "every level":
        levels: np.ndarray = (
            np.arange(256, dtype=np.uint8).repeat(112 * 112 * 3 // 256 + 1)[: 112 * 112 * 3].reshape(112, 112, 3)
        )
        return levels
    ramp = np.add.outer(np.arange(150), np.arange(333))[..., None] * np.array([0.5, 0.3, 0.2])
    pixels: np.ndarray = np.clip(ramp + rng.normal(0, 8, ramp.shape), 0, 255).astype(np.uint8)
    return pixels


def process(arithmetic: str, statistics: str, picture: np.ndarray, **options: Any) -> Tensor:
    mean, std = MEANS[statistics]
    processor = PROCESSORS[arithmetic](image_mean=list(mean), image_std=list(std))
    pixels: Tensor = processor(picture, return_tensors="pt", input_data_format="channels_last", **options)[
        "pixel_values"
    ]
    return pixels


def stored_patches(arithmetic: str, picture: np.ndarray) -> np.ndarray:
    """[P, 3, 14, 14] uint8: what a pack set keeps of the picture."""
    raw = process(arithmetic, "clip", picture, do_rescale=False, do_normalize=False, temporal_patch_size=1)
    assert raw.eq(raw.to(torch.uint8)).all()
    return raw.to(torch.uint8).numpy().reshape(-1, 3, 14, 14)


def packed(stored: np.ndarray, compression: Compression) -> Tensor:
    """The same pixels through a pack's member, in the memory order that reading gives."""
    suffix, data = encode_member("pixel_values", stored, compression=compression)
    array = decode_member(suffix, data, describe_member("pixel_values", stored, compression=compression))[1]
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def rule_of(arithmetic: Literal["fused", "two_step"], statistics: str, repeat: int = 2) -> PixelRule:
    mean, std = MEANS[statistics]
    return PixelRule(arithmetic=arithmetic, rescale=1 / 255, mean=mean, std=std, repeat=repeat)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("kind", ["noise", "every level", "photograph"])
@pytest.mark.parametrize("statistics", MEANS)
@pytest.mark.parametrize("arithmetic", PROCESSORS)
def test_restored_pixels_are_the_processors_bit_for_bit(
    arithmetic: Literal["fused", "two_step"], statistics: str, kind: str, compression: Compression
) -> None:
    picture = image(kind)
    expected = process(arithmetic, statistics, picture)
    stored = packed(stored_patches(arithmetic, picture), compression)

    restored = restore(stored, rule_of(arithmetic, statistics))
    assert restored.dtype == torch.float32
    assert torch.equal(restored.view(torch.int32), expected.view(torch.int32))
    assert torch.equal(restore(stored, rule_of(arithmetic, statistics), torch.bfloat16), expected.to(torch.bfloat16))


@pytest.mark.parametrize("num_patches", [0, 1, 255, 256, 257, 700])
def test_no_patch_is_lost_between_blocks(num_patches: int) -> None:
    stored = torch.randint(0, 256, (num_patches, 3, 4, 5), dtype=torch.uint8)
    rule = rule_of("fused", "clip", repeat=1)
    mean, std = (torch.tensor(values).view(3, 1, 1) * 255.0 for values in MEANS["clip"])
    expected = ((stored.float() - mean) / std).reshape(num_patches, 60)
    torch.testing.assert_close(restore(stored, rule), expected, rtol=1e-6, atol=1e-6)


def test_results_do_not_share_memory() -> None:
    stored = torch.randint(0, 256, (300, 3, 14, 14), dtype=torch.uint8)
    first = restore(stored, rule_of("fused", "clip"))
    kept = first.clone()
    second = restore(255 - stored, rule_of("fused", "clip"))
    assert torch.equal(first, kept)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("orders", [("zstd", "zstd"), ("none", "none"), ("zstd", "none"), ("none", "zstd")])
def test_joined_pixels_keep_their_order_whatever_their_memory(orders: tuple[Compression, Compression]) -> None:
    parts = [np.random.default_rng(n).integers(0, 256, (20 + n, 3, 14, 14), dtype=np.uint8) for n in range(2)]
    joined = concatenate([packed(part, order) for part, order in zip(parts, orders, strict=True)])
    np.testing.assert_array_equal(joined.numpy(), np.concatenate(parts))
    one = packed(parts[0], orders[0])
    assert joined.stride().index(max(joined.stride())) == one.stride().index(max(one.stride()))


def test_a_mask_that_hides_nothing_is_stored_as_its_sides() -> None:
    rule = PixelRule(arithmetic="stored", layout="ones", lead=True)
    sides = torch.tensor([[3, 5], [3, 5]])
    assert torch.equal(restore(sides, rule), torch.ones((1, 2, 3, 5), dtype=torch.int64))
    assert restore(sides[:0], rule).shape[:2] == (1, 0)


@pytest.mark.parametrize("most", [None, 9])
@pytest.mark.parametrize("counts", [[3, 1, 4], [[1, 3], [1, 1], [2, 2]]])
def test_media_of_fewer_items_are_filled_up(counts: list[Any], most: int | None) -> None:
    stored = torch.arange(16).view(8, 2)
    rule = PixelRule(arithmetic="stored", layout="stored", per_medium="grid", most=most, fill=-1, drops=("grid",))
    batch = restore_all({"positions": stored, "grid": torch.tensor(counts), "other": 5}, {"positions": rule})
    assert batch.keys() == {"positions", "other"}
    expected = torch.full((3, most or 4, 2), -1)
    for medium, (start, stop) in enumerate([(0, 3), (3, 4), (4, 8)]):
        expected[medium, : stop - start] = stored[start:stop]
    assert torch.equal(batch["positions"], expected)
    assert batch["positions"].dtype == torch.int64


def test_media_of_as_many_items_as_all_are_only_grouped() -> None:
    stored = torch.randn(6, 3)
    rule = PixelRule(arithmetic="stored", layout="stored", per_medium="grid", most=3, fill=7)
    assert torch.equal(restore(stored, rule, fields={"grid": torch.tensor([3, 3])}), stored.view(2, 3, 3))
