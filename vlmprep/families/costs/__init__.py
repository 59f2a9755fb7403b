"""Predicted work: what a model's config says about the operations of a forward pass.

    config ──▶ language.py         linear and attention terms of the language model   ─┐
           └─▶ table.py ──▶ the encoders of its model_type, each a function            ├─▶ CostModel
                            (config) -> {field of CostModel: operations per count}    ─┘

docs/planning.md ("Predicted work") has the formulas and what is left out of them.
"""

from vlmprep.families.costs.model import cost_model, load_cost_model

__all__ = ["cost_model", "load_cost_model"]
