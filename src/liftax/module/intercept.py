"""Interceptors: functions around every method call of every module, set up from outside.

    interceptor : (next, args, kwargs, context) -> output

They ride along in the frame of the call (see `liftax.core.calls`), so they hold inside lifted transforms, and in rules
that JAX traces after the `with` block has ended.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

from liftax.core.calls import calls


@dataclasses.dataclass(frozen=True)
class InterceptorContext:
    """Which call an interceptor is around.

    Args:
        module: the module whose method is called.
        method_name: the method's name.
        orig_method: the method itself: calling it passes all other interceptors by.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import nn
        >>> def log(call, args, kwargs, context):
        ...     print(type(context.module).__name__, context.method_name)
        ...     return call(*args, **kwargs)
        >>> with nn.intercept_methods(log):
        ...     _ = nn.Sequential([jnp.sin]).apply({}, 1.0)
        Sequential __call__
    """

    module: Any
    method_name: str
    orig_method: Callable[..., Any]


@contextlib.contextmanager
def intercept_methods(
    interceptor: Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any], InterceptorContext], Any],
) -> Iterator[None]:
    """Call `interceptor` in place of every method of every module, while the `with` block runs.

    Methods marked `nowrap`, properties, `__init__` and its kin are left alone. To change one module, give it another
    method or wrap it instead.

    Args:
        interceptor: called as `interceptor(next_fun, args, kwargs, context)`. `next_fun(*args, **kwargs)` goes on, to
            the next interceptor or to the method; the blocks that are entered first are outermost.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> def half(next_fun, args, kwargs, context):
        ...     if isinstance(context.module, nn.Dense) and context.method_name == '__call__':
        ...         args = (args[0] / 2,)
        ...     return next_fun(*args, **kwargs)
        >>> model = nn.Dense(1, kernel_init=nn.initializers.ones)
        >>> with nn.intercept_methods(half):
        ...     y, variables = model.init_with_output(jax.random.key(0), jnp.array([2.0, 4.0]))
        >>> y, model.apply(variables, jnp.array([2.0, 4.0]))
        (Array([3.], dtype=float32), Array([6.], dtype=float32))
    """
    frame = calls.top
    calls.top = frame._replace(interceptors=(*frame.interceptors, interceptor))
    try:
        yield
    finally:
        calls.top = frame


def through(
    interceptors: tuple[Any, ...],
    fun: Callable[..., Any],
    module: Any,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Call `fun(module, *args, **kwargs)` through `interceptors`, the first of them outermost."""
    method = functools.partial(fun, module)
    context = InterceptorContext(module, name, method)

    def around(interceptor: Callable[..., Any], next_fun: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: interceptor(next_fun, args, kwargs, context)

    call: Callable[..., Any] = method
    for interceptor in reversed(interceptors):
        call = around(interceptor, call)
    return call(*args, **kwargs)
