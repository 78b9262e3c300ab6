"""`init`, `apply`, `bind`: functions of a scope made pure.

apply : (Scope -> args -> b) -> (variables, args) -> b, or (b, mutated variables)
init  : (Scope -> args -> b) -> (keys, args) -> (b, variables)
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from liftax import errors, jaxprs
from liftax.core import rngs as _rngs
from liftax.core.filters import in_filter
from liftax.core.scope import Scope, copied
from liftax.core.store import Store
from liftax.typing import Filter


def bind(
    variables: Mapping[str, Any],
    rngs: Any = None,
    mutable: Filter = False,
    flags: Mapping[str, Any] | None = None,
    owner: str = "bind",
) -> Scope:
    """Return a scope over `variables`, to be used step by step.

    Prefer `apply`, which is pure: a bound scope holds state.

    Args:
        variables: collection -> nested mapping. Never changed: mutable collections are copied.
        rngs: a key for the `'params'` stream, or a mapping from stream to key.
        mutable: which collections may be written.
        flags: facts about the call.
        owner: what error texts call it.

    Raises:
        ApplyScopeInvalidVariablesTypeError, ApplyScopeInvalidVariablesStructureError: `variables` is malformed.
        InvalidRngError: `rngs` is malformed.

    Example:
        >>> from liftax import core
        >>> scope = core.bind({'params': {'w': 2.0}})
        >>> scope.get_variable('params', 'w')
        2.0
    """
    _check_variables(variables, owner)
    own = {col: copied(tree) if in_filter(mutable, col) else tree for col, tree in variables.items()}
    return Scope.of(Store(own, _rngs.canonical(rngs, owner), mutable, flags or {}, owner))


def apply(
    fn: Callable[..., Any], mutable: Filter = False, flags: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """Make a function of a scope pure.

    Args:
        fn: called as `fn(scope, *args, **kwargs)`.
        mutable: which collections `fn` may write.
        flags: facts about the call.

    Returns:
        `applied(variables, *args, rngs=None, **kwargs)`, which returns `fn`'s result, or, unless `mutable` is False,
        `(result, variables of the mutable collections)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import core
        >>> def count(scope):
        ...     n = scope.variable('state', 'n', lambda: 0)
        ...     n.value += 1
        ...     return n.value
        >>> core.apply(count, mutable='state')({'state': {'n': 4}})
        (5, {'state': {'n': 5}})
    """

    @functools.wraps(fn)
    def applied(variables: Mapping[str, Any], *args: Any, rngs: Any = None, **kwargs: Any) -> Any:
        scope = bind(variables, rngs, mutable, flags, "init" if flags and flags.get("initializing") else "apply")
        scope.store.cached = []
        try:
            out = fn(scope, *args, **kwargs)
            written = {col: tree for col, tree in scope.store.variables.items() if scope.store.is_mutable(col)}
        finally:
            scope.store.end()
        return out if mutable is False else (out, written)

    return applied


def init(
    fn: Callable[..., Any], mutable: Filter = True, flags: Mapping[str, Any] | None = None
) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Make a function of a scope into one that creates its variables.

    Args:
        fn: called as `fn(scope, *args, **kwargs)`.
        mutable: which collections are created.
        flags: facts about the call.

    Returns:
        `initialized(rngs, *args, **kwargs)`, which returns `(result, variables)`. `rngs` is a key, which feeds the
        stream `'params'`, or a mapping from stream to key.

    Example:
        >>> import jax
        >>> from liftax import core
        >>> def f(scope, x):
        ...     return x * scope.param('w', jax.nn.initializers.ones, ())
        >>> core.init(f)(jax.random.key(0), 3.0)
        (Array(3., dtype=float32), {'params': {'w': Array(1., dtype=float32)}})
    """

    @functools.wraps(fn)
    def initialized(rngs: Any, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        if rngs is None:
            raise errors.InvalidRngError(
                "init: got rngs=None. Pass a key from jax.random.key(seed) first: init(key, *args)."
            )
        out = apply(fn, mutable, {**(flags or {}), "initializing": True})({}, *args, rngs=rngs, **kwargs)
        return out if mutable is not False else (out, {})

    return initialized


def lazy_init(
    fn: Callable[..., Any], mutable: Filter = True, flags: Mapping[str, Any] | None = None
) -> Callable[..., dict[str, Any]]:
    """Like `init`, but computes variables alone: arguments may be `jax.ShapeDtypeStruct`s.

    Returns:
        `initialized(rngs, *args, **kwargs)`, which returns the variables.

    Raises:
        LazyInitError: (by the returned function) a variable depends on the value of an argument.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import core
        >>> def dense(scope, x):
        ...     return x @ scope.param('kernel', jax.nn.initializers.ones, (x.shape[-1], 2))
        >>> variables = core.lazy_init(dense)(jax.random.key(0), jax.ShapeDtypeStruct((1024, 3), jnp.float32))
        >>> variables['params']['kernel'].shape
        (3, 2)
    """

    @functools.wraps(fn)
    def initialized(rngs: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        leaves, treedef = jax.tree.flatten((args, kwargs))
        abstract = [isinstance(x, jax.ShapeDtypeStruct | jax.Array) or hasattr(x, "__array__") for x in leaves]

        def variables_of(keys: Any, arrays: list[Any]) -> Any:
            rest = iter(arrays)
            full = [next(rest) if is_array else x for x, is_array in zip(leaves, abstract, strict=True)]
            args, kwargs = treedef.unflatten(full)
            return init(fn, mutable, flags)(keys, *args, **kwargs)[1]

        arrays = [x for x, is_array in zip(leaves, abstract, strict=True) if is_array]
        variables, depends = jaxprs.partial_eval(variables_of, _rngs.canonical(rngs, "lazy_init"), arrays)
        if depends:
            raise errors.LazyInitError(
                f"lazy_init: a variable's initial value depends on the value of an argument "
                f"({', '.join(map(str, depends))}), and only its shape is known. Use init with real arrays, or "
                "initialize the variable from shapes only."
            )
        return variables

    return initialized


def _check_variables(variables: Any, owner: str) -> None:
    if not isinstance(variables, Mapping) or not all(isinstance(k, str) for k in variables):
        raise errors.ApplyScopeInvalidVariablesTypeError(
            f"{owner}: got variables of type {type(variables).__name__}. Expected a mapping from collection names to "
            "nested mappings of arrays, such as {'params': …}, as init returns it."
        )
    for col, tree in variables.items():
        if not isinstance(tree, Mapping):
            raise errors.ApplyScopeInvalidVariablesTypeError(
                f"{owner}: the collection {col!r} is {type(tree).__name__}, and no mapping. Expected collections "
                "of nested mappings, as init returns them; parameters alone are passed as {'params': params}."
            )
    params = variables.get("params")
    if isinstance(params, Mapping) and "params" in params:
        raise errors.ApplyScopeInvalidVariablesStructureError(
            f"{owner}: got {{'params': {{'params': …}}}}: the parameters are wrapped once too often. Pass what init "
            "returned, as it is: apply(variables, …), not apply({'params': variables}, …)."
        )
