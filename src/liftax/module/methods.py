"""What happens around every call of a module's method.

call : (module, method, args) -> set up if needed, push a frame, run, sow if captured, pop
"""

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from liftax import errors
from liftax.core.calls import Frame, calls, guarded
from liftax.module.intercept import through

F = TypeVar("F", bound=Callable[..., Any])

_NEVER_WRAPPED = frozenset({
    "__eq__", "__repr__", "__init__", "__hash__", "__post_init__", "__init_subclass__", "__getattr__", "__setattr__",
    "__getstate__", "__setstate__", "__reduce__", "__class_getitem__",
})  # fmt: skip


def compact(fun: F) -> F:
    """Mark a method in which submodules and variables may be made where they are used.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class MLP(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         x = nn.relu(nn.Dense(8)(x))
        ...         return nn.Dense(1)(x)
        >>> jax.tree.map(jnp.shape, MLP().init(jax.random.key(0), jnp.ones(3)))['params']['Dense_0']
        {'bias': (8,), 'kernel': (3, 8)}
    """
    fun.compact = True  # type: ignore[attr-defined]
    return fun


def nowrap(fun: F) -> F:
    """Mark a method as a plain function of the object: no set-up, no frame, no profile name around it.

    Example:
        >>> from liftax import nn
        >>> class Net(nn.Module):
        ...     width: int
        ...     @nn.nowrap
        ...     def layer(self):
        ...         return nn.Dense(self.width)
        >>> Net(4).layer().features
        4
    """
    fun.nowrap = True  # type: ignore[attr-defined]
    return fun


def wrap_methods(cls: type) -> None:
    """Wrap the methods that `cls` itself defines."""
    fields = cls.__dataclass_fields__  # type: ignore[attr-defined]
    for name, value in list(vars(cls).items()):
        if name in fields or name in _NEVER_WRAPPED or not callable(value) or inspect.isclass(value):
            continue
        if isinstance(value, staticmethod | classmethod) or hasattr(value, "nowrap") or hasattr(value, "is_wrapped"):
            continue
        setattr(cls, name, wrap_method(value))


def wrap_method(fun: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fun` with what a method call needs around it."""
    name = getattr(fun, "__name__", type(fun).__name__)
    is_compact = getattr(fun, "compact", False)
    is_setup = name == "setup"
    suffix = "" if name == "__call__" else f".{name}"

    @functools.wraps(fun)
    def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        try:
            state, scope = self._state, self.scope
        except AttributeError:  # a callable in the class body that is no method
            return fun(self, *args, **kwargs)
        if scope is not None and scope.store.guard is not None and scope.store.guard not in calls.guards:
            return guarded((scope.store.guard,), method, self, *args, **kwargs)
        if is_setup:
            if scope is None:
                raise errors.CallSetupUnboundModuleError(_unbound(self, "setup"))
        elif scope is not None and not state.setup_done and not state.in_setup:
            self._set_up()
        was_compact = state.in_compact
        if is_compact:
            if scope is None:
                raise errors.CallCompactUnboundModuleError(_unbound(self, name))
            state.in_compact = True
        frame = calls.top
        calls.top = Frame(self, frame.capture, frame.interceptors)
        try:
            label = (self.__dict__.get("name") or type(self).__name__) + suffix
            with jax.named_scope(label) if calls.named else contextlib.nullcontext():
                if frame.interceptors:
                    out = through(frame.interceptors, fun, self, name, args, kwargs)
                else:
                    out = fun(self, *args, **kwargs)
            if frame.capture is not None and scope is not None and frame.capture(self, name):
                self.sow("intermediates", name, out)
            return out
        except Exception as error:
            if type(error).__module__ == "flax.errors":
                _note(error, self)
            raise
        finally:
            calls.top = frame
            if is_compact and scope is not None:
                scope.reservations = {}
                if not was_compact:
                    state.in_compact = False
                    state.names = {}

    method.is_wrapped = True  # type: ignore[attr-defined]
    return method


def _note(error: Exception, self: Any) -> None:
    """Add to an error of Flax about an unbound module, once, why liftax does not bind it."""
    if "UnboundModule" in type(error).__name__ and "liftax" not in "".join(getattr(error, "__notes__", ())):
        error.add_note(
            f"liftax: {type(self).__name__} is a module of liftax, and calls a module of Flax, which can't be bound. "
            "Import the layers and the class Module by `from liftax import nn`, or wrap it: bridge.Linen(module)."
        )


def _unbound(self: Any, name: str) -> str:
    cls = type(self).__name__
    return (
        f"{cls}.{name} was called on a {cls} that is not bound: it holds no variables. Call it through "
        f"{cls}(…).init(key, …) or {cls}(…).apply(variables, …), or inside another module's @compact method or setup."
        f"{_IN_LINEN if _linen_is_flax() else ''}"
    )


def _linen_is_flax() -> bool:
    return getattr(sys.modules.get("flax.linen"), "__name__", "") == "flax.linen"  # under `liftax.linen` it is `nn`


_IN_LINEN = (
    " A module of flax.linen can't bind it: import the class Module by `from liftax import nn` there, or put this "
    "module into it by bridge.to_linen(module)."
)
