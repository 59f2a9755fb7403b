"""Who speaks in a message, whether it is learned, and what stands beside its content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.wording import kind_of, shown

__all__ = ["FUNCTION_CALL", "is_learned", "own_text", "refuse_words_of_others", "role_of", "thought_of"]

FUNCTION_CALL = "function_call"
"""An assistant's message whose whole content is a call, or several, as JSON."""
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_call": FUNCTION_CALL,
    "tool_call": FUNCTION_CALL,
}
OWN_ROLES = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
    "function_tag": FUNCTION_CALL,
    "observation_tag": "tool",
}
"""What a meta file's own words for roles mean."""
ASSISTANTS = ("assistant", FUNCTION_CALL)
SWITCHES = ("learn", "loss", "train", "weight", "loss_weight", "loss_scale")
"""Per-message switches of the loss, by the names that others read: false or 0 leaves an assistant turn out."""
DETAILED_SWITCHES = ("train_detail", "training_detail")
"""Switches for parts of a message."""
THOUGHTS = ("reasoning_content", "thinking", "reasoning")
"""What an assistant thought, under the names that transformers reads."""
WORDS_OF_ASSISTANTS = ("tool_calls", "function_call", *THOUGHTS)


def role_of(at: int, role: Any, tags: Mapping[str, str]) -> str:
    """A role as chat templates call it, or FUNCTION_CALL.

    Args:
        at: 0-based number of the message.
        role: As the row has it.
        tags: The source's own words.

    Raises:
        RefuseSample: It is none that is known.
    """
    own = {tags[tag]: name for tag, name in OWN_ROLES.items() if tag in tags} if tags else {}
    known = own.get(role) or ROLES.get(role) if isinstance(role, str) else None
    if known is None:
        raise RefuseSample(
            "unknown-role", f"message {at} has the role {shown(role)}; known are {', '.join([*own, *ROLES])}"
        )
    return known


def refuse_words_of_others(at: int, role: str, value: Mapping[str, Any]) -> None:
    """Raises RefuseSample where somebody else than an assistant thinks or calls tools."""
    if role not in ASSISTANTS and (words := [name for name in WORDS_OF_ASSISTANTS if value.get(name)]):
        raise RefuseSample("unsupported-message", f"message {at}, of the role {role!r}, has {words[0]!r}")


def is_learned(at: int, role: str, value: Mapping[str, Any]) -> bool:
    """Whether no switch of a message turns the loss off.

    Raises:
        RefuseSample: A switch is neither on nor off, is for a part of the message, or turns another's turn on.
    """
    if parts := [name for name in DETAILED_SWITCHES if value.get(name)]:
        raise RefuseSample(
            "unsupported-message", f"message {at} has {parts[0]!r}: turns are learned whole, or not at all"
        )
    switches = {name: value[name] for name in SWITCHES if value.get(name) is not None}
    for name, switch in switches.items():
        if switch not in (0, 1):
            raise RefuseSample("bad-message", f"message {at} has {name} {shown(switch)}, expected true or false")
        if switch and role not in ASSISTANTS:
            raise RefuseSample(
                "unsupported-message",
                f"message {at}, of the role {role!r}, has {name} {shown(switch)}: assistants' turns alone are learned",
            )
    return all(switches.values())


def thought_of(at: int, value: Mapping[str, Any]) -> str | None:
    """What an assistant thought, where the row gives it apart from the content.

    Raises:
        RefuseSample: It is no text, or given twice and not the same.
    """
    thoughts = [value[name] for name in THOUGHTS if value.get(name)]
    if not thoughts:
        return None
    if not isinstance(thoughts[0], str):
        raise RefuseSample("bad-message", f"the thought of message {at} is {kind_of(thoughts[0])}, expected text")
    if any(thought != thoughts[0] for thought in thoughts[1:]):
        raise RefuseSample("bad-message", f"message {at} has several thoughts that differ: which one is meant?")
    return thoughts[0]


def own_text(at: int, value: Mapping[str, Any], name: str) -> str | None:
    """A name or id of a message.

    Raises:
        RefuseSample: It is no text.
    """
    text = value.get(name)
    if text is not None and not isinstance(text, str):
        raise RefuseSample("bad-message", f"message {at} has the {name} {shown(text)}, expected text")
    return text or None
