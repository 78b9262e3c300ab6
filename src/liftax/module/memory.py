"""What the backward pass of a module keeps, array by array, with the modules that compute it.

    saved : Module -> a -> Report

`liftax.saved` of the module's `apply`. Variables are made with types alone; nothing is computed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from liftax import core
from liftax.ad.memory.report import Report, report_of
from liftax.typing import Filter


def saved(
    module: Any, rngs: Any, mutable: Filter = core.DenyList("intermediates"), **kwargs: Any
) -> Callable[..., Report]:
    """Make a function that reports what the backward pass of a module keeps. Nothing is computed.

    The module is differentiated with respect to its parameters. For a function of several modules, or of more than the
    parameters, use `liftax.saved` with `module.apply` in it.

    Args:
        module: An unbound module.
        rngs: See `Module.init`.
        mutable: The collections that `apply` writes.
        **kwargs: Handed to the module's call, and `method` to `init` and `apply`.

    Returns:
        `reported(*args, **kwargs)`, which takes the arguments of the module's call, arrays or
        `jax.ShapeDtypeStruct`s, and returns a `liftax.ad.memory.Report`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Net(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         return jnp.sum(nn.Dense(1)(jnp.tanh(nn.Dense(64)(x))))
        >>> report = nn.saved(Net(), jax.random.key(0))(jnp.ones((100, 3)))
        >>> [(row.path, row.shape) for row in report.rows][0]
        ('Net', (100, 64))
    """

    def reported(*args: Any, **more: Any) -> Report:
        leaves, treedef = jax.tree.flatten((args, {**kwargs, **more}))
        arrays = [x for x in leaves if _is_array(x)]

        def call(arrays: Sequence[Any], run: Callable[..., Any], *first: Any, **options: Any) -> Any:
            rest = iter(arrays)
            args, given = treedef.unflatten([next(rest) if _is_array(x) else x for x in leaves])
            return run(*first, *args, **options, **given)

        variables = jax.eval_shape(lambda arrays: call(arrays, module.init, rngs), arrays)
        state = {name: tree for name, tree in variables.items() if name != "params"}

        def applied(params: Any, state: Any, arrays: Sequence[Any]) -> Any:
            return call(arrays, module.apply, {**state, "params": params}, rngs=rngs, mutable=mutable)[0]

        return report_of(applied, (variables.get("params", {}),), (state, arrays), {})

    return reported


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype")
