"""The general way tried on a processor before it is trusted: what it makes of several media must follow from each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vlmprep.families.general.found_rules import find_rule
from vlmprep.families.general.joins import Join, find_join, join_rule, unjoined
from vlmprep.families.general.own_run import OwnRun, UnreadableRun, Way
from vlmprep.schema.pixels import PixelRule

__all__ = ["Field", "Runner", "find_fields", "same_from_sizes", "shapes_of"]

Runner = Callable[[Sequence[Any], Way], OwnRun]
"""Runs the processor over some media of one kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """What is known of one of the processor's tensors."""

    name: str
    join: Join
    item_shape: tuple[int, ...]
    """Of one stored item, as the processor gives it."""
    levels: PixelRule | None
    """How 8-bit levels become its numbers; None: it is stored as it is."""
    from_size: bool
    """It depends on the media's sizes alone."""

    @property
    def rule(self) -> PixelRule | None:
        """The whole rule; None where the stored form is the processor's."""
        return join_rule(self.levels, self.join, self.name)


def find_fields(run: Runner, media: Sequence[Any], others: Sequence[Any], part: Any) -> dict[str, Field]:
    """Try a processor on some media, jointly and one by one.

    Args:
        run: Runs the processor.
        media: Noise of several sizes.
        others: Other noise of the same sizes.
        part: The image or video processor, whose settings explain the numbers.

    Raises:
        UnreadableRun: What it makes of several media does not follow from what it makes of each.
    """
    joint, singles = run(media, "whole"), [run([medium], "whole") for medium in media]
    if joint.replacements != tuple(single.replacements[0] for single in singles):
        raise UnreadableRun("the placeholders of a medium depend on the media beside it")
    if missing := {name for single in singles for name in single.tensors} ^ set(joint.tensors):
        raise UnreadableRun(f"it returns {', '.join(sorted(missing))} for some media only")
    levels, other = without_arithmetic(run, media, singles), run(others, "whole")
    return {name: find_field(name, joint, singles, levels, other, part) for name in joint.tensors}


def find_field(
    name: str, joint: OwnRun, singles: Sequence[OwnRun], levels: Sequence[OwnRun], other: OwnRun, part: Any
) -> Field:
    """What is known of one tensor."""
    each = [single.tensors[name] for single in singles if name in single.tensors]
    join = find_join(joint.tensors[name], each, patch_side(part))
    if join is None:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in each)
        raise UnreadableRun(
            f"{name} of several media {tuple(joint.tensors[name].shape)} does not follow from that of each ({shapes})"
        )
    stored = torch.cat([unjoined(tensor, join) for tensor in each])
    rule = None
    if levels:
        plain = [unjoined(single.tensors[name], join) for single in levels if name in single.tensors]
        rule = find_rule(stored, torch.cat(plain), part)
    return Field(
        name=name,
        join=join,
        item_shape=tuple(stored.shape[1:]),
        levels=rule,
        from_size=torch.equal(joint.tensors[name], other.tensors[name]),
    )


def patch_side(part: Any) -> int:
    """Pixels of the side of a processor's patches; 1 where it has none."""
    size = getattr(part, "patch_size", None)
    if isinstance(size, Mapping):
        return int(size["height"]) if size["height"] == size["width"] else 1
    return size if isinstance(size, int) else 1


def without_arithmetic(run: Runner, media: Sequence[Any], whole: Sequence[OwnRun]) -> list[OwnRun]:
    """Media one by one, less rescaling and normalizing; none where the processor cannot or returns other fields then."""
    try:
        levels = [run([medium], "levels") for medium in media]
    except Exception:  # noqa: BLE001 - processors refuse settings in their own ways; then floats are stored
        return []
    return levels if list(map(shapes_of, levels)) == list(map(shapes_of, whole)) else []


def shapes_of(run: OwnRun) -> dict[str, tuple[int, ...]]:
    """The shape of every field."""
    return {name: tuple(tensor.shape) for name, tensor in run.tensors.items()}


def same_from_sizes(real: OwnRun, blank: OwnRun) -> bool:
    """Whether a run on pixels that are not there says of media what a real one says."""
    if real.replacements != blank.replacements or real.tensors.keys() != blank.tensors.keys():
        return False
    return all(
        tensor.shape == blank.tensors[name].shape
        and (blank.tensors[name].is_meta or torch.equal(tensor, blank.tensors[name]))
        for name, tensor in real.tensors.items()
    )
