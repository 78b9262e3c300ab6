"""Lifted gradients of a scalar with respect to the arguments: forces, scores, residuals.

    value_and_grad : (Module -> a -> R) -> Module -> a -> (R, CT a)

A reverse-mode sweep with a cotangent of one, and the checks that `jax.grad` makes, said before the backward pass is
built. Variables get no gradient here; `vjp` gives it.

Source: `jax.value_and_grad`; `flax.linen.grad` for the signature.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from liftax import ad
from liftax.ad.checks import check_float_primals, check_scalar_output, demand_pair, explain_arity
from liftax.core.pack import unbind
from liftax.lift.checks import check_filters, check_primals, check_streams
from liftax.typing import AxisName, Filter


def value_and_grad(
    fn: Callable[..., Any],
    mdl: Any,
    *primals: Any,
    has_aux: bool = False,
    reduce_axes: AxisName | Sequence[AxisName] = (),
    variables: Filter = True,
    rngs: Filter = True,
) -> Any:
    """Return the value of a scalar function of a module, and its gradient with respect to all arguments.

    Outside of a module use `lx.value_and_grad` or `jax.value_and_grad`. For gradients with respect to variables use
    `vjp`.

    Args:
        fn: Called as `fn(mdl, *primals)`; returns a real floating-point scalar.
        mdl: The target: a bound Module, a Scope, or a tree of these.
        *primals: What to differentiate at: floating-point arrays or trees of them.
        has_aux: `fn` returns a pair `(scalar, aux)`.
        reduce_axes: Names of mapped axes; see `lx.vjp`.
        variables: The collections that `fn` may use.
        rngs: The rng streams that `fn` may use.

    Returns:
        `(value, grads)`, or `((value, aux), grads)` if `has_aux`. `grads` is a tuple with one tree for each primal,
        also if there is only one.

    Raises:
        NonDifferentiableOutputError: The output is no real floating-point scalar.
        NonDifferentiablePrimalError: A primal is an integer, a Boolean, or no array.
        TransformTargetError, UnboundModuleError, InvalidScopeError, UnknownCollectionError, ArityError, AuxError: see
            `vjp`.

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
    return _value_and_grad("value_and_grad", fn, mdl, primals, has_aux, reduce_axes, variables, rngs)


def grad(
    fn: Callable[..., Any],
    mdl: Any,
    *primals: Any,
    has_aux: bool = False,
    reduce_axes: AxisName | Sequence[AxisName] = (),
    variables: Filter = True,
    rngs: Filter = True,
) -> Any:
    """Return the gradient of a scalar function of a module with respect to all arguments.

    Arguments and errors are those of `value_and_grad`.

    Returns:
        `grads`, or `(grads, aux)` if `has_aux`. `grads` is a tuple with one tree for each primal, also if there is
        only one.

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
    value, grads = _value_and_grad("grad", fn, mdl, primals, has_aux, reduce_axes, variables, rngs)
    return (grads, value[1]) if has_aux else grads


def _value_and_grad(
    what: str,
    fn: Callable[..., Any],
    mdl: Any,
    primals: tuple[Any, ...],
    has_aux: bool,
    reduce_axes: AxisName | Sequence[AxisName],
    variables: Filter,
    rngs: Filter,
) -> tuple[Any, tuple[Any, ...]]:
    packed = unbind(mdl, (variables,), rngs, what)
    check_primals(primals, what)
    check_float_primals(primals, [f"argument {i}" for i in range(len(primals))], what)
    check_streams(packed, rngs, what)
    check_filters(packed, what, variables=variables)

    def pure(*args: Any) -> Any:
        with packed.bind(packed.groups, packed.keys) as inner:
            try:
                out = fn(inner.target, *args)
            except TypeError as error:
                explain_arity(fn, (inner.target, *args), {}, error, what)
                raise
            out, aux = demand_pair(out, what) if has_aux else (out, None)
            check_scalar_output(out, what)
            return out, (aux, inner.collect())

    value, vjp_fn, (aux, state) = ad.vjp(pure, *primals, has_aux=True, reduce_axes=reduce_axes)
    packed.commit(state)
    check_filters(packed, what, state, variables=variables)
    return (value, aux) if has_aux else value, vjp_fn(jnp.ones_like(value))
