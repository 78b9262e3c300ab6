"""What is asked of a program: that liftax gives what Linen gives, and that its own answers agree with each other.

check : Program -> None, or AssertionError; Skipped if Linen does not run the program
"""

import gc
from collections.abc import Callable
from typing import Any

import flax.linen
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from liftax import nn

from .programs import KEYS, MUTABLE, WIDTH, Program, build

X = jnp.linspace(-1.0, 1.0, WIDTH)
TOLERANCE = 2e-3
"""Of the largest element: third derivatives in float32, whose sums XLA orders otherwise in each program."""

Function = Callable[[Any, Any], Any]


class Skipped(Exception):
    """Linen refuses the program, so that there is nothing to compare with."""


def flat(tree: Any) -> Any:
    """Return all floating-point numbers of a tree as one vector."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.floating)]
    return jax.flatten_util.ravel_pytree(leaves)[0]


def weighted(y: Any) -> Any:
    """Return a number that depends on each element of a vector in its own way."""
    return (y * jnp.cos(jnp.arange(y.size, dtype=y.dtype))).sum()


OUTER: dict[str, Callable[[Function], Function]] = {
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "grad": lambda f: lambda v, x: flat(jax.grad(lambda v, x: weighted(f(v, x)), argnums=(0, 1))(v, x)),
    "jvp": lambda f: lambda v, x: sum(jax.jvp(f, (v, x), (jax.tree.map(jnp.cos, v), jnp.sin(x)))),
    "vmap": lambda f: lambda v, x: jax.vmap(lambda x: f(v, x))(jnp.stack([x, -x])).mean(0),
}


def function(module: Any, program: Program, outer: bool = True) -> Function:
    """Return `apply` as a function from variables and an input to one vector, inside the program's raw transforms."""

    def f(variables: Any, x: Any) -> Any:
        return flat(module.apply(variables, x, rngs=KEYS, mutable=MUTABLE))

    for name in reversed(program.outer) if outer else ():
        f = OUTER[name](f)
    return f


def close(got: Any, expected: Any, what: str) -> None:
    """Compare two trees, each array by its largest element."""
    assert jax.tree.structure(got) == jax.tree.structure(expected), what
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        where = f"{what}{jax.tree_util.keystr(path)}"
        assert (a.shape, a.dtype) == (b.shape, b.dtype), where
        scale = np.abs(b).max(initial=1.0)
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE * float(scale), err_msg=where)


def tracers() -> int:
    """Return how many tracers are alive."""
    gc.collect()
    return sum(isinstance(x, jax.core.Tracer) for x in gc.get_objects())


def check(program: Program) -> None:
    """Compare a program on liftax with itself on Linen, and with itself run in other ways."""
    try:
        theirs = build(flax.linen, program)
        expected = jax.jit(theirs.init)(KEYS, X)
        if not all(np.isfinite(x).all() for x in jax.tree.leaves(expected)):
            raise Skipped
        outputs = jax.jit(function(theirs, program))(expected, X)
    except Exception as error:
        raise Skipped from error

    known = tracers()
    ours = build(nn, program)
    variables = ours.init(KEYS, X)
    close(variables, expected, "init")
    before = jax.tree.map(np.array, variables)
    f = function(ours, program)
    got = jax.jit(f)(variables, X)
    if np.isfinite(outputs).all():
        close(got, outputs, "outputs")
    again = jax.jit(lambda variables, x: f(variables, x))(variables, X)
    assert np.array_equal(again, got, equal_nan=True), "the second call differs from the first"
    close(f(variables, X), got, "eager")
    shapes = jax.eval_shape(lambda: ours.init(KEYS, X))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(lambda x: (x.shape, x.dtype), variables)
    close(variables, before, "the variables that were handed over")
    assert tracers() <= known, "a tracer lives on"
