"""`init` and `apply` of any function of a bound module."""

from collections.abc import Callable
from typing import Any

from liftax import core
from liftax.module.module import Module
from liftax.typing import Filter


def apply(
    fn: Callable[..., Any],
    module: Module,
    mutable: Filter = False,
    capture_intermediates: bool | Callable[[Module, str], bool] = False,
) -> Callable[..., Any]:
    """Make a function of a bound module pure. For one of its methods, use `Module.apply`.

    Args:
        fn: called as `fn(bound module, *args, **kwargs)`.
        module: an unbound module.
        mutable: which collections `fn` may write.
        capture_intermediates: see `Module.apply`.

    Returns:
        `applied(variables, *args, rngs=None, **kwargs)`, which returns `fn`'s result; with `mutable`, a pair of that
        and the mutable collections.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> model = nn.Dense(2)
        >>> twice = lambda dense, x: dense(dense(x))
        >>> variables = nn.init(twice, model)(jax.random.key(0), jnp.ones(2))
        >>> nn.apply(twice, model)(variables, jnp.ones(2)).shape
        (2,)
    """
    run, mutable = Module._runner(module, fn, mutable, capture_intermediates, "apply")
    return core.apply(run, mutable)


def init_with_output(
    fn: Callable[..., Any],
    module: Module,
    mutable: Filter = core.DenyList("intermediates"),
    capture_intermediates: bool | Callable[[Module, str], bool] = False,
) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Make a function of a bound module into one that creates its variables. See `apply`.

    Returns:
        `initialized(rngs, *args, **kwargs)`, which returns `(result, variables)`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.Embed(num_embeddings=2, features=3)
        >>> make = nn.init_with_output(lambda layer, x: layer.attend(x), layer)
        >>> out, variables = make(jax.random.key(0), jnp.ones(3))
        >>> out.shape, variables['params']['embedding'].shape
        ((2,), (2, 3))
    """
    run, mutable = Module._runner(module, fn, mutable, capture_intermediates, "init")
    return core.init(run, mutable)


def init(
    fn: Callable[..., Any],
    module: Module,
    mutable: Filter = core.DenyList("intermediates"),
    capture_intermediates: bool | Callable[[Module, str], bool] = False,
) -> Callable[..., dict[str, Any]]:
    """Make a function of a bound module into one that creates its variables. See `apply`.

    Returns:
        `initialized(rngs, *args, **kwargs)`, which returns the variables.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.Embed(num_embeddings=2, features=3)
        >>> variables = nn.init(lambda layer, x: layer.attend(x), layer)(jax.random.key(0), jnp.ones(3))
        >>> variables['params']['embedding'].shape
        (2, 3)
    """
    with_output = init_with_output(fn, module, mutable, capture_intermediates)
    return lambda rngs, *args, **kwargs: with_output(rngs, *args, **kwargs)[1]
