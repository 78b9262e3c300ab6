"""Scope: a cursor into a tree of variables and rng streams.

All scopes of one call share a `Store`, which owns the variables, the keys and the rules (what is mutable, which trace
may write). A scope adds only where it is: its path. So making a child costs little, and a store can be declared dead
when its call or transform ends, which every scope into it then reports.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from liftax import _compat, errors
from liftax.core import meta, outside, refusals
from liftax.core import rngs as streams
from liftax.core.calls import calls
from liftax.core.filters import DenyList, in_filter
from liftax.core.filters import group as group_collections
from liftax.core.filters import intersect as intersect_filters
from liftax.core.filters import is_empty as is_filter_empty
from liftax.core.filters import subtract as subtract_filters
from liftax.core.filters import union as union_filters
from liftax.core.initial import check_shape, drawn
from liftax.core.rngs import LazyRng
from liftax.core.store import Store
from liftax.core.variable import Variable
from liftax.typing import Filter, Path, PRNGKey, Variables

__all__ = [
    "CollectionFilter", "DenyList", "FrozenVariableDict", "LazyRng", "PRNGSequenceFilter", "RNGSequences", "Scope",
    "Variable", "VariableDict", "group_collections", "in_filter", "intersect_filters", "is_filter_empty",
    "subtract_filters", "union_filters",
]  # fmt: skip

# The names that Linen has at this address.
CollectionFilter = PRNGSequenceFilter = Filter
VariableDict = FrozenVariableDict = MutableVariableDict = Variables
RNGSequences = Mapping[str, PRNGKey]

_EMPTY: Mapping[str, Any] = {}
_MISSING = object()


class Scope:
    """A cursor into variables and rng streams. Functions of a scope are made pure by `core.init` and `core.apply`.

    One made by hand is the root of a tree; children are made by `push`.

    Args:
        variables: collection -> nested mapping. Never changed: what is written shows in `scope.variables()`.
        rngs: a key for the stream `'params'`, or a mapping from stream to key.
        name: its name, for error messages.
        mutable: which collections may be written.
        path: the names from the root of the variables down to here.
        flags: facts about the call, such as `initializing`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import core
        >>> def dense(scope, x, features):
        ...     kernel = scope.param('kernel', jax.nn.initializers.ones, (x.shape[-1], features))
        ...     return x @ kernel
        >>> y, variables = core.init(dense)(jax.random.key(0), jnp.ones(3), 2)
        >>> core.apply(dense)(variables, jnp.ones(3), 2)
        Array([3., 3.], dtype=float32)
    """

    __slots__ = ("_cols", "_counts", "name", "names", "parent", "reservations", "store")

    def __init__(
        self,
        variables: Mapping[str, Any],
        rngs: Any = None,
        name: str | None = None,
        mutable: Filter = False,
        path: Iterable[str] = (),
        flags: Mapping[str, Any] | None = None,
    ):
        own = {col: copied(tree) for col, tree in variables.items()}
        path = tuple(path)
        self._place(Store(own, streams.canonical(rngs, "Scope"), mutable, flags or {}, "Scope", path), None, name, path)

    @classmethod
    def of(cls, store: Store, parent: "Scope | None" = None, name: str | None = None, path: Path = ()) -> "Scope":
        """Return a scope into `store`, the child `name` of `parent`; without a parent, its root."""
        scope = cls.__new__(cls)
        scope._place(store, parent, name, path)
        return scope

    def _place(self, store: Store, parent: "Scope | None", name: str | None, path: Path) -> None:
        self.store = store
        self.parent = parent
        self.name = name
        self.names = path
        self.reservations: dict[str, set[str | None]] = {}
        self._cols: dict[str, Any] = store.variables if parent is None else {}
        if store.cached is not None:
            store.cached.append(self._cols)
        self._counts: dict[str, int] | None = None

    # Two scopes at the same place of the same store behave alike.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scope) and self.store is other.store and self.names == other.names

    def __hash__(self) -> int:
        return hash((id(self.store), self.names))

    def __repr__(self) -> str:
        return f"Scope({self.path_text}{', ended' if self.store.dead else ''})"

    @property
    def scope(self) -> "Scope":
        """The scope itself: scopes and modules are both read through `.scope`."""
        return self

    @property
    def root(self) -> "Scope":
        """The outermost scope of this call."""
        return self if self.parent is None else self.parent.root

    @property
    def path(self) -> Path:
        """The names from the root of the variables down to here."""
        if calls.watch is not None:  # a trace that depends on it is not one for equal modules elsewhere
            outside.note_names()
        return self.names

    @property
    def path_text(self) -> str:
        """The path as text: `/Encoder_0/Dense_1`."""
        return "/" + "/".join(self.names)

    @property
    def mutable(self) -> Filter:
        """Which collections may be written."""
        return self.store.mutable

    @property
    def rngs(self) -> Mapping[str, PRNGKey]:
        """The keys of the rng streams, as given at the root."""
        return self.store.keys

    @property
    def invalid(self) -> bool:
        """Whether the call or transform that owned this scope has ended."""
        return self.store.dead

    @property
    def in_use(self) -> bool:
        """Whether a variable here, or below, was read or made."""
        return bool(self._cols)

    def has_flag(self, key: str) -> bool:
        """Tell whether the call carries the flag `key`."""
        return key in self.store.flags

    def get_flag(self, key: str, default: Any = None) -> Any:
        """Return the flag `key` of the call, or `default`."""
        return self.store.flags.get(key, default)

    # --- children ----------------------------------------------------------------------------------------------------

    def name_reserved(self, name: str, col: str | None = None) -> bool:
        """Tell whether `name` is taken: by a child, or by a variable of the collection `col` (None: of any)."""
        taken = self.reservations.get(name)
        return taken is not None and (col is None or None in taken or col in taken)

    def reserve(self, name: str, col: str | None = None) -> None:
        """Take `name` for a child (`col=None`) or for a variable of the collection `col`.

        Raises:
            NameInUseError: it is taken already.
        """
        taken = self.reservations.get(name)
        if taken is None:
            if not isinstance(name, str):
                raise TypeError(f"A name is a string, got {name!r} of type {type(name).__name__} at {self.path_text}.")
            self.reservations[name] = {col}
        elif col is None or None in taken or col in taken:
            raise errors.NameInUseError(
                f"The name {name!r} is in use at {self.path_text}: a "
                f"{'submodule' if None in taken else 'variable'} there has it already. Choose another name, or make "
                "it once and use it twice to share it."
            )
        else:
            taken.add(col)

    def default_name(self, prefix: str) -> str:
        """Return the first of `prefix0`, `prefix1`, … that is free."""
        return next(n for i in itertools.count() if (n := f"{prefix}{i}") not in self.reservations)

    def push(self, name: str | None = None, prefix: str = "", reuse: bool = False) -> "Scope":
        """Make a child.

        Args:
            name: its name; None for a free one that starts with `prefix`.
            prefix: see `name`.
            reuse: take the name even if it is in use, and so share the variables.
        """
        if self.store.dead:
            self._raise_dead()
        if calls.watch is not self.store.watch:
            outside.note(self.store, kept=False)
        if name is None:
            name = self.default_name(prefix)
        if not reuse or name not in self.reservations:
            self.reserve(name)
        return Scope.of(self.store, self, name, (*self.names, name))

    def child(
        self, fn: Callable[..., Any], name: str | None = None, prefix: str | None = None, **kwargs: Any
    ) -> Callable[..., Any]:
        """Return `fn` with a child scope as its first argument; each call of the result uses the same variables."""
        scope = self.push(name, f"{getattr(fn, '__name__', '')}_" if prefix is None else prefix)

        def called(*args: Any, **more: Any) -> Any:
            with jax.named_scope(str(scope.name)):
                return fn(scope.rewound(), *args, **kwargs, **more)

        return called

    def rewound(self, rewind_rngs: bool = False) -> "Scope":
        """Return this scope with every name free again, and its rng counters at zero if `rewind_rngs`."""
        if self.store.dead:
            self._raise_dead()
        scope = Scope.of(self.store, self.parent, self.name, self.names)
        if rewind_rngs:
            for path in [p for p in self.store.counters if p[: len(self.names)] == self.names]:
                self.store.counters[path] = {}
        return scope

    def at(self, path: Path) -> "Scope":
        """Return the scope `path` below this one, reserving nothing."""
        scope = self
        for name in path:
            scope = Scope.of(scope.store, scope, name, (*scope.names, name))
        return scope

    # --- rngs --------------------------------------------------------------------------------------------------------

    @property
    def rng_path(self) -> Path:
        """The names that draws fold into the key: the path, or the path before the scope was moved."""
        for n in range(len(self.names), 0, -1):
            before = self.store.moved.get(self.names[:n])
            if before is not None:
                return (*before, *self.names[n:])
        return self.names

    @property
    def streams(self) -> tuple[Mapping[str, PRNGKey], int]:
        """The keys that draws here fold, and how many leading names of the path these know."""
        store = self.store
        for n in range(len(self.names), 0, -1) if store.forked else ():
            if (found := store.forked.get(self.names[:n])) is not None:
                return found
        return store.keys, store.rng_base

    def has_rng(self, name: str) -> bool:
        """Tell whether the rng stream `name` was given."""
        outside.note(self.store, kept=False)
        return name in self.store.keys

    def make_rng(self, name: str = "params") -> PRNGKey:
        """Draw a fresh key from the stream `name`, or from `'params'` if there is no such stream.

        Raises:
            InvalidRngError: neither stream was given.
        """
        key, suffix = self._draw(name)
        refusals.warn_repeated(self, name)
        return streams.fold(key, *suffix)

    def _draw(self, name: str) -> tuple[PRNGKey, tuple[str | int, ...]]:
        """Count a draw; return the key of the stream, and what is folded into it for this draw."""
        store = self.store
        if store.dead:
            self._raise_dead()
        if calls.watch is not store.watch:
            outside.note(store, kept=False)
        keys, base = self.streams if store.forked else (store.keys, store.rng_base)
        key = keys.get(name)
        if key is None:
            key = keys.get("params")
            if key is None:
                raise refusals.no_stream(store, name, self.path_text)
            name = "params"
        counts = self._counts
        if counts is None:
            counts = self._counts = store.counters.setdefault(self.names, {})
        count = counts[name] = counts.get(name, 0) + 1
        path = self.rng_path if store.moved else self.names
        return key, (*path[base:], count)

    # --- variables ---------------------------------------------------------------------------------------------------

    def is_mutable_collection(self, col: str) -> bool:
        """Tell whether the collection `col` may be written."""
        if calls.watch is not self.store.watch:
            outside.note(self.store, kept=False)
        return self.store.is_mutable(col)

    def is_collection_empty(self, col: str) -> bool:
        """Tell whether the collection `col` holds nothing, in the whole tree."""
        return not self.store.variables.get(col)

    def variables(self) -> dict[str, Any]:
        """Return the variables at and below this scope: collection -> nested dict. Changing it changes nothing here."""
        if self.store.dead:
            self._raise_dead()
        found = ((col, self.collection(col)) for col in self.store.variables)
        return {col: copied(tree) for col, tree in found if tree is not _EMPTY}

    def collection(self, col: str) -> Mapping[str, Any]:
        """Return what the collection `col` holds here, to be read only: an empty mapping if nothing."""
        return self._tree(col) if calls.watch is self.store.watch else outside.read(self, col)

    def _tree(self, col: str) -> Mapping[str, Any]:
        tree = self._cols.get(col)
        if tree is None:
            if self.parent is None:
                return _EMPTY
            tree = self.parent._tree(col).get(self.name)  # type: ignore[arg-type]
            if tree is None:
                return _EMPTY
            if not isinstance(tree, Mapping):
                raise refusals.variable_for_submodule(self.store, col, self.path_text)
            self._cols[col] = tree
        return tree

    def _writable(self, col: str) -> dict[str, Any]:
        tree = self._cols.get(col)
        if tree is None:
            holder = self.store.variables if self.parent is None else self.parent._writable(col)
            tree = self._cols[col] = holder.setdefault(col if self.parent is None else str(self.name), {})
        return tree

    def has_variable(self, col: str, name: str) -> bool:
        """Tell whether the variable exists."""
        return name in self.collection(col)

    def get_variable(self, col: str, name: str, default: Any = None) -> Any:
        """Return the value of a variable, in its box if it has one, or `default`."""
        if self.store.dead:
            self._raise_dead()
        return self.collection(col).get(name, default)

    def put_variable(self, col: str, name: str, value: Any) -> None:
        """Write a variable.

        Raises:
            ModifyScopeVariableError: its collection is immutable.
            JaxTransformError: the variable lives outside of a transform that runs, of a raw one of JAX or beside the
                target of a lifted one, and the value is a tracer of it.
            InvalidScopeError: the call or transform that owns the variable has ended.
        """
        store = self.store
        if store.dead:
            self._raise_dead()
        if not store.is_mutable(col):
            raise refusals.immutable(store, col, name, self.path_text)
        if _compat.trace_state() != store.trace:
            outside.note(store, kept=False)
            leaking = _compat.unknown(value, store.trace)
            if leaking is not None:
                within = None if calls.within is store.within else calls.within
                raise refusals.foreign(store, col, name, self.path_text, _compat.transform_of(leaking), within)
        tree = self._writable(col)
        _merge(tree, name, value)
        store.written[(col, *self.names[len(store.root_path) :], name)] = tree[name]

    def variable(
        self,
        col: str,
        name: str,
        init_fn: Callable[..., Any] | None = None,
        *init_args: Any,
        unbox: bool = True,
        **init_kwargs: Any,
    ) -> Variable[Any]:
        """Declare a variable: create it with `init_fn(*init_args, **init_kwargs)` if it does not exist.

        Args:
            col: its collection.
            name: its name.
            init_fn: called only if the variable does not exist; None if it must.
            *init_args: handed to `init_fn`; no key among them unless you draw one.
            unbox: read through boxes with metadata.
            **init_kwargs: handed to `init_fn`.

        Raises:
            ScopeCollectionNotFound, ScopeVariableNotFoundError: it does not exist and can't be created.
        """
        if self.store.dead:
            self._raise_dead()
        self.reserve(name, col)
        if name not in self.collection(col):
            if init_fn is None or not self.store.is_mutable(col):
                raise self._not_found(col, name, errors.ScopeVariableNotFoundError)
            if not callable(init_fn):
                raise refusals.no_initializer(col, name, self.path_text, init_fn)
            self._create(col, name, lambda: init_fn(*init_args, **init_kwargs))
        elif self.store.replay:
            self._replay(col, name)
        return Variable(self, col, name, unbox)

    def param(
        self, name: str, init_fn: Callable[..., Any], *init_args: Any, unbox: bool = True, **init_kwargs: Any
    ) -> Any:
        """Declare a parameter and return its value: `init_fn(key, *init_args, **init_kwargs)` if it does not exist.

        Args:
            name: its name in the collection `'params'`.
            init_fn: an initializer; on `apply` it says which shape to expect.
            *init_args: most often the shape and the dtype.
            unbox: return the plain value of a box with metadata.
            **init_kwargs: handed to `init_fn`.

        Raises:
            ScopeParamShapeError: the parameter exists with another shape.
            ScopeCollectionNotFound, ScopeParamNotFoundError: it does not exist and can't be created.
        """
        store = self.store
        if store.dead:
            self._raise_dead()
        self.reserve(name, "params")
        value = self.collection("params").get(name, _MISSING)
        if value is _MISSING:
            if not store.is_mutable("params"):
                raise self._not_found("params", name, errors.ScopeParamNotFoundError)
            if not callable(init_fn):
                raise refusals.no_initializer("params", name, self.path_text, init_fn)
            value = self._create("params", name, lambda: self._initial(init_fn, *init_args, **init_kwargs))
            return meta.unbox(value) if unbox else value
        if store.replay:
            self._replay("params", name)
        plain = meta.unbox(value)
        check_shape(plain, name, self.path_text, init_fn, init_args, init_kwargs)
        return plain if unbox else value

    def _initial(self, init_fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        key, suffix = self._draw("params")
        return drawn(init_fn, key, suffix, args, kwargs)

    def _create(self, col: str, name: str, make: Callable[[], Any]) -> Any:
        if not self.store.creates:
            raise refusals.no_start(self.store.owner, col, name, self.path_text)
        before = dict(self.store.counters.get(self.names, _EMPTY))
        value = make()
        self.put_variable(col, name, value)
        after = self.store.counters.get(self.names, _EMPTY)
        drawn = {stream: n - before.get(stream, 0) for stream, n in after.items()}
        self.store.created[(col, *self.names[len(self.store.root_path) :], name)] = (value, drawn)
        return value

    def _replay(self, col: str, name: str) -> None:
        """Count the draws that creating this variable took, in the run that follows the one that created it."""
        key = (col, *self.names[len(self.store.root_path) :], name)
        drawn = self.store.replay.pop(key, None)
        if drawn:
            self.store.replayed[key] = drawn
            counts = self.store.counters.setdefault(self.names, {})
            for stream, n in drawn.items():
                counts[stream] = counts.get(stream, 0) + n

    def _not_found(self, col: str, name: str, cls: type[errors.LiftaxError]) -> errors.LiftaxError:
        return refusals.not_found(self.store, col, name, self.path_text, self.collection(col), cls)

    def _raise_dead(self) -> None:
        raise refusals.ended(self.store, self.path_text)


def copied(tree: Any) -> Any:
    """Copy nested mappings into plain dicts, sharing the leaves."""
    return {k: copied(v) for k, v in tree.items()} if isinstance(tree, Mapping) else tree


def _merge(tree: dict[str, Any], name: str, value: Any) -> None:
    # In place, so that scopes that hold a reference to a subtree keep seeing it.
    old = tree.get(name)
    if isinstance(old, dict) and isinstance(value, Mapping):
        for key, sub in value.items():
            _merge(old, key, sub)
    else:
        tree[name] = value
