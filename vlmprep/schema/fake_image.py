"""The fake image that `--fake-image sample` puts into a conversation: where it stands, by the reference's rule."""

from __future__ import annotations

from dataclasses import replace

from vlmprep.schema.conversation import Media, Message, Sample

__all__ = ["FAKE_IMAGE", "has_pictures", "with_fake_image"]

FAKE_IMAGE = Media(kind="image", content=b"")
"""Stands for the white image in a conversation; its size and its pixels are the family's."""


def has_pictures(sample: Sample) -> bool:
    """Whether a sample brings work for the vision encoder itself; sounds are none."""
    return any(medium.kind != "audio" for medium in sample.media())


def with_fake_image(sample: Sample) -> Sample:
    """A sample with the fake image at the head of its first user turn; a turn of its own comes first where no user speaks.

    Args:
        sample: Without pictures; left as it is.
    """
    messages = sample.messages
    at = next((at for at, message in enumerate(messages) if message.role == "user"), None)
    if at is None:
        return replace(sample, messages=(Message(role="user", parts=(FAKE_IMAGE,)), *messages))
    turn = replace(messages[at], parts=(FAKE_IMAGE, *messages[at].parts))
    return replace(sample, messages=(*messages[:at], turn, *messages[at + 1 :]))
