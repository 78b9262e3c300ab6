"""What a trace that is kept looks at outside of its target.

A lifted `jit` finds a trace again by what its target is. So whatever else the trace saw has to become an argument of
the program (variables of modules around), or part of what it is found by (names, paths, fields of modules around), or
else the trace is used once: its result is right, and the next call traces anew.

    Seen  : what earlier traces of such a target looked at, a value
    Watch : a trace in progress, which looks at what `Seen` does not have, or is given the values of what it has
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from liftax.core.calls import calls
from liftax.typing import Path


@dataclasses.dataclass(frozen=True)
class Read:
    """Variables outside of a target, by where they are relative to it: equal layers read different ones alike.

    Args:
        root: the index of the packed scope that the place is relative to.
        out: how many transforms further out the store is than that of the packed scope.
        up: how many names to take off the path of the packed scope.
        down: the names to add then.
        col: the collection.
    """

    root: int
    out: int
    up: int
    down: Path
    col: str

    def find(self, roots: Sequence[Any]) -> Any:
        """Return the scope where these variables are, or None where there is no such place."""
        root = roots[self.root]
        store = root.store
        for _ in range(self.out):
            store = store and store.outer
        path = (*root.names[: len(root.names) - self.up], *self.down)
        if store is None or self.up > len(root.names) or path[: len(store.root_path)] != store.root_path:
            return None
        top = type(root).of(store, None, store.root_path[-1] if store.root_path else None, store.root_path)
        return top.at(path[len(store.root_path) :])


@dataclasses.dataclass(frozen=True)
class Seen:
    """What traces of a target looked at outside of it. Static and hashable.

    Args:
        names: where the target is, and what its modules are called.
        around: the fields of the modules that it lies in.
        reads: variables outside of it.
        kept: False: something that can't be told before the next call, such as a key that was drawn.
    """

    names: bool = False
    around: bool = False
    reads: tuple[Read, ...] = ()
    kept: bool = True

    def values(self, roots: Sequence[Any]) -> tuple[Any, ...]:
        """Return the variables in `reads` as they are now; an empty dict for those that there are not."""
        found = (read.find(roots) for read in self.reads)
        return tuple(
            {} if scope is None else dict(scope.collection(read.col))
            for read, scope in zip(self.reads, found, strict=True)
        )


class Watch:
    """A trace in progress that may be kept. A context: inside, `calls.watch` is this.

    Args:
        roots: the packed scopes of the target, as they are outside.
        seen: what is part of the program, or of what the trace is found by, already.
        given: the variables in `seen.reads`, as arguments of the program.
    """

    __slots__ = ("given", "outer", "roots", "seen")

    def __init__(self, roots: Sequence[Any], seen: Seen):
        self.roots = roots
        self.seen = seen
        self.given: dict[Any, Any] = {}
        self.outer: Watch | None = None

    def __enter__(self) -> "Watch":
        self.outer, calls.watch = calls.watch, self
        return self

    def __exit__(self, *exception: object) -> None:
        calls.watch, self.outer, self.given = self.outer, None, {}

    def give(self, values: Sequence[Any]) -> None:
        """Take `values` for the variables in `seen.reads`."""
        for read, value in zip(self.seen.reads, values, strict=True):
            scope = read.find(self.roots)
            if scope is not None:
                self.given[(id(scope.store), scope.names, read.col)] = value

    def look(self, scope: Any, col: str) -> None:
        """Note that variables were read that are not among the arguments."""
        for index, root in enumerate(self.roots):
            store, out = root.store, 0
            while store is not None:
                if store is scope.store:
                    same = 0
                    for a, b in zip(root.names, scope.names, strict=False):
                        if a != b:
                            break
                        same += 1
                    read = Read(index, out, len(root.names) - same, scope.names[same:], col)
                    if read not in self.seen.reads:
                        self.seen = dataclasses.replace(self.seen, reads=(*self.seen.reads, read))
                    return
                store, out = store.outer, out + 1
        self.seen = dataclasses.replace(self.seen, kept=False)


def read(scope: Any, col: str) -> Any:
    """Return what a collection holds at `scope`, whose store is not of the trace in progress."""
    watch = calls.watch
    while watch is not None and watch is not scope.store.watch:
        key = (id(scope.store), scope.names, col)
        if key in watch.given:
            return watch.given[key]
        watch.look(scope, col)
        watch = watch.outer
    return scope._tree(col)


def note(store: Any, **seen: bool) -> None:
    """Note that the traces in progress that `store` is outside of depend on something of it: see `Seen`."""
    watch = calls.watch
    while watch is not None and watch is not store.watch:
        watch.seen = dataclasses.replace(watch.seen, **seen)
        watch = watch.outer


def note_names() -> None:
    """Note that all traces in progress depend on names of modules."""
    watch = calls.watch
    while watch is not None:
        watch.seen = dataclasses.replace(watch.seen, names=True)
        watch = watch.outer
