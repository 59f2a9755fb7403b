"""What transformers knows of the model behind a processor: its class, its positions, and whether packs mean anything to it."""

from __future__ import annotations

from typing import Any

from vlmprep.schema.errors import StopRun

__all__ = ["model_types", "refuse_own_positions", "refuse_unpackable"]

WHY_NOT_CROSS = (
    "its text reads media through cross-attention layers, and nothing in a pack tells them which document an image "
    "belongs to"
)
WHY_NOT_ENCODER = (
    "it is an encoder-decoder: its encoder sees one page and its decoder alone makes the sequence, so documents laid end "
    "to end would read each other's page"
)
CROSS_ATTENTION = {"MllamaProcessor", "IdeficsProcessor", "EvollaProcessor", "BlipProcessor"}
"""Processors of models that read images between the layers of a decoder."""
ENCODER_DECODERS = {
    "DonutProcessor",
    "Florence2Processor",
    "Kosmos2_5Processor",
    "NemotronParseProcessor",
    "NougatProcessor",
    "PPFormulaNetProcessor",
    "Pix2StructProcessor",
    "TrOCRProcessor",
    "UdopProcessor",
}
"""Processors of encoder-decoders; others are known by their config."""
MANY_AXES = ("mrope_section", "xdrope_section")
"""Settings of rotary positions on several axes."""


def refuse_unpackable(processor: Any, config: Any) -> None:
    """Stop where packing means nothing to the model.

    Args:
        processor: The model's own.
        config: The model's, or None.

    Raises:
        StopRun: Cross-attention, or an encoder with a decoder of its own.
    """
    name = type(processor).__name__
    why = None
    if name in CROSS_ATTENTION:
        why = WHY_NOT_CROSS
    elif name in ENCODER_DECODERS or is_encoder_decoder(processor, config):
        why = WHY_NOT_ENCODER
    if why is not None:
        raise StopRun(
            f"{name} cannot be packed: {why}",
            "Train it on batches of single samples; vlmprep.automodel has collate functions, as nemotron_parse_collate_fn.",
        )


def is_encoder_decoder(processor: Any, config: Any) -> bool:
    """Whether a model's config says so, or all configs of the processor's models do."""
    if config is not None:
        return bool(getattr(config, "is_encoder_decoder", False))
    configs = default_configs(processor)
    return bool(configs) and all(getattr(entry, "is_encoder_decoder", False) for entry in configs)


def refuse_own_positions(processor: Any, config: Any) -> None:
    """Stop where a model's positions are not those of a plain sequence, for families that nobody wrote code for.

    Args:
        processor: The model's own.
        config: The model's; without it, every model that transformers has for this processor must have plain positions.

    Raises:
        StopRun: They are not, or transformers does not know the model.
    """
    name = type(processor).__name__
    configs = [config] if config is not None else default_configs(processor)
    classes = [found for entry in configs for found in model_classes(entry)]
    if not classes:
        raise StopRun(
            f"transformers has no model for {name}, so nothing says how it counts positions",
            "Name the model's config with --model-config; models whose code is not part of transformers need a family.",
        )
    for found in classes:
        if hasattr(found, "get_rope_index"):
            raise StopRun(
                f"{name}: {found.__name__} computes positions of its own (get_rope_index), which the general way does not",
                "Packing this model needs a family of its own in vlmprep.families.",
            )
    for entry in configs:
        rope = getattr(entry.get_text_config(), "rope_parameters", None) or {}
        if found_axes := [axes for axes in MANY_AXES if axes in str(rope)]:
            raise StopRun(
                f"{name}: the config of {entry.model_type} has positions on several axes ({found_axes[0]})",
                "Packing this model needs a family of its own in vlmprep.families.",
            )


def model_types(processor: Any) -> list[str]:
    """Names of the models that use this class of processor, the one it is named after first."""
    from transformers.models.auto import processing_auto

    auto: Any = processing_auto  # its mapping is untyped
    wanted = type(processor).__name__
    names = [name for name, made in auto.PROCESSOR_MAPPING_NAMES.items() if made == wanted]
    bare = wanted.removesuffix("Processor").lower()
    return sorted(names, key=lambda name: (name.replace("_", "") != bare.replace("_", ""), name))


def default_configs(processor: Any) -> list[Any]:
    """The default configs of the models that use this class of processor, as far as they have one."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    configs = []
    for name in model_types(processor):
        try:
            configs.append(CONFIG_MAPPING[name]())
        except (KeyError, TypeError, ValueError):  # a config without defaults says nothing
            continue
    return configs


def model_classes(config: Any) -> list[type]:
    """The model classes of transformers for a config; none for models that are not part of it."""
    from transformers.models.auto import modeling_auto

    auto: Any = modeling_auto  # likewise
    found: list[type] = []
    for mapping in (auto.MODEL_MAPPING, auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING):
        if type(config) in mapping:
            made = mapping[type(config)]
            found += made if isinstance(made, list | tuple) else [made]
    return found
