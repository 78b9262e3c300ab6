"""Lifted loops without a fixed number of steps, and deep stacks of one layer.

    while_loop : (Module -> c -> Bool, Module -> c -> c) -> Module -> c -> c
    fori_loop  : Int -> Int -> (Module -> Int -> c -> c) -> Module -> c -> c
    remat_scan : (Module -> c -> c) -> (Module with axes -> c -> c)

`while_loop` and `fori_loop` are one call to `liftax.ad.loops.while_loop`; `remat_scan` is `scan` of
`checkpoint` of `scan` of ….

Source: `jax.lax.while_loop`; `flax.linen.while_loop` and `flax.linen.remat_scan` for the signatures. Chen et al. 2016,
"Training Deep Nets with Sublinear Memory Cost", for nested rematerialization.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from liftax import errors
from liftax.ad import loops
from liftax.core import filters, refusals
from liftax.core.packing.run import Effects, Run, State, no_state
from liftax.explain.transform import Transform, described
from liftax.lift.control.checkpoint import checkpoint
from liftax.lift.control.scan import scan
from liftax.lift.machinery.checks import explain_carry
from liftax.lift.machinery.forms import Call, Target, class_form, function_form, is_class, joined, split_keys
from liftax.lift.machinery.paths import get, has, updated
from liftax.typing import Filter, Path

WHILE_LOOP = Transform(
    "while_loop", "(cond_fn, body_fn, module, init)", filters=("carry_variables",), splits="steps",
    to_write="Let each step hand it to the next: carry_variables={col}.",
)  # fmt: skip
FORI_LOOP = dataclasses.replace(WHILE_LOOP, name="fori_loop", call="(lower, upper, body_fn, module, init)")
ONLY_READS = "The condition may only read; write in body_fn."
REMAT_SCAN = Transform("remat_scan", "(fn, …)(module, carry)")


@described(WHILE_LOOP)
def while_loop(
    cond_fn: Callable[..., Any],
    body_fn: Callable[..., Any],
    mdl: Any,
    init: Any,
    carry_variables: Filter = False,
    broadcast_variables: Filter = True,
    split_rngs: Mapping[Filter, bool] = {},
    *,
    max_steps: int | None = None,
    checkpoints: int | None = None,
) -> Any:
    """Run a function of a module as long as a condition holds.

    Outside of a module use `liftax.while_loop`. Backwards, carries that are not kept are computed again, with the same
    keys of the rng streams.

    Args:
        cond_fn: Called as `cond_fn(mdl, carry)`; tells whether to go on. It writes no variables.
        body_fn: Called as `body_fn(mdl, carry)`; returns the next carry.
        mdl: A bound Module, a Scope, or a tree of these.
        init: The first carry.
        carry_variables: Collections that a step may write; the next one sees what it wrote.
        broadcast_variables: Collections that can be read only.
        split_rngs: Filter -> whether the rng stream differs from step to step. Streams that no filter matches are out
            of reach inside.
        max_steps: Stop after so many steps. The result, and what was written, is then that of the last one. None: no
            bound.
        checkpoints: How many carries to keep for the way back, with the variables that are carried: see
            `liftax.while_loop`.

    Returns:
        The last carry.

    Raises:
        ArityError: `max_steps` or `checkpoints` is not a number of steps.
        ControlFlowError: A step creates a variable, or the carry changes its type.
        TransformTargetError, UnboundModuleError, InvalidScopeError, TransformedMethodReturnValueError: see
            `checkpoint`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Doubling(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         n = self.variable('state', 'n', lambda: jnp.array(0))
        ...         def double(mdl, x):
        ...             n.value += 1
        ...             return 2 * x
        ...         return nn.while_loop(lambda mdl, x: x < 100, double, self, x, carry_variables='state')
        >>> y, state = Doubling().apply({'state': {'n': jnp.array(0)}}, jnp.array(3.0), mutable='state')
        >>> float(y), int(state['state']['n'])
        (192.0, 6)
    """
    return _looped(
        WHILE_LOOP, cond_fn, body_fn, mdl, init, (carry_variables, broadcast_variables), split_rngs,
        max_steps=max_steps, checkpoints=checkpoints,
    )  # fmt: skip


def _looped(
    transform: Transform,
    cond_fn: Callable[..., Any],
    body_fn: Callable[..., Any],
    mdl: Any,
    init: Any,
    groups: tuple[Filter, Filter],
    split_rngs: Mapping[Filter, bool],
    **options: Any,
) -> Any:
    """Return the last carry; `groups` are the variables that are carried, and those that are the same in all steps."""
    call = Call.of(transform, body_fn, mdl, (init,), {}, groups)
    packed = call.packed
    split, shared = split_keys(call, split_rngs)
    mutable = tuple(filters.intersect(m, groups[0]) for m in packed.mutable)
    reads = call.with_(
        transform=dataclasses.replace(transform, to_write=ONLY_READS),
        creates=False,
        mutable=tuple(False for _ in mutable),
    )
    steps = call.with_(creates=False, mutable=mutable)
    written: list[set[Path]] = [set() for _ in packed.roots]
    ends: list[Effects] = []  # of the condition, and then of the body

    def keys(step: Any) -> Any:
        return joined(shared, jax.tree.map(lambda key: jax.random.fold_in(key, step), split))

    def goes_on(carry: Any) -> Any:
        step, carried, c = carry
        out, run = reads.run((carried, packed.groups[1]), keys(-step), (c,), {}, cond_fn)
        ends[:1] = [run.effects]
        return out

    def pure(carry: Any) -> Any:
        step, carried, c = carry
        # The rng counters of the body go on from those of the condition, as they do in Linen.
        body = steps.with_(counters=packed.counters_after(ends[0]))
        out, run = body.run((carried, packed.groups[1]), keys(step), (c,), {})
        ends[1:] = [run.effects]
        for i, values in enumerate(run.state.written):
            written[i].update(values)
            for key in values:
                if not has(packed.groups[0][i], key):
                    root = packed.roots[i]
                    raise refusals.no_start(transform, key[0], key[-1], root.at(key[1:-1]).path_text)
        return step + 1, updated(carried, run.state.written), out

    try:
        start = (0, packed.groups[0], *call.args)
        _, carried, out = loops.while_loop(goes_on, call.named(pure), start, **options)
    except TypeError as error:
        explain_carry(lambda c: pure((0, *c))[1:], (packed.groups[0], *call.args), (), error, packed)
        raise
    last = tuple({key: get(tree, key) for key in keys} for tree, keys in zip(carried, written, strict=True))
    packed.commit(Run(State(last, no_state(len(last)).created), ends[-1]))
    return out


@described(FORI_LOOP)
def fori_loop(
    lower: Any,
    upper: Any,
    body_fn: Callable[..., Any],
    mdl: Any,
    init: Any,
    carry_variables: Filter = False,
    broadcast_variables: Filter = True,
    split_rngs: Mapping[Filter, bool] = {},
    *,
    checkpoints: int | None = None,
) -> Any:
    """Run a function of a module for the integers from `lower` up to `upper`, which may be traced.

    Outside of a module use `liftax.fori_loop`.

    Args:
        lower: The first integer.
        upper: The integer behind the last one.
        body_fn: Called as `body_fn(mdl, i, carry)`; returns the next carry.
        mdl: A bound Module, a Scope, or a tree of these.
        init: The first carry.
        carry_variables: See `while_loop`.
        broadcast_variables: See `while_loop`.
        split_rngs: See `while_loop`.
        checkpoints: How many carries to keep for the way back: see `liftax.while_loop`.

    Returns:
        The last carry.

    Raises:
        ArityError, ControlFlowError, TransformTargetError, UnboundModuleError, InvalidScopeError,
            TransformedMethodReturnValueError: see `while_loop`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Power(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, n):
        ...         x = self.param('x', lambda key: jnp.array(2.0))
        ...         return nn.fori_loop(0, n, lambda mdl, i, y: mdl.get_variable('params', 'x') * y, self, 1.0)
        >>> params = {'params': {'x': jnp.array(2.0)}}
        >>> print(jax.jit(jax.grad(Power().apply))(params, 3)['params']['x'])
        12.0
    """
    try:
        max_steps = max(int(upper) - int(lower), 0)
    except jax.errors.ConcretizationTypeError:
        max_steps = None

    def goes_on(mdl: Any, carry: Any) -> Any:
        i, end, _ = carry
        return i < end

    @functools.wraps(body_fn)
    def step(mdl: Any, carry: Any) -> Any:
        i, end, c = carry
        return i + 1, end, body_fn(mdl, i, c)

    return _looped(
        FORI_LOOP, goes_on, step, mdl, (lower, upper, init), (carry_variables, broadcast_variables), split_rngs,
        max_steps=max_steps, checkpoints=checkpoints,
    )[2]  # fmt: skip


@described(REMAT_SCAN)
def remat_scan(
    target: Target,
    lengths: Sequence[int] = (),
    policy: Callable[..., bool] | None = None,
    variable_broadcast: Filter = False,
    variable_carry: Filter = False,
    variable_axes: Mapping[Filter, Any] = {True: 0},
    split_rngs: Mapping[Filter, bool] = {True: True},
    metadata_params: Mapping[Any, Any] = {},
) -> Target:
    """Repeat a layer many times, with memory for few: nested loops, each of which is computed again backward.

    Args:
        target: A Module class, or a method or a function called as `fn(mdl, carry)`; it returns the next carry.
        lengths: The number of repetitions of each loop, from the outermost inwards. There are `prod(lengths)` in all.
        policy: See `checkpoint`.
        variable_broadcast: See `scan`.
        variable_carry: See `scan`.
        variable_axes: See `scan`. A variable gets one axis for each loop.
        split_rngs: See `scan`.
        metadata_params: See `scan`; handed on by each of the loops.

    Returns:
        A subclass with the same fields, whose instances are named `Remat_scan…`; or a function called as
        `repeated(mdl, carry)`.

    Raises:
        MappedAxisError: `lengths` is empty.
        ControlFlowError, TransformTargetError, UnboundModuleError: see `scan`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> Deep = nn.remat_scan(nn.Dense, lengths=(3, 4))
        >>> jax.tree.map(jnp.shape, Deep(2).init(jax.random.key(0), jnp.ones(2)))
        {'params': {'bias': (3, 4, 2), 'kernel': (3, 4, 2, 2)}}
    """
    options: dict[str, Any] = {
        "variable_broadcast": variable_broadcast, "variable_carry": variable_carry, "variable_axes": variable_axes,
        "split_rngs": split_rngs, "metadata_params": metadata_params,
    }  # fmt: skip
    if is_class(target):
        return class_form(remat_scan, target, None, lengths=lengths, policy=policy, **options)
    if not lengths:
        raise errors.MappedAxisError("remat_scan: lengths is empty. Give the number of repetitions of each loop.")

    @functools.wraps(target)
    def step(mdl: Any, carry: Any) -> tuple[Any, None]:
        return target(mdl, carry), None

    @functools.wraps(target)
    def loop(mdl: Any, carry: Any) -> tuple[Any, None]:
        return remat_scan(target, lengths[1:], policy, **options)(mdl, carry), None

    body = step if len(lengths) == 1 else checkpoint(loop, policy=policy, prevent_cse=False)

    def called(mdl: Any, carry: Any) -> Any:
        return scan(body, length=lengths[0], **options)(mdl, carry)[0]

    return function_form(called, target, REMAT_SCAN)
