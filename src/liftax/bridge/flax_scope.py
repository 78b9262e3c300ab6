"""Scopes of liftax as scopes of Flax, and the other way: the same variables, rng streams, counters and path.

    to_flax, from_flax   : scope -> scope of the other library
    moved_in, moved_out  : what was written there, written here

Both libraries draw a key from its stream by the same rule, and count draws by path. So a module of one that runs in
a scope of the other draws what it would draw in a model that is all of one library.
"""

from collections.abc import Mapping
from typing import Any

from liftax.bridge.foreign import at, is_initializing
from liftax.bridge.libraries import library
from liftax.core import filters
from liftax.core.scope import Scope, copied
from liftax.core.store import Store
from liftax.typing import Filter, Path

_MISSING = object()


def to_flax(scope: Scope) -> Any:
    """Return a root scope of Flax over the variables at `scope`."""
    library("flax.linen")
    from flax import core

    store = scope.store
    variables = {}
    for col in store.variables:
        tree = scope.collection(col)
        if tree:
            variables[col] = copied(tree)  # plain dicts: Flax changes those of mutable collections in place
    given, base = scope.streams
    suffix = scope.rng_path[base:]
    keys = {stream: core.scope.LazyRng.create(key, *suffix) for stream, key in given.items()}
    flags = {"initializing": True} if is_initializing(scope) else {}
    mutable = flax_filter(scope.mutable)
    theirs = core.Scope(variables, keys, mutable=mutable, path=scope.path, flags=flags)
    n = len(scope.path)
    for path, counts in store.counters.items():
        if path[:n] == scope.path:
            place = theirs
            for name in path[n:]:
                place = place.rewound().push(name)
            place.rng_counters.update(counts)
    return theirs


def moved_in(scope: Scope, theirs: Any) -> None:
    """Write what changed in the scope of Flax `theirs`, made by `to_flax(scope)`, into `scope`."""
    store = scope.store
    for path, counts in _counts(theirs.rng_counters):
        if any(counts.values()):
            store.counters.setdefault((*scope.path, *path), {}).update(counts)
    for col, tree in theirs.variables().items():
        if store.is_mutable(col):
            _changes(scope, col, (), tree, scope.collection(col))


def _changes(scope: Scope, col: str, path: Path, new: Mapping[str, Any], old: Any) -> None:
    for name, value in new.items():
        before = old.get(name, _MISSING) if isinstance(old, Mapping) else _MISSING
        if isinstance(value, Mapping) and (value or before is _MISSING):
            _changes(scope, col, (*path, name), value, before)
        elif before is _MISSING:
            at(scope, path).variable(col, name, lambda value=value: value)
        elif value is not before:
            at(scope, path).put_variable(col, name, value)


def from_flax(theirs: Any, owner: str) -> Scope:
    """Return a scope over the variables of a scope of Flax.

    Args:
        theirs: the scope of Flax.
        owner: what error texts call the transform or bridge that it is made for.
    """
    variables = {col: copied(tree) for col, tree in theirs.variables().items() if tree}
    path = tuple(theirs.path)
    keys, base = {}, 0
    for stream, lazy in theirs.rngs.items():
        if lazy.suffix == path:
            keys[stream] = lazy.rng
        else:  # a transform has split or folded it: all of its path is in the key already
            keys[stream], base = lazy.as_jax_rng(), len(path)
    if base:
        keys = {stream: lazy.as_jax_rng() for stream, lazy in theirs.rngs.items()}
    flags = {"initializing": True} if theirs.get_flag("initializing", False) else {}
    store = Store(variables, keys, liftax_filter(theirs.mutable), flags, owner, path)
    store.rng_base = base
    for below, counts in _counts(theirs.rng_counters):
        store.counters[*path, *below] = dict(counts)
    return Scope.of(store, None, theirs.name, path)


def moved_out(scope: Scope, theirs: Any) -> None:
    """Write what changed in `scope`, made by `from_flax(theirs)`, into the scope of Flax `theirs`."""
    store, n = scope.store, len(scope.path)
    for (col, *path, name), value in store.written.items():
        _pushed(theirs, tuple(path)).put_variable(col, name, value)
    for path, counts in store.counters.items():
        _pushed(theirs, path[n:]).rng_counters.update(counts)


def _pushed(theirs: Any, path: Path) -> Any:
    for name in path:
        theirs = theirs.rewound().push(name)
    return theirs


def _counts(counters: Any, path: Path = ()) -> list[tuple[Path, dict[str, int]]]:
    found = [(path, {k: n for k, n in counters.items() if isinstance(k, str)})]
    for key, below in counters.items():
        if not isinstance(key, str):  # (a mark, the child's name)
            found += _counts(below, (*path, key[1]))
    return found


def flax_filter(filter_: Filter) -> Any:
    """Return a filter of liftax as one of Flax."""
    if isinstance(filter_, filters.DenyList):
        from flax import core

        return core.DenyList(flax_filter(filter_.deny))
    return filter_ if isinstance(filter_, bool | str) else tuple(filter_)


def liftax_filter(filter_: Any) -> Filter:
    """Return a filter of Flax as one of liftax."""
    if isinstance(filter_, bool | str):
        return filter_
    if hasattr(filter_, "deny"):
        return filters.DenyList(liftax_filter(filter_.deny))
    return frozenset(filter_)
