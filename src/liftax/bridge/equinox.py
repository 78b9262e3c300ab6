"""A model of Equinox as a module of liftax.

    Equinox : eqx.Module -> Module

A model is a pytree. Its inexact arrays are the collection `'params'`, other arrays `'buffers'`, the values of
`eqx.nn.State` `'state'`; everything else is static and stays in the wrapper.
"""

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

import jax

from liftax import _compat, errors
from liftax.bridge.closures import closed_over
from liftax.bridge.foreign import Foreign, Held, check_shapes, initial_key, stream_key, values, write
from liftax.bridge.libraries import full_name, library
from liftax.core.scope import Scope
from liftax.module.methods import nowrap
from liftax.typing import Path


class Equinox(Foreign):
    """Wrap a model of Equinox.

    Collections: inexact arrays are `'params'`, other arrays are `'buffers'`, and what `eqx.nn.State` holds is
    `'state'`, all named by where they are in the model. Activation functions, strings and numbers stay static.

    `init` gives the values that the model holds. With a function, `init` draws them anew:
    `bridge.Equinox(lambda key: Model(key=key))`, or `bridge.Equinox(eqx.nn.make_with_state(…))` for a stateful one.

    A method that takes an argument `state` gets the state and returns `(out, state)`, which the wrapper takes apart.
    One that takes `key`, and is not given it, gets a key from an rng stream, if there is one.

    Args:
        model: an `eqx.Module` or another pytree that can be called; or a function `(key) -> model`, or
            `(key) -> (model, state)`.
        state: the `eqx.nn.State` of a model that is made by `eqx.nn.make_with_state`.
        method: what a call of the wrapper runs: a method's name, or a function of the model, such as
            `lambda model, x, state: jax.vmap(model, in_axes=(0, None), out_axes=(0, None), axis_name='batch')(x, state)`.
        stream: the rng stream for `key`.

    Raises:
        ForeignModuleError: `model` or `state` is something else.
        ForeignStateError: A function in the model closes over arrays, which would be in no collection.
        MissingLibraryError: Equinox is not installed.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp
        >>> from liftax import bridge, nn
        >>> potential = bridge.Equinox(eqx.nn.MLP(3, 'scalar', 8, 1, jax.nn.softplus, key=jax.random.key(0)))
        >>> variables = potential.init(jax.random.key(1), jnp.ones(3))
        >>> def forces(mdl, x):
        ...     return -nn.grad(lambda mdl, x: mdl(x), mdl, x)[0]
        >>> nn.apply(forces, potential)(variables, jnp.ones(3)).shape
        (3,)
    """  # noqa: E501

    model: Any
    state: Any = None
    method: Any = "__call__"
    stream: str = "dropout"

    def __post_init__(self) -> None:
        if not isinstance(self.model, Held):
            self.__dict__.update(model=_Model(self.model, self.state), state=None)
        super().__post_init__()

    @nowrap
    def _has_method(self, name: str) -> bool:
        return callable(getattr(type(self.model.parts.model), name, None))

    @nowrap
    def _run(self, scope: Scope, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        held: _Model = self.model
        parts = held.parts
        found = values(scope, parts.example, lambda: held.initial(scope))
        check_shapes(scope, found, parts.example)
        leaves = list(parts.leaves)
        for i, key in parts.arrays.items():
            leaves[i] = found[key]
        model = parts.treedef.unflatten(leaves)
        fn = functools.partial(method, model) if callable(method) else getattr(model, method)
        takes = _arguments(fn, args, kwargs)
        if "key" in takes and (key := stream_key(scope, self.stream)) is not None:
            kwargs = {**kwargs, "key": key}
        if parts.state_treedef is None or "state" not in takes:
            return fn(*args, **kwargs)
        state = parts.state_treedef.unflatten([found[key] for key in parts.states])
        return _moved(scope, parts, found, fn(*args, state=state, **kwargs))


def _arguments(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> set[str]:
    """Return the parameters of `fn` that `args` and `kwargs` do not give."""
    try:
        signature = inspect.signature(fn)
        return signature.parameters.keys() - signature.bind_partial(*args, **kwargs).arguments.keys()
    except (TypeError, ValueError):  # the call itself says what is wrong
        return set()


def _moved(scope: Scope, parts: "_Parts", found: dict[Path, Any], result: Any) -> Any:
    """Write the state that a method returned last; return the rest."""
    eqx = library("equinox")
    if not isinstance(result, tuple) or len(result) < 2 or not isinstance(result[-1], eqx.nn.State):
        raise errors.ForeignStateError(
            f"The method of {type(parts.model).__name__} at {scope.path_text} takes a state and returned "
            f"{full_name(result)}; expected a tuple whose last item is the new eqx.nn.State."
        )
    *out, state = result
    for key, value in zip(parts.states, jax.tree.leaves(state), strict=True):
        if value is not found[key]:
            write(scope, key, value)
    return out[0] if len(out) == 1 else tuple(out)


@dataclasses.dataclass(frozen=True)
class _Parts:
    """A model taken apart.

    Args:
        model: the model, for its type.
        leaves: its leaves: arrays, or their types, and what is static.
        treedef: its structure.
        arrays: index of a leaf -> `(collection, *path)`.
        states: `(collection, *path)` of each leaf of the state.
        state_treedef: its structure; None if there is none.
        example: `(collection, *path)` -> value, or type.
    """

    model: Any
    leaves: tuple[Any, ...]
    treedef: Any
    arrays: dict[int, Path]
    states: tuple[Path, ...]
    state_treedef: Any
    example: dict[Path, Any]


class _Model(Held):
    """A model, or a function that makes one, and its parts."""

    def __init__(self, value: Any, state: Any):
        super().__init__(value)
        eqx = library("equinox")
        self.make: Callable[[Any], Any] | None = None
        if isinstance(value, type):
            raise errors.ForeignModuleError(
                f"bridge.Equinox got {full_name(value)}; expected a model. Make one, {value.__name__}(…), or a "
                f"function: lambda key: {value.__name__}(…, key=key)."
            )
        if state is not None and not isinstance(state, eqx.nn.State):
            raise errors.ForeignModuleError(
                f"bridge.Equinox got {full_name(state)} as the state; expected the eqx.nn.State that "
                "eqx.nn.make_with_state returned beside the model."
            )
        if isinstance(value, eqx.Module) and not isinstance(value, eqx.Partial):
            self.parts = _parts(eqx, value, state)
        elif isinstance(value, types.FunctionType | types.MethodType | functools.partial):
            self.make = value
        elif any(eqx.is_array(x) for x in jax.tree.leaves(value)):
            self.parts = _parts(eqx, value, state)
        else:
            raise errors.ForeignModuleError(
                f"bridge.Equinox got {full_name(value)}; expected an object of equinox.Module, or a function that "
                "makes one from a key."
            )

    @functools.cached_property
    def parts(self) -> _Parts:  # of a function: made when they are needed first, which computes nothing
        eqx = library("equinox")
        return _parts(eqx, *_pair(eqx, eqx.filter_eval_shape(self.make, jax.random.key(0))))

    def initial(self, scope: Scope) -> dict[Path, Any]:
        """Return the initial values."""
        if self.make is None:
            return self.parts.example
        eqx = library("equinox")
        return _parts(eqx, *_pair(eqx, self.make(initial_key(scope)))).example


def _pair(eqx: Any, made: Any) -> tuple[Any, Any]:
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], eqx.nn.State):
        return made
    return made, None


def take_apart(model: Any, state: Any) -> _Parts:
    """Return the parts of a model."""
    return _parts(library("equinox"), model, state)


def _parts(eqx: Any, model: Any, state: Any) -> _Parts:
    is_index = lambda x: isinstance(x, eqx.nn.StateIndex)  # noqa: E731
    indices = [(path, x) for path, x in jax.tree_util.tree_leaves_with_path(model, is_leaf=is_index) if is_index(x)]
    if indices and state is None:
        try:
            state = eqx.nn.State(model)
        except ValueError as error:
            raise errors.ForeignModuleError(
                f"bridge.Equinox got the stateful model {type(model).__name__} without its state. Give what "
                "eqx.nn.make_with_state returned: bridge.Equinox(model, state)."
            ) from error
        model = eqx.nn.delete_init_state(model)
    arrays: dict[int, Path] = {}
    example: dict[Path, Any] = {}
    found, treedef = jax.tree_util.tree_flatten_with_path(model)
    for i, (path, leaf) in enumerate(found):
        if eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct):
            inexact = eqx.is_inexact_array(leaf) or (
                isinstance(leaf, jax.ShapeDtypeStruct) and jax.numpy.issubdtype(leaf.dtype, jax.numpy.inexact)
            )
            arrays[i] = _key("params" if inexact else "buffers", path, example, model)
            example[arrays[i]] = leaf
        elif name := closed_over(leaf):
            raise errors.ForeignStateError(
                f"bridge.Equinox: {'/'.join(_names(path))} in {type(model).__name__} is a function that closes over "
                f"the array {name!r}, which would be in no collection, and have no derivative. Hold the array as a "
                "field of an eqx.Module; if it is a constant, make it a NumPy array."
            )
    held = [x for x in example.values() if _compat.is_tracer(x)]
    if held and _compat.foreign(held):
        raise errors.ForeignModuleError(
            f"bridge.Equinox got a {type(model).__name__} that holds a tracer of a JAX transform that has ended. "
            "Return the model from the transform, and wrap what it returns."
        )
    states: list[Path] = []
    state_treedef = None
    if state is not None:
        state_leaves, state_treedef = jax.tree.flatten(state)
        named: dict[int, Path] = {}
        labels = state_treedef.unflatten(range(len(state_leaves)))
        for path, index in indices:
            for below, i in jax.tree_util.tree_leaves_with_path(labels.get(index)):
                if i not in named:  # an index that is shared is named by where it is first
                    named[i] = _key("state", (*path, *below), example, model)
                    example[named[i]] = state_leaves[i]
        for i, leaf in enumerate(state_leaves):
            if i not in named:
                named[i] = "state", f"other_{i}"
                example[named[i]] = leaf
            states.append(named[i])
    leaves = tuple(leaf for _, leaf in found)
    return _Parts(model, leaves, treedef, arrays, tuple(states), state_treedef, example)


def _key(col: str, path: Any, taken: dict[Path, Any], model: Any) -> Path:
    key = (col, *(_names(path) or ("value",)))
    if key in taken:
        raise errors.ForeignStateError(
            f"bridge.Equinox: {type(model).__name__} has two arrays at {'/'.join(key[1:])}: keys of dicts in a model "
            "must differ as text."
        )
    return key


def _names(path: Any) -> Path:
    return tuple(str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", None)))) for k in path)
