"""Lifted custom rules in one function: it returns its output together with its backward map.

    custom_gradient : (Module -> a -> (b, CT b -> (CT variables, CT a))) -> Module -> a -> b

A `custom_vjp` whose residuals are what the backward map closes over. The map is traced where it is made, while the
module is bound, so that it may close over values of the function and read variables of the module.

Source: `jax.custom_gradient`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from liftax import _compat, errors
from liftax.core import filters
from liftax.explain.functions import demand_pair
from liftax.explain.transform import described
from liftax.explain.values import describe
from liftax.lift.machinery.complete import zero
from liftax.lift.machinery.forms import as_function
from liftax.lift.machinery.operands import collections
from liftax.lift.rules.custom_vjp import with_rule
from liftax.lift.rules.rule_call import WITH_RULE, checked
from liftax.typing import Filter

CUSTOM_GRADIENT = dataclasses.replace(WITH_RULE, name="custom_gradient", call="(fn)(module, *args)")


@described(CUSTOM_GRADIENT)
def custom_gradient(
    fn: Callable[..., Any],
    grad_vars: Filter | None = "params",
    nondiff_argnums: int | Sequence[int] = (),
    wrt: Filter | None = None,
) -> Callable[..., Any]:
    """Turn a function of a module that returns its output and its own backward map into one with that derivative.

    For residuals that are to be chosen, or for cotangents of written state, use `custom_vjp`; outside of a module use
    `jax.custom_gradient`.

    Args:
        fn: Called as `fn(mdl, *args, **kwargs)`; returns `(output, vjp_fn)`. `vjp_fn(out_ct)` takes a cotangent like
            the output and returns `(variables_ct, *args_ct)`, as the map that `nn.vjp` returns does: the cotangents of
            the variables in `grad_vars`, `{collection: tree}`, and one cotangent for each positional argument that is
            not in `nondiff_argnums`. None is a cotangent of zero. It may close over anything that `fn` computed.
        grad_vars: The collections that get a cotangent; the others are constants. With False or None, `vjp_fn` returns
            the cotangents of the arguments alone: a tuple, or for one argument its cotangent.
        nondiff_argnums: Positions of arguments that get no cotangent, counted with the module as 0; negative ones
            count from the end. Keyword arguments get none either.
        wrt: The same as `grad_vars`, by the name that it has in every derivative transform.

    Returns:
        A function with the signature of `fn` that returns the output alone.

    Raises:
        AuxError: `fn` returns no pair.
        CustomRuleError: The second of the pair can't be called.
        CotangentError: `vjp_fn` returns cotangents that do not fit.
        StateCotangentError: The cotangent of a written variable is not zero.
        DroppedGradientError, TransformTargetError, UnboundModuleError, InvalidScopeError, UnknownCollectionError,
            ArityError: see `custom_vjp`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Clipped(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         def f(mdl, x):
        ...             y, vjp_fn = nn.vjp(lambda mdl, x: mdl(x), mdl, x)
        ...             return y, lambda y_ct: vjp_fn(jnp.clip(y_ct, -1.0, 1.0))
        ...         return 100 * nn.custom_gradient(f)(nn.Dense(1), x).sum()
        >>> model, x = Clipped(), jnp.array([2.0, -3.0])
        >>> variables = model.init(jax.random.key(0), x)
        >>> print(jax.grad(model.apply)(variables, x)['params']['Dense_0']['kernel'].ravel())
        [ 2. -3.]
    """
    checked(CUSTOM_GRADIENT, nondiff_argnums, fn=fn)
    varying = collections(CUSTOM_GRADIENT, wrt, "grad_vars", False if grad_vars is None else grad_vars, "params")
    with_variables = not filters.is_empty(varying)

    def pair(mdl: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        out, vjp_fn = demand_pair(
            as_function(fn, mdl)(mdl, *args, **kwargs), CUSTOM_GRADIENT, pair="(output, vjp_fn)",
            why="a rule of its own", remedy="use custom_vjp",
        )  # fmt: skip
        if not callable(vjp_fn):
            raise errors.CustomRuleError(
                f"{CUSTOM_GRADIENT}: the function returned (output, {describe(vjp_fn)}), and the second has to be a "
                "function from "
                "the cotangent of the output to cotangents. Return (output, lambda out_ct: …)."
            )
        return out, vjp_fn

    @functools.wraps(fn)
    def alone(mdl: Any, *args: Any, **kwargs: Any) -> Any:
        return pair(mdl, *args, **kwargs)[0]

    def forward(mdl: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        out, vjp_fn = pair(mdl, *args, **kwargs)
        leaves, treedef = jax.tree.flatten(out)
        moving = [jnp.issubdtype(jnp.result_type(x), jnp.inexact) for x in leaves]

        def flat(cts: Sequence[Any]) -> Any:
            rest = iter(cts)
            full = [next(rest) if moves else zero(x) for x, moves in zip(leaves, moving, strict=True)]
            result = vjp_fn(treedef.unflatten(full))
            if with_variables:
                return result
            return (None, *(result if isinstance(result, tuple | list) else (result,)))

        example = [x for x, moves in zip(leaves, moving, strict=True) if moves]
        return out, (moving, *_compat.closed(flat, example))

    def backward(*given: Any) -> Any:
        *_, (moving, run, consts), out_ct = given
        return run(consts, [ct for ct, moves in zip(jax.tree.leaves(out_ct), moving, strict=True) if moves])

    return with_rule(CUSTOM_GRADIENT, alone, forward, backward, varying, nondiff_argnums, False)
