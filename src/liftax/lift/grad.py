"""Lifted gradients of a scalar with respect to the arguments: forces, scores, residuals.

    value_and_grad : (Module -> a -> R) -> Module -> a -> (R, CT a)

A reverse-mode sweep with a cotangent of one, and the checks that `jax.grad` makes, said before the backward pass is
built. Variables get a gradient only where `vjp_variables` asks for it.

Source: `jax.value_and_grad`; `flax.linen.grad` for the signature.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from liftax import ad, errors
from liftax.ad.argnums import indices, positions
from liftax.ad.checks import check_float_primals, check_scalar_output, demand_pair, explain_arity
from liftax.ad.reduce import bound_axes
from liftax.core import filters
from liftax.core.pack import unbind
from liftax.lift.checks import check_filters, check_primals, check_streams
from liftax.lift.operands import Layout
from liftax.typing import AxisName, Filter


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
        "value_and_grad", fn, mdl, primals, has_aux, reduce_axes, variables, rngs, vjp_variables, argnums, holomorphic,
        allow_int,
    )  # fmt: skip


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
        "grad", fn, mdl, primals, has_aux, reduce_axes, variables, rngs, vjp_variables, argnums, holomorphic, allow_int
    )
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
    vjp_variables: Filter | None,
    argnums: int | Sequence[int] | None,
    holomorphic: bool,
    allow_int: bool,
) -> tuple[Any, Any]:
    wrt: Filter = False if vjp_variables is None else vjp_variables
    packed = unbind(mdl, (wrt, variables), rngs, what)
    asked = tuple(range(len(primals))) if argnums is None else indices(argnums, what)
    where = positions(asked, len(primals), what)
    layout = Layout(packed.view, not filters.is_empty(wrt), isinstance(asked, int))
    diff = tuple(primals[i] for i in where)
    if not diff and not layout.with_variables:
        raise errors.ArityError(
            f"{what} has nothing to differentiate with respect to: no argument, and vjp_variables={vjp_variables!r}. "
            "Name an argument, or a collection of variables: vjp_variables='params'."
        )
    check_primals(primals, what)
    names = [f"argument {i}" for i in where]
    check_float_primals(diff, names, what, holomorphic=holomorphic, allow_int=allow_int)
    check_variables = functools.partial(
        check_float_primals, names=["variables"] * len(packed.roots), what=what, allow_int=allow_int
    )
    check_variables(packed.groups[0])
    check_streams(packed, rngs, what)
    check_filters(packed, what, vjp_variables=wrt, variables=variables)

    def pure(wrt: Any, *diff: Any) -> Any:
        args = list(primals)
        for i, x in zip(where, diff, strict=True):
            args[i] = x
        with packed.bind((wrt, packed.groups[1]), packed.keys) as inner:
            try:
                out = fn(inner.target, *args)
            except TypeError as error:
                explain_arity(fn, (inner.target, *args), {}, error, what)
                raise
            out, aux = demand_pair(out, what) if has_aux else (out, None)
            check_scalar_output(out, what, holomorphic=holomorphic)
            return out, (aux, inner.collect())

    if any(root.store.flags.get("initializing") for root in packed.roots):  # most often outside of the axis
        reduce_axes = bound_axes(reduce_axes)
    value, vjp_fn, (aux, state) = ad.vjp(pure, packed.groups[0], *diff, has_aux=True, reduce_axes=reduce_axes)
    if packed.include(state, wrt):
        check_variables(packed.groups[0])
        value, vjp_fn, (aux, state) = ad.vjp(pure, packed.groups[0], *diff, has_aux=True, reduce_axes=reduce_axes)
    check_filters(packed, what, state, vjp_variables=wrt, variables=variables)
    packed.commit(state)
    return (value, aux) if has_aux else value, layout(vjp_fn(jnp.ones_like(value)))
