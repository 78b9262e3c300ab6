"""Lifted implicit layers: solutions of equations of a module, as deep equilibrium models need them.

    fixed_point, root : (Module -> a -> b -> a) -> Module -> a -> b -> a

One call to `ad.fixed_point` or `ad.root`. Every step sees the same variables and draws the same keys, so that there is
an equation to solve; state is written once, by one more application at the solution.

Source: see `liftax.ad.implicit`.
"""

from collections.abc import Callable
from typing import Any

from liftax import ad
from liftax.ad.implicit.failure import OnFailure
from liftax.ad.notes import noted
from liftax.explain.transform import Transform, described
from liftax.lift.machinery.operands import Operands
from liftax.typing import Filter

FIXED_POINT = Transform("fixed_point", "(fn, module, x0, *args)", output="like the first argument")
ROOT = Transform("root", "(fn, module, x0, *args)", output="like the first argument")


@described(FIXED_POINT)
def fixed_point(
    fn: Callable[..., Any],
    mdl: Any,
    x0: Any,
    *args: Any,
    has_aux: bool = False,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 1000,
    solver: Any = None,
    linear_solver: Any = None,
    on_failure: OnFailure = "nan",
    variables: Filter = True,
    rngs: Filter = True,
) -> tuple[Any, ...]:
    """Solve `x = fn(mdl, x, *args)` by iteration, and differentiate the solution in `args` and the variables.

    Memory does not grow with the number of steps. Outside of a module use `lx.fixed_point`.

    Args:
        fn: Called as `fn(mdl, x, *args)`; its output is like `x`. A contraction in `x`; otherwise use `root`.
        mdl: The target: a bound Module, a Scope, or a tree of these.
        x0: Where to start: a tree of floating-point arrays. The derivative with respect to it is zero.
        *args: The other arguments.
        has_aux: `fn` returns a pair `(output, aux)`.
        rtol: Relative tolerance; see `lx.fixed_point`, also for the following.
        atol: Absolute tolerance.
        max_steps: Stop after so many steps.
        solver: How to step, such as `lx.Anderson()`.
        linear_solver: What solves the linear system of the derivative.
        on_failure: What to return where no solution was found: "nan", "raise" or "return".
        variables: The collections that `fn` may use.
        rngs: The rng streams that `fn` may use. All steps draw the same keys.

    Returns:
        `(x, info)`, the solution, like `x0`, and a `liftax.ad.SolveInfo`; or `(x, info, aux)` if `has_aux`. `aux` and
        state are those of one more application of `fn` at the solution.

    Raises:
        AuxError: With `has_aux`, `fn` returned anything but a pair.
        NonDifferentiableOutputError: The output of `fn` is not like `x0`.
        NonDifferentiablePrimalError: `x0` is not floating-point.
        ConvergenceError: With `on_failure="raise"`, no solution was found.
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
    return _solved(
        FIXED_POINT, ad.fixed_point, fn, mdl, (x0, *args), has_aux, variables, rngs, rtol=rtol, atol=atol,
        max_steps=max_steps, solver=solver, linear_solver=linear_solver, on_failure=on_failure,
    )  # fmt: skip


@described(ROOT)
def root(
    fn: Callable[..., Any],
    mdl: Any,
    x0: Any,
    *args: Any,
    has_aux: bool = False,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 50,
    solver: Any = None,
    linear_solver: Any = None,
    on_failure: OnFailure = "nan",
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
    return _solved(
        ROOT, ad.root, fn, mdl, (x0, *args), has_aux, variables, rngs, rtol=rtol, atol=atol,
        max_steps=max_steps, solver=solver, linear_solver=linear_solver, on_failure=on_failure,
    )  # fmt: skip


def _solved(
    transform: Transform,
    solve: Callable[..., Any],
    fn: Callable[..., Any],
    mdl: Any,
    primals: tuple[Any, ...],
    has_aux: bool,
    variables: Filter,
    rngs: Filter,
    **options: Any,
) -> tuple[Any, ...]:
    operands = Operands.of(transform, mdl, primals, argnums=0, variables=variables, rngs=rngs, dtypes={})
    run, fixed = operands.pure(fn, has_aux), operands.packed.groups[0]
    with noted():
        x, info = solve(lambda x: run(fixed, x)[0], primals[0], **options)
    _, (aux, done) = run(fixed, x)
    operands.commit(done)
    return (x, info, aux) if has_aux else (x, info)
