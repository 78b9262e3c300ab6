"""Rules of what acts on each number alone: arithmetic, activations, selections.

Of `y = g(a, b, …)` these rules compute the partial derivatives `g_a`, `g_aa`, `g_ab`, …, number by number, and

    dy_i = g_a da_i + g_b db_i,
    ly   = g_a la + g_b lb + g_aa sum_i da_i^2 + 2 g_ab sum_i da_i db_i + g_bb sum_i db_i^2.

As long as all operands are functions of one value, number by number, only slopes are multiplied: see `varying`.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from liftax import _compat
from liftax.ad.laplacian.jacobian import Jacobian
from liftax.ad.laplacian.trace import Rule, Step
from liftax.ad.laplacian.varying import Varying, is_inexact, plus, product, times, value_of

SUMS = frozenset({"add", "add_any", "sub", "neg", "copy", "copy_p"})
_BENT = {"mul": {(0, 1)}, "div": {(0, 1), (1, 1)}}
"""Which second derivatives are not zero everywhere, where some are."""
_KINKED = frozenset({"abs", "sign", "floor", "ceil", "round", "max", "min", "clamp", "rem"})
_SMOOTH = frozenset({
    "mul", "div", "tanh", "sin", "cos", "tan", "exp", "exp2", "log", "log1p", "expm1", "logistic", "sqrt", "rsqrt",
    "cbrt", "integer_pow", "square", "sinh", "cosh", "asin", "acos", "atan", "asinh", "acosh", "atanh", "pow",
})  # fmt: skip
_REAL = frozenset({"erf", "erfc", "erf_inv", "lgamma", "digamma", "atan2"})
_POINTWISE = SUMS | _KINKED | _SMOOTH | _REAL | {"select_n"}

_EVALUATED = _POINTWISE | {
    "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "xor", "not", "is_finite", "convert_element_type", "nextafter",
    "reduce_precision", "stop_gradient",
}  # fmt: skip
"""Primitives that act on each number alone."""

_LINEAR = frozenset({
    "add", "add_any", "sub", "neg", "mul", "broadcast_in_dim", "convert_element_type", "reshape", "squeeze", "copy",
})  # fmt: skip
"""Primitives that make zeros of zeros alone."""

_INNER = frozenset({"pjit", "jit", "custom_jvp_call"})

Partials = tuple[list[Any], list[list[Any]], list[dict[tuple[int, int], Any]]]
"""Of each result: the value, the first derivatives with respect to each operand, the second ones; None for zero."""


def pointwise(step: Step) -> list[Any] | None:
    """Apply a primitive that acts on each number alone."""
    inputs = [_spread(x, step.shape) for x in step.inputs]
    if any(jnp.iscomplexobj(x.value) for x in inputs) and not (step.name in _SMOOTH or step.name in SUMS):
        return None
    if step.name in SUMS or step.name == "select_n":
        done = _linear(step, inputs)
        if done is not None:
            return done
    if step.name == "mul" and any(x.zero for x in inputs):
        return [_times_zero(step, inputs)]
    if step.name == "div" and step.moving[0] == 0 and inputs[0].zero:
        return [_zero_over(step, inputs)]
    point = [x.value for x in inputs]
    bent: Any = None
    if not step.within.curved or step.name in _KINKED or step.name in SUMS or step.name == "select_n":
        bent = set()
    elif step.name in _BENT:
        held = {i: n for n, i in enumerate(step.moving)}
        bent = {(held[i], held[j]) for i, j in _BENT[step.name] if i in held and j in held}
    ys, firsts, seconds = _partials(step.run, point, bent)
    return [_chained(y, inputs, f, s) for y, f, s in zip(ys, firsts, seconds, strict=True)]


def pointwise_custom(step: Step) -> list[Any] | None:
    """Apply a function with a rule of `jax.custom_jvp`; None unless it acts on each number alone."""
    inputs = step.inputs
    like = inputs[0].value
    types = [x.value for x in inputs] + [v.aval for v in step.eqn.outvars]
    if jnp.iscomplexobj(like) or not all(_same_type(t, like) for t in types):
        return None
    point = [x.value for x in inputs]
    treedefs: list[Any] = []

    def flat(*point: Any) -> list[Any]:
        leaves, treedef = jax.tree.flatten(_partials(step.run, point, None))
        treedefs.append(treedef)
        return leaves

    closed = jax.make_jaxpr(flat)(*point)
    if not _is_pointwise(closed.jaxpr, [True] * len(point), like):
        return None
    ys, firsts, seconds = jax.tree.unflatten(treedefs[0], _evaluate(closed.jaxpr, closed.consts, point))
    made = zip(ys, firsts, seconds, strict=True)
    return [_chained(_number(y, like), inputs, f, s) for y, f, s in made]


def _partials(run: Callable[..., list[Any]], point: Sequence[Any], bent: Any) -> Partials:
    """Return values and partial derivatives, the second ones of the pairs in `bent` (None: of all pairs)."""

    def along(f: Callable[..., Any], i: int) -> Callable[..., Any]:
        def derivative(*p: Any) -> Any:
            return jax.jvp(lambda x: f(*p[:i], x, *p[i + 1 :]), (p[i],), (jnp.ones_like(p[i]),))[1]

        return derivative

    ys = run(*point)
    firsts = [along(run, i)(*point) for i in range(len(point))]
    pairs = itertools.combinations_with_replacement(range(len(point)), 2)
    seconds = {(i, j): along(along(run, i), j)(*point) for i, j in pairs if bent is None or (i, j) in bent}
    n = range(len(ys))
    return ys, [[f[o] for f in firsts] for o in n], [{k: s[o] for k, s in seconds.items()} for o in n]


def _chained(y: Any, inputs: Sequence[Varying], first: Sequence[Any], second: dict[tuple[int, int], Any]) -> Any:
    """Return the value with the derivatives that partial ones give."""
    if not is_inexact(y):
        return y
    first = [None if f is None else jnp.broadcast_to(f, y.shape) for f in first]
    lap = None
    for x, f in zip(inputs, first, strict=True):
        if f is not None and x.second is not None:
            lap = plus(lap, f * x.second)
    for (i, j), s in second.items():
        both = None if s is None else product(inputs[i], inputs[j])
        if s is not None and both is not None:
            lap = plus(lap, s * both if i == j else 2 * (s * both))
    slopes = [None if f is None else times(f, x.slope) for x, f in zip(inputs, first, strict=True)]
    base = inputs[0].base
    if all(x.base is base for x in inputs):
        slope = None
        for s in slopes:
            slope = plus(slope, s)
        return y if slope is None else Varying(y, base, lap, slope)
    terms = [(x.base, s) for x, s in zip(inputs, slopes, strict=True) if s is not None]
    return _combined(y, terms, lap, inputs) if terms else y


def _combined(y: Any, terms: Sequence[tuple[Jacobian, Any]], lap: Any, inputs: Sequence[Varying]) -> Varying:
    """Return the value whose first derivatives are sums of others times slopes (None for one)."""
    pattern = inputs[0].pattern.directions.union(*(b.pattern for b, _ in terms))
    data = None
    for base, slope in terms:
        data = plus(data, times(slope, base.to(pattern)))
    return Varying(y, Jacobian(data, pattern), lap)


def _linear(step: Step, inputs: Sequence[Varying]) -> list[Any] | None:
    """Apply a sum or a selection."""
    name, x = step.name, inputs[0]
    (y,) = step.run(*(x.value for x in inputs))
    zero = all(x.zero for x in inputs) and len(step.moving) == len(step.operands) - (name == "select_n")
    if name == "select_n":
        return _selected(step, inputs, y, zero)
    negative = [name == "neg" or (name == "sub" and i == 1) for i in step.moving]
    if not any(negative) and len(inputs) == 1:
        return [Varying(y, x.base, x.second, x.slope, zero)]
    lap = None
    for v, n in zip(inputs, negative, strict=True):
        if v.second is not None:
            lap = plus(lap, -v.second if n else v.second)
    one = jnp.ones((), y.dtype)
    slopes: list[Any] = [
        (-one if v.slope is None else -v.slope) if n else v.slope for v, n in zip(inputs, negative, strict=True)
    ]
    if all(v.base is x.base for v in inputs):
        total: Any = None
        for s in slopes:
            total = plus(total, one if s is None else s)
        return [Varying(y, x.base, lap, jnp.broadcast_to(total, y.shape), zero)]
    made = _combined(y, [(v.base, s) for v, s in zip(inputs, slopes, strict=True)], lap, inputs)
    made.zero = zero
    return [made]


def _selected(step: Step, inputs: Sequence[Varying], y: Any, zero: bool) -> list[Any]:
    """Apply `select_n`: derivatives are selected too, so that infinite ones of a case not taken do no harm."""
    which, cases = step.values[0], step.operands[1:]
    moved = iter(inputs)
    cases = [next(moved) if isinstance(c, Varying) else c for c in cases]
    none = jnp.zeros_like(y)

    def choose(parts: Any) -> Any:
        return jax.lax.select_n(which, *parts)

    lap = None
    if any(v.second is not None for v in inputs):
        seconds = [c.second if isinstance(c, Varying) else None for c in cases]
        lap = choose([none if s is None else s for s in seconds])
    base = inputs[0].base
    if all(v.base is base for v in inputs):
        one = jnp.ones_like(y)
        slope = choose([none if not isinstance(c, Varying) else one if c.slope is None else c.slope for c in cases])
        return [Varying(y, base, lap, slope, zero)]
    pattern = step.union(*(v.pattern for v in inputs))
    zeros = jnp.zeros((pattern.slots, *y.shape), y.dtype)
    parts = [c.jacobian.to(pattern) if isinstance(c, Varying) else zeros for c in cases]
    return [Varying(y, Jacobian(jax.vmap(lambda *p: choose(p))(*parts), pattern), lap, None, zero)]


def _times_zero(step: Step, inputs: Sequence[Varying]) -> Varying:
    """Multiply where a factor is zero and only its derivatives are not."""
    (y,) = step.run(*(x.value for x in inputs))
    if len(inputs) == 1:
        (x,), other = inputs, step.values[1 - step.moving[0]]
        slope = jnp.broadcast_to(times(other, x.slope), y.shape)
        return Varying(y, x.base, None if x.second is None else other * x.second, slope, True)
    a, b = inputs
    both = product(a, b)
    lap = None if both is None else 2 * both
    terms = []
    for x, other in ((a, b), (b, a)):
        if not other.zero:
            lap = plus(lap, None if x.second is None else other.value * x.second)
            terms.append((x.base, times(other.value, x.slope)))
    terms = terms or [(a.base, jnp.zeros_like(y))]
    if len(terms) == 1:
        return Varying(y, terms[0][0], lap, terms[0][1], True)
    made = _combined(y, terms, lap, inputs)
    made.zero = True
    return made


def _zero_over(step: Step, inputs: Sequence[Varying]) -> Varying:
    """Divide where the numerator is zero and only its derivatives are not."""
    (y,) = step.run(*(x.value for x in inputs))
    x, inverse = inputs[0], 1 / value_of(step.operands[1])
    lap = None if x.second is None else x.second * inverse
    both = product(*inputs) if len(inputs) == 2 else None
    if both is not None:
        lap = plus(lap, -2 * inverse * inverse * both)
    return Varying(y, x.base, lap, jnp.broadcast_to(times(inverse, x.slope), y.shape), True)


def _spread(x: Varying, shape: Sequence[int]) -> Varying:
    """Return a number as an array of the shape, where an operand is one and the other is not."""
    if x.ndim == len(shape):
        return x

    def spread(v: Any) -> Any:
        return jnp.broadcast_to(v, shape)

    pattern = x.pattern.directions.pattern(x.pattern.index.reshape(-1, *(1,) * len(shape)))
    base = Jacobian(jax.vmap(spread)(x.jacobian.data), pattern)
    return Varying(spread(x.value), base, None if x.second is None else spread(x.second), None, x.zero)


def _is_pointwise(jaxpr: Any, moving: Sequence[bool], like: Any) -> bool:
    """Tell whether each number of the results depends on the same number of each moving input alone."""
    found = dict.fromkeys(jaxpr.constvars, False) | dict(zip(jaxpr.invars, moving, strict=True))
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        moved = [not hasattr(v, "val") and found[v] for v in eqn.invars]
        if any(moved):
            inner = eqn.params["jaxpr" if name in ("pjit", "jit") else "call_jaxpr"] if name in _INNER else None
            alike = [v.aval.shape == like.shape for v, m in zip(eqn.invars, moved, strict=True) if m]
            if not all(alike) or any(v.aval.shape != like.shape for v in eqn.outvars):
                return False
            if not (_is_pointwise(inner.jaxpr, moved, like) if inner else name in _EVALUATED):
                return False
        found |= dict.fromkeys(eqn.outvars, any(moved))
    return True


def _evaluate(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """Run a jaxpr without what is multiplied by zeros; None stands for zero, among the results too.

    A rule of `jax.custom_jvp` gets zeros written out for what does not vary, where JAX itself knows them as zeros.
    """
    env: dict[Any, Any] = {}

    def read(v: Any) -> Any:
        if hasattr(v, "val"):
            return v.val if np.any(v.val) or not is_inexact(v.aval) else None
        return env[v]

    env.update(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    for eqn in jaxpr.eqns:
        name, operands = eqn.primitive.name, [read(v) for v in eqn.invars]
        missing = [x is None for x in operands]
        alike = operands and all(_same_type(v.aval, eqn.outvars[0].aval) for v in eqn.invars)
        if name in ("pjit", "jit"):
            inner = eqn.params["jaxpr"]
            results = _evaluate(inner.jaxpr, inner.consts, operands)
        elif (name in _LINEAR and all(missing)) or (name == "mul" and any(missing)) or (name == "div" and missing[0]):
            results = [None] * len(eqn.outvars)
        elif name in ("add", "add_any") and any(missing) and alike:
            results = [operands[missing.index(False)]]
        else:
            full = [_number(x, v.aval) for x, v in zip(operands, eqn.invars, strict=True)]
            results = _compat.run_equation(eqn, full)
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _number(x: Any, like: Any) -> Any:
    return jnp.zeros(like.shape, like.dtype) if x is None else x


def _same_type(x: Any, y: Any) -> bool:
    return (x.shape, x.dtype) == (y.shape, y.dtype)


RULES: dict[str, Rule] = dict.fromkeys(_POINTWISE, pointwise)
