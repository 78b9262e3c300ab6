"""The Laplacian and the divergence: traces of derivatives, without the matrix that they are traces of.

    laplacian  : (R^n -> b) -> R^n -> (b, b)       f(x), sum_i d^2 f / dx_i^2
    divergence : (R^n -> R^n) -> R^n -> (R^n, R)   f(x), sum_i d f_i / dx_i

The Laplacian is computed forwards, in one pass over the program. With each value `y` go its derivatives along the
directions `v_i` and the sum of its second derivatives along them,

    dy_i = Dg(x) dx_i,        ly = Dg(x) lx + sum_i D^2 g(x)[dx_i, dx_i]        for y = g(x).

The second derivatives are summed at every step, so that each linear step of the program costs one product a direction,
half of what the Hessian takes, and memory is that of the widest layer. With the unit vectors as directions the result
is exact; with random directions whose covariance is the identity it is an unbiased estimate.

What acts on each number alone, as activations do, needs no directions: of `y_j = s(z_j)` the pass keeps two numbers for
each one, `s'(z_j)` and `s''(z_j)`, along any chain of such steps, and multiplies the directions once at its end,

    dy_ij = s' dz_ij,        ly_j = s' lz_j + s'' sum_i dz_ij^2.

Source: Li et al., "A computational framework for neural network-based variational Monte Carlo with Forward Laplacian",
Nature Machine Intelligence 6 (2024); Hutchinson, Communications in Statistics 19 (1990).
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from liftax import _compat
from liftax.ad.checks import check_float_primals, check_jacobian_types
from liftax.ad.notes import noted
from liftax.errors import ArityError, InvalidRngError, NonDifferentiableOutputError
from liftax.explain.functions import demand_callable, demand_pair
from liftax.explain.transform import Transform
from liftax.explain.trees import tree_mismatch
from liftax.explain.values import describe, is_value
from liftax.typing import PRNGKey

LAPLACIAN = Transform("laplacian", "(f, x)", mode="forward")
DIVERGENCE = Transform("divergence", "(f, x)", mode="forward")


def laplacian(
    fun: Callable[..., Any],
    *primals: Any,
    has_aux: bool = False,
    key: PRNGKey | None = None,
    samples: int | None = None,
) -> tuple[Any, ...]:
    """Compute a function and its Laplacian in its first argument.

    Args:
        fun: The function; its output is a tree of floating-point arrays.
        *primals: Its arguments. The Laplacian is taken in all numbers of the first one, a tree of real arrays.
        has_aux: `fun` returns a pair `(output, aux)`.
        key: Together with `samples`: an rng key for an estimate.
        samples: Estimate from so many random directions (Rademacher vectors) instead of all unit vectors.

    Returns:
        `(out, laplacian)`, or `(out, laplacian, aux)` if `has_aux`; `laplacian` has the structure, the shapes and the
        dtypes of `out`.

    Raises:
        NonDifferentiablePrimalError: The first argument is not real and floating-point.
        NonDifferentiableOutputError: An output is an integer or a Boolean.
        ArityError: `fun` can't be called, or there is no argument; one of `key` and `samples` is missing;
            `samples` is no positive integer.
        InvalidRngError: `key` is no rng key.
        AuxError: With `has_aux`, `fun` returned no pair.

    Example:
        >>> import jax.numpy as jnp
        >>> import liftax as lx
        >>> out, lap = lx.laplacian(lambda x: jnp.sum(x**3), jnp.array([1.0, 2.0]))
        >>> print(out, lap)
        9.0 18.0
    """
    flat, directions, call = _directions(LAPLACIAN, fun, primals, key, samples)
    types: list[Any] = []

    def pure(flat: Any) -> list[Any]:
        out = call(flat)
        out, aux = demand_pair(out, LAPLACIAN) if has_aux else (out, None)
        check_jacobian_types(out, (), LAPLACIAN)
        leaves, treedef = jax.tree.flatten(out)
        rest, rest_treedef = jax.tree.flatten(aux)
        types.append((len(leaves), treedef, [_VALUE if is_value(x) else x for x in rest], rest_treedef))
        return [*leaves, *filter(is_value, rest)]

    with noted(fun, primals, LAPLACIAN):
        closed = jax.make_jaxpr(pure)(flat)
        count, treedef, rest, rest_treedef = types[0]
        found = _propagate(closed.jaxpr, closed.consts, [_Dense(flat, directions, None)])
    values = iter([_value(x) for x in found])
    out = treedef.unflatten(itertools.islice(values, count))
    lap = treedef.unflatten([_laplacian(x) for x in found[:count]])
    aux = rest_treedef.unflatten([next(values) if x is _VALUE else x for x in rest])
    return (out, lap, aux) if has_aux else (out, lap)


_VALUE = object()
"""What is kept of a tracer once the trace has ended: that there was one."""


def divergence(
    fun: Callable[..., Any],
    *primals: Any,
    has_aux: bool = False,
    key: PRNGKey | None = None,
    samples: int | None = None,
) -> tuple[Any, ...]:
    """Compute a vector field and its divergence: the trace of its Jacobian in the first argument.

    Args:
        fun: The field; its output has the structure and the shapes of its first argument.
        *primals: Its arguments. The divergence is taken in all numbers of the first one, a tree of real arrays.
        has_aux: `fun` returns a pair `(output, aux)`.
        key: Together with `samples`: an rng key for an estimate.
        samples: Estimate from so many random directions (Rademacher vectors) instead of all unit vectors.

    Returns:
        `(out, divergence)`, or `(out, divergence, aux)` if `has_aux`; `divergence` is a scalar.

    Raises:
        NonDifferentiableOutputError: The output is not like the first argument.
        NonDifferentiablePrimalError, ArityError, InvalidRngError, AuxError: see `laplacian`.

    Example:
        >>> import jax.numpy as jnp
        >>> import liftax as lx
        >>> out, div = lx.divergence(lambda x: x**2, jnp.array([1.0, 2.0]))
        >>> print(out, div)
        [1. 4.] 6.0
    """
    flat, directions, call = _directions(DIVERGENCE, fun, primals, key, samples)

    def pure(flat: Any) -> Any:
        out = call(flat)
        out, aux = demand_pair(out, DIVERGENCE) if has_aux else (out, None)
        if found := tree_mismatch(primals[0], out):
            raise NonDifferentiableOutputError(
                f"divergence needs a field like its first argument{found.path and ' at '}{found.path}: expected "
                f"{found.expected}, got {found.got}."
            )
        return ravel_pytree(out)[0], (out, aux)

    with noted(fun, primals, DIVERGENCE):
        _, jvp_fn, (out, aux) = jax.linearize(pure, flat, has_aux=True)
        if isinstance(directions, _Identity):
            div = jnp.trace(jax.vmap(jvp_fn)(directions.dense()))
        else:
            div = jnp.sum(jax.vmap(jvp_fn)(directions) * directions)
    return (out, div, aux) if has_aux else (out, div)


def check_samples(samples: Any, transform: Transform) -> None:
    """Raise `ArityError` unless `samples` is None or a number of directions."""
    if samples is not None and (isinstance(samples, bool) or not hasattr(samples, "__index__") or samples < 1):
        raise ArityError(f"{transform} got samples={samples!r}, expected a number of directions, from 1 on.")


def _directions(
    transform: Transform, fun: Callable[..., Any], primals: Sequence[Any], key: Any, samples: int | None
) -> tuple[Any, Any, Callable[[Any], Any]]:
    """Return the first argument as one vector, directions as rows, and `fun` as a function of that vector."""
    demand_callable(fun, transform)
    if not primals:
        raise ArityError(f"{transform} is taken in the first argument, and got none: write {transform}(f, x).")
    if (key is None) != (samples is None):
        raise ArityError(f"{transform}: an estimate takes both key and samples; without both the result is exact.")
    check_samples(samples, transform)
    check_float_primals(primals[:1], ["argument 0"], transform)
    check_jacobian_types((), primals[0], transform)
    x = primals[0]
    flat, unravel = (x, lambda x: x) if isinstance(x, jax.Array) and x.ndim == 1 else ravel_pytree(x)
    if samples is None:
        directions = _Identity(flat)
    else:
        try:
            signs = jax.random.rademacher(key, (samples, flat.size), flat.dtype)
        except (TypeError, ValueError):
            raise InvalidRngError(
                f"{transform} got key={describe(key)}, expected an rng key: jax.random.key(seed)."
            ) from None
        directions = signs / np.sqrt(samples).astype(flat.dtype)
    return flat, directions, lambda flat: fun(unravel(flat), *primals[1:])


# --- the pass over the program ---------------------------------------------------------------------------------------

_FLAT = frozenset({
    "add", "add_any", "sub", "neg", "select_n", "copy", "copy_p", "reduce_precision", "abs", "sign", "floor", "ceil",
    "round", "max", "min", "clamp", "broadcast_in_dim", "concatenate", "convert_element_type", "cumsum",
    "dynamic_slice", "expand_dims", "gather", "pad", "reduce_sum", "reduce_max", "reduce_min", "real", "imag",
    "reshape", "rev", "slice", "split", "squeeze", "transpose",
})  # fmt: skip
"""Primitives without a second derivative in the operands that can be differentiated."""

_BILINEAR = frozenset({"mul", "dot_general"})

_POINTWISE = frozenset({
    "tanh", "sin", "cos", "tan", "exp", "exp2", "log", "log1p", "expm1", "logistic", "sqrt", "rsqrt", "cbrt",
    "integer_pow", "square", "erf", "erfc", "erf_inv", "sinh", "cosh", "asin", "acos", "atan", "asinh", "acosh",
    "atanh", "lgamma", "digamma", "abs", "sign", "floor", "ceil", "round", "neg", "add", "add_any", "sub", "mul",
    "div", "pow", "max", "min", "rem", "atan2", "select_n", "clamp", "copy", "copy_p",
})  # fmt: skip
"""Primitives that act on each number alone, as do their derivatives."""

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


class _Identity:
    """All unit vectors, not multiplied out before something needs them."""

    def __init__(self, x: Any):
        self.x = x

    def dense(self) -> Any:
        return jnp.eye(self.x.size, dtype=self.x.dtype)


class _Dense:
    """A value, its derivatives along the directions (leading axis), and the sum of its second ones (None for zero)."""

    slope = bend = None

    def __init__(self, value: Any, directions: Any, second: Any):
        self.value, self.directions, self.second = value, directions, second
        self.base = self.dense = self

    @functools.cached_property
    def first(self) -> Any:
        return self.directions.dense() if isinstance(self.directions, _Identity) else self.directions

    @functools.cached_property
    def squares(self) -> Any:
        if isinstance(self.directions, _Identity):
            return jnp.ones_like(self.value)
        return jnp.sum(self.first * self.first, 0)

    def shifted(self, value: Any) -> "_Dense":
        """Return a value with the same derivatives."""
        return _Dense(value, self.directions, self.second)


class _Chain:
    """A value that each number of `base` determines alone: its first and second (None for zero) derivative by it."""

    def __init__(self, value: Any, base: _Dense, slope: Any, bend: Any):
        self.value, self.base, self.slope, self.bend = value, base, slope, bend

    @functools.cached_property
    def second(self) -> Any:
        second = None if self.base.second is None else self.slope * self.base.second
        return second if self.bend is None else _plus(second, self.bend * self.base.squares)

    @functools.cached_property
    def dense(self) -> _Dense:
        return _Dense(self.value, self.slope * self.base.first, self.second)

    def shifted(self, value: Any) -> "_Chain":
        """Return a value with the same derivatives."""
        return _Chain(value, self.base, self.slope, self.bend)


def _propagate(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """Run `jaxpr` on values of which some carry derivatives."""
    env: dict[Any, Any] = {}

    def read(v: Any) -> Any:
        return v.val if hasattr(v, "val") else env[v]

    env.update(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        operands = [read(v) for v in eqn.invars]
        if eqn.primitive.name in ("pjit", "jit"):
            inner = eqn.params["jaxpr"]
            results = _propagate(inner.jaxpr, inner.consts, operands)
        else:
            results = _step(eqn, operands)
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _step(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    """Apply one equation."""
    name = eqn.primitive.name
    moving = [i for i, x in enumerate(operands) if isinstance(x, _Dense | _Chain)]
    values = [_value(x) for x in operands]
    if not moving or name == "stop_gradient" or not any(_is_inexact(v.aval) for v in eqn.outvars):
        return _compat.run_equation(eqn, values)

    def run(*moved: Any) -> list[Any]:
        full = list(values)
        for i, x in zip(moving, moved, strict=True):
            full[i] = x
        return _compat.run_equation(eqn, full)

    real = all(jnp.isrealobj(values[i]) for i in moving)  # the modulus of complex numbers is curved
    flat = (name in _FLAT and (real or name not in ("abs", "sign"))) or (
        len(moving) == 1 and (name in _BILINEAR or (name == "div" and moving == [0]))
    )
    chained = _pointwise(eqn, [operands[i] for i in moving], run, flat)
    if chained is not None:
        return chained
    if name == "dot_general" and len(moving) == 1 and (rows := _rows(eqn, operands, moving[0])) is not None:
        (y,), second = run(values[moving[0]]), operands[moving[0]].second
        return [_Dense(y, rows, None if second is None else run(second)[0])]
    return _general(eqn, [operands[i].dense for i in moving], run, flat)


def _pointwise(eqn: Any, inputs: Sequence[Any], run: Callable[..., list[Any]], flat: bool) -> list[Any] | None:
    """Apply an equation that acts on each number of one base alone; None where it does not."""
    name, base = eqn.primitive.name, inputs[0].base
    custom = name == "custom_jvp_call"
    like = jax.typeof(base.value)
    if (not custom and name not in _POINTWISE) or jnp.iscomplexobj(base.value):
        return None
    if any(x.base is not base for x in inputs) or any(not _same_type(v.aval, like) for v in eqn.outvars):
        return None
    point = tuple(x.value for x in inputs)
    if name == "add" and len(inputs) == 1:
        return [inputs[0].shifted(*run(*point))]
    slopes = tuple(jnp.ones_like(base.value) if x.slope is None else x.slope for x in inputs)
    bends = {i: x.bend for i, x in enumerate(inputs) if x.bend is not None}

    def second_order(point: Any, slopes: Any, bends: Any) -> Any:
        def first_order(point: Any, bent: Any) -> Any:
            return jax.jvp(run, point, tuple(bent.get(i, slope) for i, slope in enumerate(slopes)))

        (ys, first), (_, second) = jax.jvp(first_order, (point, {i: slopes[i] for i in bends}), (slopes, bends))
        return ys, first, second

    if not custom:
        made = zip(*second_order(point, slopes, bends), strict=True)
        return [_Chain(y, base, slope, None if flat and not bends else bend) for y, slope, bend in made]
    closed = jax.make_jaxpr(second_order)(point, slopes, bends)
    if not _is_pointwise(closed.jaxpr, [True] * len(closed.jaxpr.invars), like):
        return None
    n = len(eqn.outvars)
    found = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves((point, slopes, bends)))
    made = zip(found[:n], found[n : 2 * n], found[2 * n :], strict=True)
    return [_Chain(_number(y, like), base, _number(s, like), b) for y, s, b in made]


def _general(eqn: Any, inputs: Sequence[_Dense], run: Callable[..., list[Any]], flat: bool) -> list[Any]:
    """Apply any equation."""
    point, first = tuple(x.value for x in inputs), tuple(x.first for x in inputs)
    ys, push = jax.linearize(run, *point)
    dys = jax.vmap(push)(*first)
    if eqn.primitive.name == "dot_general":  # XLA on CPUs would draw the sum of squares into a slower product
        dys = jax.lax.optimization_barrier(dys)
    lys: Sequence[Any] = [None] * len(ys)
    if any(x.second is not None for x in inputs):
        lys = push(*(jnp.zeros_like(x.value) if x.second is None else x.second for x in inputs))
    bends: Sequence[Any] = [None] * len(ys)
    if eqn.primitive.name in _BILINEAR and not flat:
        bends = [2 * e for e in jax.vmap(run)(*first)]
    elif not flat:
        bends = jax.vmap(lambda *v: jax.jvp(lambda *p: jax.jvp(run, p, v)[1], point, v)[1])(*first)
    results: list[Any] = []
    for v, y, dy, ly, bend in zip(eqn.outvars, ys, dys, lys, bends, strict=True):
        if _is_inexact(v.aval):
            y = _Dense(y, dy, ly if bend is None else _plus(ly, jnp.sum(bend, 0)))
        results.append(y)
    return results


def _rows(eqn: Any, operands: Sequence[Any], i: int) -> Any:
    """Return the derivatives of a product of a vector with a constant along the unit vectors: the constant's rows."""
    contracted, batched = eqn.params["dimension_numbers"]
    if not isinstance(operands[i].base.directions, _Identity) or operands[i].slope is not None:
        return None
    if batched[0] or len(contracted[0]) != 1:
        return None
    return jnp.moveaxis(operands[1 - i], contracted[1 - i][0], 0).astype(eqn.outvars[0].aval.dtype)


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
    """Run a jaxpr without what is multiplied by zeros; None stands for zero, among the arguments and results too.

    A rule of `jax.custom_jvp` gets zeros written out for what does not vary, where JAX itself knows them as zeros.
    """
    env: dict[Any, Any] = {}

    def read(v: Any) -> Any:
        if hasattr(v, "val"):
            return v.val if np.any(v.val) or not _is_inexact(v.aval) else None
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


def _plus(x: Any, y: Any) -> Any:
    """Add where None is zero."""
    return x if y is None else y if x is None else x + y


def _value(x: Any) -> Any:
    return x.value if isinstance(x, _Dense | _Chain) else x


def _laplacian(x: Any) -> Any:
    second = x.second if isinstance(x, _Dense | _Chain) else None
    return jnp.zeros_like(_value(x)) if second is None else second


def _is_inexact(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def _same_type(x: Any, y: Any) -> bool:
    return (x.shape, x.dtype) == (y.shape, y.dtype)
