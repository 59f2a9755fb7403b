"""The layers of the language models that families have, one function each: from a text config to its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from vlmprep.families.costs.layers import (
    Layer,
    attention,
    experts,
    feed_forward,
    latent_attention,
    one_of,
    windows,
    with_more,
)
from vlmprep.families.costs.recurrent import gated_delta_net, mamba2
from vlmprep.families.costs.words import linear, not_understood, number, said, value

__all__ = ["DECODERS", "Decoder"]

Decoder: TypeAlias = Callable[[Any], Iterator[Layer]]


def llama(config: Any) -> Iterator[Layer]:
    """Llama and all that are built as it is: every layer sees the whole document."""
    for _ in range(number(config, "num_hidden_layers")):
        yield with_more(attention(config), _usual_feed_forward(config))


def mistral(config: Any) -> Iterator[Layer]:
    """Mistral and Phi-4: every layer sees a window, where the config has one."""
    for _ in range(number(config, "num_hidden_layers")):
        yield with_more(attention(config, window=said(config, "sliding_window")), _usual_feed_forward(config))


def qwen2(config: Any) -> Iterator[Layer]:
    """Qwen2, Qwen3 and their vision-language models: `layer_types` says which layers see a window."""
    for window in windows(config):
        yield with_more(attention(config, window=window), _usual_feed_forward(config))


def qwen3_moe(config: Any, window: int | None = None) -> Iterator[Layer]:
    """Qwen3's mixtures of experts inside vision-language models: some layers may be without experts."""
    hidden, step = number(config, "hidden_size"), number(config, "decoder_sparse_step")
    chosen = experts(config, hidden=hidden, inner=number(config, "moe_intermediate_size"))
    plain = set(said(config, "mlp_only_layers") or ())
    for index in range(number(config, "num_hidden_layers")):
        sparse = index not in plain and number(config, "num_experts") > 0 and (index + 1) % step == 0
        yield with_more(attention(config, window=window), chosen if sparse else _usual_feed_forward(config))


def qwen3_moe_alone(config: Any) -> Iterator[Layer]:
    """The same as a language model of its own, which may see windows."""
    return qwen3_moe(config, window=said(config, "sliding_window"))


def qwen3_5(config: Any) -> Iterator[Layer]:
    """Qwen3.5: linear attention, and full attention whose queries come with a gate; experts beside a shared one, or none."""
    hidden = number(config, "hidden_size")
    gate = number(config, "num_attention_heads") * number(config, "head_dim")
    if said(config, "num_experts") is None:
        after = _usual_feed_forward(config)
    else:
        shared = feed_forward(hidden, number(config, "shared_expert_intermediate_size")) + linear(hidden, 1)
        after = experts(config, hidden=hidden, inner=number(config, "moe_intermediate_size")) + shared
    for kind in value(config, "layer_types"):
        full = one_of(config, kind, "full_attention", "linear_attention")
        yield with_more(attention(config, gate=gate) if full else gated_delta_net(config), after)


def deepseek_v3(config: Any) -> Iterator[Layer]:
    """DeepSeek-V3, in Kimi-VL and Kimi-K2.5: latent attention; experts beside shared ones behind the first layers."""
    if (said(config, "moe_layer_freq") or 1) != 1:
        raise not_understood(config, f"moe_layer_freq {value(config, 'moe_layer_freq')}")
    hidden, inner = number(config, "hidden_size"), number(config, "moe_intermediate_size")
    shared = feed_forward(hidden, inner * number(config, "n_shared_experts"))
    chosen = experts(config, hidden=hidden, inner=inner) + shared
    for index in range(number(config, "num_hidden_layers")):
        sparse = index >= number(config, "first_k_dense_replace")
        yield with_more(latent_attention(config), chosen if sparse else _usual_feed_forward(config))


def gemma4(config: Any) -> Iterator[Layer]:
    """Gemma 4: heads differ from layer to layer, keys may be values or another layer's, each layer has inputs of its own."""
    hidden, own = number(config, "hidden_size"), said(config, "hidden_size_per_layer_input") or 0
    _causal(config, may_be="vision")
    for index, (kind, window) in enumerate(zip(value(config, "layer_types"), windows(config), strict=True)):
        layer = value(config, "per_layer_config")[index]
        seen = attention(layer, window=window)
        keys = linear(hidden, number(layer, "num_key_value_heads") * number(layer, "head_dim"))
        reused = value(config, "kv_sharing_modes")[index] == "reuse"
        same = value(config, "attention_k_eq_v") and kind == "full_attention"
        saved = 2 * keys if reused else keys if same else 0.0
        double = value(config, "use_double_wide_mlp") and reused
        after = feed_forward(hidden, number(config, "intermediate_size") * (2 if double else 1))
        if value(config, "enable_moe_block"):
            after += experts(config, hidden=hidden, inner=number(config, "moe_intermediate_size"))
        # The last term: the layer's inputs are made of the token's embedding, gated by the layer, and brought back.
        yield with_more(seen, after - saved + 3 * linear(hidden, own))


def step3p5(config: Any) -> Iterator[Layer]:
    """Step-3.7: windows in layers that may have other heads, a gate on each head, experts beside a shared one."""
    hidden = number(config, "hidden_size")
    _causal(config)
    shared = feed_forward(hidden, number(config, "share_expert_dim"))
    sparse = experts(config, hidden=hidden, inner=number(config, "moe_intermediate_size")) + shared
    kinds = zip(windows(config), value(config, "mlp_layer_types"), strict=True)
    for index, (window, after) in enumerate(kinds):
        layer = value(config, "per_layer_config")[index]
        heads = number(layer, "num_attention_heads")
        gate = heads if value(config, "gating") in (True, "per-head") else heads * number(layer, "head_dim")
        chosen = one_of(config, after, "sparse", "dense")
        yield with_more(attention(layer, window=window, gate=gate), sparse if chosen else _usual_feed_forward(config))


def nemotron_h(config: Any) -> Iterator[Layer]:
    """Nemotron-H: each layer is one thing, a state space, attention, experts or a feed-forward part; nothing is gated."""
    hidden = number(config, "hidden_size")
    latent = said(config, "moe_latent_size")
    kinds: dict[str, Callable[[], Layer]] = {
        "linear_attention": lambda: mamba2(config),
        "full_attention": lambda: attention(config),
        "mlp": lambda: Layer(per_token=feed_forward(hidden, number(config, "intermediate_size"), gated=False)),
        "moe": lambda: Layer(
            per_token=experts(
                config, hidden=latent or hidden, inner=number(config, "moe_intermediate_size"), gated=False
            )
            + feed_forward(hidden, number(config, "moe_shared_expert_intermediate_size"), gated=False)
            + 2 * linear(hidden, latent or 0)
        ),
    }
    for kind in value(config, "layers_block_type", "layer_types"):
        if kind not in kinds:
            raise not_understood(config, f"a layer of type {kind}")
        yield kinds[kind]()


def _usual_feed_forward(config: Any) -> float:
    return feed_forward(number(config, "hidden_size"), number(config, "intermediate_size"))


def _causal(config: Any, may_be: str | None = None) -> None:
    """Stop where all tokens see each other."""
    if (said(config, "use_bidirectional_attention") or None) not in (None, may_be):
        raise not_understood(config, f"use_bidirectional_attention {config.use_bidirectional_attention!r}")


DECODERS: dict[str, Decoder] = {
    "deepseek_v3": deepseek_v3,
    "gemma4_text": gemma4,
    "llama": llama,
    "mistral": mistral,
    "nemotron_h": nemotron_h,
    "phi4_multimodal": mistral,
    "qwen2": qwen2,
    "qwen2_5_vl_text": qwen2,
    "qwen2_vl_text": qwen2,
    "qwen3": qwen2,
    "qwen3_5_moe_text": qwen3_5,
    "qwen3_5_text": qwen3_5,
    "qwen3_moe": qwen3_moe_alone,
    "qwen3_omni_moe_text": qwen3_moe,
    "qwen3_vl_moe_text": qwen3_moe,
    "qwen3_vl_text": llama,
    "step3p5": step3p5,
}
"""By the model_type of the text config."""
