"""Labels of a batch by construction: the chat template says where the answers lie, anchors.py where that is in the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vlmprep.automodel.anchors import Finder, Prompt, finder_of, not_this_text, tokens_of
from vlmprep.automodel.conversations import Conversation, assistant_text, sample_of, unread_keys
from vlmprep.automodel.markers import find_pattern_indices
from vlmprep.automodel.templates import rendered, template_of
from vlmprep.schema.conversation import Media, Message
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.packset import IGNORE_INDEX

__all__ = ["Prompt", "build_labels", "labels_of", "prompt_of", "tokens_behind", "with_prefix"]

THINKING_PREFIXES = ("<|channel>thought\n<channel|>",)
"""What wrappers may have put between a turn's head and the answer, by token ids (Gemma4)."""


def build_labels(input_ids_batch: Tensor, conversations: Sequence[Conversation], processor: Any) -> Tensor:
    """Labels of a batch: the tokens that the assistant says, up to its end of turn; -100 everywhere else.

    Args:
        input_ids_batch: [B, S] the processor's tokens, padded on either side, before the shift.
        conversations: The B conversations.
        processor: What made the tokens.

    Returns:
        [B, S], not shifted.

    Raises:
        RefuseSample: The tokens are not those of the conversation, or its turns cannot be located.
    """
    rows = zip(input_ids_batch, conversations, strict=True)
    return torch.stack([_labels(ids, conversation, row, processor) for row, (ids, conversation) in enumerate(rows)])


def _labels(ids: Tensor, conversation: Conversation, row: int, processor: Any) -> Tensor:
    if not any(message.get("role") == "assistant" for message in conversation):
        return torch.full_like(ids, IGNORE_INDEX)
    try:
        template = template_of(conversation, processor)
        if template is None:
            return _searched(ids, conversation, processor)
        finder, prompt = finder_of(processor, template), prompt_of(conversation, row, processor)
        prefixes = ["", *(prefix for prefix in THINKING_PREFIXES if finder.knows(prefix))]
        return _first_that_fits(ids, [with_prefix(prompt, prefix) for prefix in prefixes], finder)
    except RefuseSample as refusal:
        raise RefuseSample(refusal.code, f"conversation {row} of the batch: {refusal.reason}") from refusal


def _first_that_fits(ids: Tensor, prompts: Sequence[Prompt], finder: Finder) -> Tensor:
    for prompt in prompts[1:]:
        try:
            return finder.labels(ids, prompt)
        except RefuseSample:
            continue
    return finder.labels(ids, prompts[0])


def prompt_of(conversation: Conversation, row: int, processor: Any) -> Prompt:
    """Render a conversation and find its answers.

    Raises:
        RefuseSample: The template rejects it, an answer is empty, or its turns cannot be located.
        StopRun: The processor has no chat template, or none that can be used.
    """
    template = template_of(conversation, processor)
    if template is None:
        raise StopRun(f"{type(processor).__name__} has no chat template", "Save one with it.")
    if not any(message.get("role") == "assistant" for message in conversation):
        return Prompt(text=rendered(conversation, processor), spans=())
    sample = sample_of(conversation, row)
    if any(turn.role == "assistant" and turn.learn and has_media(turn) for turn in sample.messages):
        raise RefuseSample("unlocatable-turns", "an assistant's turn that is learned holds a medium")
    finding = finder_of(processor, template).turns.render(sample)
    prompt = Prompt(text=finding.text, spans=finding.label_spans)
    if any(map(unread_keys, conversation)):
        refuse_unread(prompt.text, rendered(conversation, processor))
    return prompt


def has_media(message: Message) -> bool:
    """Whether an image, clip or sound is in a message."""
    return any(isinstance(part, Media) for part in message.parts)


def refuse_unread(text: str, expected: str) -> None:
    """Refuse a conversation whose template reads more of its messages than vlmprep does.

    Raises:
        RefuseSample: It does.
    """
    if text != expected:
        raise RefuseSample("template-extras", "its messages hold more than vlmprep reads, and its template reads that")


def labels_of(ids: Tensor, conversation: Conversation, prompt: Prompt, processor: Any) -> Tensor:
    """Labels of one row whose text is known.

    Args:
        ids: [S] the processor's tokens, padded on either side.
        conversation: The row's.
        prompt: The text that they were made from.
        processor: What made them.

    Raises:
        RefuseSample: They were not.
    """
    template = template_of(conversation, processor)
    if template is None or not prompt.spans:
        return torch.full_like(ids, IGNORE_INDEX)
    return finder_of(processor, template).labels(ids, prompt)


def with_prefix(prompt: Prompt, prefix: str) -> Prompt:
    """The same prompt with a prefix before every answer that does not begin with it; the loss does not count it."""
    text, spans, at = "", [], 0
    for start, end in prompt.spans:
        head = prompt.text[at:start] + ("" if prompt.text.startswith(prefix, start) else prefix)
        text += head
        spans.append((len(text), len(text) + end - start))
        text += prompt.text[start:end]
        at = end
    return Prompt(text=text + prompt.text[at:], spans=tuple(spans))


def _searched(ids: Tensor, conversation: Conversation, processor: Any) -> Tensor:
    """Labels without a chat template: the answers' tokens, each of which must be found, one behind the other.

    Raises:
        RefuseSample: One is not found, or stands there twice, so that it cannot be told which is the answer.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    labels = torch.full_like(ids, IGNORE_INDEX)
    at = 0
    for message in conversation:
        if message.get("role") != "assistant":
            continue
        answer = tokenizer(assistant_text(message), add_special_tokens=False)["input_ids"]
        start, end = find_pattern_indices(ids, answer, at)
        if start < 0:
            raise RefuseSample("unlocatable-turns", "an answer's tokens do not stand in the batch's")
        if find_pattern_indices(ids, answer, start + 1)[0] >= 0 or find_pattern_indices(ids, answer)[0] < start:
            raise RefuseSample(
                "unlocatable-turns", "an answer's tokens stand in the batch's twice; which are the answer?"
            )
        if end < len(ids) and int(ids[end]) in {tokenizer.eos_token_id, *_stop_ids(tokenizer)}:
            end += 1
        labels[start:end] = ids[start:end]
        at = end
    return labels


def _stop_ids(tokenizer: Any) -> set[int]:
    """Ids of the tokens that end turns in the families that vlmprep knows."""
    names = ("<|im_end|>", "<|end|>", "<turn|>", "<end_of_utterance>", "<|eot_id|>", "</s>")
    known = tokenizer.get_vocab()
    return {known[name] for name in names if name in known}


def tokens_behind(ids: Tensor, mask: Tensor, text: str, start: int, processor: Any) -> int:
    """The first of one row's tokens that belongs to what follows a text's head.

    Args:
        ids: [S] the tokenizer's, padded on either side.
        mask: [S], 0 on padding.
        text: What was tokenized.
        start: Characters of the head.
        processor: What made the tokens.

    Raises:
        RefuseSample: The tokens are not those of the text.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    expected, behind = tokens_of(tokenizer, text, start, len(text))
    own = [at for at, kept in enumerate(mask.tolist()) if kept]
    row = ids[own[0] : own[-1] + 1].tolist()
    extra = len(row) - len(expected)
    first = next((at for at in range(max(0, extra) + 1) if row[at : at + len(expected)] == expected), None)
    if first is None:
        raise not_this_text()
    return int(own[0] + first + behind.start)
