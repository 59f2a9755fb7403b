"""The language model's work, from its text config."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vlmprep.families.costs.decoders import DECODERS
from vlmprep.families.costs.layers import Layer
from vlmprep.families.costs.usual import usual_layers
from vlmprep.families.costs.words import linear, number, said
from vlmprep.schema.cost import CostModel, WindowCost

__all__ = ["language_terms", "text_config"]


def language_terms(config: Any) -> CostModel:
    """The language model's part of a cost model, with its output layer on every token.

    Args:
        config: The whole model's.

    Raises:
        StopRun: A field is missing, or its layers are of no kind that is known.
    """
    text = text_config(config)
    layers = DECODERS.get(said(text, "model_type") or "", usual_layers)(text)
    return _summed(layers, output=linear(number(text, "hidden_size"), number(text, "vocab_size")))


def text_config(config: Any) -> Any:
    """The part of a model's config that is about its language model; in some models all of it."""
    thinker = said(config, "thinker_config") or config
    return said(thinker, "text_config", "llm_config", "language_config") or thinker


def _summed(layers: Iterable[Layer], output: float) -> CostModel:
    """All layers together, those with the same window as one term."""
    per_token = output
    by_window: dict[int | None, float] = {}
    for layer in layers:
        per_token += layer.per_token
        by_window[layer.window] = by_window.get(layer.window, 0.0) + layer.per_token_pair
    windows = sorted((window, each) for window, each in by_window.items() if window is not None)
    return CostModel(
        per_token=per_token,
        per_token_pair=by_window.get(None, 0.0),
        windows=tuple(WindowCost(window=window, per_token_pair=each) for window, each in windows),
    )
