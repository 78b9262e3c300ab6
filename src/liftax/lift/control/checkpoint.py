"""Rematerialization: a function of a module whose intermediate values are computed again for the backward pass.

    checkpoint : (Module -> a -> b) -> (Module -> a -> b)

One call to `jax.checkpoint`, or to `liftax.checkpoint` where a budget says how much is kept. `remat` is the same
function. Each call is traced, and traces that come out the same are given to JAX as one
(`liftax.lift.machinery.equal_programs`), so that it works out once what the backward pass of equal blocks computes.

Source: `jax.checkpoint`; `flax.linen.checkpoint` for the signature.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from liftax import ad
from liftax.ad.memory.checkpoint import goal_of, planned_program
from liftax.explain.transform import Transform, described
from liftax.lift.machinery.equal_programs import worked_out_once
from liftax.lift.machinery.forms import Call, Target, as_method, class_form, function_form, is_class, is_unbound
from liftax.lift.machinery.static_arguments import check_not_the_module, explained, static_arguments
from liftax.typing import Filter

CHECKPOINT = Transform("checkpoint", "(fn, …)(module, *args)")


@described(CHECKPOINT)
def checkpoint(
    target: Target,
    variables: Filter = True,
    rngs: Filter = True,
    concrete: bool = False,
    prevent_cse: bool = True,
    static_argnums: int | Sequence[int] = (),
    policy: Callable[..., bool] | None = None,
    budget: int | str | None = None,
    recompute: float | None = None,
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
) -> Target:
    """Compute intermediate values again in the backward pass, to save the memory for them.

    Outside of a module use `jax.checkpoint`, or `liftax.checkpoint` for a budget.

    Args:
        target: A Module class, or a method or a function called as `fn(mdl, *args, **kwargs)`.
        variables: The collections that are available inside.
        rngs: The rng streams that are available inside.
        concrete: Deprecated: True raises NotImplementedError. Use `static_argnums`.
        prevent_cse: Keep the compiler from undoing it; False saves time inside `scan`, where it can't.
        static_argnums: Positions of arguments that stay Python values, counted with the module as 0. Each is static
            by keyword, too.
        policy: Which intermediate values are kept: see `jax.checkpoint_policies`.
        budget: The most bytes to keep for the backward pass, such as `"64 MiB"` or `"40%"`: see `liftax.checkpoint`.
            Without it and `recompute`, nothing is kept but what `policy` says.
        recompute: The most FLOPs in addition, as a share: see `liftax.checkpoint`.
        methods: For a class, the names of the methods to transform, or a mapping from name to options; by default
            `__call__`.

    Returns:
        A subclass with the same fields, whose instances are named `Checkpoint…`; or a function with the signature of
        `fn`, whose first argument is a bound Module, a Scope, or a tree of these.

    Raises:
        TransformTargetError: `target` is none of these, or has no such method.
        MemoryPlanError, BudgetError: See `liftax.checkpoint`.
        UnboundModuleError, InvalidScopeError, TransformedMethodReturnValueError: (from the call) see `vjp`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Deep(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         for _ in range(3):
        ...             x = nn.remat(nn.Dense)(2)(x)
        ...         return x
        >>> variables = Deep().init(jax.random.key(0), jnp.ones(2))
        >>> list(variables['params'])
        ['CheckpointDense_0', 'CheckpointDense_1', 'CheckpointDense_2']
    """
    if is_class(target):
        return class_form(
            checkpoint, target, methods, variables=variables, rngs=rngs, concrete=concrete, prevent_cse=prevent_cse,
            static_argnums=static_argnums, policy=policy, budget=budget, recompute=recompute,
        )  # fmt: skip
    if concrete:
        raise NotImplementedError("checkpoint: concrete=True is gone from JAX. Name Python values in static_argnums.")
    static = static_arguments(target, static_argnums)
    check_not_the_module(static, CHECKPOINT)
    options: dict[str, Any] = {"prevent_cse": prevent_cse, "policy": policy}
    transform: Callable[..., Any] = jax.checkpoint
    plain: Callable[..., Any] = functools.partial(jax.checkpoint, **options)
    if budget is not None or recompute is not None:
        plain = functools.partial(ad.checkpoint, budget=budget, recompute=recompute, **options)
        options, transform = {"goal": goal_of(budget, recompute, policy, prevent_cse)}, planned_program

    def called(mdl: Any, *args: Any, **kwargs: Any) -> Any:
        held = {name: kwargs.pop(name) for name in static.names if name in kwargs}
        positions = tuple(i - 1 if i > 0 else i + len(args) for i in static.positions if -len(args) <= i <= len(args))
        if is_unbound(mdl):
            fn = functools.partial(as_method(target, mdl), mdl, **held)
            return plain(fn, static_argnums=positions)(*args, **kwargs)
        call = Call.of(CHECKPOINT, target, mdl, args, kwargs, (variables,), rngs)
        packed = call.packed

        def pure(groups: Any, keys: Any, *args: Any, **kwargs: Any) -> Any:
            return call.run(groups, keys, args, {**kwargs, **held})

        with explained(static, target, "remat"):
            out, run = _rematerialized(
                call.named(pure), tuple(i + 2 for i in positions), transform, options,
                (packed.groups, packed.keys, *call.args), call.kwargs,
            )  # fmt: skip
        packed.commit(run)
        return out

    return function_form(called, target, CHECKPOINT)


remat = checkpoint


def _rematerialized(
    pure: Callable[..., Any],
    static: tuple[int, ...],
    transform: Callable[..., Any],
    options: Mapping[str, Any],
    args: Any,
    kwargs: Any,
) -> Any:
    """Return what `transform` of `pure` does, which is equal for equal programs, and so worked out once."""
    positions = set(static)
    if not isinstance(options.get("prevent_cse", True), bool):
        return jax.checkpoint(pure, static_argnums=static, **options)(*args, **kwargs)

    def free(given: Any, kwargs: Any) -> Any:
        given = iter(given)
        return pure(*[x if i in positions else next(given) for i, x in enumerate(args)], **kwargs)

    given = [x for i, x in enumerate(args) if i not in positions]
    try:
        return worked_out_once(free, (given, kwargs), pure.__name__, transform, **options)
    except jax.errors.ConcretizationTypeError:
        if transform is not jax.checkpoint:
            raise
        # JAX says more about it if it traces for a checkpoint
        return jax.checkpoint(pure, static_argnums=static, **options)(*args, **kwargs)
