"""What a solver returns where it found no solution: `on_failure`.

    settle : (a, SolveInfo) -> a

A number that solves nothing looks like one that does. So by default it becomes NaN, and so do derivatives with respect
to anything. To be told at once, raise an error: outside of `jax.jit` it is raised where the solver ends; inside, no
value is known yet, and the check is handed to `jax.experimental.checkify`.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from liftax.ad.implicit.iteration import SolveInfo
from liftax.errors import ConvergenceError
from liftax.explain.transform import Transform

OnFailure = Literal["nan", "raise", "return"]


def settle(transform: Transform, x: Any, info: SolveInfo, on_failure: OnFailure) -> Any:
    """Return `x`, or what `on_failure` puts in its place where `info` says that it is no solution.

    Args:
        transform: for error messages.
        x: the tree that the solver ended with.
        info: how it ended.
        on_failure: what to do.

    Raises:
        ConvergenceError: with "raise", where `info` is known.
    """
    if on_failure == "return":
        return x
    if on_failure == "nan":
        keep = jnp.where(info.converged, 1.0, jnp.nan)  # a factor: with jnp.where the derivative would be zero
        return jax.tree.map(lambda x: x * keep.astype(x.dtype), x)
    text = (
        f"{transform} found no solution: it ended after {{}} steps with an error of {{}}. Start nearer to the "
        "solution, "
        "allow more steps (max_steps) or larger tolerances (rtol, atol), or choose another solver; on_failure='return' "
        "returns what was reached."
    )
    try:
        converged = bool(info.converged)
    except jax.errors.ConcretizationTypeError:
        from jax.experimental import checkify  # on demand: few programs use it

        checkify.check(info.converged, text, info.steps, info.error)
    else:
        if not converged:
            raise ConvergenceError(text.format(int(info.steps), f"{float(info.error):.3g}"))
    return x
