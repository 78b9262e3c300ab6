"""`checkpoint`: a function whose backward pass keeps as little as a budget says.

    checkpoint : (a -> b) -> (a -> b)

The same function, with another derivative: what is kept between the forward and the backward pass is chosen by a plan
(`liftax.ad.memory.plan`), and everything else is computed again when the backward pass gets there.
"""

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax

from liftax.ad.memory.budget import parse_budget, parse_recompute
from liftax.ad.memory.loops import run_with_plan
from liftax.ad.memory.plan import Goal
from liftax.ad.memory.program import refuse_refs
from liftax.errors import ArityError, MemoryPlanError
from liftax.explain.functions import demand_callable

Function = TypeVar("Function", bound=Callable[..., Any])


def checkpoint(
    fun: Function,
    *,
    budget: int | str | None = None,
    recompute: float | None = None,
    policy: Callable[..., bool] | None = None,
    prevent_cse: bool = True,
    static_argnums: int | Sequence[int] = (),
) -> Function:
    """Keep less for the backward pass: so many bytes, or what so many FLOPs more allow.

    Without a budget, and with `recompute=0`, only what costs next to nothing is computed again, no matrix product,
    convolution, loop, sort or factorization, and FLOPs grow by no more than 2 %. This is what to try first, around
    the whole loss. Where memory is not short, don't use it: tracing takes longer.

    What counts is the bytes of the arrays that wait for the backward pass, those of loops once for each step, as
    `liftax.saved` lists them. Arguments and constants are there anyway and don't count; arrays that are laid out over
    devices count whole; under a `jax.vmap` of the function's gradient one example counts.

    On CPUs XLA undoes what is here outside of loops, unless the environment has
    `XLA_FLAGS=--xla_disable_hlo_passes=cse_barrier_expander` when JAX starts. On GPUs and TPUs nothing is needed.

    Args:
        fun: The function.
        budget: The most bytes to keep: an integer, a number with a unit such as `"2 GiB"` or `"500 MB"`, or a share
            such as `"40%"` of what the plain derivative keeps. It is met with as few FLOPs as possible.
        recompute: The most FLOPs in addition, as a share of those of the plain derivative. As few bytes are kept as
            that allows. 0, the default where there is no `budget`, stands for what costs next to nothing. With
            `budget` both must be met.
        policy: Which values may be kept, as in `jax.checkpoint`. With neither `budget` nor `recompute` this is
            `jax.checkpoint`.
        prevent_cse: Keep the compiler from undoing it. False saves time inside of a loop.
        static_argnums: Positions of arguments that stay Python values.

    Returns:
        A function with the arguments and results of `fun`. It can be differentiated in both modes and as often as
        wanted, and be called under every transform of JAX.

    Raises:
        MemoryPlanError: `budget` or `recompute` have no meaning. From the call: the function uses a `jax.Ref`.
        BudgetError: (from the derivative) no plan meets the budget; its text says which budget can be met.
        ArityError: `fun` is not callable, or `static_argnums` names no argument.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import liftax as lx
        >>> def loss(w, x):
        ...     for _ in range(4):
        ...         x = jax.nn.gelu(x @ w)
        ...     return jnp.sum(x)
        >>> w, x = jnp.eye(8), jnp.ones((100, 8))
        >>> lx.saved(loss, w, x).computed_bytes > 50_000
        True
        >>> lx.saved(lx.checkpoint(loss, budget="25%"), w, x).computed_bytes <= 73600 // 4
        True
    """
    demand_callable(fun, "checkpoint")
    if not isinstance(prevent_cse, bool):
        raise MemoryPlanError(f"checkpoint: prevent_cse={prevent_cse!r} is not a Boolean.")
    static = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)
    if policy is not None and budget is None and recompute is None:
        kept: Any = jax.checkpoint(fun, policy=policy, prevent_cse=prevent_cse, static_argnums=static)
        return kept
    goal = goal_of(budget, recompute, policy, prevent_cse)

    @functools.wraps(fun)
    def planned_fun(*args: Any, **kwargs: Any) -> Any:
        fixed = _positions(static, len(args))
        given = [x for i, x in enumerate(args) if i not in fixed]

        def pure(given: Sequence[Any], kwargs: Any) -> Any:
            rest = iter(given)
            return fun(*[x if i in fixed else next(rest) for i, x in enumerate(args)], **kwargs)

        return run_planned(pure, goal, given, kwargs)

    planned_fun.without_plan = fun  # type: ignore[attr-defined]
    return planned_fun  # type: ignore[return-value]


def goal_of(budget: Any, recompute: Any, policy: Any, prevent_cse: bool) -> Goal:
    """Return what the arguments of `checkpoint` ask for, checked."""
    bytes_, share = (None, None) if budget is None else parse_budget(budget)
    if recompute is not None:
        recompute = parse_recompute(recompute)
    elif budget is None:
        recompute = 0.0
    return Goal(bytes_, share, recompute, prevent_cse, policy)


def run_planned(pure: Callable[..., Any], goal: Goal, *args: Any) -> Any:
    """Return `pure(*args)`, with the derivative of a plan."""
    leaves, treedef = jax.tree.flatten(args)
    closed, structure = _traced(pure, leaves, treedef)
    return structure.unflatten(run_with_plan(*closed.consts, *leaves, jaxpr=_without_constants(closed), plan=goal))


def _traced(pure: Callable[..., Any], leaves: Sequence[Any], treedef: Any) -> tuple[Any, Any]:
    """Return the closed jaxpr of a function, and the structure of its output."""
    structures: list[Any] = []

    def flat(*leaves: Any) -> list[Any]:
        out, structure = jax.tree.flatten(pure(*treedef.unflatten(leaves)))
        structures.append(structure)
        return out

    closed = jax.make_jaxpr(flat)(*leaves)
    refuse_refs(closed.jaxpr)
    return closed, structures[-1]


_open: "weakref.WeakKeyDictionary[Any, Any]" = weakref.WeakKeyDictionary()


def _without_constants(closed: Any) -> Any:
    """Return the jaxpr with its constants as its first arguments; the same one each time, for which there is a plan."""
    jaxpr = closed.jaxpr
    if jaxpr not in _open:
        inputs = [*jaxpr.constvars, *jaxpr.invars]
        debug_info = jaxpr.debug_info.with_unknown_names()
        _open[jaxpr] = jaxpr.replace(constvars=[], invars=inputs, debug_info=debug_info)
    return _open[jaxpr]


def planned_program(run: Callable[..., Any], *, goal: Goal) -> Callable[..., Any]:
    """Return `run` with the derivative of a plan; it is traced, and planned, once for all arguments of equal types.

    Args:
        run: a function that closes over no value of a transform.
        goal: what the plan is to achieve.
    """
    traced: dict[Any, tuple[Any, Any]] = {}

    def call(*args: Any) -> Any:
        leaves, treedef = jax.tree.flatten(args)
        key = (treedef, *map(jax.typeof, leaves))
        if key not in traced:
            traced[key] = _traced(run, leaves, treedef)
        closed, structure = traced[key]
        return structure.unflatten(run_with_plan(*closed.consts, *leaves, jaxpr=_without_constants(closed), plan=goal))

    return call


def _positions(static: tuple[int, ...], count: int) -> set[int]:
    for i in static:
        if not -count <= i < count:
            raise ArityError(
                f"checkpoint: static_argnums={static} names position {i}, and the call has {count} positional "
                f"argument{'s' * (count != 1)}."
            )
    return {i % count for i in static}
