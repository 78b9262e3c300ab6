"""Lifted implicit layers: solutions of equations of a module, as deep equilibrium models need them.

    fixed_point, root : (Module -> a -> b -> a) -> Module -> a -> b -> a

One call to `ad.fixed_point` or `ad.root`. Every step sees the same variables and draws the same keys, so that there is
an equation to solve; state is written once, by one more application at the solution.

Source: see `liftax.ad.implicit`.
"""

from collections.abc import Callable
from typing import Any

from liftax import ad
from liftax.ad.notes import noted
from liftax.lift.operands import Operands
from liftax.typing import Filter


def fixed_point(
    fn: Callable[..., Any],
    mdl: Any,
    x0: Any,
    *args: Any,
    has_aux: bool = False,
    tolerance: float = 1e-6,
    max_steps: int = 1000,
    variables: Filter = True,
    rngs: Filter = True,
) -> tuple[Any, ...]:
    """Solve `x = fn(mdl, x, *args)` by iteration, and differentiate the solution in `args` and the variables.

    Memory does not grow with the number of steps. Outside of a module use `lx.fixed_point`.

    Args:
        fn: Called as `fn(mdl, x, *args)`; its output is like `x`. A contraction in `x`; otherwise use `root`.
        mdl: The target: a bound Module, a Scope, or a tree of these.
        x0: Where to start: a tree of floating-point arrays. The derivative in it is zero.
        *args: The other arguments.
        has_aux: `fn` returns a pair `(output, aux)`.
        tolerance: Stop when no number changes by more than this.
        max_steps: Stop after so many steps. Look at `info.error` if they may not do.
        variables: The collections that `fn` may use.
        rngs: The rng streams that `fn` may use. All steps draw the same keys.

    Returns:
        `(x, info)`, the solution, like `x0`, and a `liftax.ad.SolveInfo`; or `(x, info, aux)` if `has_aux`. `aux` and
        state are those of one more application of `fn` at the solution.

    Raises:
        AuxError: With `has_aux`, `fn` returned no pair.
        NonDifferentiableOutputError: The output of `fn` is not like `x0`.
        NonDifferentiablePrimalError: `x0` is not floating-point.
        CustomRuleError: (while differentiating) A `custom_vjp` in `fn` has a rule that is not linear in the cotangent.
        TransformTargetError, UnboundModuleError, InvalidScopeError, UnknownCollectionError, ArityError: see `vjp`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Equilibrium(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         z, info = nn.fixed_point(lambda cell, z, x: 0.5 * cell(z) + x, nn.Dense(2), jnp.zeros_like(x), x)
        ...         return z
        >>> variables = {'params': {'Dense_0': {'kernel': jnp.eye(2), 'bias': jnp.zeros(2)}}}
        >>> Equilibrium().apply(variables, jnp.array([1.0, 2.0])).round(4)
        Array([2., 4.], dtype=float32)
    """
    return _solved("fixed_point", ad.fixed_point, fn, mdl, (x0, *args), has_aux, tolerance, max_steps, variables, rngs)


def root(
    fn: Callable[..., Any],
    mdl: Any,
    x0: Any,
    *args: Any,
    has_aux: bool = False,
    tolerance: float = 1e-6,
    max_steps: int = 50,
    variables: Filter = True,
    rngs: Filter = True,
) -> tuple[Any, ...]:
    """Solve `fn(mdl, x, *args) = 0` by Newton's method, and differentiate the solution in `args` and the variables.

    Arguments, result and errors are those of `fixed_point`. Outside of a module use `lx.root`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Inverse(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, y):
        ...         x, info = nn.root(lambda layer, x, y: layer(x) - y, nn.Dense(2), jnp.zeros_like(y), y)
        ...         return x
        >>> variables = {'params': {'Dense_0': {'kernel': 2 * jnp.eye(2), 'bias': jnp.ones(2)}}}
        >>> Inverse().apply(variables, jnp.array([3.0, 5.0])).round(4)
        Array([1., 2.], dtype=float32)
    """
    return _solved("root", ad.root, fn, mdl, (x0, *args), has_aux, tolerance, max_steps, variables, rngs)


def _solved(
    what: str,
    solve: Callable[..., Any],
    fn: Callable[..., Any],
    mdl: Any,
    primals: tuple[Any, ...],
    has_aux: bool,
    tolerance: float,
    max_steps: int,
    variables: Filter,
    rngs: Filter,
) -> tuple[Any, ...]:
    operands = Operands(what, mdl, primals, False, 0, variables, rngs)
    run = operands.pure(fn, has_aux)

    def pure(x: Any) -> Any:
        return run(operands.packed.groups[0], x)[0]

    with noted():
        x, info = solve(pure, primals[0], tolerance=tolerance, max_steps=max_steps)
    _, (_, aux, state) = run(operands.packed.groups[0], x)
    operands.commit(state)
    return (x, info, aux) if has_aux else (x, info)
