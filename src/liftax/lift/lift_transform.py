"""The way of one's own transforms from scopes to modules: classes, methods and functions of modules.

    lift_transform        : ((Scope -> a -> b) -> Scope -> a -> c) -> (Module -> a -> b) -> Module -> a -> c
    lift_direct_transform : the same, for transforms that take their target and its arguments right away

A transform of scopes gets scopes, one for each root that the module and the modules among its arguments reach, and a
function of them that puts the modules back onto whatever scopes it is called with.

Source: `flax.linen.transforms.lift_transform` and `lift_direct_transform` for the signatures.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from liftax import errors
from liftax.explain.transform import Transform
from liftax.lift.machinery.forms import Call, class_form, function_form, is_class


def lift_transform(
    transform: Callable[..., Any],
    target: Any,
    *trafo_args: Any,
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    **trafo_kwargs: Any,
) -> Any:
    """Apply a transform of scopes to a Module class, a method or a function of a module.

    The transforms of `liftax.lift` take these by themselves: `nn.vmap(Block, …)`.

    Args:
        transform: Called as `transform(fn, *trafo_args, **trafo_kwargs)` with a function of a tree of scopes and of
            arrays; returns one. Written with `core.unbind`, or with `lift.pack`.
        target: A Module class, or a method or a function called as `fn(mdl, *args, **kwargs)`.
        *trafo_args: Handed to `transform`.
        methods: For a class, the names of the methods to transform, or a mapping from name to options that take the
            place of `trafo_kwargs`; by default `__call__`.
        **trafo_kwargs: Handed to `transform`.

    Returns:
        A subclass with the same fields, whose instances are named after the transform; or a function with the
        signature of `target`.

    Raises:
        TransformTargetError: `target` is none of these, or has no such method.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import core, nn
        >>> def scaled(fn, by):  # a transform of scopes
        ...     return lambda scope, x: by * fn(scope, x)
        >>> class Net(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         return nn.transforms.lift_transform(scaled, nn.Dense, by=2)(1, kernel_init=nn.initializers.ones)(x)
        >>> out, variables = Net().init_with_output(jax.random.key(0), jnp.ones(3))
        >>> out, list(variables['params'])
        (Array([6.], dtype=float32), ['ScaledDense_0'])
    """
    if is_class(target):

        def one(method: Any, methods: Any = None, **options: Any) -> Any:
            return lift_transform(transform, method, *trafo_args, methods=methods, **options)

        one.__name__ = getattr(transform, "__name__", "transform")
        return class_form(one, target, methods, **trafo_kwargs)

    def called(mdl: Any, *args: Any, **kwargs: Any) -> Any:
        call = _call(transform, target, mdl, args, kwargs)
        names: list[Any] = []
        lifted = transform(_of_scopes(call, target, names), *trafo_args, **trafo_kwargs)
        return _finished(call, lifted(list(call.packed.roots), *call.args, **call.kwargs), names)

    return function_form(called, target, _descriptor(transform))


def lift_direct_transform(
    transform: Callable[..., Any],
    targets: tuple[Callable[..., Any], ...],
    mdl: Any,
    *args: Any,
    multi_scope: bool = True,
    **kwargs: Any,
) -> Any:
    """Call a transform of scopes that takes its target right away, as `vjp` and `cond` do, with a module.

    The transforms of `liftax.lift` take modules by themselves: `nn.cond(pred, f, g, module, x)`.

    Args:
        transform: Called as `transform(*fns, scopes, *args, **kwargs)` with functions of a tree of scopes.
        targets: Functions called as `fn(mdl, *args)`, with the arguments that the transform hands to them.
        mdl: A bound module.
        *args: Handed to `transform`; modules among them become part of the target.
        multi_scope: Hand `transform` a list of scopes, as many as the module reaches. False: one scope, for
            transforms whose results are shaped like their target.
        **kwargs: Handed to `transform`.

    Returns:
        What `transform` returns.

    Raises:
        TransformTargetError: `targets` is not a tuple of functions, or `multi_scope` is False and the module reaches
            others, which have scopes of their own.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import lift, nn
        >>> class Net(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         either = nn.transforms.lift_direct_transform
        ...         choose = lambda f, g, scopes, x: lift.cond(x > 0, f, g, scopes, x)
        ...         return either(choose, (lambda mdl, x: x, lambda mdl, x: -x), self, x)
        >>> Net().apply({}, jnp.array(-2.0))
        Array(2., dtype=float32, weak_type=True)
    """
    name = getattr(transform, "__name__", "transform")
    if not isinstance(targets, tuple) or not all(map(callable, targets)):
        raise errors.TransformTargetError(
            f"{name}: got {type(targets).__name__} where a tuple of functions of the module is expected: "
            f"lift_direct_transform({name}, (fn,), module, *args)."
        )
    call = _call(transform, targets[0], mdl, args, kwargs)
    roots = list(call.packed.roots)
    if not multi_scope and len(roots) > 1:
        raise errors.TransformTargetError(
            f"{name} at {roots[0].path_text}: multi_scope=False, and the module reaches others that lie outside of it: "
            f"{', '.join(root.path_text for root in roots)}. Pass multi_scope=True, for a list of scopes."
        )
    names: list[Any] = []
    fns = [_of_scopes(call, target, names) for target in targets]
    out = transform(*fns, roots if multi_scope else roots[0], *call.args, **call.kwargs)
    return _finished(call, out, names)


def _descriptor(transform: Any) -> Transform:
    return Transform(getattr(transform, "__name__", "lift_transform"), "(fn, …)(module, *args)", any_output=True)


def _call(transform: Any, target: Any, mdl: Any, args: Any, kwargs: Any) -> Call:
    return Call.of(_descriptor(transform), target, mdl, args, kwargs, (True,))


def _of_scopes(call: Call, target: Callable[..., Any], names: list[Any]) -> Callable[..., Any]:
    """Return `target` as a function of the scopes of the call; it appends the names that modules gave to `names`."""

    @functools.wraps(target)
    def of_scopes(scopes: Any, *args: Any, **kwargs: Any) -> Any:
        out, given = call.run_on(scopes if isinstance(scopes, list) else [scopes], args, kwargs, target)
        names.append(given)
        return out

    return of_scopes


def _finished(call: Call, out: Any, names: list[Any]) -> Any:
    """Let automatic names go on after those that were given in the last run."""
    if names:
        call.packed.continue_names(names[-1])
    return out
