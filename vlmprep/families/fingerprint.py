"""A fingerprint of everything in a processor that changes a token or a pixel."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import sys
from typing import Any

from vlmprep.schema.family import FamilySettings

__all__ = ["fingerprint"]

VERSIONED = (
    *("transformers", "tokenizers", "torch", "torchvision", "torchcodec"),
    *("pillow", "pillow-heif", "av", "soundfile", "soxr"),
)
"""Libraries whose versions may move a count, a pixel or a sample; transformers decodes images with torchcodec if it is there."""
PARTS = ("image_processor", "video_processor", "feature_extractor", "audio_processor")
"""What a processor calls those that work on media."""
PLACES = frozenset({"_name_or_path", "name_or_path", "_processor_class", "transformers_version"})
"""Entries of a processor's config that say where it came from, not what it does."""


def fingerprint(family: Any, settings: FamilySettings) -> dict[str, Any]:
    """What made the counts and pixels, as flat JSON in which two runs can be told apart by name.

    Args:
        family: A family made by `load_family`.
        settings: What it was made from; where it lay does not matter, what it holds does.
    """
    processor = family.processor
    parts: dict[str, Any] = {
        "family": family.name,
        "processor_class": type(processor).__name__,
        "tokenizer": digest(processor.tokenizer.backend_tokenizer.to_str()),
        "special_tokens": dict(processor.tokenizer.special_tokens_map),
        "chat_template": digest(processor.chat_template or processor.tokenizer.chat_template),
        "control_text": settings.control_text,
        "thinking_prefix": settings.thinking_prefix,
    }
    for name in PARTS:
        if (part := getattr(processor, name, None)) is not None:
            parts[name] = {"class": type(part).__name__, **settings_of(part)}
    if own := own_settings(processor):
        parts["processor"] = own
    if code := own_code(processor):
        parts["own_code"] = code
    if (calls := getattr(family, "call_settings", None)) is not None:
        parts["processor_calls"] = json.loads(json.dumps(calls, sort_keys=True, default=str))
    config = getattr(family, "config", None)
    if config is not None:
        parts["model_config"] = digest(json.dumps(without_places(config.to_dict()), sort_keys=True, default=str))
    parts["versions"] = {name: version for name in VERSIONED if (version := version_of(name)) is not None}
    return parts


def own_code(processor: Any) -> dict[str, str]:
    """Digests of the source of a processor's parts that come with the model, not with transformers, by class."""
    parts = [processor, *(getattr(processor, name, None) for name in (*PARTS, "tokenizer"))]
    classes = [type(part) for part in parts if part is not None]
    return {
        made.__name__: digest(inspect.getsource(sys.modules[made.__module__]))
        for made in classes
        if made.__module__.partition(".")[0] != "transformers"
    }


def own_settings(processor: Any) -> dict[str, Any]:
    """What a processor knows beside its parts, such as how many tokens an image has, as JSON."""
    apart = {*PARTS, "tokenizer", "chat_template", "processor_class", "auto_map"}
    return {name: value for name, value in settings_of(processor).items() if name not in apart}


def version_of(name: str) -> str | None:
    """Version of an installed library; None for one that is not there."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def settings_of(part: Any) -> dict[str, Any]:
    """A sub-processor's own settings as JSON."""
    plain = json.loads(json.dumps(part.to_dict(), sort_keys=True, default=str))
    return without_places(plain)


def without_places(value: dict[str, Any]) -> dict[str, Any]:
    """The same settings without where they were loaded from."""
    return {name: entry for name, entry in value.items() if name not in PLACES}


def digest(value: Any) -> str:
    """Short SHA-256 of a text, or of anything JSON can hold."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
