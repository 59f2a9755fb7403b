"""What torch counts when a tiny model runs: the operations of its matrix products, module by module.

    flops = count_flops(model, lambda: model(**inputs))
    flops.of("model.visual.blocks")                             # everything below a module, or below a list of modules
    flops.of("model.visual", but=["model.visual.merger"])

Norms, activations, softmax and elementwise products are not counted. Where a rotary embedding multiplies matrices to get its
angles, that is: leave its module out with `but`. With eager attention every score is counted, masked or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Flops", "count_flops"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """Operations by the path of a module in the model; the model itself is ""."""

    total: int
    """All of the run."""
    by_module: dict[str, int]
    """Of modules that were called."""
    modules: frozenset[str]
    """All modules of the model."""

    def of(self, *paths: str, but: Iterable[str] = ()) -> int:
        """Operations below some modules, without those below others.

        Raises:
            KeyError: The model has no such module.
        """
        return sum(map(self._below, paths)) - sum(map(self._below, but))

    def _below(self, path: str) -> int:
        if path not in self.modules:
            raise KeyError(f"the model has no module {path}")
        if path in self.by_module:
            return self.by_module[path]
        below = {name for name in self.by_module if name.startswith(f"{path}.")}  # a list of modules is never called
        return sum(self.by_module[name] for name in below if not any(name.startswith(f"{top}.") for top in below))


def count_flops(model: nn.Module, run: Callable[[], Any]) -> Flops:
    """Run a model, or parts of it, and count.

    Args:
        model: Its modules are told apart.
        run: Calls it, or some of its modules.
    """
    by_module: Counter[str] = Counter()
    entered: list[int] = []
    hooks = []
    with torch.no_grad(), FlopCounterMode(display=False) as counter:

        def enter(*_: Any) -> None:
            entered.append(counter.get_total_flops())

        def leave_as(name: str) -> Callable[..., None]:
            return lambda *_: by_module.update({name: counter.get_total_flops() - entered.pop()})

        for name, module in model.named_modules():
            hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave_as(name))]
        run()
        total = counter.get_total_flops()
    for hook in hooks:
        hook.remove()
    assert not entered, "every module that was entered was left"
    return Flops(total=total, by_module=dict(by_module), modules=frozenset(name for name, _ in model.named_modules()))
