"""What vision transformers share: patches through a matrix, layers in which every patch of a picture sees every other."""

from __future__ import annotations

from typing import Any

from vlmprep.families.costs.words import area, layer_linear, linear, number, value

__all__ = ["embedding", "of_one_size", "patches_of_one_size", "plain_layers", "pooling_head", "scores", "text_width"]

CHANNELS = 3


def scores(width: int) -> float:
    """One query against one key, and its share of one value, all heads together.

    Args:
        width: Of the queries of all heads.
    """
    return 2 * linear(width, 1)


def plain_layers(vision: Any) -> tuple[float, float]:
    """All layers of a plain encoder: operations of one patch, and of one patch that sees one other."""
    hidden, depth = number(vision, "hidden_size"), number(vision, "num_hidden_layers")
    return depth * layer_linear(hidden, number(vision, "intermediate_size"), gated=False), depth * scores(hidden)


def embedding(vision: Any) -> float:
    """One patch through the matrix or convolution that is as large as the patch."""
    return linear(CHANNELS * area(vision, "patch_size"), number(vision, "hidden_size"))


def patches_of_one_size(vision: Any) -> int:
    """Patches of a picture of the one size that the config names."""
    sides, patch = (value(vision, name) for name in ("image_size", "patch_size"))
    height, width = (sides, sides) if isinstance(sides, int) else sides
    patch_height, patch_width = (patch, patch) if isinstance(patch, int) else patch
    return int(height // patch_height) * int(width // patch_width)


def of_one_size(vision: Any, *, class_tokens: int = 0) -> float:
    """A whole picture of the one size that the config names, through a plain encoder.

    Args:
        vision: The encoder's config.
        class_tokens: Tokens that stand beside a picture's patches.
    """
    patches = patches_of_one_size(vision)
    tokens = patches + class_tokens
    per_token, per_pair = plain_layers(vision)
    return patches * embedding(vision) + tokens * per_token + tokens**2 * per_pair


def pooling_head(vision: Any) -> tuple[float, float]:
    """SigLIP's head, in which one learned query reads all patches: operations of one patch, and of the query.

    Models that use the patches alone run it nevertheless.
    """
    hidden = number(vision, "hidden_size")
    query = 2 * linear(hidden, hidden) + 2 * linear(hidden, number(vision, "intermediate_size"))
    return 2 * linear(hidden, hidden) + scores(hidden), query


def text_width(config: Any) -> int:
    """How wide the language model's embeddings are."""
    return number(value(config, "text_config"), "hidden_size")
