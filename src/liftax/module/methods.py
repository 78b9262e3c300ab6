"""What happens around every call of a module's method.

call : (module, method, args) -> set up if needed, push a frame, run, sow if captured, pop
"""

import contextlib
import functools
import inspect
import sys
import types
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
        elsewhere = _defined_elsewhere(value)
        setattr(cls, name, _NotAMethod(name, value) if elsewhere else wrap_method(value))


def _defined_elsewhere(value: Any) -> bool:
    """Tell a function of JAX, NumPy or liftax in a class body, such as an initializer, from a method."""
    package = (getattr(value, "__module__", None) or "").partition(".")[0]
    name = getattr(value, "__qualname__", "").partition(".<locals>.")[0]
    return package in ("jax", "numpy", "liftax") and "." not in name and hasattr(value, "__get__")


class _NotAMethod:
    """A function that stands in a class body without an annotation: read from a module, it is refused."""

    def __init__(self, name: str, value: Any):
        self.name, self.value = name, value

    def __get__(self, module: Any, cls: type) -> Any:
        if module is None:
            return self.value
        raise errors.TransformTargetError(
            f"{cls.__name__}.{self.name} is a function in the class body, so that Python makes it a method and gives "
            f"it the module as its first argument. Annotate it, and it is a field: {self.name}: Callable = …; or write "
            f"{self.name} = staticmethod(…)."
        )


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
            explain(error, self, fun, name)
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


def explain(error: Exception, self: Any, fun: Callable[..., Any], name: str) -> None:
    """Add to an error that a method ended with, once, what is wrong with the class, if that is to be seen."""
    cls = type(self)
    if type(error).__module__ == "flax.errors" and "UnboundModule" in type(error).__name__:
        text = (
            f"{cls.__name__} is a module of liftax, and calls a module of Flax, which can't be bound. Import the "
            "layers and the class Module by `from liftax import nn`, or wrap it: bridge.Linen(module)."
        )
    elif isinstance(error, errors.ScopeParamShapeError) and name not in getattr(cls, "lift_methods", ((), name))[1]:
        transform, methods = cls.lift_methods
        text = (
            f"{name} of {cls.__name__} is not transformed: {transform} is only for {', '.join(methods)}, so "
            f"{name} sees the variables as they are stored. Name both: methods={[*methods, name]}."
        )
    elif isinstance(error, TypeError) and cls.__name__ in str(error) and _is_made_by_jax(fun):
        text = (
            f"a transform of JAX stands on the method {cls.__name__}.{name}, and takes the module for an array. Write "
            "the lifted one, which takes modules: nn.jit instead of jax.jit."
        )
    elif isinstance(error, TypeError) and name == "<lambda>" and error.__traceback__ and _raised_by_call(error):
        text = (
            f"a lambda in the body of {cls.__name__} is a method, which is given the module as its first argument. "
            "Annotate the attribute, and it is a field: name: Callable = lambda …; or write staticmethod(lambda …)."
        )
    else:
        return
    if "liftax: " not in "".join(getattr(error, "__notes__", ())):
        error.add_note(f"liftax: {text}")


def _is_made_by_jax(fun: Any) -> bool:
    """Tell whether `fun` is what a transform of JAX made of a method."""
    if hasattr(fun, "is_wrapped") or not hasattr(fun, "__wrapped__"):
        return False
    return not isinstance(fun, types.FunctionType) or fun.__globals__.get("__name__", "").startswith("jax.")


def _raised_by_call(error: Exception) -> bool:
    """Tell whether an error is from a call that does not fit the signature: no frame of the function is in it."""
    return error.__traceback__ is not None and error.__traceback__.tb_next is None


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
