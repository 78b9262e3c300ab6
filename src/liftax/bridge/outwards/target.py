"""What is checked, and how a method runs, whatever library a module goes out to."""

from typing import Any

from liftax import errors
from liftax.bridge.libraries import full_name
from liftax.core.scope import Scope
from liftax.module.module import Module


def check_module(module: Any, bridge: str) -> None:
    """Raise `ForeignModuleError` for what is not an unbound module of liftax."""
    if not isinstance(module, Module):
        remedy = f"Make one, {module.__name__}(…)." if isinstance(module, type) else "Give a module of liftax.nn."
        raise errors.ForeignModuleError(
            f"bridge.{bridge} got {full_name(module)}; expected an unbound module of liftax. {remedy}"
        )
    if module.scope is not None:
        raise errors.ForeignModuleError(
            f"bridge.{bridge} got the module {type(module).__name__}, which is bound to variables already; expected an "
            "unbound one. Take module.unbind(), which returns the module and its variables."
        )


def run(module: Module, scope: Scope, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a method of `module`, bound to `scope`, which ends with it."""
    bound = module.clone(parent=scope, _deep_clone=True)
    try:
        if method is None:
            return bound(*args, **kwargs)  # type: ignore[operator]
        if isinstance(method, str):
            return getattr(bound, method)(*args, **kwargs)
        return method(bound, *args, **kwargs)
    finally:
        scope.store.dead = True
