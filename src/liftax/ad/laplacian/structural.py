"""Rules of what moves numbers about: reshapes, slices, gathers, concatenations.

The derivatives move as the values do; the pattern moves while the program is traced.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from liftax.ad.laplacian.jacobian import Jacobian
from liftax.ad.laplacian.trace import Rule, Step
from liftax.ad.laplacian.varying import Varying


def moved(step: Step, index: np.ndarray, o: int = 0, jacobian: Jacobian | None = None) -> Varying:
    """Return result `o` of a linear equation in one operand, whose derivatives have the index given."""
    (x,) = step.inputs
    data = (jacobian or x.jacobian).data
    second = None if x.second is None else step.run(x.second)[o]
    made = Jacobian(jax.vmap(lambda v: step.run(v)[o])(data), step.pattern(index))
    return Varying(step.run(x.value)[o], made, second, None, x.zero)


def _kept(step: Step) -> list[Any]:
    """Apply what changes the type of each number."""
    return [moved(step, step.inputs[0].pattern.index)]


def _reshape(step: Step) -> list[Any]:
    (x,) = step.inputs
    if step.params.get("dimensions") is not None:
        return None  # type: ignore[return-value]
    return [moved(step, reshaped(x.pattern.index, x.value.shape, step.shape))]


def reshaped(index: np.ndarray, old: Sequence[int], new: Sequence[int]) -> np.ndarray:
    """Return the index of a reshaped array; axes along which it does not vary stay of length 1."""
    sizes: list[int] = [len(index)]
    source: list[int] = [len(index)]
    for here, there in _groups(old, new):
        if all(index.shape[a + 1] == 1 for a in here):
            source += [1] * len(here)
            sizes += [1] * len(there)
        else:
            source += [old[a] for a in here]
            sizes += [new[a] for a in there]
    return np.broadcast_to(index, source).reshape(sizes)


def _groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return the axes of two shapes in groups of equal products."""
    groups: list[tuple[list[int], list[int]]] = []
    if 0 in old:
        return [(list(range(len(old))), list(range(len(new))))]
    i = j = 0
    while i < len(old) or j < len(new):
        here, there, a, b = [], [], 1, 1
        while True:
            if a <= b and i < len(old):
                a, i = a * old[i], i + 1
                here.append(i - 1)
            elif j < len(new):
                b, j = b * new[j], j + 1
                there.append(j - 1)
            else:
                a, i = a * old[i], i + 1
                here.append(i - 1)
            if a == b and not (i < len(old) and j == len(new)) and not (j < len(new) and i == len(old)):
                break
        groups.append((here, there))
    return groups


def _broadcast_in_dim(step: Step) -> list[Any]:
    index, sizes = step.inputs[0].pattern.index, [1] * len(step.shape)
    for axis, place in enumerate(step.params["broadcast_dimensions"]):
        sizes[place] = index.shape[axis + 1]
    return [moved(step, index.reshape(len(index), *sizes))]


def _transpose(step: Step) -> list[Any]:
    index = step.inputs[0].pattern.index
    return [moved(step, index.transpose(0, *(a + 1 for a in step.params["permutation"])))]


def _squeeze(step: Step) -> list[Any]:
    index = step.inputs[0].pattern.index
    return [moved(step, np.squeeze(index, tuple(a + 1 for a in step.params["dimensions"])))]


def _expand_dims(step: Step) -> list[Any]:
    return [moved(step, np.expand_dims(step.inputs[0].pattern.index, tuple(a + 1 for a in step.params["dimensions"])))]


def _rev(step: Step) -> list[Any]:
    index = step.inputs[0].pattern.index
    return [moved(step, np.flip(index, tuple(a + 1 for a in step.params["dimensions"])))]


def _slice(step: Step) -> list[Any]:
    p, index = step.params, step.inputs[0].pattern.index
    strides = p["strides"] or [1] * len(p["start_indices"])
    for axis, cut in enumerate(zip(p["start_indices"], p["limit_indices"], strides, strict=True)):
        if index.shape[axis + 1] > 1:
            index = index[(slice(None),) * (axis + 1) + (slice(*cut),)]
    return [moved(step, index)]


def _split(step: Step) -> list[Any]:
    index, axis, sizes = step.inputs[0].pattern.index, step.params["axis"], step.params["sizes"]
    parts = [index] * len(sizes)
    if index.shape[axis + 1] > 1:
        parts = np.split(index, np.cumsum(sizes)[:-1], axis + 1)
    return [moved(step, part, o) for o, part in enumerate(parts)]


def _pad(step: Step) -> list[Any] | None:
    if step.moving != [0]:
        return None
    (x,), index = step.inputs, step.inputs[0].pattern.index
    config, zero = step.params["padding_config"], jnp.zeros((), x.value.dtype)
    for axis, (low, high, between) in enumerate(config):
        if index.shape[axis + 1] > 1:
            places = np.full((index.shape[axis + 1] - 1) * (between + 1) + 1, -1)
            places[:: between + 1] = np.arange(index.shape[axis + 1])
            places = np.pad(places, (max(low, 0), max(high, 0)), constant_values=-1)
            places = places[max(-low, 0) : len(places) - max(-high, 0)]
            index = np.where(_along(places, axis + 1, index.ndim) < 0, -1, index.take(places.clip(0), axis + 1))

    def pad(v: Any) -> Any:
        return jax.lax.pad(v, zero, config)

    second = None if x.second is None else pad(x.second)
    (y,) = step.run(x.value)
    return [Varying(y, Jacobian(jax.vmap(pad)(x.jacobian.data), step.pattern(index)), second)]


def _along(x: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    return x.reshape([-1 if a == axis else 1 for a in range(ndim)])


def _concatenate(step: Step) -> list[Any]:
    axis, parts = step.params["dimension"], step.operands
    inputs = step.inputs
    if any(x.pattern.dense for x in inputs):
        patterns = [step.within.directions.dense(inputs[0].ndim)] * len(parts)
        index = patterns[0].index
    else:
        patterns = [x.pattern if isinstance(x, Varying) else None for x in parts]
        given = [p for p in patterns if p is not None]
        if all(p is given[0] for p in given) and not given[0].varies(axis):
            index = given[0].index
        else:
            shape = list(np.broadcast_shapes(*(_flattened(p.index, axis) for p in given)))
            indices, slots = [], max(p.slots for p in given)
            for p, v in zip(patterns, step.values, strict=True):
                whole = [*shape[:axis], v.shape[axis], *shape[axis + 1 :]]
                part = np.full((slots, *whole), -1, np.int32)
                if p is not None:
                    part[: p.slots] = p.spread(whole)
                indices.append(part)
            index = np.concatenate(indices, axis + 1)
    pattern = step.pattern(index)
    if pattern.dense:
        patterns = [pattern] * len(parts)
    elif pattern.index.shape[0] != index.shape[0] or (pattern.index != index).any():  # compacted
        pattern = pattern.over([axis])
        patterns = [pattern] * len(parts)

    def join(vs: Any) -> Any:
        return jax.lax.concatenate(vs, axis)

    data = [_filled(x, v, p, pattern.slots) for x, v, p in zip(parts, step.values, patterns, strict=True)]
    second = None
    if any(x.second is not None for x in inputs):
        seconds = [x.second if isinstance(x, Varying) else None for x in parts]
        second = join([jnp.zeros_like(v) if s is None else s for s, v in zip(seconds, step.values, strict=True)])
    zero = len(inputs) == len(parts) and all(x.zero for x in inputs)
    return [Varying(join(step.values), Jacobian(jax.lax.concatenate(data, axis + 1), pattern), second, None, zero)]


def _flattened(index: np.ndarray, axis: int) -> tuple[int, ...]:
    return tuple(1 if a == axis else n for a, n in enumerate(index.shape[1:]))


def _filled(x: Any, value: Any, pattern: Any, slots: int) -> Any:
    """Return derivatives with as many slots as the longest operand has."""
    if not isinstance(x, Varying):
        return jnp.zeros((slots, *value.shape), value.dtype)
    data = x.jacobian.to(pattern)
    missing = slots - len(data)
    return jnp.concatenate([data, jnp.zeros((missing, *value.shape), data.dtype)]) if missing else data


def _gather(step: Step) -> list[Any] | None:
    if step.moving != [0]:
        return None
    (x,), numbers, p = step.inputs, step.values[1], step.params
    sought = [a for a, n in enumerate(p["slice_sizes"]) if n < x.value.shape[a]]
    d, jacobian = p["dimension_numbers"], x.jacobian
    starts = step.within.concrete(numbers) if x.pattern.varies(*sought) else None
    if starts is None:
        batched = getattr(d, "operand_batching_dims", ())
        jacobian = jacobian.over([a for a in sought if a not in batched])
        starts = np.zeros(numbers.shape, np.int64)
    index = _gathered(jacobian.pattern.index, x.value.shape, starts, step)
    _, push = jax.linearize(step.run, x.value)  # what lies outside of the array has no derivative
    second = None if x.second is None else push(x.second)[0]
    made = Jacobian(jax.vmap(lambda v: push(v)[0])(jacobian.data), step.pattern(index))
    return [Varying(step.run(x.value)[0], made, second, None, x.zero)]


def _gathered(index: np.ndarray, shape: Sequence[int], starts: np.ndarray, step: Step) -> np.ndarray:
    """Return the index of what is gathered from an array of the shape."""
    d, sizes, out = step.params["dimension_numbers"], step.params["slice_sizes"], step.shape
    offset_axes = [a for a in range(len(shape)) if a not in d.collapsed_slice_dims]
    batched = list(getattr(d, "operand_batching_dims", ()))
    offset_axes = [a for a in offset_axes if a not in batched]
    batch_places = [i for i in range(len(out)) if i not in d.offset_dims]
    filled = "FILL" in str(step.params["mode"]).upper() or step.params["mode"] is None
    places: list[Any] = []
    outside = np.zeros((1,) * len(out), bool)
    for axis, size in enumerate(shape):
        if index.shape[axis + 1] == 1 and not filled:
            places.append(0)
            continue
        place = np.zeros((1,) * len(out), np.int64)
        if axis in d.start_index_map:
            start = starts[..., d.start_index_map.index(axis)]
            start = start.reshape([1 if i in d.offset_dims else out[i] for i in range(len(out))])
            last = size - sizes[axis]
            outside = outside | (start < 0) | (start > last)
            place = place + start.clip(0, last)
        if axis in batched:
            along = list(d.start_indices_batching_dims)[batched.index(axis)]
            place = place + _along(np.arange(size), batch_places[along], len(out))
        if axis in offset_axes:
            place = place + _along(np.arange(sizes[axis]), d.offset_dims[offset_axes.index(axis)], len(out))
        places.append(place if index.shape[axis + 1] > 1 else 0)
    found = index[(slice(None), *places)] if places else index
    found = found.reshape(len(index), *(found.shape[1:] or (1,) * len(out)))
    return np.where(outside, -1, found) if filled and outside.any() else found


def _dynamic_slice(step: Step) -> list[Any] | None:
    if step.moving != [0]:
        return None
    (x,), sizes = step.inputs, step.params["slice_sizes"]
    jacobian, cut = x.jacobian, [a for a, n in enumerate(sizes) if n < x.value.shape[a]]
    known = [step.within.concrete(v) for v in step.values[1:]]
    jacobian = jacobian.over([a for a in cut if known[a] is None])
    index = jacobian.pattern.index
    for a in cut:
        if index.shape[a + 1] > 1:
            start = int(np.clip(known[a], 0, x.value.shape[a] - sizes[a]))  # type: ignore[arg-type]
            index = index[(slice(None),) * (a + 1) + (slice(start, start + sizes[a]),)]
    return [moved(step, index, 0, jacobian)]


RULES: dict[str, Rule] = {
    **dict.fromkeys(("convert_element_type", "reduce_precision", "real", "imag"), _kept),
    "reshape": _reshape,
    "broadcast_in_dim": _broadcast_in_dim,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "expand_dims": _expand_dims,
    "rev": _rev,
    "slice": _slice,
    "split": _split,
    "pad": _pad,
    "concatenate": _concatenate,
    "gather": _gather,
    "dynamic_slice": _dynamic_slice,
}
