"""Lifted gradients of a scalar with respect to the arguments: forces, scores, residuals.

    value_and_grad : (Module -> a -> R) -> Module -> a -> (R, CT a)

A reverse-mode sweep with a cotangent of one, and the checks that `jax.grad` makes, said before the backward pass is
built. Variables get a gradient only where `vjp_variables` asks for it.

Source: `jax.value_and_grad`; `flax.linen.grad` for the signature.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from liftax import ad
from liftax.ad.checks import check_scalar_output
from liftax.explain.transform import Transform, described
from liftax.lift.machinery.operands import Operands, collections
from liftax.typing import AxisName, Filter

GRAD = Transform(
    "grad",
    "(fn, module, *primals)",
    output="scalar",
    mode="reverse",
    options=frozenset({"argnums", "holomorphic", "allow_int"}),
    filters=("vjp_variables", "variables"),
)
VALUE_AND_GRAD = dataclasses.replace(GRAD, name="value_and_grad")


@described(VALUE_AND_GRAD)
def value_and_grad(
    fn: Callable[..., Any],
    mdl: Any,
    *primals: Any,
    has_aux: bool = False,
    reduce_axes: AxisName | Sequence[AxisName] = (),
    variables: Filter = True,
    rngs: Filter = True,
    vjp_variables: Filter | None = False,
    argnums: int | Sequence[int] | None = None,
    holomorphic: bool = False,
    allow_int: bool = False,
    wrt: Filter | None = None,
) -> Any:
    """Return the value of a scalar function of a module, and its gradient with respect to its arguments.

    Outside of a module use `lx.value_and_grad` or `jax.value_and_grad`. For an output that is no scalar use `vjp`.

    Args:
        fn: Called as `fn(mdl, *primals)`; returns a real floating-point scalar.
        mdl: The target: a bound Module, a Scope, or a tree of these.
        *primals: What to differentiate at: floating-point arrays or trees of them.
        has_aux: `fn` returns a pair `(scalar, aux)`.
        reduce_axes: Names of mapped axes; see `nn.vjp`.
        variables: The collections that `fn` may use.
        rngs: The rng streams that `fn` may use.
        vjp_variables: The collections to differentiate with respect to, besides the arguments.
        argnums: Which arguments to differentiate with respect to, counted without the module: a number, several, or
            None for all.
        holomorphic: `fn` is promised to be holomorphic; what varies and the output are complex.
        allow_int: Accept integer and Boolean arguments and variables; their gradients have dtype `float0`.
        wrt: The same as `vjp_variables`, by the name that it has in every derivative transform.

    Returns:
        `(value, grads)`, or `((value, aux), grads)` if `has_aux`. `grads` is a tuple with one tree for each argument,
        also if there is only one. If `vjp_variables` is given, the gradients of the variables come before them, as
        `vjp_fn` gives them: `{collection: tree}`. If `argnums` is a number and `vjp_variables` is not given, `grads` is
        the gradient of that argument alone.

    Raises:
        NonDifferentiableOutputError: The output is no real floating-point scalar.
        NonDifferentiablePrimalError: What varies is an integer, a Boolean, or no array.
        ArityError: `argnums` names no argument, or nothing varies; `fn` does not take `(mdl, *primals)`.
        TransformTargetError, UnboundModuleError, InvalidScopeError, UnknownCollectionError, AuxError: see `vjp`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Energy(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, r):
        ...         return 0.5 * self.param('k', nn.initializers.ones, ()) * jnp.sum(r**2)
        >>> class ForceField(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, r):
        ...         energy, (slope,) = nn.value_and_grad(lambda mdl, r: mdl(r), Energy(), r)
        ...         return energy, -slope
        >>> ForceField().apply({'params': {'Energy_0': {'k': 3.0}}}, jnp.array([1.0, 2.0]))
        (Array(7.5, dtype=float32), Array([-3., -6.], dtype=float32))
    """
    return _value_and_grad(
        VALUE_AND_GRAD, fn, mdl, primals, has_aux, reduce_axes, {"holomorphic": holomorphic, "allow_int": allow_int},
        variables=variables, rngs=rngs, argnums=argnums,
        wrt=collections(VALUE_AND_GRAD, wrt, "vjp_variables", vjp_variables or False, False),
    )  # fmt: skip


@described(GRAD)
def grad(
    fn: Callable[..., Any],
    mdl: Any,
    *primals: Any,
    has_aux: bool = False,
    reduce_axes: AxisName | Sequence[AxisName] = (),
    variables: Filter = True,
    rngs: Filter = True,
    vjp_variables: Filter | None = False,
    argnums: int | Sequence[int] | None = None,
    holomorphic: bool = False,
    allow_int: bool = False,
    wrt: Filter | None = None,
) -> Any:
    """Return the gradient of a scalar function of a module with respect to its arguments.

    Arguments and errors are those of `value_and_grad`.

    Returns:
        `grads`, or `(grads, aux)` if `has_aux`; `grads` is as `value_and_grad` gives it.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Norm(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         return self.param('scale', nn.initializers.ones, ()) * jnp.sum(x**2)
        >>> class Slope(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         return nn.grad(lambda mdl, x: mdl(x), Norm(), x)
        >>> Slope().apply({'params': {'Norm_0': {'scale': 2.0}}}, jnp.array([1.0, 3.0]))
        (Array([ 4., 12.], dtype=float32),)
    """
    value, grads = _value_and_grad(
        GRAD, fn, mdl, primals, has_aux, reduce_axes, {"holomorphic": holomorphic, "allow_int": allow_int},
        variables=variables, rngs=rngs, argnums=argnums,
        wrt=collections(GRAD, wrt, "vjp_variables", vjp_variables or False, False),
    )  # fmt: skip
    return (grads, value[1]) if has_aux else grads


def _value_and_grad(
    transform: Transform,
    fn: Callable[..., Any],
    mdl: Any,
    primals: tuple[Any, ...],
    has_aux: bool,
    reduce_axes: AxisName | Sequence[AxisName],
    dtypes: Mapping[str, bool],
    **operands_of: Any,
) -> tuple[Any, Any]:
    """Return `(value, grads)` or `((value, aux), grads)`; `operands_of` are the other arguments of `Operands.of`."""
    operands = Operands.of(
        transform, mdl, primals, wrt_argument="vjp_variables", dtypes=dtypes, **operands_of
    ).created(fn, has_aux)  # fmt: skip

    def check(out: Any) -> None:
        check_scalar_output(out, transform, holomorphic=dtypes["holomorphic"])

    pure = operands.pure(fn, has_aux, check)
    value, vjp_fn, (aux, run) = ad.vjp(pure, *operands.point, has_aux=True, reduce_axes=operands.bound(reduce_axes))
    operands.commit(run)
    return (value, aux) if has_aux else value, operands.layout(vjp_fn(jnp.ones_like(value)))
