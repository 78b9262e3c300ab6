"""A module of liftax as a module of Flax Linen.

to_linen : Module -> linen.Module
"""

import functools
from typing import Any

from liftax.bridge.flax_scope import from_flax, moved_out
from liftax.bridge.libraries import library
from liftax.bridge.outwards.target import check_module, run
from liftax.module.module import Module


def to_linen(module: Module, name: str | None = None) -> Any:
    """Return a module of Flax Linen that runs a module of liftax.

    Its variables, rng streams and path are those of the place in the Linen model where it is used: parameters and
    dropout masks are those that the same layer of Linen would have there.

    Args:
        module: an unbound module of liftax.
        name: the name of the module of Linen.

    Returns:
        A `linen.Module`. It is called as the module is; `method=…` runs another method, by name, or a function of the
        bound module.

    Raises:
        ForeignModuleError: `module` is something else.
        MissingLibraryError: Flax is not installed.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen
        >>> from liftax import bridge, nn
        >>> class Slope(nn.Module):  # a layer that differentiates itself
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         return nn.grad(lambda mdl, x: jnp.sum(mdl(x) ** 2), nn.Dense(2), x)[0]
        >>> class Model(linen.Module):
        ...     @linen.compact
        ...     def __call__(self, x):
        ...         return linen.Dense(1)(bridge.to_linen(Slope())(x))
        >>> out, variables = Model().init_with_output(jax.random.key(0), jnp.ones(3))
        >>> sorted(variables['params']), out.shape
        (['Dense_0', 'ToLinen_0'], (1,))
    """
    check_module(module, "to_linen")
    return _adapter()(module, name=name)


@functools.cache
def _adapter() -> Any:
    linen = library("flax.linen")

    class ToLinen(linen.Module):
        """A module of Linen that runs a module of liftax."""

        module: Any

        @linen.compact
        def __call__(self, *args: Any, method: Any = None, **kwargs: Any) -> Any:
            """Run a method of the module."""
            scope = from_flax(self.scope, "to_linen")
            out = run(self.module, scope, method, args, kwargs)
            moved_out(scope, self.scope)
            return out

    return ToLinen
