"""First derivatives in the slots of a pattern: placed into another pattern, multiplied, and added up.

Every slot that is not used holds zero, so that sums over slots need no mask.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from liftax.ad.laplacian.pattern import Pattern, gathered_slots

_MOST_TERMS = 8
"""Of how many source slots a slot is put together by selection, rather than by adding into a buffer."""


class Jacobian:
    """The derivatives `data : (slots, *shape)` of each number along the directions of its pattern."""

    def __init__(self, data: Any, pattern: Pattern):
        self.data, self.pattern = data, pattern

    @functools.cached_property
    def squares(self) -> Any:
        """Return the sum of the squared derivatives of each number."""
        return jnp.sum(self.data * self.data, 0)

    def to(self, pattern: Pattern) -> Any:
        """Return the derivatives in the slots of a pattern that lists at least the same directions."""
        if pattern is self.pattern:
            return self.data
        return placed(self.data, self.pattern.index, pattern.index)

    def over(self, axes: Sequence[int]) -> "Jacobian":
        """Return the same derivatives, with the same directions for all numbers along the axes."""
        pattern = self.pattern.over(axes)
        return Jacobian(self.to(pattern), pattern)

    def sum(self, axes: Sequence[int]) -> "Jacobian":
        """Return the derivatives of the sum along axes."""
        directions = self.pattern.directions
        axes = tuple(axes)
        if not self.pattern.varies(*axes):
            return Jacobian(jnp.sum(self.data, tuple(a + 1 for a in axes)), self.pattern.without(axes))
        apart = self.pattern.over(axes)
        pieces, indices = [], []
        for slots in _alike(self.pattern.index, axes):
            data, index = rows(self.data, slots), self.pattern.index[slots]
            moved = [a for a in axes if (index != index.take([0], a + 1)).any()]
            if apart.slots * 4 < len(slots) * np.prod([self.data.shape[a + 1] for a in moved]):
                fewer = np.squeeze(apart.index, tuple(a + 1 for a in axes))
                pieces.append(jnp.sum(placed(data, index, apart.index), tuple(a + 1 for a in axes)))
                indices.append(fewer)
                continue
            still = tuple(a + 1 for a in axes if a not in moved)
            data = jnp.sum(data, still, keepdims=True) if still else data
            index = index.take([0], still[0]) if len(still) == 1 else _first(index, still)
            for a in moved:
                index = np.repeat(index, data.shape[a + 1], a + 1) if index.shape[a + 1] == 1 else index
            pieces.append(jnp.squeeze(gathered_slots_of(data, moved), tuple(a + 1 for a in axes)))
            indices.append(np.squeeze(gathered_slots(index, moved), tuple(a + 1 for a in axes)))
        pattern = apart.without(axes)
        shape = np.broadcast_shapes(*(i.shape[1:] for i in indices))
        index = np.concatenate([np.broadcast_to(i, (len(i), *shape)) for i in indices])
        data = pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces)
        assert pattern.directions is directions
        return Jacobian(placed(data, index, pattern.index), pattern)


def inner(a: Jacobian, b: Jacobian) -> Any:
    """Return the sum over directions of products of derivatives, number by number; None if no direction is common."""
    if a.pattern is b.pattern:
        return a.squares if a is b else jnp.sum(a.data * b.data, 0)
    pairs = _common(a.pattern.index, b.pattern.index)
    if not len(pairs):
        return None
    if len(pairs) > 2 * max(a.pattern.slots, b.pattern.slots):
        pattern = a.pattern.directions.union(a.pattern, b.pattern)
        return jnp.sum(a.to(pattern) * b.to(pattern), 0)
    total = None
    for i, j in pairs:
        here, there = a.pattern.index[i], b.pattern.index[j]
        product = a.data[i] * b.data[j]
        if not ((here == there) | (here < 0) | (there < 0)).all():
            product = jnp.where(here == there, product, 0)
        total = product if total is None else total + product
    return total


def placed(data: Any, source: np.ndarray, target: np.ndarray) -> Any:
    """Return `data` of the slots of `source` in the slots of `target`; what a source lists twice is added up."""
    if source.shape == target.shape and (source == target).all():
        return data
    chosen = _sources(source, target)
    if chosen.shape[1] > _MOST_TERMS:
        return _added(data, source, target)
    total = None
    for column in chosen.T:
        missing = (column < 0).reshape(-1, *(1,) * (source.ndim - 1))
        column = _continued(column)
        term, found = rows(data, column), source[column]
        if missing.any():
            found = np.where(missing, -2, found)
        if not ((found == target) | (found == -1)).all():
            term = jnp.where(jnp.asarray(found) == jnp.asarray(target), term, jnp.zeros((), term.dtype))
        total = term if total is None else total + term
    if total is None:
        return jnp.zeros((len(target), *data.shape[1:]), data.dtype)
    return total


def rows(data: Any, chosen: Sequence[int] | np.ndarray) -> Any:
    """Return `data[chosen]`, without a gather where a slice or copies of the whole do."""
    chosen, size = np.asarray(chosen), len(data)
    first = chosen[0] if len(chosen) else 0
    if (chosen == np.arange(first, first + len(chosen))).all():
        return data if len(chosen) == size else data[first : first + len(chosen)]
    if len(chosen) % size == 0 and (chosen == np.tile(np.arange(size), len(chosen) // size)).all():
        copies = jnp.broadcast_to(data, (len(chosen) // size, *data.shape))
        return copies.reshape(len(chosen), *data.shape[1:])
    if (chosen == first).all():
        return jnp.broadcast_to(data[first], (len(chosen), *data.shape[1:]))
    return jnp.take(data, chosen, axis=0, mode="clip")


def gathered_slots_of(data: Any, axes: Sequence[int]) -> Any:
    """Return derivatives with axes made slots, as `gathered_slots` does it to their index."""
    moved = jnp.moveaxis(data, [a + 1 for a in axes], range(1, len(axes) + 1))
    rest = [1 if a in axes else n for a, n in enumerate(data.shape[1:])]
    return moved.reshape(-1, *rest)


def _first(index: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    for axis in axes:
        index = index.take([0], axis)
    return index


def _alike(index: np.ndarray, axes: Sequence[int]) -> list[list[int]]:
    """Return the slots in groups that vary along the same ones of the axes."""
    groups: dict[tuple[bool, ...], list[int]] = {}
    for slot, row in enumerate(index):
        key = tuple(bool((row != row.take([0], a)).any()) for a in axes)
        groups.setdefault(key, []).append(slot)
    return list(groups.values())


def _common(a: np.ndarray, b: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs of slots that hold the same direction for some number."""
    pairs = []
    for i, here in enumerate(a):
        both = ((b == here) & (b >= 0)).reshape(len(b), -1).any(1)
        pairs += [(i, int(j)) for j in np.nonzero(both)[0]]
    return pairs


def _sources(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return for each target slot the source slots that hold its direction for some number, padded with -1."""
    if target.size == len(target):  # one direction a slot
        directions = target.reshape(-1)
        slot_of = np.full(max(directions.max(initial=0), source.max(initial=0)) + 1, -1)
        slot_of[directions] = np.arange(len(directions))
        flat = source.reshape(len(source), -1)
        pairs = np.stack([slot_of[flat], np.broadcast_to(np.arange(len(flat))[:, None], flat.shape)], -1)
        pairs = np.unique(pairs[(flat >= 0) & (slot_of[flat] >= 0)], axis=0)
    else:
        pairs = np.array(
            [(t, s) for s, row in enumerate(source) for t in _holders(target, row)], dtype=np.int64
        ).reshape(-1, 2)
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    counts = np.bincount(pairs[:, 0], minlength=len(target))
    chosen = np.full((len(target), counts.max(initial=0)), -1)
    rank = np.arange(len(pairs)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen[pairs[:, 0], rank] = pairs[:, 1]
    return chosen


def _holders(target: np.ndarray, row: np.ndarray) -> np.ndarray:
    return np.nonzero(((target == row) & (row >= 0)).reshape(len(target), -1).any(1))[0]


def _continued(column: np.ndarray) -> np.ndarray:
    """Return slots with any in the place of missing ones: those that keep a run or a repetition going, if there is."""
    missing = column < 0
    if not missing.any():
        return column
    given = np.nonzero(~missing)[0]
    run = column[given[0]] - given[0] + np.arange(len(column))
    if (run[given] == column[given]).all() and run.min() >= 0 and run.max() <= column.max():
        return run
    return np.where(missing, column[given[0]], column)


def _added(data: Any, source: np.ndarray, target: np.ndarray) -> Any:
    """Return what `placed` returns, added into a buffer."""
    if source.size == len(source) and target.size == len(target):
        slot_of = np.full(max(target.max(), source.max()) + 1, len(target))
        slot_of[target.reshape(-1)] = np.arange(len(target))
        slots = np.where(source.reshape(-1) >= 0, slot_of[source.reshape(-1)], len(target))
        return jax.ops.segment_sum(data, jnp.asarray(slots), len(target))
    shape = np.broadcast_shapes(source.shape[1:], target.shape[1:])
    source, target = (np.broadcast_to(x, (len(x), *shape)) for x in (source, target))
    slots = np.full(source.shape, len(target))
    for t, row in enumerate(target):
        slots[(source == row) & (row >= 0)] = t
    ends = [n if m > 1 else 1 for n, m in zip(data.shape[1:], shape, strict=True)]
    axes = [i for i, n in enumerate(ends) if n > 1]
    others = [i for i in range(len(ends)) if i not in axes]
    grid = np.ix_(*(np.arange(ends[i]) for i in axes)) if axes else ()
    moved = jnp.transpose(data, (0, *(i + 1 for i in axes), *(i + 1 for i in others)))
    out = jnp.zeros((len(target), *moved.shape[1:]), data.dtype)
    where = slots.reshape(len(slots), *(ends[i] for i in axes))
    out = out.at[(where, *(np.broadcast_to(g, where.shape) for g in grid))].add(moved, mode="drop")
    back = np.argsort([0, *(i + 1 for i in axes), *(i + 1 for i in others)])
    return jnp.transpose(out, back.tolist())
