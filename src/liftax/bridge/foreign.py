"""Foreign: what the modules that wrap a model of another library have in common.

    Foreign : model -> Module        its variables are the wrapper's, its methods run on them

A wrapper has no submodules. Its variables have the names that they have in the other library, in nested dicts.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from liftax import errors
from liftax.core import meta, rngs
from liftax.core.scope import Scope
from liftax.module.methods import nowrap
from liftax.module.module import Module
from liftax.typing import Path, PRNGKey

_MISSING = object()


class Held:
    """A model as a field of a wrapper: equal to itself only, so that programs compiled for it are found again.

    Args:
        value: the model.
    """

    def __init__(self, value: Any):
        self.value = value

    def __repr__(self) -> str:
        return f"{type(self.value).__name__}(…)"


class Foreign(Module):
    """Base class of the wrappers: calls, methods and errors. Each has a field `method`, after that of its model."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the method that the wrapper was made for, most often `__call__`, with the library's own arguments."""
        return self._noted(self.__dict__["method"], args, kwargs)

    def call(self, method: str | Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a method of the model, or a function of the model.

        Args:
            method: the method's name, or a function that is called with the model, which holds the variables, first.
            *args: handed to the method.
            **kwargs: handed to the method.
        """
        return self._noted(method, args, kwargs)

    @nowrap
    def _noted(self, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        scope = self.scope
        if scope is None:
            raise errors.UnboundModuleError(
                f"{type(self).__name__} was called and is not bound: it holds no variables. Call it through init or "
                "apply, or inside another module's @compact method or setup."
            )
        try:
            return self._run(scope, method, args, kwargs)
        except Exception as error:
            note = f"liftax: in the {type(self).__name__} at {scope.path_text}"
            if not isinstance(error, errors.LiftaxError) and note not in getattr(error, "__notes__", ()):
                error.add_note(note)
            raise

    @nowrap
    def _run(self, scope: Scope, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a method of the model with the variables and rng streams of `scope`."""
        raise NotImplementedError

    @nowrap
    def _has_method(self, name: str) -> bool:
        """Tell whether the model has a method `name`."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and self.__dict__.get("_state") is not None and self._has_method(name):
            return functools.partial(self.call, name)
        return super().__getattr__(name)


# --- variables as flat dicts: (collection, *path, name) -> value -----------------------------------------------------


def is_initializing(scope: Scope) -> bool:
    """Tell whether this runs inside `init`."""
    return bool(scope.get_flag("initializing", False))


def initial_key(scope: Scope) -> PRNGKey:
    """Return the key that initial values of the model at `scope` are drawn from.

    It depends on the path and not on earlier draws, and for a model that is the root it is the key of the stream
    `'params'` itself, so that it gives what the library gives for that key.
    """
    if not scope.has_rng("params"):
        scope.make_rng("params")  # raises
    return at_path(scope, "params")


def at_path(scope: Scope, stream: str) -> PRNGKey:
    """Return the key of an rng stream with the path of `scope` folded in, and no count."""
    keys, base = scope.streams
    return rngs.fold(keys[stream], *scope.rng_path[base:])


def stream_key(scope: Scope, stream: str) -> PRNGKey | None:
    """Draw from the rng stream `stream`, or from `'params'` where it was not given; None if neither was."""
    return scope.make_rng(stream) if scope.has_rng(stream) or scope.has_rng("params") else None


def values(scope: Scope, keys: Iterable[Path], make: Callable[[], Mapping[Path, Any]]) -> dict[Path, Any]:
    """Return the variables `keys`, boxes with metadata taken off, and create those that don't exist.

    Args:
        scope: where the model is.
        keys: `(collection, *path, name)` of each variable.
        make: returns the initial values, in their boxes; called at most once.

    Raises:
        ScopeVariableNotFoundError, ScopeCollectionNotFound: One does not exist and can't be created.
    """
    found: dict[Path, Any] = {}
    made: Mapping[Path, Any] | None = None
    for key in keys:
        value: Any = scope.collection(key[0])
        for name in key[1:]:
            value = value.get(name, _MISSING) if isinstance(value, Mapping) else _MISSING
        if value is _MISSING:
            col, *path, name = key
            if made is None and scope.is_mutable_collection(col):
                made = make()
            place = at(scope, tuple(path))
            place.variable(col, name, None if made is None else functools.partial(made.__getitem__, key))
            value = place.get_variable(col, name)
        found[key] = meta.unbox(value)
    return found


def check_shapes(scope: Scope, found: Mapping[Path, Any], expected: Mapping[Path, Any]) -> None:
    """Raise `ScopeParamShapeError` for a variable whose shape is not that of the model's own."""
    for key, value in found.items():
        got, like = getattr(value, "shape", None), expected[key]
        if got is not None and hasattr(like, "shape") and got != like.shape:
            raise errors.ScopeParamShapeError(
                f"The variable {'/'.join(key)} at {scope.path_text} has shape {got}, and that of the wrapped model "
                f"has shape {np.shape(like)}. Were the variables made for a model with other hyperparameters?"
            )


def write(scope: Scope, key: Path, value: Any) -> None:
    """Write one variable, in its box if it has one; create it if it does not exist.

    While initializing, what exists keeps its initial value, as in the libraries that have an `init` of their own.
    """
    col, *path, name = key
    place = at(scope, tuple(path))
    old = place.get_variable(col, name, _MISSING)
    if old is _MISSING:
        place.variable(col, name, lambda: value)
    elif not is_initializing(scope):
        place.put_variable(col, name, meta.replace_boxed(old, value))


def at(scope: Scope, path: Path) -> Scope:
    """Return the scope `path` below, in which every name is free."""
    return scope.at(path) if path else scope.rewound()


def flat(tree: Any, prefix: Path = ()) -> dict[Path, Any]:
    """Return nested mappings as a flat dict: path -> leaf."""
    found: dict[Path, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found.update(flat(value, (*prefix, name)))
        else:
            found[*prefix, name] = value
    return found
