from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.automodel.examples import examples, processor
from tests.families.processors import FAMILY_NAMES, FamilyName
from vlmprep.automodel import pp_media
from vlmprep.automodel.collate_fns import COLLATE_FNS, default_collate_fn, phi4_mm_collate_fn
from vlmprep.automodel.pp_media import (
    VLM_PP_MEDIA_KEY,
    chunk_step3_media,
    chunk_vlm_media,
    prepare_vlm_media_for_pp,
    stage_vlm_media_for_pp,
    wrap_vlm_collate_for_pp,
)
from vlmprep.runtime.microbatches import STAGED, row_slices, staged_media


def test_constants_are_the_references():
    assert VLM_PP_MEDIA_KEY == "_vlm_pp_media_chunks"
    assert pp_media._VLM_MEDIA_KEYS[:5] == (
        "pixel_values",
        "patch_pixel_values",
        "num_patches",
        "patch_newline_mask",
        "image_grid_hws",
    )
    assert set(pp_media.__all__) >= {
        "VLM_PP_MEDIA_KEY",
        "chunk_vlm_media",
        "prepare_vlm_media_for_pp",
        "stage_vlm_media_for_pp",
        "wrap_vlm_collate_for_pp",
    }


@pytest.mark.parametrize("n_microbatches", [1, 2, 3, 4, 5])
def test_microbatches_have_the_rows_that_schedules_give_them(n_microbatches: int):
    from torch.distributed.pipelining.microbatch import split_args_kwargs_into_chunks

    rows = torch.arange(5)
    split, _ = split_args_kwargs_into_chunks((rows,), {}, n_microbatches)
    assert [entry[0].tolist() for entry in split] == [rows[part].tolist() for part in row_slices(5, n_microbatches)]


@pytest.mark.parametrize("layout", ["images", "padded patches"])
def test_one_entry_for_each_image_is_split_by_rows(layout: str):
    shape = {"images": (3, 3, 2, 2), "padded patches": (3, 7, 2)}[layout]
    pixels = torch.arange(3.0).view(-1, *[1] * (len(shape) - 1)).expand(shape)
    grid = torch.tensor([[2, 2], [4, 6], [8, 2]])
    chunks, grids = chunk_vlm_media(pixels, grid, 3, 2)
    assert [chunk.shape[1:] for chunk in chunks] == [shape[1:]] * 2
    assert [sorted(set(chunk.flatten().tolist())) for chunk in chunks] == [[0, 1], [2]]
    assert [part.tolist() for part in grids] == [[[2, 2], [4, 6]], [[8, 2]]]


def flat_patches(grid: Tensor) -> Tensor:
    """[patches, 2]: each says whose image it is."""
    return torch.arange(len(grid)).repeat_interleave(grid.prod(dim=1)).float()[:, None].expand(-1, 2)


def test_flat_patches_are_split_by_the_images_of_each_row():
    grid = torch.tensor([[1, 2, 2], [1, 4, 2], [1, 2, 6], [2, 2, 2]])
    patches = flat_patches(grid)
    chunks, grids = chunk_vlm_media(patches, grid, 4, 3, n_images_per_sample=torch.tensor([2, 0, 0, 2]))
    assert [chunk[:, 0].tolist() for chunk in chunks] == [[0] * 4 + [1] * 8, [], [2] * 12 + [3] * 8]
    assert torch.equal(torch.cat(grids), grid)
    assert [len(part) for part in grids] == [2, 0, 2]


def test_flat_patches_without_counts_are_an_image_for_each_row():
    grid = torch.tensor([[2, 2], [4, 2], [2, 6]])
    chunks, grids = chunk_vlm_media(flat_patches(grid), grid, 3, 2)
    assert [chunk[:, 0].tolist() for chunk in chunks] == [[0] * 4 + [1] * 8, [2] * 12]
    assert [part.tolist() for part in grids] == [[[2, 2], [4, 2]], [[2, 6]]]


def test_images_are_their_rows_even_where_there_are_as_many_images_as_rows():
    pixels = torch.arange(3.0)[:, None, None]
    chunks, _ = chunk_vlm_media(pixels, torch.ones(3, 2), 3, 3, n_images_per_sample=torch.tensor([2, 0, 1]))
    assert [chunk.flatten().tolist() for chunk in chunks] == [[0, 1], [], [2]]


def test_images_of_different_shapes_stay_a_list():
    images = [torch.full((1, 3, size, size), float(size)) for size in (2, 4, 6)]
    chunks, _ = chunk_vlm_media(images, torch.ones(3, 2), 2, 2, torch.tensor([1, 2]))  # type: ignore[arg-type]
    assert [[image.shape[-1] for image in chunk] for chunk in chunks] == [[2], [4, 6]]


def test_chunks_are_views():
    patches = torch.zeros(8, 2)
    chunks, _ = chunk_vlm_media(patches, torch.tensor([[2, 2], [2, 2]]), 2, 2)
    assert [chunk.data_ptr() for chunk in chunks] == [patches.data_ptr(), patches[4:].data_ptr()]


@pytest.mark.parametrize(
    ("pixels", "grid", "rows", "microbatches", "counts", "message"),
    [
        ((12, 2), [[2, 2], [4, 2]], 3, 2, None, "which row has which is not known"),
        ((12, 2), [[2, 2], [4, 2]], 3, 2, [1, 1], "3 rows with 2 media"),
        ((12, 2), [[2, 2], [4, 2]], 3, 2, [1, 1, 1], "3 rows with 2 media"),
        ((12, 2), [[2, 2], [4, 2]], 3, 2, [3, -1, 0], "3 rows with 2 media"),
        ((11, 2), [[2, 2], [4, 2]], 2, 2, None, "counts 12 patches"),
        ((12, 2), [[2, 2], [4, 2]], 2, 3, None, "cannot be split into n_microbatches=3"),
        ((12, 2), [[2, 2], [4, 2]], 2, 0, None, "cannot be split into n_microbatches=0"),
    ],
)
def test_media_that_fit_no_rows_are_refused(
    pixels: tuple[int, int], grid: Any, rows: int, microbatches: int, counts: list[int] | None, message: str
):
    counted = None if counts is None else torch.tensor(counts)
    with pytest.raises(ValueError, match=message):
        chunk_vlm_media(torch.zeros(pixels), torch.tensor(grid), rows, microbatches, counted)


def test_crops_follow_the_full_images_of_their_rows():
    crops = torch.arange(6.0)[:, None, None, None].expand(6, 3, 2, 2)
    newlines = torch.tensor([True, False, False, True, False, True])
    made = chunk_step3_media(
        torch.arange(4.0).view(4, 1, 1, 1),
        4,
        3,
        torch.tensor([2, 0, 3, 1]),
        patch_pixel_values=crops,
        patch_newline_mask=newlines,
    )
    assert list(made) == ["pixel_values", "num_patches", "patch_pixel_values", "patch_newline_mask"]
    assert [part.flatten().tolist() for part in made["pixel_values"]] == [[0, 1], [2], [3]]
    assert [part.tolist() for part in made["num_patches"]] == [[2, 0], [3], [1]]
    assert [part[:, 0, 0, 0].tolist() for part in made["patch_pixel_values"]] == [[0, 1], [2, 3, 4], [5]]
    assert [part.tolist() for part in made["patch_newline_mask"]] == [[True, False], [False, True, False], [True]]


def test_full_images_without_crops_and_crops_without_full_images():
    made = chunk_step3_media(torch.arange(2.0)[:, None], 2, 2)
    assert [part.flatten().tolist() for part in made["pixel_values"]] == [[0], [1]]
    assert [part.tolist() for part in made["num_patches"]] == [[0], [0]]
    assert set(made) == {"pixel_values", "num_patches"}
    tiles = chunk_step3_media(torch.arange(5.0)[:, None], 2, 2, torch.tensor([[3], [2]]))
    assert [part.flatten().tolist() for part in tiles["pixel_values"]] == [[0, 1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_patches": torch.tensor([1])}, "1 entries for 2 rows"),
        ({"num_patches": torch.tensor([1, 1]), "patch_pixel_values": torch.zeros(3, 1)}, "2 rows have 2 crops"),
        ({"num_patches": torch.tensor([1, 1]), "patch_newline_mask": torch.zeros(1)}, "2 rows have 2 crops"),
        ({"pixel_values": torch.zeros(3, 1)}, "2 rows have 0 crops"),
    ],
)
def test_crops_that_fit_no_rows_are_refused(given: dict[str, Tensor], message: str):
    with pytest.raises(ValueError, match=message):
        chunk_step3_media(**{"pixel_values": torch.zeros(2, 1), "batch_size": 2, "n_microbatches": 2, **given})  # type: ignore[arg-type]


GRIDS = ("image_grid_thw", "image_grid_hw", "image_sizes", "image_position_ids")
REFUSED: dict[FamilyName, str] = {
    "phi4_multimodal": "image_pixel_values, image_attention_mask: of which rows",
    "internvl": "3 rows with 15 media in all",  # whose tiles they are stands nowhere
}


def collate_for(name: FamilyName) -> Any:
    own = phi4_mm_collate_fn if name == "phi4_multimodal" else default_collate_fn
    return COLLATE_FNS.get(type(processor(name)).__name__, own)


@pytest.mark.parametrize("name", [name for name in FAMILY_NAMES if name not in REFUSED])
@pytest.mark.parametrize("n_microbatches", [2, 3])
def test_a_microbatch_has_the_media_that_the_processor_makes_of_its_rows(name: FamilyName, n_microbatches: int):
    made_by, collate = processor(name), collate_for(name)
    rows = examples()[::-1]  # two images, none, one
    batch = prepare_vlm_media_for_pp(collate(rows, made_by), 3, n_microbatches)
    media = batch.pop(VLM_PP_MEDIA_KEY)
    assert set(batch) <= {"input_ids", "labels", "attention_mask", "mm_token_type_ids"}
    assert batch["input_ids"].shape[0] == 3
    with_pixels = 0
    for microbatch, part in enumerate(row_slices(3, n_microbatches)):
        chunks = {field: chunk[microbatch] for field, chunk in media.items()}
        truth = collate(rows[part], made_by)
        if not truth.get("n_images_per_sample", torch.zeros(1)).any():
            assert all(len(chunk) == 0 or not chunk.any() for chunk in chunks.values())
            continue
        with_pixels += 1
        grid = next((truth[field] for field in GRIDS if field in truth), None)
        assert grid is None or torch.equal(chunks.pop("image_grid_hws"), grid)
        assert "pixel_values" in chunks
        for field, chunk in chunks.items():
            alone = torch.as_tensor(truth[field]) if field in truth else chunk[:0]
            own = tuple(
                slice(size) for size in alone.shape
            )  # other rows of the batch may have had more images or crops
            assert torch.equal(chunk[own], alone), field
            assert chunk.count_nonzero() == alone.count_nonzero(), field
    assert with_pixels == 2


@pytest.mark.parametrize(("name", "message"), REFUSED.items())
def test_media_that_say_nothing_of_their_rows_are_refused(name: FamilyName, message: str):
    batch = collate_for(name)(examples()[::-1], processor(name))
    with pytest.raises(ValueError, match=message):
        prepare_vlm_media_for_pp(batch, 3, 3)


def a_batch() -> dict[str, Any]:
    """Three rows with two, no and one image, one clip in the middle."""
    grid, clips = torch.tensor([[1, 2, 2], [1, 4, 2], [1, 2, 6]]), torch.tensor([[2, 2, 2]])
    return {
        "input_ids": torch.zeros(3, 4, dtype=torch.int64),
        "pixel_values": flat_patches(grid),
        "image_grid_thw": grid,
        "n_images_per_sample": torch.tensor([2, 0, 1]),
        "pixel_values_videos": flat_patches(clips),
        "video_grid_thw": clips,
        "second_per_grid_ts": torch.tensor([0.5]),
        "n_videos_per_sample": torch.tensor([0, 1, 0]),
    }


def test_clips_are_split_with_what_is_said_of_them():
    media = prepare_vlm_media_for_pp(a_batch(), 3, 3)[VLM_PP_MEDIA_KEY]
    assert [len(part) for part in media["pixel_values_videos"]] == [0, 8, 0]
    assert [part.tolist() for part in media["video_grid_thw"]] == [[], [[2, 2, 2]], []]
    assert [part.tolist() for part in media["second_per_grid_ts"]] == [[], [0.5], []]
    assert [len(part) for part in media["pixel_values"]] == [12, 0, 12]


def test_prepared_batches_carry_no_raw_media():
    batch = a_batch()
    assert prepare_vlm_media_for_pp(batch, 3, 2) is batch
    assert set(batch) == {"input_ids", VLM_PP_MEDIA_KEY}
    text = {"input_ids": torch.zeros(3, 4), "n_images_per_sample": torch.zeros(3), "pixel_values": None}
    assert set(prepare_vlm_media_for_pp(text, 3, 2)) == {"input_ids"}
    plain = {"input_ids": torch.zeros(1, 4)}
    assert prepare_vlm_media_for_pp(plain, 1, 2) is plain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_features": torch.zeros(3, 2)}, "input_features: of which rows"),
        ({"pixel_values": torch.zeros(24, 3, 2, 2, dtype=torch.uint8)}, "pixels as a pack stores them"),
        ({"video_grid_thw": None}, "pixel_values_videos without video_grid_thw"),
        ({"pixel_values": None, "patch_pixel_values": torch.zeros(1)}, "there is no pixel_values"),
        ({"patch_pixel_values": torch.zeros(1)}, "whose they are is not known"),
        ({"batch_num_images": torch.tensor([1, 2])}, r"batch_num_images is \[1, 2\]"),
        ({"image_grid_thw": None, "pixel_values": torch.zeros(5, 1)}, "3 rows with 5 media"),
        ({"image_grid_thw": None, "pixel_values": torch.zeros(3, 1), "num_patches": torch.zeros(3)}, "says otherwise"),
        ({"second_per_grid_ts": torch.zeros(2)}, "media per row"),
    ],
)
def test_what_cannot_be_split_is_refused_and_the_batch_stays(changes: dict[str, Any], message: str):
    batch = {**a_batch(), **changes}
    before = dict(batch)
    with pytest.raises(ValueError, match=message):
        prepare_vlm_media_for_pp(batch, 3, 2)
    assert batch == before


def test_no_microbatches_are_refused_even_without_media():
    with pytest.raises(ValueError, match="n_microbatches must be at least 1"):
        prepare_vlm_media_for_pp({"input_ids": torch.zeros(1, 4)}, 1, 0)


def test_the_grid_is_the_first_that_a_batch_has():
    grids = [torch.tensor([number]) for number in range(4)]
    for first in range(4):
        chosen = pp_media._select_image_grid(*[grid if at >= first else None for at, grid in enumerate(grids)])
        assert chosen is grids[first]
    assert pp_media._select_image_grid(None, None, None, None) is None


def collate_of_tests(examples: Any) -> Any:
    return examples


def test_wrapped_collates_prepare_what_they_return():
    wrapped = pickle.loads(pickle.dumps(wrap_vlm_collate_for_pp(collate_of_tests, n_microbatches=3)))
    assert [len(part) for part in wrapped(a_batch())[VLM_PP_MEDIA_KEY]["pixel_values"]] == [12, 0, 12]
    assert wrapped([1]) == [1]
    text = {"labels": torch.zeros(1)}
    assert wrapped(text) is text
    with pytest.raises(ValueError, match="how many rows"):
        wrapped({"pixel_values": torch.zeros(1)})


class Stage(nn.Module):
    """Runs microbatches like a pipeline's stage, in an order of its own."""

    is_first = True

    def __init__(self, module: nn.Module):
        super().__init__()
        self.submod = module

    def forward_one_chunk(
        self, fwd_chunk_id: int, args: Any, kwargs: Any = None, save_forward_output: bool = True
    ) -> Any:
        return self.submod(*args, **(kwargs or {}))


class SeesMedia(nn.Module):
    _vlm_chunk_idx: Any
    _vlm_image_grid_hws_chunks: Any
    _vlm_patch_pixel_values_chunks: Any

    def forward(self) -> dict[str, Any]:
        return staged_media(self)


def pipeline(module: nn.Module, *, has_first_stage: bool = True) -> Any:
    return SimpleNamespace(info=SimpleNamespace(has_first_stage=has_first_stage, stages=[Stage(module)]))


def test_stage_0_sees_the_media_of_the_microbatch_that_runs_and_nothing_afterwards():
    batch, module = prepare_vlm_media_for_pp(a_batch(), 3, 3), SeesMedia()
    pp = pipeline(module)
    [stage] = pp.info.stages
    with stage_vlm_media_for_pp(pp, [module], batch):
        assert VLM_PP_MEDIA_KEY not in batch
        assert set(module()) == {"pixel_values", "image_grid_thw"}  # a probe of the first microbatch moves nothing
        for microbatch, fields in ((2, "image"), (0, "image"), (1, "video")):
            media = stage.forward_one_chunk(microbatch, ())
            assert {field for field in media if fields in field}, microbatch
            assert module._vlm_chunk_idx == microbatch
        assert stage.forward_one_chunk(2, ())["image_grid_thw"].tolist() == [[1, 2, 6]]
        assert set(stage.forward_one_chunk(1, ())) == {"pixel_values_videos", "video_grid_thw", "second_per_grid_ts"}
        assert module._vlm_image_grid_hws_chunks[0].tolist() == [[1, 2, 2], [1, 4, 2]]
        assert module._vlm_patch_pixel_values_chunks is None
    assert "forward_one_chunk" not in vars(stage)
    assert module() == {}
    assert {getattr(module, f"_vlm_{name}_chunks") for name in STAGED} == {None}
    assert module._vlm_chunk_idx is None


def test_staged_media_are_gone_after_an_error_too():
    batch, module = prepare_vlm_media_for_pp(a_batch(), 3, 2), SeesMedia()
    pp = pipeline(module)
    with pytest.raises(RuntimeError, match="broken"), stage_vlm_media_for_pp(pp, [module], batch):
        raise RuntimeError("broken")
    assert module() == {}
    assert "forward_one_chunk" not in vars(pp.info.stages[0])


def test_other_stages_and_batches_without_media_stage_nothing():
    batch, module = prepare_vlm_media_for_pp(a_batch(), 3, 2), SeesMedia()
    with stage_vlm_media_for_pp(pipeline(module, has_first_stage=False), [module], batch):
        assert VLM_PP_MEDIA_KEY not in batch
        assert not hasattr(module, "_vlm_chunk_idx")
    with stage_vlm_media_for_pp(pipeline(module), [module], batch):
        assert module() == {}


def test_a_pipeline_that_names_no_stages_leaves_counting_to_the_model():
    batch, module = prepare_vlm_media_for_pp(a_batch(), 3, 3), SeesMedia()
    with stage_vlm_media_for_pp(SimpleNamespace(info=SimpleNamespace(has_first_stage=True)), [module], batch):
        assert module._vlm_chunk_idx == 0
        module._vlm_chunk_idx = 2
        assert module()["image_grid_thw"].tolist() == [[1, 2, 6]]


def test_images_without_a_grid_follow_the_counts_of_their_rows():
    batch = {**a_batch(), "image_grid_thw": None, "pixel_values": torch.arange(3.0)[:, None]}
    media = prepare_vlm_media_for_pp(batch, 3, 3)[VLM_PP_MEDIA_KEY]
    assert [part.flatten().tolist() for part in media["pixel_values"]] == [[0, 1], [], [2]]
    assert "image_grid_hws" not in media


def test_conversations_packed_into_a_row_keep_their_numbers_of_images():
    numbers = torch.tensor([1, 0, 1, 0, 1])  # two conversations and more in a row
    batch = {**a_batch(), "batch_num_images": numbers}
    media = prepare_vlm_media_for_pp(batch, 3, 3)[VLM_PP_MEDIA_KEY]
    assert [int(part.sum()) for part in media["batch_num_images"]] == [2, 0, 1]
    assert torch.equal(torch.cat(media["batch_num_images"]), numbers)


def test_what_else_is_said_of_each_image_has_its_own_name():
    batch = a_batch()
    batch["image_grid_hws"] = batch["image_grid_thw"][:, 1:]
    media = prepare_vlm_media_for_pp(batch, 3, 3)[VLM_PP_MEDIA_KEY]
    assert [part.tolist() for part in media["image_grid_hws"]] == [[[2, 2], [4, 2]], [], [[2, 6]]]
    assert [part.tolist() for part in media["image_grid_thw"]] == [[[1, 2, 2], [1, 4, 2]], [], [[1, 2, 6]]]
