"""Which chat template a conversation is written with, and the text that it gives."""

from __future__ import annotations

import sys
from typing import Any

from vlmprep.automodel.conversations import Conversation, for_template, items_of, kind_of

__all__ = ["is_nemotron_omni", "is_smolvlm", "rendered", "template_of"]


def template_of(conversation: Conversation, processor: Any) -> str | None:
    """The template that `processor.apply_chat_template` takes for a conversation; None where it has none.

    SmolVLM's takes one of its own for conversations with a video.
    """
    if is_smolvlm(processor) and has_video(conversation):
        return str(sys.modules[type(processor).__module__].DEFAULT_CHAT_TEMPLATE)
    tokenizer = getattr(processor, "tokenizer", processor)
    template = getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    return None if not template else str(template)


def rendered(conversation: Conversation, processor: Any) -> str:
    """A conversation as the processor's chat template writes it, media as one placeholder each."""
    apply = getattr(processor, "apply_chat_template", None) or processor.tokenizer.apply_chat_template
    template = template_of(conversation, processor)
    return str(apply(for_template(conversation), chat_template=template, tokenize=False))


def is_smolvlm(processor: Any) -> bool:
    """Whether it is the processor that samples clips only where `apply_chat_template` calls it."""
    return type(processor).__name__ == "SmolVLMProcessor"


def is_nemotron_omni(processor: Any) -> bool:
    """Whether it is the processor that takes one clip a call, and its metadata by itself."""
    return type(processor).__name__ == "NemotronH_Omni_Reasoning_V3Processor"


def has_video(conversation: Conversation) -> bool:
    """Whether a clip is in a conversation."""
    return any(kind_of(item) == "video" for message in conversation for item in items_of(message))
