"""The other libraries, imported when a bridge needs them.

library : name -> module, or an error with the line that installs it
"""

import importlib
import sys
import types
from typing import Any

from liftax import errors

_PACKAGES = {"flax.linen": "flax", "flax.nnx": "flax", "equinox": "equinox", "haiku": "dm-haiku"}


def library(name: str) -> types.ModuleType:
    """Import and return a library.

    Args:
        name: `flax.linen`, `flax.nnx`, `equinox` or `haiku`.

    Raises:
        MissingLibraryError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        root = name.partition(".")[0]
        if error.name not in (root, name):  # it is installed, and misses something itself
            raise
        raise errors.MissingLibraryError(
            f"This bridge needs {root}, which is not installed. Install it: pip install {_PACKAGES[name]}. All "
            "libraries that liftax has bridges to: pip install 'liftax[bridges]'."
        ) from error


def loaded(name: str, attribute: str) -> Any:
    """Return an attribute of a library if the library is imported already, else None."""
    module = sys.modules.get(name)
    return None if module is None else getattr(module, attribute, None)


def full_name(x: Any) -> str:
    """Return what `x` is, for error texts: a class by its full name, anything else by that of its type."""
    cls = x if isinstance(x, type) else type(x)
    name = f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.")
    return f"the class {name}" if cls is x else f"an object of type {name}"
