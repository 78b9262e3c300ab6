"""Lifted products of a Hessian with a vector: curvature of a part of a model, inside the model.

    hvp, vhp : (Module -> a -> R) -> Module -> (a, T a) -> (CT a, CT a)

`ad.grad`, and `jax.jvp` or `jax.vjp` of it.

Source: see `liftax.ad.hvp`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from liftax import ad
from liftax.ad.checks import check_pair_of_sequences, check_scalar_output
from liftax.ad.notes import tangents_explained
from liftax.explain.transform import Transform, described
from liftax.lift.machinery.operands import Operands
from liftax.typing import Filter

HVP = Transform("hvp", "(fn, module, primals, tangents)", output="scalar", filters=("wrt", "variables"))
VHP = dataclasses.replace(HVP, name="vhp")


@described(HVP)
def hvp(
    fn: Callable[..., Any],
    mdl: Any,
    primals: Sequence[Any],
    tangents: Sequence[Any],
    variable_tangents: Any = None,
    wrt: Filter | None = False,
    has_aux: bool = False,
    variables: Filter = True,
    rngs: Filter = True,
) -> tuple[Any, ...]:
    """Multiply the Hessian of a scalar function of a module with a vector, without forming it.

    Forward-mode over reverse-mode differentiation. Outside of a module use `lx.hvp`.

    Args:
        fn: Called as `fn(mdl, *primals)`; returns a real floating-point scalar.
        mdl: The target: a bound Module, a Scope, or a tree of these.
        primals: A tuple or list: the arguments, all floating-point.
        tangents: A tuple or list: the part of the vector for each argument, of its structure, shapes and dtypes.
        variable_tangents: The part of the vector for the variables in `wrt`, `{collection: tree}`; what it leaves out
            is zero, None all of it.
        wrt: Which collections of variables take part in the Hessian: a filter.
        has_aux: `fn` returns a pair `(output, aux)`.
        variables: The other collections that `fn` may use.
        rngs: The rng streams that `fn` may use.

    Returns:
        `(grads, products)`, or `(grads, products, aux)` if `has_aux`: the gradient, and the product of the Hessian with
        the vector, each a tuple with one tree for each argument, and those of the variables before them if `wrt` is
        given.

    Raises:
        TangentError: The vector does not fit.
        NonDifferentiableOutputError, NonDifferentiablePrimalError: see `grad`.
        TransformTargetError, UnboundModuleError, InvalidScopeError, UnknownCollectionError, ArityError, AuxError: see
            `vjp`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Energy(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, r):
        ...         return self.param('k', nn.initializers.ones, ()) * r[0] * r[1]
        >>> class Response(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, r, v):
        ...         (slope,), (change,) = nn.hvp(lambda mdl, r: mdl(r), Energy(), (r,), (v,))
        ...         return change
        >>> variables = {'params': {'Energy_0': {'k': 3.0}}}
        >>> Response().apply(variables, jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0]))
        Array([0., 3.], dtype=float32)
    """
    gradient, operands = _gradient(HVP, fn, mdl, primals, tangents, wrt, has_aux, variables, rngs)
    vector = operands.vector(variable_tangents, tangents)
    with tangents_explained(primals, tangents, HVP):
        grads, products, (aux, run) = jax.jvp(gradient, operands.point, vector, has_aux=True)
    operands.commit(run)
    result = operands.layout(grads), operands.layout(products)
    return (*result, aux) if has_aux else result


@described(VHP)
def vhp(
    fn: Callable[..., Any],
    mdl: Any,
    primals: Sequence[Any],
    tangents: Sequence[Any],
    variable_tangents: Any = None,
    wrt: Filter | None = False,
    has_aux: bool = False,
    variables: Filter = True,
    rngs: Filter = True,
) -> tuple[Any, ...]:
    """Multiply a vector with the Hessian of a scalar function of a module: reverse-mode over reverse-mode.

    Arguments, result and errors are those of `hvp`, which costs less. This one needs no forward-mode rule: see
    `lx.vhp`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Energy(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, r):
        ...         return self.param('k', nn.initializers.ones, ()) * r[0] * r[1]
        >>> class Response(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, r, v):
        ...         return nn.vhp(lambda mdl, r: mdl(r), Energy(), (r,), (v,), wrt='params')[1]
        >>> variables_part, r_part = Response().apply(
        ...     {'params': {'Energy_0': {'k': 3.0}}}, jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0]))
        >>> print(variables_part['params']['k'], r_part)
        2.0 [0. 3.]
    """
    gradient, operands = _gradient(VHP, fn, mdl, primals, tangents, wrt, has_aux, variables, rngs)
    vector = operands.vector(variable_tangents, tangents)
    with tangents_explained(primals, tangents, VHP):
        grads, vjp_fn, (aux, run) = jax.vjp(gradient, *operands.point, has_aux=True)
        products = vjp_fn(vector)
    operands.commit(run)
    result = operands.layout(grads), operands.layout(products)
    return (*result, aux) if has_aux else result


def _gradient(
    transform: Transform,
    fn: Callable[..., Any],
    mdl: Any,
    primals: Sequence[Any],
    tangents: Sequence[Any],
    wrt: Filter | None,
    has_aux: bool,
    variables: Filter,
    rngs: Filter,
) -> tuple[Callable[..., Any], Operands]:
    """Return the gradient, a function of the point, and the operands."""
    check_pair_of_sequences(primals, tangents, transform)
    operands = Operands.of(
        transform, mdl, primals, wrt=wrt or False, variables=variables, rngs=rngs, dtypes={}
    ).created(fn, has_aux)
    pure = operands.pure(fn, has_aux, lambda out: check_scalar_output(out, transform))
    return ad.grad(pure, argnums=tuple(range(1 + len(operands.diff))), has_aux=True), operands
