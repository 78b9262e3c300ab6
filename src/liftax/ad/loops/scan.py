"""Scans with memory for few of their steps.

    scan : (c -> x -> (c, y)) -> c -> [x] -> (c, [y])

Source: `jax.lax.scan` for the signature; `liftax.ad.loops.schedule` for the algorithm.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from liftax.ad.loops.call import arrays, check_number, chosen, raised, staged_body
from liftax.ad.loops.derivative import loop
from liftax.ad.loops.program import Arrays, Example, Operands, Options, Program
from liftax.explain.functions import demand_callable


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
    *,
    checkpoints: int | None = None,
) -> tuple[Any, Any]:
    """Run a function over the leading axis of arrays: `jax.lax.scan`, with memory for `checkpoints` carries.

    JAX's own scan keeps for the way back what each step needs there. This one keeps `checkpoints` carries, whatever the
    number of steps, and computes the others again, by the schedule that takes the fewest steps (`recomputed_steps`).

    Args:
        f: Called as `f(carry, x)`; returns the next carry and an output. Arrays that it closes over are differentiated.
        init: The first carry: a tree of arrays.
        xs: A tree of arrays to scan over, or None.
        length: The number of steps, if `xs` does not tell.
        reverse: Scan from the end to the start.
        unroll: How many steps one iteration takes where nothing is computed again; see `jax.lax.scan`.
        checkpoints: How many carries to keep for the way back, the initial one included. None: what JAX's own scan
            keeps, if there are at most 256 steps; otherwise 128 carries.

    Returns:
        `(carry, ys)`: the last carry, and the outputs of all steps, stacked.

    Raises:
        ArityError: `f` can't be called, or `checkpoints` is not an integer from 1 on.
        TypeError, ValueError: From JAX: the carry changes its type, or the lengths differ.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import liftax as lx
        >>> def last(x):  # 10,000 steps with memory for 20
        ...     return lx.scan(lambda x, _: (x + 1e-4 * jnp.cos(x), None), x, length=10_000, checkpoints=20)[0]
        >>> print(f"{last(0.0):.4f} {jax.grad(last)(0.0):.4f}")
        0.8658 0.6481
    """
    demand_callable(f, "scan")
    check_number(checkpoints, "checkpoints", "scan", 1)
    structure, structure_x = jax.tree.structure(init), jax.tree.structure(xs)

    def complain(flat: Any, flat_x: Any) -> Any:
        return lax.scan(
            f, jax.tree.unflatten(structure, flat), jax.tree.unflatten(structure_x, flat_x), length, reverse, unroll
        )

    flat_x = arrays(xs)
    lengths = {x.shape[0] if x.ndim else None for x in flat_x} | ({int(length)} if length is not None else set())
    if len(lengths) != 1 or None in lengths:
        raised(complain, arrays(init), flat_x)
    (steps,) = lengths
    if steps == 0 or (checkpoints is None and chosen(None, steps) == steps):
        return lax.scan(f, init, xs, length, reverse, unroll)
    rest: list[Any] = []

    def body(flat: Any, x: Any) -> tuple[list[Any], list[Any]]:
        out = f(jax.tree.unflatten(structure, flat), jax.tree.unflatten(structure_x, x))
        if not isinstance(out, tuple | list) or len(out) != 2 or jax.tree.structure(out[0]) != structure:
            raised(complain, flat, flat_x)
        flat_y, structure_y = jax.tree.flatten(out[1])
        rest[:] = [structure_y]
        return [jnp.asarray(v) for v in jax.tree.leaves(out[0])], [jnp.asarray(v) for v in flat_y]

    x = [jax.ShapeDtypeStruct(v.shape[1:], v.dtype, weak_type=jax.typeof(v).weak_type) for v in flat_x]
    flat, step = staged_body(body, arrays(init), lambda flat: complain(flat, flat_x), x)
    consts = tuple(jnp.asarray(c) for c in step.consts)

    def one(consts: Arrays, alive: Any, i: Any, x: Arrays, state: Arrays) -> tuple[Arrays, Arrays]:
        return step.run(list(consts), list(state), list(x))

    def plain(operands: Operands) -> tuple[list[Any], list[Any]]:
        consts = list(operands.consts)
        return lax.scan(
            lambda state, x: step.run(consts, state, x), list(operands.init), list(operands.xs), steps, reverse, unroll
        )

    example = Example(list(consts), jnp.ones((), bool), x, list(flat))
    program = Program(one, None, example, Options(steps, steps, chosen(checkpoints, steps), reverse), plain=plain)
    out = loop(program, Operands(consts, tuple(flat_x), (), tuple(flat)))
    return jax.tree.unflatten(structure, out.state), jax.tree.unflatten(rest[0], out.ys)
