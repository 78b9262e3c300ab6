"""Bridges to modules of Flax Linen, Flax NNX, Equinox and Haiku.

Inwards, `bridge.Linen(module)` and its kin are modules of liftax, for every lifted transform. None of the libraries is
imported before its bridge is used; `pip install 'liftax[bridges]'` installs all of them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from liftax.bridge.equinox import Equinox
    from liftax.bridge.haiku import Haiku
    from liftax.bridge.linen import Linen
    from liftax.bridge.nnx import NNX

_HOMES = {
    "Equinox": "liftax.bridge.equinox",
    "Haiku": "liftax.bridge.haiku",
    "Linen": "liftax.bridge.linen",
    "NNX": "liftax.bridge.nnx",
}
__all__ = ["NNX", "Equinox", "Haiku", "Linen"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'liftax.bridge' has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
