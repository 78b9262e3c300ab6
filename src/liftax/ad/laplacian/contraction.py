"""Rules of sums and products: reductions, `dot_general`.

Along a contracted axis the numbers may depend on different directions, as the features of different electrons do. Then
the axis becomes slots: the sum of what depends on different directions has all of them, and nothing is added.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from liftax.ad.laplacian.jacobian import Jacobian, placed
from liftax.ad.laplacian.pattern import Pattern, gathered_slots
from liftax.ad.laplacian.trace import Rule, Step
from liftax.ad.laplacian.varying import Varying, plus


def _reduce_sum(step: Step) -> list[Any]:
    (x,), axes = step.inputs, step.params["axes"]
    second = None if x.second is None else step.run(x.second)[0]
    base = x.jacobian.sum(axes) if axes else x.jacobian
    return [Varying(step.run(x.value)[0], base, second, None, x.zero)]


def _along_axes(step: Step) -> list[Any] | None:
    """Apply a linear function along axes: the largest number, running sums."""
    if len(step.moving) > 1 or len(step.eqn.outvars) > 1 or jnp.iscomplexobj(step.inputs[0].value):
        return None
    (x,), p = step.inputs, step.params
    axes = p["axes"] if "axes" in p else [p["axis"]] if "axis" in p else [p["dimension"]]
    jacobian = x.jacobian.over(axes)
    index = jacobian.pattern.index
    if "axes" in p:
        index = np.squeeze(index, tuple(a + 1 for a in axes))
    (y,), push = jax.linearize(step.run, x.value)
    second = None if x.second is None else push(x.second)[0]
    return [Varying(y, Jacobian(jax.vmap(lambda v: push(v)[0])(jacobian.data), step.pattern(index)), second)]


class _Layout:
    """The axes of the operands of a `dot_general`, and where they come in its result."""

    def __init__(self, step: Step):
        contracted, batched = step.params["dimension_numbers"]
        self.contracted, self.batched = [list(c) for c in contracted], [list(b) for b in batched]
        self.free = [
            [a for a in range(len(step.eqn.invars[i].aval.shape)) if a not in (*contracted[i], *batched[i])]
            for i in (0, 1)
        ]

    def result(self, index: np.ndarray, i: int) -> np.ndarray:
        """Return the index of the result from that of operand `i`, of length 1 along contracted axes."""
        own, other = self.free[i], [1] * len(self.free[1 - i])
        kept = index.transpose(0, *(a + 1 for a in (*self.batched[i], *own, *self.contracted[i])))
        sizes = kept.shape[1 : 1 + len(self.batched[i]) + len(own)]
        batch, free = sizes[: len(self.batched[i])], sizes[len(self.batched[i]) :]
        return kept.reshape(len(index), *batch, *((*free, *other) if i == 0 else (*other, *free)))


def _dot_general(step: Step) -> list[Any]:
    layout = _Layout(step)
    if len(step.moving) == 1:
        (x,) = step.inputs
        i = step.moving[0]
        second = None if x.second is None else step.run(x.second)[0]
        return [Varying(step.run(x.value)[0], _dotted(step, layout, i), second, None, x.zero)]
    x, y = step.inputs
    terms, second = [], None
    for i, (here, there) in enumerate(((x, y), (y, x))):
        if there.zero:
            continue
        terms.append(_dotted(step, layout, i))
        if here.second is not None:
            second = plus(second, step.run(here.second, y.value)[0] if i == 0 else step.run(x.value, here.second)[0])
    both = _crossed(step, layout)
    (value,) = step.run(x.value, y.value)
    second = plus(second, None if both is None else 2 * both)
    if not terms:
        pattern = step.within.directions.dense(value.ndim)
        terms = [Jacobian(jnp.zeros((pattern.slots, *value.shape), value.dtype), pattern)]
    pattern = step.union(*(t.pattern for t in terms))
    data = None
    for t in terms:
        data = plus(data, t.to(pattern))
    return [Varying(value, Jacobian(data, pattern), second, None, x.zero or y.zero)]


def _dotted(step: Step, layout: _Layout, i: int) -> Jacobian:
    """Return the derivatives of the product in operand `i`."""
    jacobian: Jacobian = step.operands[i].jacobian
    axes = layout.contracted[i]
    pattern = jacobian.pattern.over(axes)
    along = int(np.prod([jacobian.data.shape[a + 1] for a in axes]))
    if jacobian.pattern.varies(*axes) and jacobian.pattern.slots * along <= 2 * pattern.slots:
        return _outer(step, layout, i, pattern)

    def run(v: Any) -> Any:
        values = list(step.values)
        values[i] = v
        return jax.lax.dot_general(*values, **_arguments(step))

    data = jax.vmap(run)(jacobian.to(pattern))
    if len(step.moving) == 2:  # XLA on CPUs would draw the sum of squares into a slower product
        data = jax.lax.optimization_barrier(data)
    return Jacobian(data, step.pattern(layout.result(pattern.index, i)))


def _outer(step: Step, layout: _Layout, i: int, pattern: Pattern) -> Jacobian:
    """Return the derivatives of the product in operand `i`, whose contracted axes become slots: nothing is added."""
    jacobian: Jacobian = step.operands[i].jacobian
    order = [layout.contracted[i], layout.batched[i], layout.free[i]]
    own = jnp.transpose(jacobian.data, (0, *(a + 1 for part in order for a in part)))
    order = [layout.contracted[1 - i], layout.batched[1 - i], layout.free[1 - i]]
    other = jnp.transpose(step.values[1 - i], [a for part in order for a in part])
    common = len(layout.contracted[i]) + len(layout.batched[i])
    free = [n for part in (own.shape[common + 1 :], other.shape[common:]) for n in part]
    mine, theirs = len(layout.free[i]), len(layout.free[1 - i])
    ends = ((*own.shape[common + 1 :], *(1,) * theirs), (*(1,) * mine, *other.shape[common:]))
    if i == 1:
        ends = ((*(1,) * theirs, *own.shape[common + 1 :]), (*other.shape[common:], *(1,) * mine))
        free = [*other.shape[common:], *own.shape[common + 1 :]]
    product = own.reshape(*own.shape[: common + 1], *ends[0]) * other.reshape(*other.shape[:common], *ends[1])
    contracted = len(layout.contracted[i])
    data = product.reshape(-1, *own.shape[1 + contracted : 1 + common], *free)
    index = jacobian.pattern.index
    for a in layout.contracted[i]:
        index = np.broadcast_to(index, [jacobian.data.shape[d] if d == a + 1 else n for d, n in enumerate(index.shape)])
    source = layout.result(gathered_slots(index, layout.contracted[i]), i)
    target = step.pattern(layout.result(pattern.index, i))
    return Jacobian(placed(data.astype(step.eqn.outvars[0].aval.dtype), source, target.index), target)


def _crossed(step: Step, layout: _Layout) -> Any:
    """Return the sum over directions of products of derivatives, contracted; None if no direction is common."""
    parts = [x.jacobian.over(layout.contracted[i]) for i, x in enumerate(step.inputs)]
    shown = [layout.result(part.pattern.index, i) for i, part in enumerate(parts)]
    if not set(np.unique(shown[0])) & set(np.unique(shown[1])) - {-1}:
        return None
    pattern = step.union(*(step.pattern(s) for s in shown))
    first = len(layout.batched[0])
    if pattern.varies(*range(first, pattern.ndim)):
        pattern = pattern.over(range(first, pattern.ndim))
    batch = pattern.index[(slice(None),) * (1 + first) + (0,) * (pattern.ndim - first)]
    data = []
    for i, part in enumerate(parts):
        sizes = [1] * (part.data.ndim - 1)
        for place, axis in enumerate(layout.batched[i]):
            sizes[axis] = batch.shape[1 + place]
        order = np.argsort(layout.batched[i])
        index = batch.transpose(0, *(a + 1 for a in order)).reshape(len(batch), *sizes)
        data.append(placed(part.data, part.pattern.index, index))
    contracted, batched = (
        [tuple(a + 1 for a in side) for side in sides] for sides in (layout.contracted, layout.batched)
    )
    numbers = (tuple((0, *side) for side in contracted), tuple(batched))
    return jax.lax.dot_general(*data, **_arguments(step) | {"dimension_numbers": numbers})


def _arguments(step: Step) -> dict[str, Any]:
    return {k: step.params[k] for k in ("dimension_numbers", "precision", "preferred_element_type")}


RULES: dict[str, Rule] = {
    "reduce_sum": _reduce_sum,
    **dict.fromkeys(("reduce_max", "reduce_min", "cumsum", "cummax", "cummin", "sort"), _along_axes),
    "dot_general": _dot_general,
}
