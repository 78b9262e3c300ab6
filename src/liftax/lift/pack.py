"""Scopes as plain values, in the form that functions written for Linen's `pack` expect.

    pack : ((bind, collect, variables, keys, args) -> (b, variables)) -> Scope -> args -> b

The three verbs of `liftax.core.packing.packed`, with the first and the last one around the function, and the two in the
middle handed to it: `scope_fn` binds, `repack_fn` collects. New transforms read better with `core.unbind` itself.

Source: `flax.core.lift.pack` for the signature.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from liftax import errors
from liftax.core import filters
from liftax.core.packing.packed import Packed, end, run_of, unbind
from liftax.core.packing.run import Effects, Run, State, frozen_draws, thawed_draws
from liftax.core.scope import Scope
from liftax.lift.machinery.paths import flat
from liftax.typing import Filter, Path


def pack(
    fn: Callable[..., tuple[Any, Any]],
    in_variable_filters: Sequence[Filter],
    out_variable_filters: Sequence[Filter],
    rng_filters: Sequence[Filter],
    name: str | None = None,
    enable_kwargs: bool = False,
) -> Callable[..., Any]:
    """Make a transform of scopes out of a function of plain values.

    Code that was written for Linen's `pack` runs with it. For a new transform use `core.unbind`, which takes modules
    too; the page "A transform of your own" shows both.

    Args:
        fn: Called as `fn(scope_fn, repack_fn, variables, keys, *args)`; returns `(output, variables written)`.
            `variables` has an entry for each filter, `keys` one for each filter of rng streams, and an entry is a tuple
            of dicts, one for each scope of the target. `scope_fn(variables, keys, mutable_filter=True)` returns the
            target with these as its variables and keys, and `repack_fn(target)` the variables that it may write, an
            entry for each of `out_variable_filters`. Each may be called any number of times, inside a JAX transform.
        in_variable_filters: How collections are grouped on the way in. One that none matches is out of reach.
        out_variable_filters: How they are grouped on the way out. One that none matches can't be written.
        rng_filters: How rng streams are grouped. One that none matches is out of reach.
        name: The transform's name, for error messages; by default that of `fn`.
        enable_kwargs: Not needed: keyword arguments are always handed on, where Linen drops them if it is False.

    Returns:
        `packed(target, *args, **kwargs)`, where the target is a Scope or a tree of Scopes.

    Raises:
        TransformTargetError: (from the call) the target holds something else. `lift_transform` makes a transform of
            modules out of one of scopes.
        TransformedMethodReturnValueError: (from the call) `fn` did not return `(output, variables written)`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import core, lift
        >>> def traced_once(fn):
        ...     def inner(scope_fn, repack_fn, variables, keys, *args):
        ...         @jax.jit
        ...         def pure(variables, keys, *args):
        ...             scope = scope_fn(variables, keys)
        ...             return fn(scope, *args), repack_fn(scope)
        ...         return pure(variables, keys, *args)
        ...     return lift.pack(inner, (True,), (True,), (True,))
        >>> def scale(scope, x):
        ...     return x * scope.param('scale', jax.nn.initializers.ones, ())
        >>> core.init(traced_once(scale))(jax.random.key(0), 3.0)
        (Array(3., dtype=float32), {'params': {'scale': Array(1., dtype=float32)}})
    """
    what = name or getattr(fn, "__name__", "pack")
    into, out_of, streams = tuple(in_variable_filters), tuple(out_variable_filters), tuple(rng_filters)
    written: Filter = False
    for filter_ in out_of:
        written = filters.union(written, filter_)

    @functools.wraps(fn)
    def packed_fn(target: Any, *args: Any, **kwargs: Any) -> Any:
        _check_scopes(target, what)
        runs = _Runs(unbind(target, into, True, what), out_of, written)
        packed = runs.packed
        keys = tuple(zip(*(filters.group(keys, streams) for keys in packed.keys), strict=True))
        result = fn(runs.scopes, runs.repack, packed.groups, keys, *args, **kwargs)
        if not isinstance(result, tuple) or len(result) != 2:
            raise errors.TransformedMethodReturnValueError(
                f"{what}: the function given to pack returned {type(result).__name__}. Expected a pair: the output, "
                "and the variables that repack_fn returned."
            )
        out, groups = result
        runs.publish(groups)
        return out

    return packed_fn


class _Runs:
    """What `fn` gets to bind and to collect, and what is known of the runs in between."""

    def __init__(self, packed: Packed, out_of: tuple[Filter, ...], written: Filter):
        self.packed = packed
        self._out_of, self._written = out_of, written
        self._mutable = tuple(filters.intersect(scope.store.mutable, written) for scope in packed.roots)
        self._places = [(index, below) for row in packed.parts for _, _, index, below in row]
        self._drawn: list[dict[Path, dict[str, int]]] = [{} for _ in packed.roots]
        self._counters: Any = tuple(() for _ in packed.roots)

    def scopes(self, variables: Any, keys: Any, mutable_filter: Filter = True) -> Any:
        packed = self.packed.with_(mutable=tuple(filters.intersect(m, mutable_filter) for m in self._mutable))
        joined = [{stream: key for group in keys for stream, key in group[i].items()} for i in range(len(packed.roots))]
        roots = packed.scopes(tuple(variables), joined)
        return packed.view.treedef.unflatten([roots[i].at(below) if below else roots[i] for i, below in self._places])

    def repack(self, target: Any) -> Any:
        packed = self.packed
        leaves = packed.view.treedef.flatten_up_to(target)
        roots: list[Scope] = [None] * len(packed.roots)  # type: ignore[list-item]
        for scope, (index, _) in zip(leaves, self._places, strict=True):
            roots[index] = scope.root
        groups = [
            filters.group({c: t for c, t in root.store.variables.items() if root.store.is_mutable(c)}, self._out_of)
            for root in roots
        ]
        effects = run_of(roots).effects
        end(roots)
        self.packed, self._counters = packed.after(effects), effects.counters  # the next run draws other keys
        for known, drawn in zip(self._drawn, effects.drawn, strict=True):
            known.update(thawed_draws(drawn))
        return tuple(zip(*groups, strict=True))

    def publish(self, groups: Any) -> None:
        packed = self.packed
        written, created = [], []
        for i, scope in enumerate(packed.roots):
            own = {col: tree for group in groups for col, tree in group[i].items() if scope.store.is_mutable(col)}
            values = flat(own)
            written.append({(col, name): value for col, tree in own.items() for name, value in tree.items()})
            created.append({key: values[key] for key in self._drawn[i] if key in values})
        drawn = tuple(map(frozen_draws, self._drawn))
        packed.commit(Run(State(tuple(written), tuple(created)), Effects(drawn, self._counters, ())))


def _check_scopes(target: Any, what: str) -> None:
    leaves = jax.tree.leaves(target, is_leaf=lambda x: hasattr(x, "lift_parts"))
    wrong = next((x for x in leaves if not isinstance(x, Scope)), None)
    if wrong is not None and hasattr(wrong, "lift_parts"):
        raise errors.TransformTargetError(
            f"{what}: got the module {type(wrong).__name__} where a Scope is expected: transforms made by pack take "
            f"scopes. Call it through nn.transforms.lift_transform({what}, fn)(module, …), or give it module.scope."
        )
