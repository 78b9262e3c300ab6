"""Constant variables: run a part of a model with chosen collections held fixed.

    stop_gradient : (Module -> a -> b) -> Module -> a -> b

`jax.lax.stop_gradient` on the variables that the function sees, and on nothing else: derivatives in the arguments and
in all other variables stay.

Source: `jax.lax.stop_gradient`.
"""

from collections.abc import Callable
from typing import Any

import jax

from liftax import errors
from liftax.core.packing.targets import is_target
from liftax.explain.functions import arity_explained
from liftax.explain.transform import Transform, described
from liftax.explain.values import describe
from liftax.lift.machinery.forms import as_function
from liftax.lift.machinery.operands import Operands
from liftax.typing import Filter

STOP_GRADIENT = Transform("stop_gradient", "(fn, module, *args)", filters=("stopped", "variables"), any_output=True)


@described(STOP_GRADIENT)
def stop_gradient(
    fn: Callable[..., Any],
    mdl: Any = None,
    *args: Any,
    stopped: Filter = True,
    variables: Filter = True,
    rngs: Filter = True,
    **kwargs: Any,
) -> Any:
    """Run a function of a module whose variables are constants to every derivative.

    For target networks, frozen features, and critics that only judge. For a value use `jax.lax.stop_gradient`.

    Args:
        fn: Called as `fn(mdl, *args, **kwargs)`.
        mdl: The target: a bound Module, a Scope, or a tree of these.
        *args: Its arguments; derivatives in them stay.
        stopped: The collections whose variables are constants: a filter. What `fn` creates or writes while it runs is
            no constant.
        variables: The other collections that `fn` may use.
        rngs: The rng streams that `fn` may use.
        **kwargs: Its keyword arguments.

    Returns:
        What `fn` returns.

    Raises:
        TransformTargetError: `mdl` is no usable target, or `fn` is a value or a module.
        UnboundModuleError, InvalidScopeError, UnknownCollectionError, ArityError: see `vjp`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Judged(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         y = self.param('scale', nn.initializers.ones, ()) * x
        ...         return nn.stop_gradient(lambda critic, y: critic(y), nn.Dense(1), y).sum()
        >>> variables = {'params': {'scale': 2.0, 'Dense_0': {'kernel': jnp.ones((1, 1)), 'bias': jnp.zeros(1)}}}
        >>> grads = jax.grad(Judged().apply)(variables, jnp.array([3.0]))['params']
        >>> print(grads['scale'], grads['Dense_0']['bias'])
        3.0 [0.]
    """
    if is_target(fn) or not callable(fn):
        raise errors.TransformTargetError(
            f"stop_gradient: got {describe(fn)} where a function of a module is expected: stop_gradient(fn, mdl, "
            "*args). For a value use jax.lax.stop_gradient."
        )
    operands = Operands.of(STOP_GRADIENT, mdl, (), wrt=stopped, wrt_argument="stopped", variables=variables, rngs=rngs)

    def called(mdl: Any) -> Any:
        with arity_explained(fn, (mdl, *args), kwargs, STOP_GRADIENT):
            return as_function(fn, mdl)(mdl, *args, **kwargs)

    out, (_, run) = operands.pure(called)(jax.lax.stop_gradient(operands.packed.groups[0]))
    operands.commit(run)
    return out
