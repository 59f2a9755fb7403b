"""Language models that nobody wrote a function for, where their config speaks the usual words.

The usual layer is attention and a feed-forward part of three matrices or two. Which of them, and whether that is all, no config
says; so the model is laid out without memory for its weights (PyTorch's meta device), and the formula has to account for
every one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vlmprep.families.costs.layers import Layer, attention, feed_forward, windows, with_more
from vlmprep.families.costs.words import NEXT, named, not_understood, number, said
from vlmprep.families.wording import first_line
from vlmprep.schema.errors import StopRun

__all__ = ["usual_layers"]

OPERATIONS_PER_WEIGHT = 2


def usual_layers(config: Any) -> Iterator[Layer]:
    """Layers of attention and a feed-forward part, as many matrices as the model's weights say.

    Args:
        config: A text config of transformers.

    Raises:
        StopRun: A field is missing, or the model has weights that the usual layer has not.
    """
    hidden, inner = number(config, "hidden_size"), number(config, "intermediate_size")
    attentions = [attention(config, window=window) for window in _windows(config)]
    weights = _weights_of_layers(config)
    for gated in (True, False):
        layers = [with_more(layer, feed_forward(hidden, inner, gated=gated)) for layer in attentions]
        if OPERATIONS_PER_WEIGHT * weights == sum(layer.per_token for layer in layers):
            return iter(layers)
    raise not_understood(config, f"nothing of what its {weights} weights in layers do")


def _windows(config: Any) -> Iterator[int | None]:
    """What each layer's queries see; a window without a word on which layers have it is not understood."""
    if said(config, "layer_types") is None and said(config, "sliding_window") is None:
        return iter([None] * number(config, "num_hidden_layers"))
    return windows(config)


def _weights_of_layers(config: Any) -> int:
    """Weights of the matrices of all layers."""
    import torch
    from transformers import AutoModel

    auto: Any = AutoModel  # untyped
    try:
        with torch.device("meta"):
            model = auto.from_config(config)
    except Exception as error:  # models break in as many ways as there are
        raise StopRun(
            f"the work of {named(config)} cannot be predicted: transformers does not lay out its model: {first_line(error)}",
            NEXT,
        ) from error
    embeddings = {id(weight) for weight in model.get_input_embeddings().parameters()}
    return sum(weight.numel() for weight in model.parameters() if weight.ndim > 1 and id(weight) not in embeddings)
