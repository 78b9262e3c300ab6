"""Names in profiles: the operations of a module's method stand under `jax.named_scope(module's name)`."""

import contextlib
from collections.abc import Iterator

from liftax.core.calls import calls


def enable_named_call() -> None:
    """Name the operations of modules in profiles and compiled programs. This is the default. Holds for all threads.

    Example:
        >>> from liftax import nn
        >>> nn.enable_named_call()
    """
    type(calls).named = True


def disable_named_call() -> None:
    """Leave the operations of modules without names from here on. See `enable_named_call`.

    Example:
        >>> from liftax import nn
        >>> nn.disable_named_call()
        >>> nn.enable_named_call()
    """
    type(calls).named = False


@contextlib.contextmanager
def override_named_call(enable: bool = True) -> Iterator[None]:
    """Name the operations of modules, or not, while the `with` block runs.

    Args:
        enable: whether to name them.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Double(nn.Module):
        ...     def __call__(self, x):
        ...         return 2 * x
        >>> with nn.override_named_call(False):
        ...     program = jax.jit(lambda x: Double().apply({}, x)).lower(jnp.ones(2))
        >>> '/Double/' in program.as_text(debug_info=True)
        False
    """
    before = calls.named
    type(calls).named = enable
    try:
        yield
    finally:
        type(calls).named = before
