"""From a model's config to its cost model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vlmprep.families.costs.language import language_terms
from vlmprep.families.costs.table import ENCODERS
from vlmprep.families.loading import load_config
from vlmprep.schema.cost import CostModel
from vlmprep.schema.errors import StopRun
from vlmprep.schema.family import FamilySettings

__all__ = ["cost_model", "load_cost_model"]


def load_cost_model(
    settings: FamilySettings, model_config: str | None = None, *, family: str | None = None
) -> CostModel:
    """The cost model of a family's model; neither its processor nor its weights are loaded.

    Args:
        settings: Says where the config lies; the processor's sibling config.json unless it names another.
        model_config: Folder, file or hub name of another config, which wins.
        family: Name of the family whose counts are to be costed; None: they are not known yet.

    Raises:
        StopRun: There is no config, it cannot be loaded, does not say enough, or is of a model whose encoders work on other
            counts than the family's.
    """
    config = load_config(replace(settings, model_config=model_config or settings.model_config))
    if config is None:
        raise StopRun(
            f"there is no config.json beside the processor {settings.processor!r}, and predicted work is read from it",
            "Name the model's config with --model-config (a folder, file or hub name), or plan with --balance vt.",
        )
    model = cost_model(config)
    if family in ENCODERS and ENCODERS[family] != ENCODERS[config.model_type]:
        raise StopRun(
            f"the model's config is of {config.model_type}, and the samples were counted for {family}",
            "Name the config of the model that will be trained (--model-config), or plan with --balance vt.",
        )
    return model


def cost_model(config: Any) -> CostModel:
    """The cost model of a model.

    Args:
        config: Its loaded config, of transformers or of remote code.

    Raises:
        StopRun: What the model does is not known, or a field is missing that the formula needs; the message names it.
    """
    model_type = getattr(config, "model_type", "")
    if model_type not in ENCODERS:
        raise StopRun(
            f"what the encoders of {model_type or type(config).__name__} do is not known, so its work cannot be predicted",
            f"Plan with --balance vt, which needs no config; predicted are {', '.join(sorted(ENCODERS))}.",
        )
    terms: dict[str, Any] = {}
    for encoder in ENCODERS[model_type]:
        for name, operations in encoder(config).items():
            terms[name] = terms.get(name, 0.0) + operations
    return replace(language_terms(config), **terms)
