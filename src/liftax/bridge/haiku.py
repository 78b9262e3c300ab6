"""A function transformed by Haiku as a module of liftax.

    Haiku : hk.Transformed -> Module

Haiku's functions are pure already. The wrapper holds their parameters in `'params'` and their state in `'state'`, as
Haiku nests them: name of the module -> name -> array.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from liftax import errors
from liftax.bridge.foreign import Foreign, at, initial_key, is_initializing, stream_key, write
from liftax.bridge.libraries import full_name, library
from liftax.core import meta
from liftax.core.scope import Scope
from liftax.module.methods import nowrap

_COLLECTIONS = ("params", "state")


class Haiku(Foreign):
    """Wrap a function that is transformed by Haiku.

    The parameters are the collection `'params'` and the state is `'state'`, with Haiku's names, so that saved
    parameters are used as they are: `{'params': params, 'state': state}`.

    Args:
        transformed: what `hk.transform`, `hk.transform_with_state`, `hk.multi_transform` or
            `hk.multi_transform_with_state` returned, or `hk.without_apply_rng` of it.
        method: of a `multi_transform`, the function that a call of the wrapper runs, by its key, index or field.
            `init` of the wrapper runs Haiku's `init`, with the arguments of the call.
        stream: the rng stream that `hk.next_rng_key` draws from. If neither it nor `'params'` is given, Haiku gets
            `rng=None`.

    Raises:
        ForeignModuleError: `transformed` is something else.
        MissingLibraryError: Haiku is not installed.

    Example:
        >>> import haiku as hk, jax, jax.numpy as jnp
        >>> from liftax import bridge, nn
        >>> energy = bridge.Haiku(hk.transform(lambda x: jnp.sum(hk.nets.MLP([4, 1])(x))))
        >>> variables = energy.init(jax.random.key(0), jnp.ones(3))
        >>> def curvature(mdl, x):
        ...     return nn.hvp(lambda mdl, x: mdl(x), mdl, (x,), (jnp.ones(3),))[1]
        >>> nn.apply(curvature, energy)(variables, jnp.ones(3))[0].shape
        (3,)
    """

    transformed: Any
    method: Any = "__call__"
    stream: str = "dropout"

    def __post_init__(self) -> None:
        hk = library("haiku")
        known = (hk.Transformed, hk.TransformedWithState, hk.MultiTransformed, hk.MultiTransformedWithState)
        if not isinstance(self.transformed, known):
            raise errors.ForeignModuleError(
                f"bridge.Haiku got {full_name(self.transformed)}; expected what hk.transform or "
                "hk.transform_with_state returns. Transform a function: hk.transform(lambda x: Model(…)(x))."
            )
        super().__post_init__()

    @nowrap
    def _has_method(self, name: str) -> bool:
        apply = self.transformed.apply
        return (isinstance(apply, Mapping) and name in apply) or name in getattr(apply, "_fields", ())

    @nowrap
    def _run(self, scope: Scope, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hk = library("haiku")
        with_state = isinstance(self.transformed, hk.TransformedWithState | hk.MultiTransformedWithState)
        if is_initializing(scope) and not any(scope.collection(col) for col in _COLLECTIONS):
            _create(scope, self.transformed.init(initial_key(scope), *args, **kwargs), with_state)
        params, state = (_read(scope, col) for col in _COLLECTIONS)
        apply = self._apply(scope, method)
        if apply is None:
            return None
        given: tuple[Any, ...] = (params, state) if with_state else (params,)
        if "rng" in list(inspect.signature(apply).parameters)[: len(given) + 1]:
            given = (*given, stream_key(scope, self.stream))
        if not with_state:
            return apply(*given, *args, **kwargs)
        out, moved = apply(*given, *args, **kwargs)
        for module, variables in moved.items():
            for name, value in variables.items():
                if value is not state.get(module, {}).get(name):
                    write(scope, ("state", module, name), value)
        return out

    @nowrap
    def _apply(self, scope: Scope, method: Any) -> Callable[..., Any] | None:
        """Return Haiku's function for a method; None for the template of a `multi_transform`, which only makes."""
        apply = self.transformed.apply
        if callable(apply):
            if method == "__call__":
                return apply
            known: list[Any] = ["__call__"]
        else:
            if method == "__call__" and is_initializing(scope):
                return None
            if isinstance(method, str) and hasattr(apply, "_fields"):
                apply = apply._asdict()
            known = list(apply) if isinstance(apply, Mapping) else list(range(len(apply)))
            if method in known:
                return apply[method]
        raise errors.ApplyModuleInvalidMethodError(
            f"The function of Haiku at {scope.path_text} has no method {method!r}. There are: "
            f"{', '.join(map(repr, known))}. Call it by wrapper.call(method, …), or choose it: "
            "bridge.Haiku(transformed, method=…)."
        )


def _create(scope: Scope, made: Any, with_state: bool) -> None:
    for col, modules in zip(_COLLECTIONS, made if with_state else (made,), strict=False):
        for module, variables in modules.items():
            for name, value in variables.items():
                at(scope, (module,)).variable(col, name, lambda value=value: value)


def _read(scope: Scope, col: str) -> dict[str, Any]:
    modules = scope.collection(col)
    return {
        module: {name: meta.unbox(value) for name, value in variables.items()} for module, variables in modules.items()
    }
