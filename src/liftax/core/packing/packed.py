"""The lift: from stateful targets to pytrees and back, in three verbs.

    unbind  : target -> Packed: variables grouped by filter, and keys      before the JAX call
    bind    : (variables, keys) -> inner target                           inside the function that JAX transforms
    collect : inner target -> Run: what was written, drawn and named      inside, an explicit output
    commit  : Run -> ()                                                   after the JAX call

A transform is a straight line around one call to JAX:

    packed = unbind(target, filters, rngs, VJP)
    def pure(groups, *args):
        with packed.bind(groups, packed.keys) as inner:
            return fn(inner.target, *args), inner.collect()
    out, run = jax_transform(pure)(packed.groups, *args)
    packed.commit(run)

A `Packed` and a `Run` are values: they are never changed, and another one is made by `packed.with_(…)`, or by
`packed.include(run, …)` where a run created variables that the transform differentiates or carries.

A target is a `Scope`, a `Liftable` (a Module), or a tree of these. A scope gets an inner scope of its own. A module is
*rebound*: it and every module that it reaches hold inner scopes while the block runs and are put back after it. So
a function that uses the module through a closure sees the same variables as one that uses its argument, and JAX may
trace the block later, as often as it likes. A `Variable` that a module has as a field is rebound likewise; if the
module that it belongs to is not reached, it is a root of its own, and nothing else of that module is packed. Everything
reached is packed once: a scope that lies under another one, or that is reached twice, belongs to the outermost, first
one.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from liftax import errors
from liftax.core import filters
from liftax.core.calls import Frame, Within, acquire, calls, guarded, release
from liftax.core.packing.held import counters_of, keys_of, replay_of, variables_of
from liftax.core.packing.run import Effects, Run, State, frozen_draws, thawed_draws
from liftax.core.packing.targets import Lone, leaves_of, located, lone_variables, outermost, reached_from
from liftax.core.packing.view import View
from liftax.core.recursion import check_recursion
from liftax.core.scope import Scope, copied
from liftax.core.store import Store
from liftax.core.variable import Variable
from liftax.explain.transform import Transform
from liftax.typing import Filter, Path, PRNGKey

Groups = tuple[tuple[dict[str, Any], ...], ...]
"""For each filter, for each packed root: collection -> nested dict."""
Counters = dict[Path, dict[str, int]]
"""Path of a scope -> rng stream -> number of draws so far."""


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

    def lift_restore(self, saved: Any) -> None:
        """Go back to the state before `lift_install`."""
        ...

    @property
    def lift_made_in_setup(self) -> bool:
        """Whether the `setup` of what it lies in made it, and will make it again."""
        ...

    def lift_names(self) -> Mapping[str, int]:
        """Return the automatic names that it has given: class name -> next number."""
        ...

    def lift_continue(self, names: Mapping[str, int]) -> None:
        """Continue automatic naming after `names`."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Packed:
    """A target taken apart. A value, made by `unbind` and by `with_`; see the module's docstring.

    Args:
        transform: the transform that packed it, for error texts.
        view: the shape of the target.
        leaves: the scopes and modules in it.
        parts: for each leaf, what is rebound with it: (module, Variable or None, its snapshot, index of its root, path
            below).
        frame: the call of a module's method that the inner function runs in.
        roots: the packed scopes.
        groups: their variables, by filter.
        keys: for each root, rng stream -> key.
        filters: the filters of the groups.
        mutable: for each root, the collections that may be written inside.
        counters: for each root, the draws before the inner function starts.
        rng_bases: for each root, how many leading names of a path the keys know already.
        included: for each root, variables that an earlier run created and that are in the groups now.
        replay: for each root, the draws that creating these took, to be counted once more where they are declared.
        creates: variables may be created inside.
        compiled: state leaves a function that is compiled by itself.
        handed: (index of its root, path below) of what is handed to the function beside the module or scope that it
            lies in: its name is taken there.
    """

    transform: Transform
    view: View
    leaves: Sequence[Any]
    parts: Sequence[Sequence[tuple[Any, Any, int, Path]]]
    frame: Frame
    roots: tuple[Scope, ...]
    groups: Groups
    keys: tuple[dict[str, PRNGKey], ...]
    filters: Sequence[Filter]
    mutable: tuple[Filter, ...]
    counters: tuple[Counters, ...]
    rng_bases: tuple[int, ...]
    included: tuple[Mapping[Path, Any], ...]
    replay: tuple[Mapping[Path, dict[str, int]], ...]
    creates: bool = True
    compiled: bool = False
    handed: tuple[tuple[int, Path], ...] = ()

    def with_(self, **changes: Any) -> "Packed":
        """Return a packed target with other values in some fields."""
        return dataclasses.replace(self, **changes)

    @property
    def where(self) -> str:
        """The place of the target, for error texts."""
        return self.roots[0].path_text

    def bind(self, groups: Groups, keys: Sequence[Mapping[str, PRNGKey]]) -> "Bound":
        """Return the context in which the target holds the variables `groups`, and `keys`."""
        return Bound(self, groups, keys)

    def rebind(self, roots: Sequence[Scope]) -> "Bound":
        """Return the context in which the target holds `roots`, scopes that another transform made by `scopes`."""
        return Bound(self, (), (), roots)

    def scopes(self, groups: Groups, keys: Sequence[Mapping[str, PRNGKey]]) -> tuple[Scope, ...]:
        """Return a new scope for each packed root, with the variables `groups`, and `keys`."""
        return tuple([self._scope(i, [group[i] for group in groups], keys[i]) for i in range(len(self.roots))])

    def _scope(self, i: int, groups: Sequence[Mapping[str, Any]], keys: Mapping[str, PRNGKey]) -> Scope:
        outer, mutable = self.roots[i], self.mutable[i]
        variables: dict[str, Any] = {}
        for group in groups:
            variables.update(group)
        for col in variables:
            if filters.in_filter(mutable, col):
                variables[col] = copied(variables[col])
        store = Store(
            variables, keys, mutable, outer.store.flags, self.transform, outer.names, outer.store.collections()
        )
        store.counters = {path: dict(counts) for path, counts in self.counters[i].items()}
        store.replay = dict(self.replay[i])
        store.rng_base = self.rng_bases[i]
        store.moved = outer.store.moved
        store.outer, store.filters, store.creates = outer.store, self.filters, self.creates
        store.compiled = self.compiled
        store.guard = outer.store.guard
        store.cached = []
        return Scope.of(store, None, outer.name, outer.names)

    def include(self, run: Run, filter_: Filter, index: int = 0) -> "Packed":
        """Return a packed target whose group `index` has the variables in `filter_` that a run created.

        What a transform differentiates or carries has to exist before its JAX call. So while initializing a first run
        creates it, and the draws that this took are counted once more by the run that JAX transforms.
        """
        groups, included, replay = [list(group) for group in self.groups], [*self.included], [*self.replay]
        for i, created in enumerate(run.state.created):
            new = {key: value for key, value in created.items() if filters.in_filter(filter_, key[0])}
            if not new:
                continue
            drawn = thawed_draws(run.effects.drawn[i])
            group: dict[str, Any] = {col: copied(tree) for col, tree in groups[index][i].items()}
            for (col, *path, name), value in new.items():
                tree = group.setdefault(col, {})
                for step in path:
                    tree = tree.setdefault(step, {})
                tree[name] = value
            groups[index][i] = group
            included[i] = {**included[i], **new}
            replay[i] = {**replay[i], **{key: drawn.get(key, {}) for key in new}}
        return self.with_(groups=tuple(map(tuple, groups)), included=tuple(included), replay=tuple(replay))

    def after(self, effects: Effects, again: Filter = False) -> "Packed":
        """Return a packed target whose draws go on where a run left them.

        Args:
            effects: those of the run.
            again: the collections in which the run that follows creates its variables anew, so that it draws for them
                once more.
        """
        replay = tuple(
            {key: drawn for key, drawn in draws.items() if filters.in_filter(again, key[0])} for draws in self.replay
        )
        return self.with_(counters=self.counters_after(effects), replay=replay)

    def counters_after(self, effects: Effects) -> tuple[Counters, ...]:
        """Return the draws so far, by path, after a run."""
        return tuple(
            {**before, **thawed_draws(counts, root.names)}
            for before, counts, root in zip(self.counters, effects.counters, self.roots, strict=True)
        )

    def commit(self, run: Run) -> None:
        """Write what a run changed outward: state, rng counters, automatic names."""
        (written, created), effects = run
        for i, scope in enumerate(self.roots):
            included, store = self.included[i], scope.store
            for (col, *path, name), value in (*included.items(), *written[i].items()):
                scope.at(tuple(path)).put_variable(col, name, value)
            if included or created[i]:
                base = scope.names[len(store.root_path) :]
                drawn = thawed_draws(effects.drawn[i])
                for key, value in (*included.items(), *created[i].items()):
                    # New to a transform around this one too, which may have to differentiate with respect to it.
                    draws = drawn.get(key) or self.replay[i].get(key, {})
                    store.created[(key[0], *base, *key[1:])] = (value, draws)
            for key, draws in effects.drawn[i] if store.replay else ():
                here = (key[0], *scope.names[len(store.root_path) :], *key[1:])
                if store.replay.pop(here, None) is not None:
                    store.replayed[here] = dict(draws)
            for path, counts in effects.counters[i]:
                store.counters.setdefault((*scope.names, *path), {}).update(counts)
        self.continue_names(effects.names)

    def continue_names(self, given: Sequence[Any]) -> None:
        """Let the automatic names of modules go on after those that were given inside; see `Effects.names`."""
        modules = [module for parts in self.parts for module, *_ in parts if module is not None]
        for module, names in zip(modules, given, strict=True):
            if names:
                module.lift_continue(dict(names))


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
            where = ", ".join([root.path_text for root in packed.roots])
            if self._within is not None:
                check_recursion(packed.leaves[0], self._within, packed.transform, where)
            calls.within = Within(packed.transform, where, packed.leaves[0], self._within)
        scopes = packed.scopes(self._groups, self._keys) if self._given is None else self._given
        guards = [scope.store.guard for scope in scopes if scope.store.guard is not None]
        self._scopes = scopes
        self._guards = acquire(guards) if guards else ()
        self._frame = calls.top
        self._saved = saved = []
        leaves = []
        placed: dict[tuple[int, Path], Scope] = {}
        for leaf, parts in zip(packed.leaves, packed.parts, strict=True):
            for module, snapshot, index, below in parts:
                scope = scopes[index].at(below) if below else scopes[index]
                placed.setdefault((index, below), scope)
                if module is None:
                    leaf = scope
                else:
                    saved.append((module, module.lift_install(snapshot, scope)))
            leaves.append(leaf)
        for index, (*above, name) in packed.handed:
            holder = placed.get((index, tuple(above)))
            if holder is not None:
                holder.push(name, reuse=True)
        self.target = packed.view.treedef.unflatten(leaves)
        calls.top = packed.frame
        return self

    def collect(self) -> Run:
        """Return what has been done so far, as a value: an explicit output of the transformed function."""
        return run_of(self._scopes, self.names())

    def names(self) -> tuple[Any, ...]:
        """Return the automatic names that each rebound module has given so far, or None; see `Effects.names`."""
        given = [module.lift_names() for module, _ in self._saved]
        return tuple([tuple(names.items()) if names else None for names in given])

    def __exit__(self, *exception: object) -> None:
        calls.top, calls.within = self._frame, self._within
        for module, saved in reversed(self._saved):
            module.lift_restore(saved)
        if self._given is None:
            end(self._scopes)
        if self._guards:
            release(self._guards)


def run_of(scopes: Sequence[Scope], names: tuple[Any, ...] = ()) -> Run:
    """Return what was done to inner scopes, and the names that were given meanwhile, as a value."""
    written, created, drawn, counters = [], [], [], []
    for scope in scopes:
        store = scope.store
        written.append(store.written)
        created.append({key: value for key, (value, _) in store.created.items()})
        drawn.append(frozen_draws({**store.replayed, **{key: draws for key, (_, draws) in store.created.items()}}))
        counters.append(frozen_draws(store.counters, len(scope.names)))
    return Run(State(tuple(written), tuple(created)), Effects(tuple(drawn), tuple(counters), names))


def end(scopes: Sequence[Scope]) -> None:
    """Declare inner scopes dead: using one later is an error."""
    for scope in scopes:
        scope.store.end()


def unbind(target: Any, groups: Sequence[Filter], rngs: Filter, transform: Transform | str) -> Packed:
    """Take `target` apart.

    Args:
        target: a Scope, a Liftable, or a tree of them.
        groups: filters; each collection goes to the first that matches, or stays out of reach.
        rngs: which rng streams go along. While initializing, `'params'` always does: variables are made from it.
        transform: its descriptor, or its name, for error texts.

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
        ...     out, run = jax.jit(pure)(packed.groups, packed.keys, x)
        ...     packed.commit(run)
        ...     return out
        >>> core.apply(f)({'params': {'w': 2.0}}, 3.0)
        Array(6., dtype=float32, weak_type=True)
    """
    if isinstance(transform, str):
        transform = Transform(transform)
    leaves, treedef = leaves_of(target, transform)
    guards = []
    for leaf in leaves:
        scope = leaf if isinstance(leaf, Scope) else leaf.scope
        if scope is not None and scope.store.guard is not None and scope.store.guard not in calls.guards:
            guards.append(scope.store.guard)
    if guards:
        return guarded(guards, unbind, target, groups, rngs, transform)
    found, scopes = [], []
    for leaf in leaves:
        reached = reached_from(leaf, transform)
        found.append(reached)
        for _, scope, part in reached:
            if not isinstance(part, Variable):
                scopes.append(scope)
    roots = outermost(scopes)
    lone = lone_variables(found, roots)
    view, parts = _placed(treedef, found, roots, lone)
    held = [variables_of(scope) for scope in roots] + [variable.variables() for variable in lone]
    drawing, roots = roots, (*roots, *[variable.scope for variable in lone])
    none = [{} for _ in lone]  # a variable draws nothing
    top = calls.top
    alone = len(leaves) == 1 and found[0][0][2] is not None
    reach: Filter = False
    grouped, mutable = [], []
    try:
        for filter_ in groups:
            reach = filters.union(reach, filter_)
        for scope, own in zip(roots, held, strict=True):
            grouped.append(filters.group(own, groups))
            mutable.append(filters.intersect(scope.store.mutable, reach))
    except errors.InvalidFilterError as error:
        raise errors.InvalidFilterError(f"{transform} at {roots[0].path_text}: {error}") from None
    nothing = tuple([{} for _ in roots])
    return Packed(
        transform=transform,
        view=view,
        leaves=leaves,
        parts=parts,
        frame=Frame(leaves[0], top.capture, top.interceptors) if alone else top,
        roots=roots,
        groups=tuple(zip(*grouped, strict=True)),
        keys=(*[keys_of(scope, rngs) for scope in drawing], *none),
        filters=groups,
        mutable=tuple(mutable),
        counters=(*[counters_of(scope) for scope in drawing], *none),
        rng_bases=tuple([scope.streams[1] for scope in roots]),
        included=nothing,
        replay=(*[replay_of(scope) for scope in drawing], *none),
        compiled=any(scope.store.compiled for scope in roots),
        handed=_handed(found, drawing) if len(leaves) > 1 else (),
    )


def _placed(
    treedef: Any,
    found: Sequence[Sequence[tuple[Path, Scope, Any]]],
    roots: tuple[Scope, ...],
    lone: tuple[Lone, ...],
) -> tuple[View, list[list[tuple[Any, Any, int, Path]]]]:
    """Return where each root shows in the target, and for each leaf what is rebound with it."""
    parts, slots = [], []
    owned: set[int] = set()
    seen: set[int] = set()
    for reached in found:
        row: list[tuple[Path, int, Path, bool]] = []
        rebound = []
        for prefix, scope, module in reached:
            own = Lone(scope, module.collection, module.name) if isinstance(module, Variable) else None
            if own in lone:
                index, below = len(roots) + lone.index(own), ()
            else:
                index, below = (0, ()) if scope is roots[0] else located(scope, roots)
            if id(module) not in seen:
                rebound.append((module, None if module is None else module.lift_snapshot(), index, below))
            if module is not None:
                seen.add(id(module))
            if own is not None:
                if own in lone and index not in owned:
                    owned.add(index)
                    row.append((prefix, index, (own.name,), True))
            elif not prefix or (index not in owned and not below):
                owns = not below and index not in owned
                if owns:
                    owned.add(index)
                row.append((prefix, index, below, owns))
        slots.append(tuple(row))
        parts.append(rebound)
    return View(treedef, tuple(slots)), parts


def _handed(
    found: Sequence[Sequence[tuple[Path, Scope, Any]]], roots: tuple[Scope, ...]
) -> tuple[tuple[int, Path], ...]:
    """Return where the modules and scopes are that are handed over along with what they lie in.

    Their names are taken inside, so that nothing of the same name is made, by mistake, on their variables. A module
    that `setup` made is left out: `setup` runs again inside, and makes it.
    """
    handed = {}
    for reached in found:
        top = reached[0][1]
        for prefix, scope, part in reached:
            within = prefix and scope.store is top.store and scope.names[: len(top.names)] == top.names
            if within or isinstance(part, Variable) or (part is not None and part.lift_made_in_setup):
                continue
            index, below = located(scope, roots)
            if below:
                handed[index, below] = None
    return tuple(handed)
