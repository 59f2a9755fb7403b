"""From token ids to text: the processor that a pack set was made with, or the reason why there is none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from vlmprep.families.fingerprint import fingerprint
from vlmprep.families.loading import load_family
from vlmprep.schema.errors import StopRun
from vlmprep.schema.family import Family, FamilySettings, is_path
from vlmprep.shardformat.manifest import Manifest

__all__ = ["Decoder", "find_decoder"]


HERE = ("local_files_only", True)
"""Option of transformers' loaders: the hub is not asked."""


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
        processor: Folder or hub name; None takes the manifest's, from its folder or the hub's cache on this machine:
            nobody asked to load anything, and without a network the hub is tried for minutes.
        trust_remote_code: Run code that comes with the processor; what the manifest says of this does not count.

    Returns:
        The decoder, None where the processor is not known or cannot be loaded; and a sentence on that, or empty.
    """
    settings = FamilySettings(processor=processor) if processor else processor_of(manifest)
    alone = not processor or may_be_folder(settings.processor)
    if alone and not is_here(settings.processor):
        return None, (
            f"Token ids are shown because the processor {settings.processor!r} cannot be loaded: "
            "there is no such folder, and the hub's cache does not have it. Name the processor with --processor."
        )
    options = (*settings.options, HERE) if alone else settings.options
    try:
        family = load_family(replace(settings, trust_remote_code=trust_remote_code, options=options))
    except StopRun as error:
        return None, f"Token ids are shown because {error.message}. Name the processor with --processor."
    made_with = manifest.fingerprint.get("tokenizer")
    if made_with and fingerprint(family, settings)["tokenizer"] != made_with:
        return Decoder(family), f"The tokenizer of {settings.processor} is not the one that made this pack set."
    return Decoder(family), ""


def may_be_folder(name: str) -> bool:
    """Whether a name reads as a path: `./p`, `/data/p`, `~/p`, `p/`, `a/b/c`, or `a/b` where there is a folder `a`."""
    first, _, rest = name.partition("/")
    return is_path(name) or (bool(rest) and os.path.isdir(first))


def is_here(name: str) -> bool:
    """Whether a name is that of a folder, or of a repository that the hub's cache on this machine has something of."""
    from huggingface_hub import constants  # here, not above: the command line lists its options without it

    return os.path.isdir(name) or os.path.isdir(
        os.path.join(constants.HF_HUB_CACHE, "--".join(("models", *name.split("/"))))
    )


def processor_of(manifest: Manifest) -> FamilySettings:
    """The processor that a pack set was made with."""
    processor = dict(manifest.settings["processor"])
    processor["options"] = tuple((name, value) for name, value in processor["options"])
    return FamilySettings(**processor)
