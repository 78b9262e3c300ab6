"""Which directions each number of an array depends on, known before the program runs.

    index : (slots, *shape) -> direction or -1

A number has one slot for each direction that it depends on; the slots that it does not use hold -1. An axis along
which all numbers depend on the same directions has length 1, so that the pattern of the positions of `N` electrons
has shape `(1, N, 3)`, that of a layer of `width` features on each of them `(3, N, 1)`, and that of what depends on
everything, `(n, 1, 1)`. A slot may be listed though the derivative is zero; a derivative that is not zero is listed.

Patterns are made of NumPy arrays while the program is traced, and cost nothing when it runs.
"""

import functools
from collections.abc import Sequence

import numpy as np


class Directions:
    """What derivatives are taken along, and all patterns over them, each made once.

    Args:
        count: How many directions there are.
        most: With more slots than this a pattern is given up for the one with all directions.
    """

    def __init__(self, count: int, most: int):
        self.count, self.most = count, most
        self._known: dict[tuple[tuple[int, ...], bytes], Pattern] = {}

    def pattern(self, index: np.ndarray) -> "Pattern":
        """Return the pattern of an index: without slots that nothing uses, and the dense one if it has too many."""
        index = index[(index >= 0).reshape(len(index), -1).any(1)]
        if len(index) > self.most or len(index) > 1.5 * _longest(index) + 2:
            longest = _longest(index)
            if longest > self.most or longest == self.count:
                return self.dense(index.ndim - 1)
            index = -np.sort(-index, axis=0)[:longest]  # -1 last
        for axis in range(1, index.ndim):
            first = index.take([0], axis) if index.shape[axis] else index
            if index.shape[axis] > 1 and (index == first).all():
                index = first
        index = np.ascontiguousarray(index, np.int32)
        key = index.shape, index.tobytes()
        if key not in self._known:
            self._known[key] = Pattern(index, self)
        return self._known[key]

    def dense(self, ndim: int) -> "Pattern":
        """Return the pattern of numbers that depend on all directions."""
        index = np.arange(self.count, dtype=np.int32).reshape(-1, *(1,) * ndim)
        key = index.shape, index.tobytes()
        if key not in self._known:
            self._known[key] = Pattern(index, self)
        return self._known[key]

    def union(self, *patterns: "Pattern") -> "Pattern":
        """Return the pattern of numbers that depend on what those of all patterns, of one rank, depend on."""
        first = patterns[0]
        if all(p is first for p in patterns):
            return first
        if any(p.dense for p in patterns):
            return self.dense(first.ndim)
        shape = np.broadcast_shapes(*(p.index.shape[1:] for p in patterns))
        return self.pattern(_distinct(np.concatenate([p.spread(shape) for p in patterns])))


class Pattern:
    """The directions of each number; equal patterns are the same object."""

    def __init__(self, index: np.ndarray, directions: Directions):
        self.index, self.directions = index, directions
        self.slots, self.ndim = len(index), index.ndim - 1

    @functools.cached_property
    def dense(self) -> bool:
        """Whether every number depends on every direction, in order."""
        return self.slots == self.directions.count and self.is_uniform

    @property
    def is_uniform(self) -> bool:
        """Whether all numbers depend on the same directions."""
        return self.index.size == self.slots

    def spread(self, shape: Sequence[int]) -> np.ndarray:
        """Return the index with the axes of `shape` written out."""
        return np.broadcast_to(self.index, (self.slots, *shape))

    def varies(self, *axes: int) -> bool:
        """Tell whether numbers that differ in their place along one of the axes may depend on other directions."""
        return any(self.index.shape[a + 1] > 1 for a in axes)

    def over(self, axes: Sequence[int]) -> "Pattern":
        """Return the pattern in which numbers along the axes depend on what any of them depends on."""
        if not self.varies(*axes):
            return self
        return self.directions.pattern(_distinct(gathered_slots(self.index, axes)))

    def without(self, axes: Sequence[int]) -> "Pattern":
        """Return the pattern with axes of length 1 removed."""
        return self.directions.pattern(np.squeeze(self.index, tuple(a + 1 for a in axes)))


def gathered_slots(index: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Return the index with axes made slots: `(slots * size, ...)`, of length 1 along the axes."""
    moved = np.moveaxis(index, [a + 1 for a in axes], range(1, len(axes) + 1))
    rest = [1 if a in axes else n for a, n in enumerate(index.shape[1:])]
    return moved.reshape(-1, *rest)


def _longest(index: np.ndarray) -> int:
    return int((index >= 0).sum(0).max(initial=0))


def _distinct(index: np.ndarray) -> np.ndarray:
    """Return the index with each direction listed once for each number, where it comes first."""
    order = np.argsort(index, axis=0, kind="stable")
    ranked = np.take_along_axis(index, order, 0)
    again = np.zeros(index.shape, bool)
    again[1:] = ranked[1:] == ranked[:-1]
    repeated = np.empty(index.shape, bool)
    np.put_along_axis(repeated, order, again, 0)
    return np.where(repeated, -1, index)
