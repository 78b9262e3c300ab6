"""Where Linen's modules are imported from: an import hook that answers for Flax's addresses with modules of liftax.

    flax.linen[.x] -> liftax.nn[.x]        flax.core[.x] -> liftax.core[.x]        flax.errors -> Flax's with ours

A module of liftax is handed out itself, not a copy: `flax.linen is liftax.nn`, and so a class that is reached by both
names is one class. `flax.errors` keeps the classes that other parts of Flax raise.

Source: PEP 302 and the documentation of `importlib` for finders and loaders.
"""

import importlib
import importlib.machinery
import inspect
import sys
import types
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder

from liftax import errors

ROOTS = {"flax.linen": "liftax.nn", "flax.core": "liftax.core"}


class LinenFinder(MetaPathFinder):
    """Finds Linen's modules in liftax, and leaves all others to the finders after it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to import `fullname`, or None for what is not Linen's."""
        if fullname == "flax.errors":
            spec = PathFinder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _ErrorsLoader(spec.loader)
            return spec
        ours = counterpart(fullname)
        return None if ours is None else ModuleSpec(fullname, _LinenLoader(ours), origin=ours)


def counterpart(name: str) -> str | None:
    """Return the name that a module of Linen has in liftax, or None for a module that is not Linen's.

    Example:
        >>> from liftax.linen.addresses import counterpart
        >>> counterpart('flax.linen.attention'), counterpart('flax.struct')
        ('liftax.nn.attention', None)
    """
    for theirs, ours in ROOTS.items():
        if name == theirs or name.startswith(f"{theirs}."):
            return ours + name.removeprefix(theirs)
    return None


class _LinenLoader(Loader):
    def __init__(self, ours: str):
        self.ours = ours

    def exec_module(self, module: types.ModuleType) -> None:
        name = module.__name__
        try:
            found = importlib.import_module(self.ours)
        except ModuleNotFoundError as error:
            if error.name is None or not self.ours.startswith(error.name):
                raise
            raise ModuleNotFoundError(
                f"{name} was imported in a program that runs on liftax, which has no {self.ours}. Run the program "
                "without liftax.linen, or import what it needs from where the documentation of liftax names it.",
                name=name,
            ) from None
        sys.modules[name] = found  # what the import machinery hands out


class _ErrorsLoader(Loader):
    """Runs Flax's file, then puts liftax's class for each of Linen's errors, and its base class under the others."""

    def __init__(self, theirs: Loader):
        self.theirs = theirs

    def exec_module(self, module: types.ModuleType) -> None:
        self.theirs.exec_module(module)
        base = module.FlaxError
        for name, cls in inspect.getmembers(module, inspect.isclass):
            if issubclass(cls, base):
                ours = getattr(errors, name, None)
                if ours is None:
                    bases: tuple[type, ...] = (cls, errors.LiftaxError)
                    ours = types.new_class(name, bases)
                    ours.__doc__, ours.__module__ = cls.__doc__, cls.__module__
                setattr(module, name, ours)
