#!/usr/bin/env python3
"""What predicted work says of models: shares of vision and of attention in packs of 8,192 tokens.

    python scripts/predicted_work.py                    the tables of docs/planning.md
    python scripts/predicted_work.py FOLDER ...         language models of your own, by folder, config.json or hub name

No weights are loaded. Encoders of other families than Qwen's see what their processor makes of an image, so their share is known
from a ledger alone: `vlmprep plan LEDGER --balance compute` tells it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vlmprep.families.costs import cost_model, load_cost_model
from vlmprep.families.qwen.work import picture_work
from vlmprep.schema.cost import COST_COUNTS, CostModel
from vlmprep.schema.errors import StopRun
from vlmprep.schema.family import FamilySettings

PACK = 8_192
QWEN25_7B: dict[str, Any] = {
    "text_config": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    },
    "vision_config": {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584},
}
"""What the published config.json of Qwen2.5-VL-7B-Instruct has beside the defaults of its class that matters here."""
DEFAULTS = (
    *("gemma4", "idefics3", "internvl", "kimi_k25", "llava_onevision", "nemotron_h_omni", "phi4_multimodal"),
    *("qwen3_5", "qwen3_5_moe", "qwen3_omni_moe", "qwen3_vl", "qwen3_vl_moe", "step3p7"),
)
PACKS: dict[str, tuple[tuple[int, int], ...]] = {
    "text, one document": ((PACK, 0),),
    "text, 16 documents": ((PACK // 16, 0),) * 16,
    "8 documents, an image of 512 x 512 each": ((PACK // 8, 512),) * 8,
    "4 documents, an image of 1,024 x 1,024 each": ((PACK // 4, 1024),) * 4,
    "one document, 4 images of 1,024 x 1,024": ((PACK, 1024), (0, 1024), (0, 1024), (0, 1024)),
}
"""Tokens of a document and the side of its image in pixels; no tokens: one more image of the document before."""


def main() -> int:
    """Parse, compute, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="*")
    named = parser.parse_args().model
    try:
        models = [(name, load_cost_model(FamilySettings(processor=name, model_config=name))) for name in named]
    except StopRun as stopped:
        print(stopped, file=sys.stderr)
        return 1
    if not named:
        print_packs()
        models = list(default_models())
    print_language(models)
    return 0


def print_packs() -> None:
    """Packs of Qwen2.5-VL-7B: where their operations go."""
    from transformers import Qwen2_5_VLConfig

    config: Any = Qwen2_5_VLConfig(**QWEN25_7B)
    cost, vision = cost_model(config), config.vision_config
    window = vision.window_size // vision.spatial_merge_size // vision.patch_size * vision.spatial_merge_size
    rows = []
    for name, documents in PACKS.items():
        counts = counts_of(documents, patch=vision.patch_size, merge=vision.spatial_merge_size, window=window)
        total, encoder = cost.costs(counts).sum(), cost.encoders(counts).sum()
        seen = cost.language(counts["num_tokens"]).sum() - cost.per_token * counts["num_tokens"].sum()
        looked = (
            cost.per_patch_pair * counts["num_patch_pairs"] + cost.per_window_pair * counts["num_window_pairs"]
        ).sum()
        shares = (encoder / total, looked / total, seen / total)
        rows.append((name, f"{counts['num_visual_tokens'].sum():,}", f"{total / 1e12:.1f}", *map(percent, shares)))
    heads = (
        "pack",
        "visual tokens",
        "10^12 operations",
        "vision",
        "of it attention",
        "attention of the language model",
    )
    print_table(heads, rows)


def counts_of(documents: Sequence[tuple[int, int]], *, patch: int, merge: int, window: int) -> dict[str, Any]:
    """Counts of a pack by the names of COST_COUNTS, [documents] each."""
    counts = {name: np.zeros(len(documents), dtype=np.int64) for name in COST_COUNTS}
    for index, (tokens, side) in enumerate(documents):
        patches = round(side / (patch * merge)) * merge
        work = picture_work(np.array([[1, patches, patches]]), window)
        counts["num_tokens"][index] = tokens
        counts["num_visual_tokens"][index] = patches**2 // merge**2
        for name in ("num_encoder_patches", "num_patch_pairs", "num_window_pairs"):
            counts[name][index] = getattr(work, name)
    return counts


def default_models() -> Iterator[tuple[str, CostModel]]:
    """Models by the defaults of their config classes, Qwen2.5-VL-7B as it is published."""
    from transformers import Qwen2_5_VLConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    yield "Qwen2.5-VL-7B-Instruct", cost_model(Qwen2_5_VLConfig(**QWEN25_7B))
    for model_type in DEFAULTS:
        yield model_type, cost_model(CONFIG_MAPPING[model_type]())


def print_language(models: Sequence[tuple[str, CostModel]]) -> None:
    """What a token costs in language models, and the share of attention in long and short documents."""
    rows = []
    for name, cost in models:
        shares = []
        for length in (PACK // 8, PACK, 4 * PACK):
            total = cost.language(np.array([length]))[0]
            shares.append(percent(1 - cost.per_token * length / total))
        rows.append((name, f"{cost.per_token / 1e9:.1f}", *shares))
    print_table(("model", "10^9 operations a token", "attention in 1,024 tokens", "in 8,192", "in 32,768"), rows)


def percent(share: float) -> str:
    """A share as people read it."""
    return f"{100 * share:.1f}%"


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    for row in (heads, ["---"] * len(heads), *rows):
        print(f"| {' | '.join(row)} |")
    print()


if __name__ == "__main__":
    sys.exit(main())
