"""A module of Flax Linen as a module of liftax.

    Linen : linen.Module -> Module

The wrapped module runs on a scope of Flax that has the wrapper's variables, keys and counters: see
`liftax.bridge.flax_scope`. What it computes, creates and draws is what it would in a model of Linen, at that path.
"""

from typing import Any

from liftax import errors
from liftax.bridge.flax_scope import moved_in, to_flax
from liftax.bridge.foreign import Foreign
from liftax.bridge.libraries import full_name, library
from liftax.core.calls import calls
from liftax.core.scope import Scope
from liftax.module.methods import nowrap


class Linen(Foreign):
    """Wrap a module of Flax Linen.

    The variables are those that Linen names, in Linen's collections and boxes with metadata. Where the modules of a
    program are all to be liftax's, change the import instead: `from liftax import nn`.

    Args:
        module: an unbound module of Linen.
        method: what a call of the wrapper runs: a method's name, or a function of the bound module.

    Raises:
        ForeignModuleError: `module` is not an unbound module of Linen.
        MissingLibraryError: Flax is not installed.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen
        >>> from liftax import bridge, nn
        >>> model = bridge.Linen(linen.Dense(1))
        >>> variables = model.init(jax.random.key(0), jnp.ones(2))
        >>> def hessian(mdl, x):
        ...     return nn.hessian(lambda mdl, x: mdl(x)[0] ** 2, mdl, x)
        >>> nn.apply(hessian, model)(variables, jnp.ones(2)).shape
        (2, 2)
    """

    module: Any
    method: Any = "__call__"

    def __post_init__(self) -> None:
        linen = library("flax.linen")
        module = self.module
        if not isinstance(module, linen.Module):
            remedy = "Make one: bridge.Linen(Model(…))." if isinstance(module, type) else "Wrap a module of flax.linen."
            raise errors.ForeignModuleError(
                f"bridge.Linen got {full_name(module)}; expected an object of flax.linen.Module. {remedy}"
            )
        if module.scope is not None:
            raise errors.ForeignModuleError(
                f"bridge.Linen got the module {type(module).__name__}, which is bound to variables already; expected "
                "an unbound one, whose variables the wrapper will hold. Make it outside of the modules of Linen, with "
                "parent=None, or take module.clone(parent=None)."
            )
        super().__post_init__()

    @nowrap
    def _has_method(self, name: str) -> bool:
        return callable(getattr(type(self.module), name, None))

    @nowrap
    def _run(self, scope: Scope, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        theirs = to_flax(scope)
        with theirs.temporary():
            bound = self.module.copy(parent=theirs, name=self.name)
            if isinstance(method, str):
                fn, args = getattr(bound, method), args
            else:
                fn, args = method, (bound, *args)
            if calls.top.capture is None:
                out = fn(*args, **kwargs)
            else:
                with library("flax.linen").intercept_methods(_capturing(calls.top.capture, bound)):
                    out = fn(*args, **kwargs)
        moved_in(scope, theirs)
        return out


def _capturing(capture: Any, wrapped: Any) -> Any:
    """Return an interceptor that sows what the methods that `capture` names return, those of `wrapped` excepted.

    What the wrapped module returns the wrapper returns too, and sows itself.
    """

    def sow(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        out = next_fun(*args, **kwargs)
        module, name = context.module, context.method_name
        if module is not wrapped and module.scope is not None and capture(module, name):
            module.sow("intermediates", name, out)
        return out

    return sow
