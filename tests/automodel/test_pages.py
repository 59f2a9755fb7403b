"""Every name of the five pages of NeMo Automodel's `datasets.vlm` is there, with its signature."""

from __future__ import annotations

import ast
import inspect
import re
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

PAGES = {
    "collate_fns": """
        COLLATE_FNS
        _GEMMA4_MODEL_TURN
        _GEMMA4_THINKING_PREFIX
        _IMSTART_TEMPLATE_PROCESSORS
        _count_media_per_sample(conversations)
        _decode_single_token(tokenizer, token_id)
        _drop_overlong_samples(conversations, processor, max_length)
        _ensure_rgb(conversations)
        _estimate_media_tokens(conversation, processor)
        _expand_image_tokens(input_ids, attention_mask, grid_thws, media_token_id, merge_kernel_size=(2, 2))
        _extract_assistant_text(message)
        _extract_image_config(processor)
        _extract_media_from_conversations(conversations)
        _find_pattern_indices(template, pattern, search_start_index=0, allow_first_token_mismatch=False)
        _get_assistant_marker(tokenizer)
        _get_stop_token_id(tokenizer)
        _inject_thinking_prefix_tokens(batch, tokenizer)
        build_labels(input_ids_batch, conversations, processor)
        build_labels_from_template(input_ids_batch, conversations, processor)
        default_collate_fn(examples, processor, max_length=None, _post_tokenize_hook=None)
        gemma4_prefix_collate_fn(examples, processor, max_length=None)
        kimi_k25_vl_collate_fn(examples, processor, max_length=None)
        kimi_vl_collate_fn(examples, processor, max_length=None)
        logger
        make_robust_collate(dataset, collate_fn, max_retries=10)
        neat_packed_vlm_collater(batch, padding_idx=0, max_length=None, attn_implementation='sdpa')
        nemotron_parse_collate_fn(examples, processor, task_prompt='</s><s><predict_bbox><predict_classes><output_markdown>')
        pad_collate_fn(examples, processor, max_length=None)
        phi4_mm_collate_fn(examples, processor)
        qwen2_5_collate_fn(examples, processor)
        qwen3_omni_collate_fn(examples, processor, use_audio_in_video=False)
    """,
    "datasets": """
        PreTokenizedDatasetWrapper(dataset, processor, max_length=None, max_retries=10)
        PreTokenizedDatasetWrapper.__getitem__(idx)
        PreTokenizedDatasetWrapper.__len__()
        PreTokenizedDatasetWrapper.robust_collate(collate_fn)
        RobustDatasetWrapper(dataset, max_retries=10)
        RobustDatasetWrapper.__getitem__(idx)
        RobustDatasetWrapper.__len__()
        RobustDatasetWrapper.robust_collate(collate_fn)
        _ExamplesWithStats
        _ExamplesWithStats.__slots__
        _collect_sample_stats(examples)
        _convert_sharegpt_to_conversation(example, columns=None, tags=None, media_dir=None)
        _load_json_or_jsonl(file_path)
        _load_jsonl_for_rank(file_path, sample_ratio, rank, world_size)
        _log_dataset_loading_summary(timings, wall_time, total_samples, rank=None)
        logger
        make_cord_v2_dataset(path_or_dataset='naver-clova-ix/cord-v2', split='train', **kwargs)
        make_cv17_dataset(path_or_dataset='ysdede/commonvoice_17_tr_fixed', split='train', **kwargs)
        make_medpix_dataset(path_or_dataset='medpix-dataset/medpix-dataset', split='train', **kwargs)
        make_meta_dataset(path_or_dataset, dataset_names=None, split='train', shard_data=False, rank=None, world_size=None, \
**kwargs)
        make_rdr_dataset(path_or_dataset='quintend/rdr-items', split='train', **kwargs)
        make_unimm_chat_dataset(path_or_dataset='Yirany/UniMM-Chat', split='train', **kwargs)
    """,
    "fake_image": """
        _FAKE_IMAGE
        _VISION_TOKEN_ID_ATTRS
        _VISION_TOKEN_KEYWORDS
        _VISION_TOKEN_STRINGS
        _batch_has_media(conversations)
        _conversation_has_media(conversation)
        _get_vision_token_ids(processor)
        _scan_attrs(source, attr_names)
        _warn_no_vision_tokens(processor)
        _warned_unknown_processors
        inject_fake_image_into_conversation(conversation)
        logger
        mask_fake_vision_tokens_batch(batch, processor, sample_indices)
        mask_fake_vision_tokens_single(sample_dict, processor)
    """,
    "neat_packing_vlm": """
        MEDIA_KEYS
        PackedDatasetWrapper(inner_dataset, bins, pack_size, padding_idx=0, get_rope_index=None, max_retries=10)
        PackedDatasetWrapper.__getitem__(pack_idx)
        PackedDatasetWrapper.__len__()
        PackedDatasetWrapper.robust_collate(collate_fn)
        _build_packed_vlm_sample(samples, pack_size, padding_idx, has_mrope=False)
        _compute_mrope_position_ids(sample, get_rope_index)
        _estimate_image_tokens(img_meta, image_cfg)
        _estimate_sample_length(example, image_cfg=None, video_cfg=None, return_media_tokens=False)
        _estimate_video_tokens(vid_meta, video_cfg)
        _shift_sample(sample, has_mrope=False)
        greedy_knapsack_vt_balanced(lengths, max_length, visual_tokens)
        logger
        neat_pack_dataset_vlm(dataset, pack_size, padding_idx=0, drop_long_samples=False, max_packs=None, \
get_rope_index=None, ds_raw=None, packing_ratio=1.0, processor=None, balance_media_tokens=True)
    """,
    "pp_media": """
        VLM_PP_MEDIA_KEY
        _VLM_MEDIA_KEYS
        __all__
        _select_image_grid(image_grid_hws, image_grid_thw, image_sizes, image_position_ids)
        chunk_step3_media(pixel_values, batch_size, n_microbatches, num_patches=None, patch_pixel_values=None, \
patch_newline_mask=None)
        chunk_vlm_media(pixel_values, image_grid, batch_size, n_microbatches, n_images_per_sample=None)
        prepare_vlm_media_for_pp(batch, batch_size, n_microbatches)
        stage_vlm_media_for_pp(pp, model_parts, batch)
        wrap_vlm_collate_for_pp(collate_fn, n_microbatches)
    """,
}
"""What the pages have; functions, classes and methods as they are called."""


def names_of(page: str) -> list[str]:
    return [line.strip() for line in PAGES[page].strip().splitlines()]


@pytest.mark.parametrize(("page", "line"), [(page, line) for page in PAGES for line in names_of(page)])
def test_every_name_is_there_with_its_signature(page: str, line: str):
    path, mark, _ = line.partition("(")
    found = import_module(f"vlmprep.automodel.{page}")
    for name in path.split("."):
        found = getattr(found, name)
    if mark:
        assert path + called(found, is_method="." in path) == line
        assert "." in path or inspect.getdoc(found)
    if path == "logger":
        assert found.name == f"vlmprep.automodel.{page}"


def called(function: Any, *, is_method: bool) -> str:
    """How a function is called, by what the reference knows; what is new must have a default and be given by name."""
    entries = list(inspect.signature(function).parameters.values())[is_method:]
    new = [entry for entry in entries if entry.kind is entry.KEYWORD_ONLY]
    assert all(entry.default is not entry.empty for entry in new)
    return shown(
        (
            "**" * (entry.kind is entry.VAR_KEYWORD) + entry.name,
            () if entry.default is entry.empty else (entry.default,),
        )
        for entry in entries
        if entry not in new
    )


def shown(parameters: Any) -> str:
    return f"({', '.join(name + ''.join(f'={value!r}' for value in default) for name, default in parameters)})"


@pytest.mark.parametrize("page", PAGES)
def test_the_names_are_those_of_the_published_pages(page: str, shared_data: Path):
    text = (shared_data.parent / "reference" / f"{page}.txt").read_text()
    assert sorted(set(published(page, text))) == names_of(page)


def published(page: str, text: str) -> list[str]:
    """What a page lists, in the form of `names_of`."""
    module = rf"nemo_automodel\.components\.datasets\.vlm\.{page}\."
    entry = re.compile(rf"^(class |- )?(?:{module}([\w.]+)|(__\w+__|robust_collate)(?=[(#]))(\()?", re.M)
    found, owner = [], ""
    for match in entry.finditer(text):
        kind, path, method, bracket = match.groups()
        owner = path if kind == "class " else owner
        found.append((path or f"{owner}.{method}") + (parameters_in(text[match.end() :]) if bracket else ""))
    return found


def parameters_in(text: str) -> str:
    """The parameters that a text begins with, behind their bracket: on its line, or one a line."""
    first, *others = text.split("\n")
    if first:
        inside = first[: first.index(")")]
    elif others[0].startswith("- "):  # a list, whose closing bracket was lost
        inside = " ".join(line[2:] for line in takewhile(re.compile(r"- (?!nemo_automodel)").match, others))
    else:
        inside = " ".join(takewhile(lambda line: not line.startswith(")"), others))
    parsed = ast.parse(f"def f({inside}): ...").body[0]
    assert isinstance(parsed, ast.FunctionDef)
    given = parsed.args
    defaults = [()] * (len(given.args) - len(given.defaults)) + [(ast.literal_eval(value),) for value in given.defaults]
    starred = [(f"**{given.kwarg.arg}", ())] if given.kwarg else []
    return shown([*zip((argument.arg for argument in given.args), defaults, strict=True), *starred])
