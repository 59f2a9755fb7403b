"""Layers whose work is linear in tokens: they carry a state, and look at a chunk of tokens at once.

Both are counted as transformers' own code computes them, chunk by chunk, with whole chunks: a token meets all `C` tokens of its
chunk (kernels that skip the masked half do less), and the tokens that fill up a document's last chunk are left out.
"""

from __future__ import annotations

from typing import Any

from vlmprep.families.costs.layers import Layer
from vlmprep.families.costs.words import linear, number

__all__ = ["DELTA_CHUNK", "gated_delta_net", "mamba2"]

DELTA_CHUNK = 64
"""Tokens of a chunk of the gated delta rule, in transformers and in flash-linear-attention."""


def gated_delta_net(config: Any) -> Layer:
    """Qwen3.5's linear attention (Yang et al. 2024, Gated Delta Networks, section 3.3).

    For each value head, with keys of K and values of V numbers and chunks of C tokens: scores of keys and of queries (2 x 2CK), a
    triangular system for values and for keys (CV + CK), values against scores (2CV), and three products with the state (3 x 2KV).
    """
    hidden, chunk = number(config, "hidden_size"), DELTA_CHUNK
    key, head_value = number(config, "linear_key_head_dim"), number(config, "linear_value_head_dim")
    value_heads = number(config, "linear_num_value_heads")
    keys, values = key * number(config, "linear_num_key_heads"), head_value * value_heads
    mixed = 2 * keys + values
    rule = 4 * chunk * key + chunk * (key + head_value) + 2 * chunk * head_value + 6 * key * head_value
    return Layer(
        per_token=linear(hidden, mixed + values + 2 * value_heads)
        + linear(mixed, number(config, "linear_conv_kernel_dim"))
        + value_heads * rule
        + linear(values, hidden)
    )


def mamba2(config: Any) -> Layer:
    """Nemotron-H's state space layers (Dao and Gu 2024, Mamba-2, section 6).

    For each head of P numbers, with a state of P x N and chunks of C tokens: scores (2CN), values against them (2CP), into the
    state and out of it (2 x 2NP). What passes states from chunk to chunk is left out: kernels do it one chunk after the other,
    C times less often than all else, transformers' code all at once.
    """
    hidden, state = number(config, "hidden_size"), number(config, "ssm_state_size")
    heads, head = number(config, "mamba_num_heads"), number(config, "mamba_head_dim")
    chunk, inner = number(config, "chunk_size"), heads * head
    mixed = inner + 2 * number(config, "n_groups") * state
    scan = 2 * chunk * (state + head) + 4 * state * head
    return Layer(
        per_token=linear(hidden, inner + mixed + heads)
        + linear(mixed, number(config, "conv_kernel"))
        + heads * scan
        + linear(inner, hidden)
    )
