"""From the user's `--processor` to a family."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from vlmprep.families.base import BaseFamily
from vlmprep.families.gemma4 import Gemma4
from vlmprep.families.general.family import general_family
from vlmprep.families.general.models import refuse_unpackable
from vlmprep.families.idefics3 import Idefics3, SmolVLM
from vlmprep.families.internvl import InternVL
from vlmprep.families.kimi import KimiK25
from vlmprep.families.kimi_vl import KimiVL
from vlmprep.families.llava_onevision import LlavaOnevision
from vlmprep.families.nemotron_omni import NemotronOmni
from vlmprep.families.phi4_multimodal import Phi4Multimodal
from vlmprep.families.qwen.omni import Qwen3Omni
from vlmprep.families.qwen.vl import Qwen2VL, Qwen3VL, Qwen3VLMoe, Qwen25VL, Qwen35, Qwen35Moe
from vlmprep.families.step3p7 import Step3p7
from vlmprep.families.wording import first_line
from vlmprep.schema.errors import StopRun
from vlmprep.schema.family import PROCESSOR_HINT, Family, FamilySettings, check_processor
from vlmprep.schema.files import canonical_json

__all__ = ["family_of", "load_family"]

FAMILIES: dict[str, Callable[..., Family]] = {
    "Gemma4Processor": Gemma4,
    "Idefics3Processor": Idefics3,
    "InternVLProcessor": InternVL,
    "KimiVLProcessor": KimiVL,
    "Kimi_K25Processor": KimiK25,
    "LlavaOnevisionProcessor": LlavaOnevision,
    "NemotronH_Omni_Reasoning_V3Processor": NemotronOmni,
    "Phi4MultimodalProcessor": Phi4Multimodal,
    "Qwen2VLProcessor": Qwen2VL,
    "Qwen2_5_VLProcessor": Qwen25VL,
    "Qwen3OmniMoeProcessor": Qwen3Omni,
    "Qwen3VLProcessor": Qwen3VL,
    "SmolVLMProcessor": SmolVLM,
    "Step3p7Processor": Step3p7,
}
"""By the class of the processor that AutoProcessor makes; others are packed the general way, where it holds."""
MODELS: dict[tuple[str, str], Callable[..., Family]] = {
    ("Qwen3VLProcessor", "qwen3_vl_moe"): Qwen3VLMoe,
    ("Qwen3VLProcessor", "qwen3_5"): Qwen35,
    ("Qwen3VLProcessor", "qwen3_5_moe"): Qwen35Moe,
}
"""By that class and the model_type of the config, where several models share a processor."""
_LOADED: dict[bytes, Family] = {}
"""Families of this process, by the JSON of their settings."""


def load_family(settings: FamilySettings) -> Family:
    """Load the processor and wrap it in its family, once per process and settings.

    Raises:
        StopRun: The processor cannot be loaded, or its model is not one that vlmprep packs.
    """
    key = canonical_json(asdict(settings))  # options may hold mappings, which do not hash
    if key not in _LOADED:
        _LOADED[key] = _load(settings)
    return _LOADED[key]


def _load(settings: FamilySettings) -> Family:
    return family_of(load_processor(settings), load_config(settings), settings)


def family_of(processor: Any, config: Any, settings: FamilySettings) -> Family:
    """Wrap a processor that is loaded already in its family.

    Args:
        processor: The model's own.
        config: The model's config; None: the family's defaults.
        settings: Everything but where the processor lies.

    Raises:
        StopRun: Its model is not one that vlmprep packs.
    """
    name = type(processor).__name__
    refuse_unpackable(processor, config)
    family: Callable[..., Family] = FAMILIES.get(name, general_family)
    family = MODELS.get((name, getattr(config, "model_type", "")), family)
    own = {"thinking_prefix": True} if settings.thinking_prefix else {}
    if own and family is not Gemma4:
        raise StopRun(f"--thinking-prefix is for Gemma 4, and {name} is another model's", "Leave it out.")
    made = family(processor, config, keep_control_text=settings.control_text == "keep", **own)
    if isinstance(made, BaseFamily):
        made.max_clip_bytes = settings.max_clip_bytes
    return made


def load_processor(settings: FamilySettings) -> Any:
    """The model's own processor, with the image backend that was asked for.

    Raises:
        StopRun: It cannot be loaded.
    """
    check_processor(settings.processor)
    import transformers

    auto: Any = transformers  # its from_pretrained methods are untyped
    where: dict[str, Any] = {"revision": settings.revision} if settings.revision else {}
    where["trust_remote_code"] = settings.trust_remote_code
    try:
        processor = auto.AutoProcessor.from_pretrained(settings.processor, **where, **dict(settings.options))
        if settings.image_backend is not None:
            processor.image_processor = auto.AutoImageProcessor.from_pretrained(
                settings.processor, backend=settings.image_backend, **where, **dict(settings.options)
            )
    except Exception as error:  # files of a processor break in as many ways as there are libraries that read them
        raise StopRun(
            f"the processor {settings.processor!r} cannot be loaded: {first_line(error)}", PROCESSOR_HINT
        ) from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise StopRun(f"{settings.processor!r} is {type(processor).__name__}, which is no vision-language processor")
    return processor


def load_config(settings: FamilySettings) -> Any:
    """The model's config: the one named, else the processor's sibling config.json, else None.

    Raises:
        StopRun: A named config cannot be loaded.
    """
    from transformers import AutoConfig

    where = settings.model_config or settings.processor
    local = os.path.isdir(where)
    here = dict(settings.options).get("local_files_only", False)
    if settings.model_config is None and local and not os.path.isfile(os.path.join(where, "config.json")):
        return None
    try:
        return AutoConfig.from_pretrained(
            where, revision=settings.revision, trust_remote_code=settings.trust_remote_code, local_files_only=here
        )
    except Exception as error:  # likewise
        raise StopRun(
            f"the model's config at {where!r} cannot be loaded: {first_line(error)}",
            "Name it with --model-config, a folder, file or hub name.",
        ) from error
