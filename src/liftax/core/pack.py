"""The lift: from stateful targets to pytrees and back, in three verbs.

    unbind  : target -> (variables grouped by filter, keys)        before the JAX call
    bind    : (variables, keys) -> inner target                     inside the function that JAX transforms
    collect : inner target -> state it wrote                        inside, an explicit output
    commit  : state -> ()                                           after the JAX call

A transform is a straight line around one call to JAX:

    packed = unbind(target, filters, rngs, 'vjp')
    def pure(groups, *args):
        with packed.bind(groups, packed.keys) as inner:
            return fn(inner.target, *args), inner.collect()
    out, state = jax_transform(pure)(packed.groups, *args)
    packed.commit(state)

A target is a `Scope`, a `Liftable` (a Module), or a tree of these. A scope gets an inner scope of its own. A module is
*rebound*: it and every module that it reaches point at inner scopes while the block runs and are put back after it. So
a function that uses the module through a closure sees the same variables as one that uses its argument, and JAX may
trace the block later, as often as it likes. Everything reached is packed once: a scope that lies under another one, or
that is reached twice, belongs to the outermost, first one.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax

from liftax import errors
from liftax.core import filters, targets
from liftax.core.calls import Frame, acquire, calls, guarded, release
from liftax.core.scope import Scope, copied
from liftax.core.store import Store
from liftax.core.view import View
from liftax.typing import Filter, Path, PRNGKey

Groups = tuple[tuple[dict[str, Any], ...], ...]
"""For each filter, for each packed root: collection -> nested dict."""


class Liftable(Protocol):
    """What a transform can be lifted over besides scopes: an object that reads its variables through `.scope`."""

    scope: Any

    def lift_parts(self) -> "Sequence[tuple[Path, Liftable]]":
        """Return everything of its kind that it reaches, itself first, each with the field path that leads there."""
        ...

    def lift_method(self, fn: Any) -> Any:
        """Return `fn`, a function of such an object, with what a call of one of its methods has around it."""
        ...

    def lift_snapshot(self) -> Any:
        """Return its state, to be installed later, maybe several times."""
        ...

    def lift_static(self) -> "Sequence[tuple[str, Any]]":
        """Return what its methods depend on besides variables: what tells it from others of its type."""
        ...

    def lift_around(self) -> "Sequence[tuple[str | None, Any, Mapping[str, Any]]]":
        """Return what it lies in, the nearest first: name, object, and what `lift_static` leaves out of that."""
        ...

    def lift_install(self, snapshot: Any, scope: Scope) -> Any:
        """Take on the state of `snapshot`, bound to `scope`; return what `lift_restore` needs."""
        ...

    def lift_restore(self, saved: Any) -> Any:
        """Go back to the state before `lift_install`; return names used meanwhile, for `lift_continue`."""
        ...

    def lift_continue(self, names: Any) -> None:
        """Continue automatic naming after `names`."""
        ...


class State(NamedTuple):
    """What a run of the inner target did to variables, for each packed root. A pytree.

    Args:
        written: (collection, *path, name) -> last value, of what was written and of nothing else.
        created: the same keys -> initial value, of what did not exist before.
    """

    written: tuple[dict[Path, Any], ...]
    created: tuple[dict[Path, Any], ...]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Effects:
    """What a run did besides state: how many keys it drew, where, and which names it gave. Static and hashable.

    A transform that JAX need not trace again, such as jit, gets it from the run that JAX did trace.
    """

    after: Any
    names: Any


class Packed:
    """A target taken apart. Made by `unbind`; see the module's docstring."""

    __slots__ = (
        "after", "compiled", "counters", "creates", "filters", "frame", "groups", "included", "inner_mutable", "keys",
        "leaves", "name", "names", "parts", "replay", "rng_bases", "roots", "view",
    )  # fmt: skip

    roots: tuple[Scope, ...]
    groups: Groups
    keys: tuple[dict[str, PRNGKey], ...]

    def bind(self, groups: Groups, keys: Sequence[Mapping[str, PRNGKey]]) -> "Bound":
        """Return the context in which the target holds the variables `groups`, and `keys`."""
        return Bound(self, groups, keys)

    def rebind(self, roots: Sequence[Scope]) -> "Bound":
        """Return the context in which the target stands on `roots`, scopes that another transform has made."""
        return Bound(self, (), (), roots)

    def scopes(self, groups: Groups, keys: Sequence[Mapping[str, PRNGKey]]) -> tuple[Scope, ...]:
        """Return a new scope for each packed root, with the variables `groups`, and `keys`."""
        return tuple(self._scope(i, [group[i] for group in groups], keys[i]) for i in range(len(self.roots)))

    def _scope(self, i: int, groups: Sequence[Mapping[str, Any]], keys: Mapping[str, PRNGKey]) -> Scope:
        outer, mutable = self.roots[i], self.inner_mutable[i]
        variables: dict[str, Any] = {}
        for group in groups:
            variables.update(group)
        for col in variables:
            if filters.in_filter(mutable, col):
                variables[col] = copied(variables[col])
        store = Store(variables, keys, mutable, outer.store.flags, self.name, outer.path, outer.store.collections())
        store.counters = {path: dict(counts) for path, counts in self.counters[i].items()}
        store.replay = dict(self.replay[i])
        store.rng_base = self.rng_bases[i]
        store.moved = outer.store.moved
        store.outer, store.filters, store.creates = outer.store, self.filters, self.creates
        store.compiled = self.compiled
        store.guard = outer.store.guard
        store.cached = []
        return Scope.of(store, None, outer.name, outer.path)

    def end(self, scopes: Sequence[Scope]) -> None:
        """Declare the scopes of a run dead, and keep how many keys it drew, and where."""
        self.after = tuple(
            ({key: drawn for key, (_, drawn) in s.store.created.items()}, s.store.counters) for s in scopes
        )
        for scope in scopes:
            scope.store.end()

    def include(self, state: State, filter_: Filter, index: int = 0) -> bool:
        """Add variables in `filter_` that a run created to the group `index`; tell whether there were any.

        A transform with respect to variables calls this after its JAX call: what did not exist yet was created in that
        run, so the transform runs again, now with respect to it.
        """
        found = False
        fresh: set[tuple[int, int]] = set()  # groups whose dicts are ours to change
        for i, created in enumerate(state.created):
            group, drawn = self.groups[index][i], self.after[i][0]
            for key, value in created.items():
                col, *path, name = key
                if not filters.in_filter(filter_, col):
                    continue
                if (i, index) not in fresh:
                    fresh.add((i, index))
                    group.update({c: copied(tree) for c, tree in group.items()})
                tree = group.setdefault(col, {})
                for step in path:
                    tree = tree.setdefault(step, {})
                tree[name] = value
                self.included[i][key] = value
                self.replay[i][key] = drawn[key]
                found = True
        return found

    def effects(self) -> Effects | None:
        """Return what the last run did besides state, with paths relative to the roots; None if that is nothing."""
        if not any(map(any, self.after)) and not any(names for _, names in self.names):
            return None
        after = tuple(
            (_frozen(drawn), _frozen({path[len(scope.path) :]: counts for path, counts in counters.items()}))
            for scope, (drawn, counters) in zip(self.roots, self.after, strict=True)
        )
        return Effects(after, tuple(None if names is None else tuple(names.items()) for _, names in self.names))

    def replay_effects(self, effects: Effects | None) -> None:
        """Take `effects` for those of the last run."""
        if effects is None:
            return
        self.after = tuple(
            (_thawed(drawn), {(*scope.path, *path): counts for path, counts in _thawed(counters).items()})
            for scope, (drawn, counters) in zip(self.roots, effects.after, strict=True)
        )
        modules = [module for parts in self.parts for module, *_ in parts if module is not None]
        self.names = [
            (module, None if names is None else dict(names))
            for module, names in zip(reversed(modules), effects.names, strict=True)
        ]

    def commit(self, state: State) -> None:
        """Write what a run changed outward: state, rng counters, automatic names."""
        for i, scope in enumerate(self.roots):
            drawn, counters = self.after[i]
            for (col, *path, name), value in (*self.included[i].items(), *state.written[i].items()):
                scope.at(tuple(path)).put_variable(col, name, value)
            base = scope.path[len(scope.store.root_path) :]
            for key, value in (*self.included[i].items(), *state.created[i].items()):
                # New to a transform around this one too, which may have to differentiate with respect to it.
                scope.store.created[(key[0], *base, *key[1:])] = (value, drawn.get(key) or self.replay[i].get(key, {}))
            for path, counts in counters.items():
                scope.store.counters.setdefault(path, {}).update(counts)
        for module, names in self.names:
            if names:
                module.lift_continue(names)


class Bound:
    """The context that `Packed.bind` returns, and, inside it, the inner target."""

    __slots__ = ("_frame", "_given", "_groups", "_guards", "_keys", "_saved", "_scopes", "_within", "packed", "target")

    def __init__(
        self,
        packed: Packed,
        groups: Groups,
        keys: Sequence[Mapping[str, PRNGKey]],
        roots: Sequence[Scope] | None = None,
    ):
        self.packed = packed
        self._groups = groups
        self._keys = keys
        self._given = roots

    def __enter__(self) -> "Bound":
        packed = self.packed
        self._within = calls.within
        if self._given is None:
            calls.within = packed.name, ", ".join(root.path_text for root in packed.roots)
        scopes = packed.scopes(self._groups, self._keys) if self._given is None else self._given
        guards = [scope.store.guard for scope in scopes if scope.store.guard is not None]
        self._scopes = scopes
        self._guards = acquire(guards) if guards else ()
        self._frame = calls.top
        self._saved = saved = []
        leaves = []
        for leaf, parts in zip(packed.leaves, packed.parts, strict=True):
            for module, snapshot, index, below in parts:
                scope = scopes[index].at(below) if below else scopes[index]
                if module is None:
                    leaf = scope
                else:
                    saved.append((module, module.lift_install(snapshot, scope)))
            leaves.append(leaf)
        self.target = packed.view.treedef.unflatten(leaves)
        calls.top = packed.frame
        return self

    def collect(self) -> State:
        """Return the state that was written so far, as a pytree: an explicit output of the transformed function."""
        return State(tuple(s.store.written for s in self._scopes),
                     tuple({k: v for k, (v, _) in s.store.created.items()} for s in self._scopes))  # fmt: skip

    def __exit__(self, *exception: object) -> None:
        calls.top, calls.within = self._frame, self._within
        packed = self.packed
        packed.names = [(module, module.lift_restore(saved)) for module, saved in reversed(self._saved)]
        if self._given is None:
            packed.end(self._scopes)
        if self._guards:
            release(self._guards)


def unbind(target: Any, groups: Sequence[Filter], rngs: Filter, name: str) -> Packed:
    """Take `target` apart.

    Args:
        target: a Scope, a Liftable, or a tree of them.
        groups: filters; each collection goes to the first that matches, or stays out of reach.
        rngs: which rng streams go along. While initializing, `'params'` always does: variables are made from it.
        name: the transform's name, for error texts.

    Raises:
        TransformTargetError: no scope, module or tree of these.
        UnboundModuleError: a module that holds no variables.
        InvalidScopeError: its call or transform has ended.

    Example:
        >>> import jax
        >>> from liftax import core
        >>> def f(scope, x):  # a transform by hand: what every lifted one does
        ...     packed = core.unbind(scope, ('params',), True, 'f')
        ...     def pure(groups, keys, x):
        ...         with packed.bind(groups, keys) as inner:
        ...             out = x * inner.target.get_variable('params', 'w')
        ...             return out, inner.collect()
        ...     out, state = jax.jit(pure)(packed.groups, packed.keys, x)
        ...     packed.commit(state)
        ...     return out
        >>> core.apply(f)({'params': {'w': 2.0}}, 3.0)
        Array(6., dtype=float32, weak_type=True)
    """
    leaves, treedef = _leaves(target, name)
    guards = []
    for leaf in leaves:
        scope = leaf if isinstance(leaf, Scope) else leaf.scope
        if scope is not None and scope.store.guard is not None and scope.store.guard not in calls.guards:
            guards.append(scope.store.guard)
    if guards:
        return guarded(guards, unbind, target, groups, rngs, name)
    found, scopes = [], []
    for leaf in leaves:
        parts = _reached(leaf, name)
        found.append(parts)
        for _, scope, _ in parts:
            scopes.append(scope)
    roots = _outermost(scopes)
    packed = Packed()
    packed.name = name
    packed.filters, packed.creates = groups, True
    packed.compiled = any(scope.store.compiled for scope in roots)
    packed.leaves = leaves
    packed.roots = roots
    top = calls.top
    alone = len(leaves) == 1 and found[0][0][2] is not None
    packed.frame = Frame(leaves[0], top.capture, top.interceptors) if alone else top
    packed.parts = []
    slots = []
    owned: set[int] = set()
    seen: set[int] = set()
    for parts in found:
        row: list[tuple[Path, int, Path, bool]] = []
        rebound = []
        for prefix, scope, module in parts:
            index, below = (0, ()) if scope is roots[0] else _locate(scope, roots)
            if id(module) not in seen:
                rebound.append((module, None if module is None else module.lift_snapshot(), index, below))
            if module is not None:
                seen.add(id(module))
            if not prefix or (index not in owned and not below):
                owns = not below and index not in owned
                if owns:
                    owned.add(index)
                row.append((prefix, index, below, owns))
        slots.append(tuple(row))
        packed.parts.append(rebound)
    packed.view = View(treedef, tuple(slots))
    reach: Filter = False
    fields = []
    try:
        for filter_ in groups:
            reach = filters.union(reach, filter_)
        for scope in roots:
            store = scope.store
            fields.append((
                filters.group(_variables(scope), groups), _keys(scope, rngs), filters.intersect(store.mutable, reach),
                _counters(scope), scope.streams[1], {}, {}, ({}, {}),
            ))  # fmt: skip
    except errors.InvalidFilterError as error:
        raise errors.InvalidFilterError(f"{name} at {roots[0].path_text}: {error}") from None
    (
        grouped, packed.keys, packed.inner_mutable, packed.counters, packed.rng_bases, packed.included, packed.replay,
        packed.after,
    ) = zip(*fields, strict=True)  # fmt: skip
    packed.groups = tuple(zip(*grouped, strict=True))
    packed.names = []
    return packed


_ONE_LEAF = jax.tree.structure(0)


def is_target(x: Any) -> bool:
    """Tell whether `x` is a scope or a `Liftable`."""
    return isinstance(x, Scope) or hasattr(type(x), "lift_parts")


def _leaves(target: Any, name: str) -> tuple[list[Any], Any]:
    if is_target(target):
        return [target], _ONE_LEAF
    leaves, treedef = jax.tree.flatten(target, is_leaf=is_target)
    wrong = [x for x in leaves if not is_target(x)]
    if wrong and isinstance(target, Mapping) and len(wrong) == len(leaves):
        raise errors.TransformTargetError(
            f"{name}: got a {type(target).__name__} with the keys {list(target)} where a bound Module, a Scope, or a "
            "tree of these is expected. If these are variables, bind a module to them, module.bind(variables). The "
            f"call is {targets.call_of(name)}."
        )
    if targets.other_library(target):  # maybe a pytree
        raise targets.no_target(target, name)
    if wrong:
        raise targets.no_target(wrong[0], name)
    if not leaves:
        got = "None" if target is None else f"an empty {type(target).__name__}"
        raise errors.TransformTargetError(
            f"{name}: got {got} where a bound Module, a Scope, or a tree of these is expected. The call is "
            f"{targets.call_of(name)}."
        )
    return leaves, treedef


def _reached(leaf: Any, name: str) -> list[tuple[Path, Scope, Any]]:
    if isinstance(leaf, Scope):
        parts = [((), leaf, None)]
    else:
        if leaf.scope is None:
            raise errors.UnboundModuleError(
                f"{name}: the module {type(leaf).__name__} is not bound: it holds no variables. Make it inside a "
                "@compact method or assign it in setup, or run this inside init or apply, or bind it with "
                "module.bind(variables)."
            )
        parts = [(prefix, part.scope, part) for prefix, part in leaf.lift_parts() if part.scope is not None]
    for _, scope, _ in parts:
        if scope.store.dead:
            scope._raise_dead()
    return parts


def _outermost(scopes: list[Scope]) -> tuple[Scope, ...]:
    """Drop scopes that lie at or below another one, keeping the order of first appearance."""
    if len(scopes) == 1:
        return (scopes[0],)
    unique = list(dict.fromkeys(scopes))
    return tuple(s for s in unique if not any(t is not s and _below(s, t) is not None for t in unique))


def _below(scope: Scope, top: Scope) -> Path | None:
    n = len(top.path)
    return scope.path[n:] if scope.store is top.store and scope.path[:n] == top.path else None


def _locate(scope: Scope, roots: tuple[Scope, ...]) -> tuple[int, Path]:
    for i, root in enumerate(roots):
        below = _below(scope, root)
        if below is not None:
            return i, below
    raise AssertionError(f"{scope} lies under none of the packed scopes {roots}")


def _variables(scope: Scope) -> dict[str, Any]:
    found = {}
    for col in scope.store.variables:
        tree = scope.collection(col)
        if tree:
            found[col] = tree
    return found


def _keys(scope: Scope, rngs: Filter) -> dict[str, PRNGKey]:
    keys = scope.streams[0]
    if not keys:
        return {}
    always = scope.store.flags.get("initializing")
    return {k: v for k, v in keys.items() if filters.in_filter(rngs, k) or (always and k == "params")}


def _counters(scope: Scope) -> dict[Path, dict[str, int]]:
    counters, path = scope.store.counters, scope.path
    return {p: dict(c) for p, c in counters.items() if p[: len(path)] == path} if counters else {}


def _frozen(counts: Mapping[Path, Mapping[str, int]]) -> Any:
    return tuple(sorted((key, tuple(sorted(count.items()))) for key, count in counts.items()))


def _thawed(counts: Any) -> dict[Path, dict[str, int]]:
    return {key: dict(count) for key, count in counts}
