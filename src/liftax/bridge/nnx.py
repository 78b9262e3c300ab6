"""A model of Flax NNX as a module of liftax.

    NNX : nnx.Module -> Module

The model is taken apart once, into its structure and the values of its Variables. A call puts a copy together from the
wrapper's variables, runs it, and writes what its Variables hold then. The model itself stays as it is.
"""

import dataclasses
import functools
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from liftax import _compat, errors
from liftax.bridge.foreign import (
    Foreign,
    Held,
    at_path,
    check_shapes,
    flat,
    initial_key,
    is_initializing,
    values,
    write,
)
from liftax.bridge.libraries import full_name, library
from liftax.core import rngs
from liftax.core.scope import Scope
from liftax.core.sharding.partitioning import Partitioned
from liftax.module.methods import nowrap
from liftax.typing import Path

BUFFERS = "buffers"
"""The collection of arrays that are not in a Variable."""


class NNX(Foreign):
    """Wrap a model of Flax NNX.

    Each type of Variable is a collection: `Param` is `'params'`, `BatchStat` is `'batch_stats'`, and a type that Flax
    gives no name to has the name of its class. Arrays outside of Variables are in `'buffers'`. A Variable with
    `out_sharding` is boxed as `nn.Partitioned`.

    `init` gives the values that the model holds now: changing it later changes no wrapper. With a function, `init`
    draws them anew: `bridge.NNX(lambda rngs: Model(rngs=rngs))`.

    Keys: if the call has an rng stream with the name that an `RngStream` of the model has, or that the layer around it
    asks for (`'dropout'`), that stream is seeded from it for the call. If not, the model's own key and count are used,
    and the count, in the collection `'RngCount'`, moves as in NNX: it has to be mutable.

    Args:
        model: an `nnx.Module`, or a function `(nnx.Rngs) -> nnx.Module`.
        method: what a call of the wrapper runs: a method's name, or a function of the model.

    Raises:
        ForeignModuleError: `model` is neither, or holds a tracer of a JAX transform that has ended.
        ForeignStateError: Two types of Variable have one name.
        MissingLibraryError: Flax is not installed.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> from liftax import bridge, nn
        >>> potential = bridge.NNX(nnx.Linear(3, 1, rngs=nnx.Rngs(0)))
        >>> variables = potential.init(jax.random.key(0), jnp.ones(3))
        >>> def laplacian(mdl, x):
        ...     return nn.laplacian(lambda mdl, x: jnp.sin(mdl(x)[0]), mdl, x)[1]
        >>> nn.apply(laplacian, potential)(variables, jnp.ones(3)).shape
        ()
    """

    model: Any
    method: Any = "__call__"

    def __post_init__(self) -> None:
        if not isinstance(self.model, Held):
            self.__dict__["model"] = _Model(self.model)
        super().__post_init__()

    @nowrap
    def _has_method(self, name: str) -> bool:
        return callable(getattr(self.model.parts.cls, name, None))

    @nowrap
    def _run(self, scope: Scope, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nnx = library("flax.nnx")
        held: _Model = self.model
        parts = held.parts
        found = values(scope, parts.boxed, lambda: held.initial(scope))
        check_shapes(scope, found, parts.example)
        seeded = _seeded(scope, parts, found)
        given = {**found, **seeded}
        model = nnx.merge(parts.graphdef, nnx.from_flat_state([(parts.paths[key], x) for key, x in given.items()]))
        _put_others(nnx, scope, parts, model)
        if isinstance(method, str):
            out = getattr(model, method)(*args, **kwargs)
        else:
            out = method(model, *args, **kwargs)
        graphdef, state = nnx.split(model)
        after = _taken_apart(nnx, state)
        if isinstance(method, str) and graphdef != parts.graphdef and after.keys() == given.keys():
            raise errors.ForeignStateError(
                f"The method {method} of {parts.cls.__name__} at {scope.path_text} changed an attribute that is not "
                "a Variable, or which Variables are shared. A wrapper keeps only the values of Variables: hold it in "
                "one, of an nnx.Variable type of its own."
            )
        _write(nnx, scope, parts, given, after, seeded)
        return out


@dataclasses.dataclass(frozen=True)
class _Parts:
    """A model taken apart.

    Args:
        cls: its class.
        graphdef: its structure.
        paths: `(collection, *path)` of each variable -> its path in NNX.
        example: the same keys -> its value, or type, without a box.
        boxed: the same in boxes.
        streams: `(key of an RngKey, key of its RngCount, names)` of each rng stream.
    """

    cls: type
    graphdef: Any
    paths: dict[Path, tuple[Any, ...]]
    example: dict[Path, Any]
    boxed: dict[Path, Any]
    streams: tuple[tuple[Path, Path, tuple[str, ...]], ...]


class _Model(Held):
    """A model, or a function that makes one, and its parts."""

    def __init__(self, value: Any):
        super().__init__(value)
        nnx = library("flax.nnx")
        if isinstance(value, nnx.Module):
            self.make: Callable[[Any], Any] | None = None
            self.parts = _parts(nnx, value)
            held = [x for x in self.parts.example.values() if _compat.is_tracer(x)]
            if held and _compat.foreign(held):
                raise errors.ForeignModuleError(
                    f"bridge.NNX got a {type(value).__name__} that holds a tracer of a JAX transform that has ended: "
                    "it was changed inside of jax.jit or jax.grad. Change it inside of nnx.jit or nnx.grad, which "
                    "give the values back, and wrap a model whose Variables hold arrays."
                )
        elif isinstance(value, types.FunctionType | types.MethodType | functools.partial):
            self.make = value
        else:
            remedy = "Make a model, or a function of nnx.Rngs."
            if isinstance(value, type):
                remedy = f"Make one, {value.__name__}(…), or a function: lambda rngs: {value.__name__}(…, rngs=rngs)."
            raise errors.ForeignModuleError(
                f"bridge.NNX got {full_name(value)}; expected an object of flax.nnx.Module, or a function that makes "
                f"one from an nnx.Rngs. {remedy}"
            )

    @functools.cached_property
    def parts(self) -> _Parts:  # of a function: made when they are needed first, which computes nothing
        nnx = library("flax.nnx")
        return _parts(nnx, nnx.eval_shape(lambda: self._made(nnx, nnx.Rngs(0))))

    def _made(self, nnx: Any, streams: Any) -> Any:
        assert self.make is not None
        model = self.make(streams)
        if not isinstance(model, nnx.Module):
            raise errors.ForeignModuleError(
                f"bridge.NNX got a function that returned {full_name(model)}; expected it to return an object of "
                "flax.nnx.Module. A method to run is given as method=…"
            )
        for path, node in nnx.iter_graph(model):
            for name, value in vars(node).items() if isinstance(node, nnx.Module) else ():
                if _compat.is_tracer(value) and not nnx.is_data(value):  # NNX takes it for a static attribute
                    raise errors.ForeignStateError(
                        f"bridge.NNX: {'/'.join(map(str, (*path, name)))} of {type(model).__name__} is an array "
                        "outside of a Variable, which NNX can't follow where a model is made inside of a trace. Hold "
                        "it in a Variable, or mark it, nnx.data(array), or give bridge.NNX a model that is made."
                    )
        return model

    def initial(self, scope: Scope) -> dict[Path, Any]:
        """Return the initial values, in their boxes."""
        if self.make is None:
            return self.parts.boxed
        nnx = library("flax.nnx")
        base = initial_key(scope)
        others = {name: at_path(scope, name) for name in scope.rngs if name not in ("params", "default")}
        return _parts(nnx, self._made(nnx, nnx.Rngs(_typed(base), **{k: _typed(x) for k, x in others.items()}))).boxed


def _typed(key: Any) -> Any:
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)


def take_apart(model: Any) -> _Parts:
    """Return the parts of a model."""
    return _parts(library("flax.nnx"), model)


def _parts(nnx: Any, model: Any) -> _Parts:
    graphdef, state = nnx.split(model)
    paths, example, boxed, streams = {}, {}, {}, []
    found: dict[str, type] = {}
    for path, leaf in nnx.to_flat_state(state):
        col, names, value = _collection(nnx, leaf), tuple(map(str, path)), _value(nnx, leaf)
        cls = type(leaf) if isinstance(leaf, nnx.Variable) else object
        if found.setdefault(col, cls) is not cls:
            raise errors.ForeignStateError(
                f"bridge.NNX: the Variable types {full_name(cls)} and {full_name(found[col])} of "
                f"{type(model).__name__} both have the name {col!r}, which is to be that of a collection. Rename one, "
                "or give it a name by nnx.register_variable_name."
            )
        key = (col, *names)
        if key in paths:
            raise errors.ForeignStateError(
                f"bridge.NNX: {type(model).__name__} has two variables at {'/'.join(names)}: keys of dicts in a model "
                "must differ as text."
            )
        paths[key], example[key], boxed[key] = path, value, _box(nnx, leaf, value)
        if isinstance(leaf, nnx.RngKey):
            count = (_name(nnx, nnx.RngCount), *names[:-1], "count")
            streams.append((key, count, _stream_names(model, path, leaf)))
    return _Parts(type(model), graphdef, paths, example, boxed, tuple(streams))


def _stream_names(model: Any, path: tuple[Any, ...], leaf: Any) -> tuple[str, ...]:
    """Return the names of an rng stream of a model: its own, and the one that the layer that owns it asks for."""
    owner = model
    for name in path[:-2]:
        owner = owner[name] if isinstance(name, int) else _child(owner, name)
    names = leaf.get_metadata().get("tag"), getattr(owner, "rng_collection", None)
    return tuple(dict.fromkeys(name for name in names if isinstance(name, str)))


def _collection(nnx: Any, leaf: Any) -> str:
    return _name(nnx, type(leaf)) if isinstance(leaf, nnx.Variable) else BUFFERS


def _name(nnx: Any, cls: Any) -> str:
    try:
        return nnx.variable_name_from_type(cls)
    except ValueError:  # Flax has no name for it, and giving it one would change what others see
        return cls.__name__


def _value(nnx: Any, leaf: Any) -> Any:
    return leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf


def _box(nnx: Any, leaf: Any, value: Any) -> Any:
    names = leaf.get_metadata().get("out_sharding") if isinstance(leaf, nnx.Variable) else None
    return value if names is None else Partitioned(value, tuple(names))


def _seeded(scope: Scope, parts: _Parts, found: dict[Path, Any]) -> dict[Path, Any]:
    """Return keys and counts of the rng streams that the call has a stream for."""
    seeded: dict[Path, Any] = {}
    drawn: dict[str, Any] = {}
    for key, count, names in parts.streams:
        name = next(filter(scope.has_rng, names), None)
        if name is None:
            continue
        if name not in drawn:
            drawn[name] = _typed(scope.make_rng(name))
        own = rngs.fold(drawn[name], *key[1:])
        shape = found[key].shape
        seeded[key] = jax.random.split(own, shape) if shape else own
        seeded[count] = jnp.zeros_like(found[count])
    return seeded


def _put_others(nnx: Any, scope: Scope, parts: _Parts, model: Any) -> None:
    """Give the model the variables that it makes in a call: intermediates and caches of an earlier one."""
    for col in scope.store.variables:
        for path, value in flat(scope.collection(col)).items():
            if (col, *path) not in parts.paths:
                node = model
                for name in path[:-1]:
                    node = node[int(name)] if isinstance(node, nnx.List) else _child(node, name)
                setattr(node, path[-1], _type(nnx, scope, col, path)(value))


def _child(node: Any, name: str) -> Any:
    return node[name] if isinstance(node, dict) else getattr(node, name)


def _type(nnx: Any, scope: Scope, col: str, path: Path) -> Any:
    try:
        return nnx.variable_type_from_name(col)
    except ValueError as error:
        raise errors.ForeignStateError(
            f"The variable {'/'.join((col, *path))} at {scope.path_text} is none that the wrapped model has, and Flax "
            f"knows no Variable type for {col!r}. Leave it out, or name the type: nnx.register_variable_name."
        ) from error


def _taken_apart(nnx: Any, state: Any) -> dict[Path, Any]:
    return {(_collection(nnx, x), *map(str, path)): x for path, x in nnx.to_flat_state(state)}


def _write(
    nnx: Any, scope: Scope, parts: _Parts, given: dict[Path, Any], after: dict[Path, Any], seeded: dict[Path, Any]
) -> None:
    for key, leaf in after.items():
        value = _value(nnx, leaf)
        if key in seeded or (key in given and value is given[key]):
            continue
        mutable = scope.is_mutable_collection(key[0])
        if isinstance(leaf, nnx.RngState) and not mutable and not is_initializing(scope):
            tag = next((names[-1] for _, count, names in parts.streams if count == key), "default")
            raise errors.ModifyScopeVariableError(
                f"The model at {scope.path_text} drew from its rng stream {tag!r}, whose count, "
                f"{'/'.join(key)}, can't be written: the collection {key[0]!r} is immutable. Pass "
                f"rngs={{{tag!r}: key}} to draw from a key, or mutable=[{key[0]!r}], and use what is returned."
            )
        if not mutable and isinstance(leaf, nnx.Intermediate):
            continue
        write(scope, key, value)
