"""Where a module's variables lie, other than under its own name: `share_scope` and `compact_name_scope`."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from liftax import errors
from liftax.core.scope import Scope
from liftax.module.binding import Binding, place
from liftax.module.methods import compact
from liftax.module.module import Module

F = TypeVar("F", bound=Callable[..., Any])


def share_scope(module: Module, other: Module, /) -> None:
    """Let two modules keep their variables in one place, to extend a module without changing its parameters' tree.

    `module` takes on the scope of `other`; if `other` lies below `module`, `other` takes on that of `module`.

    Args:
        module: a bound module: most often `self`, in `setup`.
        other: a bound module: most often the one that `module` wraps.

    Raises:
        CallShareScopeOnUnboundModuleError: one of them is not bound.
        NameInUseError: both have a submodule of one name.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Scaled(nn.Module):
        ...     base: nn.Module
        ...     def setup(self):
        ...         nn.share_scope(self, self.base)
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         return self.base(x) * self.param('scale', nn.initializers.ones, ())
        >>> sorted(Scaled(nn.Dense(2)).init(jax.random.key(0), jnp.ones(3))['params'])
        ['bias', 'kernel', 'scale']
    """
    for m in (module, other):
        if m.scope is None:
            raise errors.CallShareScopeOnUnboundModuleError(
                f"share_scope got {place(m)}, which holds no variables. Call it in setup or in a @compact method."
            )
    above, below = module.scope, other.scope
    if below.store is above.store and below.names[: len(above.names)] == above.names:
        changed, scope = other, above
    else:
        changed, scope = module, below
    old = changed.scope
    if old is scope:
        return
    changed.__dict__["scope"] = scope
    for child in changed._state.children.values():
        if isinstance(child, Binding) and child.scope is not None and child.scope.parent is old:
            if child.scope.in_use:  # its variables lie where they were made
                scope.reserve(child.scope.name)
            else:
                before = child.scope.rng_path
                _move(child, scope.push(child.scope.name))
                scope.store.moved[child.scope.names] = before  # it goes on to draw as before, as in Linen


def _move(module: Any, scope: Scope) -> None:
    old = module.scope
    scope.reservations = old.reservations
    counters = scope.store.counters
    if old.names in counters:
        counters[scope.names] = counters.pop(old.names)
    module.__dict__["scope"] = scope
    for child in module._state.children.values():
        if isinstance(child, Binding) and child.scope is not None and child.scope.parent is old:
            _move(child, Scope.of(scope.store, scope, child.scope.name, (*scope.names, str(child.scope.name))))


class NameScope(Module):
    """The submodule that stands for a `compact_name_scope` method.

    Args:
        fun: the method, as a function.
    """

    fun: Callable[..., Any]

    @compact
    def __call__(self, module: Module, *args: Any, **kwargs: Any) -> Any:
        """Run the method: what it makes belongs to this module."""
        return self.fun(module, *args, **kwargs)


def compact_name_scope(fun: F) -> F:
    """Mark a method in which submodules may be made where they are used, under the name of the method.

    A module may have any number of such methods.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Net(nn.Module):
        ...     @nn.compact_name_scope
        ...     def up(self, x):
        ...         return nn.Dense(8)(x)
        ...     @nn.compact_name_scope
        ...     def down(self, x):
        ...         return nn.Dense(3)(x)
        ...     def __call__(self, x):
        ...         return self.down(self.up(x))
        >>> params = Net().init(jax.random.key(0), jnp.ones(3))['params']
        >>> sorted(params), params['up']['Dense_0']['kernel'].shape
        (['down', 'up'], (3, 8))
    """
    name = fun.__name__

    @functools.wraps(fun)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.scope is None:
            raise errors.CallCompactUnboundModuleError(
                f"{type(self).__name__}.{name} makes submodules, and was called on a module that is not bound. Call it "
                f"through init or apply: {type(self).__name__}(…).apply(variables, …, method={name!r})."
            )
        state = self._state
        if not state.setup_done and not state.in_setup:
            self._set_up()
        inner = state.children.get(name)
        if not isinstance(inner, NameScope) or inner.scope.store is not self.scope.store:
            was, state.in_compact = state.in_compact, True
            setting, state.in_setup = state.in_setup, False
            try:
                inner = NameScope(fun, parent=self, name=name)
            finally:
                state.in_compact, state.in_setup = was, setting
        return inner(self, *args, **kwargs)

    method.nowrap = True  # type: ignore[attr-defined]
    return method  # type: ignore[return-value]
