"""Bridges to modules of Flax Linen, Flax NNX, Equinox and Haiku.

Inwards, `bridge.Linen(module)` and its kin are modules of liftax, for every lifted transform. Outwards,
`bridge.to_linen(module)` and its kin put a module of liftax into a model of another library. None of the libraries is
imported before its bridge is used; `pip install 'liftax[bridges]'` installs all of them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from liftax.bridge.equinox import Equinox
    from liftax.bridge.haiku import Haiku
    from liftax.bridge.linen import Linen
    from liftax.bridge.nnx import NNX
    from liftax.bridge.outwards.equinox import to_equinox
    from liftax.bridge.outwards.haiku import to_haiku
    from liftax.bridge.outwards.linen import to_linen
    from liftax.bridge.outwards.nnx import to_nnx
    from liftax.bridge.weights import load, variables

_HOMES = {
    "Equinox": "liftax.bridge.equinox",
    "Haiku": "liftax.bridge.haiku",
    "Linen": "liftax.bridge.linen",
    "NNX": "liftax.bridge.nnx",
    "load": "liftax.bridge.weights",
    "to_equinox": "liftax.bridge.outwards.equinox",
    "to_haiku": "liftax.bridge.outwards.haiku",
    "to_linen": "liftax.bridge.outwards.linen",
    "to_nnx": "liftax.bridge.outwards.nnx",
    "variables": "liftax.bridge.weights",
}
__all__ = ["NNX", "Equinox", "Haiku", "Linen", "load", "to_equinox", "to_haiku", "to_linen", "to_nnx", "variables"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'liftax.bridge' has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
