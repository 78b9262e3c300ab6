"""Functions that are traced once and run from their jaxpr, with all that they close over given as arguments."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core


class Staged(NamedTuple):
    """A function that was traced once.

    Args:
        jaxpr: the program, of flat values.
        consts: what the function closes over.
        run: `run(consts, *args)` is the function's result.
    """

    jaxpr: Any
    consts: list[Any]
    run: Callable[..., Any]


def staged(fun: Callable[..., Any], *example: Any) -> Staged:
    """Trace `fun`, with all that it closes over taken out.

    `jax.closure_convert` takes out only what is being differentiated. Uses `consts` of jaxprs, `eval_jaxpr`.
    """
    traced, shape = jax.make_jaxpr(fun, return_shape=True)(*example)
    jaxpr, structure, consts = without_consts(traced), jax.tree.structure(shape), list(traced.consts)

    def run(consts: Any, *args: Any) -> Any:
        return jax.tree.unflatten(structure, jax.core.eval_jaxpr(jaxpr, consts, *jax.tree.leaves(args)))

    return Staged(jaxpr, consts, run)


def closed(fun: Callable[..., Any], *example: Any) -> tuple[Callable[..., Any], list[Any]]:
    """Return `(run, consts)`: `run(consts, *args)` is `fun(*args)`, traced once, with all that it closes over given."""
    found = staged(fun, *example)
    return found.run, found.consts


def without_consts(traced: Any) -> Any:
    """Return the jaxpr of what `jax.make_jaxpr` returns, without the values that the function closed over.

    Their variables come first among the inputs, for `jax.core.eval_jaxpr(jaxpr, consts, *args)`. Up to JAX 0.11 the
    values are beside the jaxpr; in JAX 0.12 they are in it (`with_consts`), where keeping it would keep them.
    """
    jaxpr = traced.jaxpr
    return jaxpr.with_consts([]) if hasattr(jaxpr, "with_consts") else jaxpr
