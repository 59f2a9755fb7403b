"""vlmprep: counts, plans and packs vision-language fine-tuning data before training, and streams the packs during it.

Names are loaded on first use, so that `import vlmprep` costs nothing and a training job pays for the reader alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmprep.planning import plan_packs
    from vlmprep.runtime import Loader, blend, open  # noqa: A004 - vlmprep.open is the documented name

__all__ = ["Loader", "__version__", "blend", "open", "plan_packs"]

__version__ = "0.1.0"

_HOMES = {
    "Loader": "vlmprep.runtime",
    "blend": "vlmprep.runtime",
    "open": "vlmprep.runtime",
    "plan_packs": "vlmprep.planning",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home the first time that it is asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
