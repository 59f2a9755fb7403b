"""What the parts of a language model's layers cost: attention, feed-forward, experts.

Sources: 2 operations for a multiplication with an addition, so 2 for every weight that a token meets (Kaplan et al. 2020,
section 2.1); attention scores and their use 4 x width for every query and key (Chowdhery et al. 2022, PaLM, appendix B;
Hoffmann et al. 2022, Chinchilla, appendix F). Norms, activations, softmax and rotary embeddings are left out, as there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from vlmprep.families.costs.words import linear, not_understood, number, said, value

__all__ = ["Layer", "attention", "experts", "feed_forward", "latent_attention", "one_of", "windows", "with_more"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Operations of one layer of a language model."""

    per_token: float
    """Through its matrices."""
    per_token_pair: float = 0.0
    """A query against a key that it sees."""
    window: int | None = None
    """Tokens that a query sees, itself included; None: all before it."""


def attention(config: Any, *, window: int | None = None, gate: int = 0) -> Layer:
    """Attention of several heads, whose keys and values groups of heads may share.

    Args:
        config: A text config, or one layer's.
        window: Tokens that a query sees.
        gate: Outputs of a further matrix that gates what attention returns.
    """
    hidden, heads = number(config, "hidden_size"), number(config, "num_attention_heads")
    shared = int(said(config, "num_key_value_heads") or heads)  # in transformers, none means as many
    head = int(said(config, "head_dim") or hidden // heads)
    projections = 2 * linear(hidden, heads * head) + 2 * linear(hidden, shared * head) + linear(hidden, gate)
    return Layer(per_token=projections, per_token_pair=scores(heads, head, head), window=window)


def latent_attention(config: Any) -> Layer:
    """Multi-head latent attention (DeepSeek-V2, section 2.1), as it is trained: keys and values are expanded."""
    hidden, heads = number(config, "hidden_size"), number(config, "num_attention_heads")
    rotated, plain = number(config, "qk_rope_head_dim"), number(config, "qk_nope_head_dim")
    latent, values = number(config, "kv_lora_rank"), number(config, "v_head_dim")
    queries = heads * (plain + rotated)
    rank = said(config, "q_lora_rank")
    asked = linear(hidden, queries) if rank is None else linear(hidden, int(rank)) + linear(int(rank), queries)
    known = linear(hidden, latent + rotated) + linear(latent, heads * (plain + values))
    return Layer(
        per_token=asked + known + linear(heads * values, hidden),
        per_token_pair=scores(heads, plain + rotated, values),
    )


def scores(heads: int, key: int, values: int) -> float:
    """One query against one key, and the use of its value."""
    return linear(heads, key) + linear(heads, values)


def feed_forward(hidden: int, inner: int, *, gated: bool = True) -> float:
    """One token through two matrices, or three where one gates."""
    return (3 if gated else 2) * linear(hidden, inner)


def experts(config: Any, *, hidden: int, inner: int, gated: bool = True) -> float:
    """One token through its experts of many, and through the matrix that chooses them.

    Args:
        config: Says how many experts there are and how many a token meets.
        hidden: What an expert takes and returns.
        inner: Width inside an expert.
        gated: An expert has three matrices.
    """
    chosen = number(config, "num_experts_per_tok", "top_k_experts", "moe_top_k")
    num_experts = number(config, "num_experts", "n_routed_experts", "num_local_experts")
    router = linear(number(config, "hidden_size"), num_experts)
    return router + chosen * feed_forward(hidden, inner, gated=gated)


def with_more(layer: Layer, per_token: float) -> Layer:
    """A layer that does more with every token."""
    return replace(layer, per_token=layer.per_token + per_token)


def windows(config: Any) -> Iterator[int | None]:
    """What each layer's queries see, by `layer_types`: a window, or None for the whole document."""
    for kind in value(config, "layer_types"):
        sliding = one_of(config, kind, "sliding_attention", "full_attention")
        yield number(config, "sliding_window") if sliding else None


def one_of(config: Any, kind: str, this: str, other: str) -> bool:
    """Which of two kinds a layer is.

    Returns:
        Whether it is of the first.

    Raises:
        StopRun: It is of a third.
    """
    if kind not in (this, other):
        raise not_understood(config, f"a layer of type {kind}")
    return kind == this
