"""From token ids to text: the processor that a pack set was made with, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vlmprep.families.fingerprint import fingerprint
from vlmprep.families.loading import load_family
from vlmprep.schema.errors import StopRun
from vlmprep.schema.family import Family, FamilySettings
from vlmprep.shardformat.manifest import Manifest

__all__ = ["Decoder", "find_decoder"]


class Decoder:
    """Token ids as text, control tokens told apart.

    Args:
        family: As `load_family` makes it.
    """

    def __init__(self, family: Family) -> None:
        self._family = family

    def pieces(self, ids: Sequence[int]) -> list[tuple[str, bool]]:
        """(text, whether it is a control token) of some ids, in order."""
        text = self._family.decode(ids)
        pieces, at = [], 0
        for match in self._family.control_tokens.finditer(text):
            pieces += [(text[at : match.start()], False), (match[0], True)]
            at = match.end()
        return [piece for piece in [*pieces, (text[at:], False)] if piece[0]]


def find_decoder(
    manifest: Manifest, processor: str | None, *, trust_remote_code: bool = False
) -> tuple[Decoder | None, str]:
    """The decoder of a pack set, and what a person should know about it.

    Args:
        manifest: Of the pack set; names the processor and has the tokenizer's digest.
        processor: Folder or hub name; None takes the manifest's.
        trust_remote_code: Run code that comes with the processor; what the manifest says of this does not count.

    Returns:
        The decoder, None where the processor is not known or cannot be loaded; and a sentence on that, or empty.
    """
    settings = FamilySettings(processor=processor) if processor else processor_of(manifest)
    try:
        family = load_family(replace(settings, trust_remote_code=trust_remote_code))
    except StopRun as error:
        return None, f"Token ids are shown because {error.message}. Name the processor with --processor."
    made_with = manifest.fingerprint.get("tokenizer")
    if made_with and fingerprint(family, settings)["tokenizer"] != made_with:
        return Decoder(family), f"The tokenizer of {settings.processor} is not the one that made this pack set."
    return Decoder(family), ""


def processor_of(manifest: Manifest) -> FamilySettings:
    """The processor that a pack set was made with."""
    processor = dict(manifest.settings["processor"])
    processor["options"] = tuple((name, value) for name, value in processor["options"])
    return FamilySettings(**processor)
