"""Loops that end by a condition, or after a number of steps, and can be differentiated backwards.

    while_loop : (c -> Bool) -> (c -> c) -> c -> c
    fori_loop  : Int -> Int -> (Int -> c -> c) -> c -> c

Source: `jax.lax.while_loop` and `jax.lax.fori_loop` for the signatures; `liftax.ad.loops.schedule` for the algorithm.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from liftax import _compat
from liftax.ad.loops.call import arrays, check_number, chosen, raised, staged_body
from liftax.ad.loops.derivative import loop
from liftax.ad.loops.program import Arrays, Example, Operands, Options, Program
from liftax.errors import ArityError, MaxStepsError
from liftax.explain.functions import demand_callable

T = TypeVar("T")


def while_loop(
    cond_fun: Callable[[T], Any],
    body_fun: Callable[[T], T],
    init: T,
    *,
    max_steps: int | None = None,
    checkpoints: int | None = None,
    checked: bool = False,
) -> T:
    """Repeat a function as long as a condition holds: `jax.lax.while_loop`, differentiable in both modes.

    Backwards, the memory of `checkpoints` carries is taken, however many steps there are: other carries are computed
    again, `recomputed_steps` times in all if the best moments to keep one were known. Where nothing is differentiated
    the program is that of `jax.lax.while_loop`.

    Derivatives are those of the steps that are taken. What the condition depends on has no derivative through it.

    Args:
        cond_fun: Called as `cond_fun(carry)`; returns a Boolean scalar.
        body_fun: Called as `body_fun(carry)`; returns the next carry, of the same structure, shapes and dtypes. Arrays
            that it closes over are differentiated.
        init: The first carry: a tree of arrays. Integers, Booleans and keys have no derivative.
        max_steps: Stop after so many steps. The result is then the carry after that step. None: no bound.
        checkpoints: How many carries to keep for the way back, the initial one included. None: all, if `max_steps` is
            at most 256; otherwise 128.
        checked: Raise if the condition still holds after `max_steps`, instead of returning. Inside `jax.jit` the error
            comes when the program runs, wrapped in JAX's.

    Returns:
        The last carry.

    Raises:
        ArityError: A function can't be called, `max_steps` is not an integer from 0 on, or `checkpoints` not one from 1
            on; or `checked` without `max_steps`.
        MaxStepsError: `checked`, and the condition holds after `max_steps`.
        TypeError: From JAX: the carry changes its type, or the condition is not a Boolean scalar.

    Example:
        >>> import jax
        >>> import liftax as lx
        >>> def doubled(x):  # until it exceeds 100
        ...     return lx.while_loop(lambda x: x < 100, lambda x: 2 * x, x)
        >>> print(doubled(3.0), jax.grad(doubled)(3.0))
        192.0 64.0
    """
    for fun in (cond_fun, body_fun):
        demand_callable(fun, "while_loop")
    check_number(max_steps, "max_steps", "while_loop", 0)
    check_number(checkpoints, "checkpoints", "while_loop", 1)
    if checked:
        return _checked(cond_fun, body_fun, init, max_steps, checkpoints)
    structure = jax.tree.structure(init)

    def complain(flat: Any) -> Any:
        return lax.while_loop(cond_fun, body_fun, jax.tree.unflatten(structure, flat))

    def body(flat: Any) -> tuple[list[Any], list[Any]]:
        out, found = jax.tree.flatten(body_fun(jax.tree.unflatten(structure, flat)))
        if found != structure:
            raised(complain, flat)
        return [jnp.asarray(x) for x in out], []

    def goes_on(flat: Any) -> Any:
        return cond_fun(jax.tree.unflatten(structure, flat))

    start = arrays(init)
    condition = _compat.staged(goes_on, start)
    flat, step = staged_body(body, start, complain)
    if any(a.dtype != b.dtype for a, b in zip(start, flat, strict=True)):
        condition = _compat.staged(goes_on, flat)
    holds = [v.aval for v in condition.jaxpr.outvars]
    if len(holds) != 1 or holds[0].shape or holds[0].dtype != bool:
        raised(complain, flat)
    return jax.tree.unflatten(structure, _run(step, condition, flat, max_steps, checkpoints))


def _run(
    step: _compat.Staged, condition: _compat.Staged, flat: list[Any], max_steps: int | None, checkpoints: int | None
) -> Any:
    n = len(step.consts)
    consts = tuple(jnp.asarray(x) for x in (*step.consts, *condition.consts))

    def one(consts: Arrays, alive: Any, i: Any, x: Arrays, state: Arrays) -> tuple[Arrays, Arrays]:
        return step.run(list(consts[:n]), list(state))

    def holds(consts: Arrays, i: Any, state: Arrays) -> Any:
        on = condition.run(list(consts[n:]), list(state))
        return on if max_steps is None else on & (i < max_steps)

    def plain(operands: Operands) -> tuple[Any, Any]:
        consts, _, _, init = operands
        if max_steps is None:
            return lax.while_loop(
                lambda s: holds(consts, 0, s), lambda s: one(consts, None, 0, (), s)[0], list(init)
            ), []
        start = (jnp.zeros((), jnp.int32), list(init))
        return lax.while_loop(
            lambda c: holds(consts, *c), lambda c: (c[0] + 1, one(consts, None, c[0], (), c[1])[0]), start
        )[1], []

    example = Example(list(consts), jnp.ones((), bool), [], list(flat))
    options = Options(None, max_steps, chosen(checkpoints, max_steps))
    program = Program(one, holds, example, options, plain=plain)
    return loop(program, Operands(consts, (), (), tuple(flat))).state


def _checked(
    cond_fun: Callable[[T], Any], body_fun: Callable[[T], T], init: T, max_steps: int | None, checkpoints: int | None
) -> T:
    if max_steps is None:
        raise ArityError("while_loop got checked=True and no max_steps, so that there is nothing to check. Give both.")
    start = (jnp.zeros((), jnp.int32), init)
    steps, out = while_loop(
        lambda c: cond_fun(c[1]), lambda c: (c[0] + 1, body_fun(c[1])), start, max_steps=max_steps,
        checkpoints=checkpoints,
    )  # fmt: skip
    unfinished = (steps >= max_steps) & lax.stop_gradient(cond_fun(out))

    def complain(unfinished: Any) -> None:
        if unfinished:
            raise MaxStepsError(
                f"while_loop took max_steps={max_steps} steps, and its condition still holds. Give it more steps, or "
                "leave checked=True out if the carry after the last one will do."
            )

    try:
        known = bool(unfinished)
    except jax.errors.ConcretizationTypeError:
        jax.debug.callback(complain, unfinished)
    else:
        complain(known)
    return out


def fori_loop(lower: Any, upper: Any, body_fun: Callable[[Any, T], T], init: T, *, checkpoints: int | None = None) -> T:
    """Repeat a function for the integers from `lower` up to `upper`: `jax.lax.fori_loop`, differentiable in both modes.

    The bounds may be traced, which JAX's own loop can't differentiate backwards. For the memory see `while_loop`.

    Args:
        lower: The first integer.
        upper: The integer behind the last one.
        body_fun: Called as `body_fun(i, carry)`; returns the next carry. Arrays that it closes over are differentiated.
        init: The first carry: a tree of arrays.
        checkpoints: How many carries to keep for the way back, the initial one included. None: all that JAX's own loop
            keeps, if there are at most 256 steps, known before; otherwise 128.

    Returns:
        The last carry.

    Raises:
        ArityError: `body_fun` can't be called, or `checkpoints` is not an integer from 1 on.
        TypeError: From JAX: the carry changes its type, or a bound is not an integer.

    Example:
        >>> import jax
        >>> import liftax as lx
        >>> def power(x, n):
        ...     return lx.fori_loop(0, n, lambda i, y: x * y, 1.0)
        >>> print(jax.jit(jax.grad(power))(2.0, 3))
        12.0
    """
    demand_callable(body_fun, "fori_loop")
    check_number(checkpoints, "checkpoints", "fori_loop", 1)
    known = not any(_compat.is_tracer(x) for x in (lower, upper))
    length = max(int(upper) - int(lower), 0) if known and all(jnp.ndim(x) == 0 for x in (lower, upper)) else None
    if length is not None and (length == 0 or (checkpoints is None and chosen(None, length) == length)):
        return lax.fori_loop(lower, upper, body_fun, init)
    jax.eval_shape(lambda: lax.fori_loop(lower, upper, lambda i, c: c, ()))  # raises for bounds that are not integers
    dtype = jax.dtypes.result_type(lower, upper)
    lower, upper = (jnp.asarray(x).astype(dtype) for x in (lower, upper))
    structure = jax.tree.structure(init)

    def complain(flat: Any) -> Any:
        return lax.fori_loop(lower, upper, body_fun, jax.tree.unflatten(structure, flat))

    def body(carry: Any) -> tuple[list[Any], list[Any]]:
        i, *flat = carry
        out, found = jax.tree.flatten(body_fun(i, jax.tree.unflatten(structure, flat)))
        if found != structure:
            raised(complain, flat)
        return [i, *map(jnp.asarray, out)], []

    (_, *flat), step = staged_body(body, [lower, *arrays(init)], lambda carry: complain(carry[1:]))
    consts = tuple(jnp.asarray(x) for x in (*step.consts, lower, upper))

    def one(consts: Arrays, alive: Any, i: Any, x: Arrays, state: Arrays) -> tuple[Arrays, Arrays]:
        (_, *out), _ = step.run(list(consts[:-2]), [consts[-2] + i.astype(dtype), *state])
        return out, []

    def plain(operands: Operands) -> tuple[Any, Any]:
        consts = list(operands.consts)
        first, last = (lower, upper) if length is not None else consts[-2:]

        def at(i: Any, state: Any) -> Any:
            return step.run(consts[:-2], [i, *state])[0][1:]

        return lax.fori_loop(first, last, at, list(operands.init)), []

    example = Example(list(consts), jnp.ones((), bool), [], list(flat))
    program = Program(one, None, example, Options(length, length, chosen(checkpoints, length)), plain=plain)
    count = () if length is not None else (jnp.maximum(upper - lower, 0).astype(jnp.int32),)
    out = loop(program, Operands(consts, (), count, tuple(flat)))
    return jax.tree.unflatten(structure, out.state)
