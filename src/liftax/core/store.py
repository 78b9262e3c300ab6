"""Store: what all scopes of one call share: variables, keys, and the rules for them."""

from collections.abc import Mapping, Sequence
from typing import Any

from liftax import _compat
from liftax.core.calls import Guard, calls
from liftax.core.filters import in_filter
from liftax.typing import Filter, Path, PRNGKey


class Store:
    """What all scopes of one call share.

    Args:
        variables: collection -> nested dict. Mutable collections are changed in place: hand in copies.
        keys: rng stream -> key.
        mutable: which collections may be written.
        flags: facts about the call, such as `initializing`.
        owner: what the store belongs to, for error texts: the name of a call, such as `apply`, or the descriptor of a
            transform.
        root_path: the path of the scope at its root.
        known: collections that exist further out, for error texts about filters.
    """

    __slots__ = (
        "__weakref__",
        "_mutable",
        "adopted",
        "cached",
        "compiled",
        "counters",
        "created",
        "creates",
        "dead",
        "filters",
        "flags",
        "forked",
        "guard",
        "keys",
        "known",
        "moved",
        "mutable",
        "outer",
        "owner",
        "replay",
        "replayed",
        "rng_base",
        "root_path",
        "trace",
        "variables",
        "waiting",
        "watch",
        "within",
        "written",
    )  # fmt: skip

    def __init__(
        self,
        variables: dict[str, Any],
        keys: Mapping[str, PRNGKey],
        mutable: Filter,
        flags: Mapping[str, Any],
        owner: Any,
        root_path: Path = (),
        known: frozenset[str] = frozenset(),
    ):
        self.variables = variables
        self.keys: Mapping[str, Any] = keys
        self.mutable = mutable
        self.flags = flags
        self.owner = owner
        self.root_path = root_path
        self.known = known
        self.counters: dict[Path, dict[str, int]] = {}  # path -> stream -> number of draws so far
        self.written: dict[Path, Any] = {}  # (collection, *path from the root, name) -> last value put there
        self.created: dict[Path, tuple[Any, dict[str, int]]] = {}  # same keys -> initial value, draws it took
        self.replay: dict[Path, dict[str, int]] = {}  # draws that creating a variable took, to be counted once more
        self.replayed: dict[Path, dict[str, int]] = {}  # those of them that were
        self.moved: dict[Path, Path] = {}  # path of a scope that share_scope has moved -> names that its draws fold
        # Linen sets a module up where it forks the keys of a jit, so that what setup makes goes on to draw from these:
        self.forked: dict[Path, tuple[Mapping[str, PRNGKey], int]] = {}  # path of such a child -> keys, names they know
        self.waiting: dict[
            Path, tuple[Mapping[str, PRNGKey], int]
        ] = {}  # path of a module that is to be set up -> same
        self.adopted: Any = None  # used by modules: outside submodule -> its bound clone
        self.trace = _compat.trace_state()
        self.within = calls.within  # the lifted transform in which it was made
        self.watch = calls.watch  # the trace in progress that it belongs to
        self.outer: Store | None = None  # for a lifted transform that runs: the store of the scope that it packed
        self.filters: Sequence[Filter] = ()  # those of the transform
        self.creates = True  # variables may be created
        self.compiled = False  # its state leaves a function that is compiled by itself
        self.guard: Guard | None = None  # of a bound module, which other threads may have hold of
        self.dead = False
        self.cached: list[dict[str, Any]] | None = None  # what scopes remember of `variables`, if the store will end
        self.rng_base = 0  # how many leading names of a path the keys know already: draws fold the others
        self._mutable: dict[str, bool] = {}

    def end(self) -> None:
        """Declare the store dead, and let go of all values, which modules and rules may outlive.

        Whoever returns what is in `written` or `created` has hold of it already.
        """
        self.dead = True
        self.known = self.collections()
        self.keys = dict.fromkeys(self.keys)
        self.written, self.created, self.outer, self.watch = {}, {}, None, None
        self.variables.clear()
        for remembered in self.cached or ():
            remembered.clear()
        self.cached = None

    def is_mutable(self, col: str) -> bool:
        """Tell whether the collection `col` may be written."""
        try:
            return self._mutable[col]
        except KeyError:
            return self._mutable.setdefault(col, in_filter(self.mutable, col))

    def collections(self) -> frozenset[str]:
        """The names of all collections that exist here or further out."""
        return self.known | self.variables.keys()
