"""What a family's forward takes for packed input, as far as packs and batches must know it.

A family's name says most of it. What sizes of one family differ in (windows, images that see themselves whole) stands in the
model's config.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

__all__ = ["ModelForm", "form_of"]

FULL, SLIDING = "full_attention", "sliding_attention"
_WITH_STATE = {"linear_attention", "mamba", "conv", "hybrid", "hybrid_sliding"}
_WITHOUT_ATTENTION = {"moe", "mlp", "dense", "sparse"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelForm:
    """What a model's forward takes, and what its layers look at."""

    family: str = ""
    """As the manifest names it."""
    token_types: bool = True
    """Whether forward takes `mm_token_type_ids`."""
    token_types_name: str = "mm_token_type_ids"
    """What forward calls them."""
    only_documents: str | None = None
    """Why there is no form for packs of this model; None: there is."""
    recurrent: bool = False
    """Whether layers carry a state from token to token, which no attention mask stops (gated delta nets, Mamba)."""
    layers: tuple[str, ...] = (FULL,)
    """Kinds of attention layers; with several, a mask of each."""
    window: int | None = None
    """Tokens that a sliding layer sees back, the token itself included."""
    image_blocks: bool = False
    """Whether images see themselves whole in sliding layers."""
    one_projection: bool = False
    """Whether sounds are projected otherwise as soon as any image is in the batch."""
    sounds_see_padding: bool = False
    """Whether a sound's encoder looks at the padding behind it, so that it depends on the longest sound of the batch."""
    short_positions: int | None = None
    """Positions up to which every token of a batch is rotated by the short factors, where a longer document anywhere in the
    batch changes them for all."""
    open_question: str | None = None
    """What must be known of the model's config before packs can be kept apart; None: nothing."""


_WHOLE_IMAGES = "images see themselves whole in every layer"

_FORMS = {
    form.family: form
    for form in (
        ModelForm(family="qwen2_vl"),
        ModelForm(family="qwen2_5_vl"),
        ModelForm(family="qwen3_vl"),
        ModelForm(family="qwen3_vl_moe"),
        ModelForm(family="qwen3_5", recurrent=True),
        ModelForm(family="qwen3_5_moe", recurrent=True),
        ModelForm(family="qwen3_omni_moe", token_types=False),
        ModelForm(family="qwen3_omni_moe_thinker", token_types=False),
        ModelForm(family="kimi_k25", token_types=False),
        ModelForm(family="kimi_vl", token_types=False),
        ModelForm(family="gemma4", layers=(FULL, SLIDING), open_question="text_config.use_bidirectional_attention"),
        ModelForm(family="gemma3", token_types_name="token_type_ids", only_documents=_WHOLE_IMAGES),
        ModelForm(family="phi4_multimodal", token_types=False, one_projection=True, sounds_see_padding=True),
        ModelForm(family="nemotron_h_omni", token_types=False, recurrent=True),
        ModelForm(family="llava_onevision", token_types=False),
        ModelForm(family="internvl", token_types=False),
        ModelForm(family="idefics3", token_types=False),
        ModelForm(family="smolvlm", token_types=False),
        ModelForm(family="step3p7", token_types=False, layers=(FULL, SLIDING)),
    )
}


def form_of(family: str, config: Any = None) -> ModelForm:
    """What the forward of a family takes.

    Args:
        family: As the manifest names it; one that is not known here takes everything that a pack holds.
        config: The model's config as transformers loads it; None: what the family's name alone says.

    Raises:
        ValueError: The config is of a model that does not write.
    """
    named = _FORMS.get(family, ModelForm(family=family))
    if config is None:
        return named
    text = _text_config(config)
    kinds = set(getattr(text, "layer_types", None) or ())
    bidirectional = getattr(text, "use_bidirectional_attention", None)
    if bidirectional not in (None, False, "vision"):
        raise ValueError(f"use_bidirectional_attention={bidirectional!r}: such a model is no model that writes")
    window = getattr(text, "sliding_window", None)
    if not kinds and window is not None and family == "phi4_multimodal":
        kinds = {SLIDING}
    others = sorted(kinds - {FULL, SLIDING} - _WITH_STATE - _WITHOUT_ATTENTION)
    layers = tuple(kind for kind in (FULL, SLIDING) if kind in kinds) or (FULL,)
    return replace(
        named,
        only_documents=f"layers are {', '.join(others)}" if others else named.only_documents,
        recurrent=named.recurrent or bool(_WITH_STATE & kinds),
        layers=layers,
        window=window if SLIDING in layers else None,
        image_blocks=bidirectional == "vision",
        short_positions=_short_positions(text),
        open_question=None,
    )


def _text_config(config: Any) -> Any:
    config = getattr(config, "thinker_config", config)
    return getattr(config, "text_config", None) or config


def _short_positions(text: Any) -> int | None:
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return None
    return int(rope.get("original_max_position_embeddings") or text.original_max_position_embeddings)
