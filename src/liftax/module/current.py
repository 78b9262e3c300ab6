"""The module whose method runs now, for tools that want to know where they were called."""

from typing import Any

from liftax.core.calls import calls


def current_module() -> Any:
    """Return the module whose method runs now in this thread, or None outside of all methods.

    For helpers that find their module by themselves, and for tools that record where something happens. A function
    that can be handed the module takes it as an argument instead.

    Example:
        >>> from liftax import nn
        >>> def where():
        ...     return '/'.join(nn.module.current_module().path)
        >>> class Inner(nn.Module):
        ...     def __call__(self):
        ...         return where()
        >>> class Outer(nn.Module):
        ...     @nn.compact
        ...     def __call__(self):
        ...         return where(), Inner()()
        >>> Outer().apply({}), nn.module.current_module()
        (('', 'Inner_0'), None)
    """
    return calls.top.module
