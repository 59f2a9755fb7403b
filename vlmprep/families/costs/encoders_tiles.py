"""The vision encoders of families that cut pictures into tiles of one size: every tile, crop and frame costs the same.

How many patches a tile has stands in the model's config alone, so all of its work is `per_picture`; it holds for tiles of
the size that the config names. What the projector makes of a tile is no part of its visual tokens where a model drops some
of it again (LLaVA-OneVision cuts off borders and shrinks frames), so the projector counts with the tile as well.
"""

from __future__ import annotations

import math
from typing import Any

from vlmprep.families.costs.encoders_vit import of_one_size, patches_of_one_size, pooling_head, text_width
from vlmprep.families.costs.words import linear, number, said, value
from vlmprep.schema.errors import StopRun

__all__ = ["gemma3_vision", "idefics3_vision", "internvl_vision", "llava_vision", "shuffled_vision"]

CLASS_TOKENS = {"clip_vision_model": 1, "internvl_vision": 1, "siglip_vision_model": 0}
"""Tokens beside the patches, of the encoders that models carry here."""


def llava_vision(config: Any) -> dict[str, float]:
    """LLaVA, LLaVA-NeXT and LLaVA-OneVision: two matrices for every patch of every picture, crop and frame."""
    vision = value(config, "vision_config")
    layers, text = value(config, "vision_feature_layer"), text_width(config)
    num_layers = 1 if isinstance(layers, int) else len(layers)
    projector = linear(num_layers * number(vision, "hidden_size"), text) + linear(text, text)
    return {"per_picture": _encoder(vision) + _kept(config, vision) * projector}


def internvl_vision(config: Any) -> dict[str, float]:
    """InternVL: neighbouring patches side by side through two matrices."""
    vision = value(config, "vision_config")
    ratio, text = float(value(config, "downsample_ratio")), text_width(config)
    merged = number(vision, "hidden_size") * int(1 / ratio) ** 2
    projector = linear(merged, text) + linear(text, text)
    return {"per_picture": _encoder(vision) + _kept(config, vision) * ratio**2 * projector}


def idefics3_vision(config: Any) -> dict[str, float]:
    """Idefics3 and SmolVLM: neighbouring patches side by side through one matrix."""
    vision = value(config, "vision_config")
    merged = number(config, "scale_factor") ** 2
    projector = linear(number(vision, "hidden_size") * merged, text_width(config))
    return {"per_picture": of_one_size(vision) + patches_of_one_size(vision) // merged * projector}


def shuffled_vision(config: Any) -> dict[str, float]:
    """Aya Vision and Cohere2 Vision: neighbouring patches side by side through a matrix, half of it a gate, and another."""
    vision, text = value(config, "vision_config"), text_width(config)
    merged = number(config, "downsample_factor") ** 2
    inner = said(config, "alignment_intermediate_size") or text
    projector = linear(number(vision, "hidden_size") * merged, inner) + linear(inner // 2, text)
    kept = _kept(config, vision) if said(config, "vision_feature_select_strategy") else _tokens(vision)
    return {"per_picture": _encoder(vision) + kept // merged * projector}


def gemma3_vision(config: Any) -> dict[str, float]:
    """Gemma 3: patches averaged to `mm_tokens_per_image`, and one matrix."""
    vision = value(config, "vision_config")
    side, wanted = math.isqrt(patches_of_one_size(vision)), math.isqrt(number(config, "mm_tokens_per_image"))
    if not 0 < wanted <= side:
        raise StopRun(
            f"the model's config averages a picture of {side} x {side} patches to {wanted} x {wanted} (mm_tokens_per_image)",
            "Name the model's own config with --model-config.",
        )
    pooled = side // (side // wanted)
    return {"per_picture": _encoder(vision) + pooled**2 * linear(number(vision, "hidden_size"), text_width(config))}


def _encoder(vision: Any) -> float:
    """A picture through the encoder, with SigLIP's head where it has one."""
    whole = of_one_size(vision, class_tokens=_class_tokens(vision))
    if vision.model_type != "siglip_vision_model" or not getattr(vision, "vision_use_head", True):
        return whole
    per_patch, query = pooling_head(vision)
    return whole + patches_of_one_size(vision) * per_patch + query


def _tokens(vision: Any) -> int:
    """What the encoder gives of a picture."""
    return patches_of_one_size(vision) + _class_tokens(vision)


def _kept(config: Any, vision: Any) -> int:
    """What the projector gets of it: `default` leaves out the first token, whatever it is."""
    return _tokens(vision) - int(value(config, "vision_feature_select_strategy") == "default")


def _class_tokens(vision: Any) -> int:
    """Tokens beside the patches.

    Raises:
        StopRun: The model carries an encoder of another kind.
    """
    found = value(vision, "model_type")
    if found not in CLASS_TOKENS:
        raise StopRun(
            f"the model's vision encoder is {found}, of which nothing is known, so its work cannot be predicted",
            "Plan with --balance vt, which needs no config.",
        )
    return CLASS_TOKENS[found]
