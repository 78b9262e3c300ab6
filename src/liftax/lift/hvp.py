"""Lifted products of a Hessian with a vector: curvature of a part of a model, inside the model.

    hvp, vhp : (Module -> a -> R) -> Module -> (a, T a) -> (CT a, CT a)

`ad.grad`, and `jax.jvp` or `jax.vjp` of it.

Source: see `liftax.ad.hvp`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from liftax import ad, errors
from liftax.ad.checks import check_pair_of_sequences, check_scalar_output, explain_tangents
from liftax.ad.notes import add_note
from liftax.lift.fill import Rule, complete
from liftax.lift.operands import Operands
from liftax.typing import Filter


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
    return _product("hvp", fn, mdl, primals, tangents, variable_tangents, wrt, has_aux, variables, rngs)


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
    return _product("vhp", fn, mdl, primals, tangents, variable_tangents, wrt, has_aux, variables, rngs)


def _product(
    what: str,
    fn: Callable[..., Any],
    mdl: Any,
    primals: Sequence[Any],
    tangents: Sequence[Any],
    variable_tangents: Any,
    wrt: Filter | None,
    has_aux: bool,
    variables: Filter,
    rngs: Filter,
) -> tuple[Any, ...]:
    check_pair_of_sequences(primals, tangents, what)
    operands = Operands(what, mdl, primals, wrt, None, variables, rngs)
    run = operands.pure(fn, has_aux)
    packed, layout = operands.packed, operands.layout
    if variable_tangents is not None and not layout.with_variables:
        raise errors.TangentError(
            f"{what}: got variable_tangents and wrt={wrt!r}, so that no variable takes part. Name their collection: "
            "wrt='params'."
        )

    def pure(*point: Any) -> Any:
        out, aux = run(*point)
        check_scalar_output(out, what)
        return out, aux

    point = operands.create(run)
    whole = f"{what}: variable_tangents"
    given = (
        ({},) * len(packed.roots)
        if variable_tangents is None
        else packed.view.disassemble(variable_tangents, whole, errors.TangentError)
    )
    vector = tuple(
        complete(v, t, Rule(whole, "tangent", scope.path_text, errors.TangentError, missing_is_zero=True))
        for v, t, scope in zip(packed.groups[0], given, packed.roots, strict=True)
    ), *tangents  # fmt: skip
    gradient = ad.grad(pure, argnums=tuple(range(len(point))), has_aux=True)
    try:
        if what == "hvp":
            grads, products, (_, aux, state) = jax.jvp(gradient, point, vector, has_aux=True)
        else:
            grads, vjp_fn, (_, aux, state) = jax.vjp(gradient, *point, has_aux=True)
            products = vjp_fn(vector)
    except (TypeError, ValueError) as error:
        explain_tangents(primals, tangents, error, what)
        add_note(error)
        raise
    operands.commit(state)
    result = layout(grads), layout(products)
    return (*result, aux) if has_aux else result
