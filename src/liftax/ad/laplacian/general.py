"""The rule of all other primitives: derivatives along each direction, by JAX's own rules.

dy_i = Dg(x) dx_i,        ly = Dg(x) lx + sum_i D^2 g(x)[dx_i, dx_i]        for y = g(x).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from liftax.ad.laplacian.jacobian import Jacobian
from liftax.ad.laplacian.pattern import Pattern
from liftax.ad.laplacian.trace import Rule, Step
from liftax.ad.laplacian.varying import Varying, is_inexact, plus

LINEAR = frozenset({
    "conv_general_dilated", "fft", "scatter", "scatter-add", "scatter_add", "dynamic_update_slice", "pad",
    "reduce_window_sum", "reduce_window_max", "reduce_window_min", "select_and_gather_add",
    "select_and_scatter_add", "gather", "dynamic_slice", "concatenate", "optimization_barrier", "transpose", "reshape",
    "sharding_constraint", "sort", "reduce_max", "reduce_min", "cumsum", "cummax", "cummin", "psum", "all_gather",
    "ppermute", "pmax", "pmin", "reduce_precision", "convert_element_type", "real", "imag", "conj",
})  # fmt: skip
"""Primitives without a second derivative in the operands that can be differentiated, though some are bilinear."""

_BILINEAR = frozenset({"conv_general_dilated", "mul", "dot_general"})


def shared(step: Step) -> Pattern:
    """Return the pattern, without axes, of all directions that any operand depends on."""
    directions = step.within.directions
    indices = [x.pattern.index for x in step.inputs]
    found = np.unique(np.concatenate([i.reshape(-1) for i in indices]))
    return directions.pattern(found[found >= 0].astype(np.int32))


def aligned(step: Step, pattern: Pattern) -> list[Any]:
    """Return the first derivatives of the operands in the slots of a pattern without axes."""
    made = []
    for x in step.inputs:
        whole = pattern.directions.pattern(pattern.index.reshape(-1, *(1,) * x.ndim))
        made.append(x.jacobian.to(whole))
    return made


def results(step: Step, ys: Any, firsts: Any, seconds: Any, pattern: Pattern) -> list[Any]:
    """Return values with derivatives in the slots of a pattern without axes."""
    out = []
    for v, y, first, second in zip(step.eqn.outvars, ys, firsts, seconds, strict=True):
        if not is_inexact(v.aval):
            out.append(y)
            continue
        whole = pattern.directions.pattern(pattern.index.reshape(-1, *(1,) * y.ndim))
        out.append(Varying(y, Jacobian(first, whole), second))
    return out


def general(step: Step) -> list[Any]:
    """Apply any equation."""
    pattern, inputs = shared(step), step.inputs
    point, firsts = tuple(x.value for x in inputs), aligned(step, pattern)
    ys, push = jax.linearize(step.run, *point)
    dys = jax.vmap(push)(*firsts)
    lys: Any = [None] * len(ys)
    if any(x.second is not None for x in inputs):
        lys = push(*(jnp.zeros_like(x.value) if x.second is None else x.second for x in inputs))
    bends: Any = [None] * len(ys)
    if not step.within.curved:
        return results(step, ys, dys, lys, pattern)
    if step.name in _BILINEAR and len(point) == 2:
        bends = [2 * e for e in jax.vmap(step.run)(*firsts)]
    elif step.name not in LINEAR and step.name not in _BILINEAR:
        bends = jax.vmap(lambda *v: jax.jvp(lambda *p: jax.jvp(step.run, p, v)[1], point, v)[1])(*firsts)
    seconds = [
        ly if bend is None or not is_inexact(y) else plus(ly, jnp.sum(bend, 0))
        for y, ly, bend in zip(ys, lys, bends, strict=True)
    ]
    return results(step, ys, dys, seconds, pattern)


def optimization_barrier(step: Step) -> list[Any]:
    """Apply what changes nothing."""
    return list(step.operands)


RULES: dict[str, Rule] = {"optimization_barrier": optimization_barrier}
