"""The vision encoders of families that cut pictures into tiles of one size: every tile, crop and frame costs the same.

How many patches a tile has stands in the model's config alone, so all of its work is `per_picture`; it holds for tiles of
the size that the config names. What the projector makes of a tile is no part of its visual tokens where a model drops some
of it again (LLaVA-OneVision cuts off borders and shrinks frames), so the projector counts with the tile as well.
"""

from __future__ import annotations

from typing import Any

from vlmprep.families.costs.encoders_vit import of_one_size, patches_of_one_size, pooling_head, text_width
from vlmprep.families.costs.words import linear, number, value
from vlmprep.schema.errors import StopRun

__all__ = ["idefics3_vision", "internvl_vision", "llava_onevision_vision"]

SIGLIP = "siglip_vision_model"
INTERNVL = "internvl_vision"


def llava_onevision_vision(config: Any) -> dict[str, float]:
    """LLaVA-OneVision: SigLIP, and two matrices for every patch of every crop and frame."""
    vision = value(config, "vision_config")
    _refuse_other_encoder(vision, SIGLIP)
    layers = value(config, "vision_feature_layer")
    num_layers = 1 if isinstance(layers, int) else len(layers)
    kept = patches_of_one_size(vision) - (value(config, "vision_feature_select_strategy") == "default")
    text = text_width(config)
    projector = linear(num_layers * number(vision, "hidden_size"), text) + linear(text, text)
    tile = of_one_size(vision) + kept * projector
    if getattr(vision, "vision_use_head", True):
        per_patch, query = pooling_head(vision)
        tile += patches_of_one_size(vision) * per_patch + query
    return {"per_picture": tile}


def internvl_vision(config: Any) -> dict[str, float]:
    """InternVL: a class token beside the patches; neighbouring patches side by side through two matrices."""
    vision = value(config, "vision_config")
    _refuse_other_encoder(vision, INTERNVL)
    ratio, text = float(value(config, "downsample_ratio")), text_width(config)
    kept = patches_of_one_size(vision) + (value(config, "vision_feature_select_strategy") != "default")
    merged = number(vision, "hidden_size") * int(1 / ratio) ** 2
    projector = linear(merged, text) + linear(text, text)
    return {"per_picture": of_one_size(vision, class_tokens=1) + kept * ratio**2 * projector}


def idefics3_vision(config: Any) -> dict[str, float]:
    """Idefics3 and SmolVLM: neighbouring patches side by side through one matrix."""
    vision = value(config, "vision_config")
    merged = number(config, "scale_factor") ** 2
    projector = linear(number(vision, "hidden_size") * merged, text_width(config))
    return {"per_picture": of_one_size(vision) + patches_of_one_size(vision) // merged * projector}


def _refuse_other_encoder(vision: Any, known: str) -> None:
    """Stop where a model carries an encoder of another kind.

    Raises:
        StopRun: It does.
    """
    if (found := getattr(vision, "model_type", known)) != known:
        raise StopRun(
            f"the model's vision encoder is {found}, and what {known} does is known alone, so its work cannot be predicted",
            "Plan with --balance vt, which needs no config.",
        )
