"""Lifted branches: one of several functions of a module runs, and which one is known only to the running program.

    cond   : (Bool, Module -> a -> b, Module -> a -> b) -> Module -> a -> b
    switch : (Int, [Module -> a -> b]) -> Module -> a -> b

One call to `jax.lax.switch`. Its branches return one structure. So where variables may be written, each branch is
traced once before to see which it writes; what the others don't write keeps its value there.

Rng counters go on from branch to branch, as they do in Linen: two branches never draw the same key.

Source: `jax.lax.cond`, `jax.lax.switch`; `flax.linen.cond` and `flax.linen.switch` for the signatures.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from liftax import errors
from liftax.ad.checks import describe, tree_mismatch
from liftax.core import filters, targets
from liftax.core.pack import State, is_target
from liftax.lift.adapter import Call, as_method
from liftax.lift.nested import get, has
from liftax.typing import Filter


def cond(
    pred: Any,
    true_fun: Callable[..., Any],
    false_fun: Callable[..., Any],
    mdl: Any,
    *operands: Any,
    variables: Filter = True,
    rngs: Filter = True,
) -> Any:
    """Run one of two functions of a module.

    Outside of a module, and where `pred` is a Python bool, use `jax.lax.cond`, and `if`.

    Args:
        pred: Which one: a Boolean scalar.
        true_fun: Called as `true_fun(mdl, *operands)`.
        false_fun: The same; its output has the same structure, shapes and dtypes.
        mdl: A bound Module, a Scope, or a tree of these.
        *operands: Arrays and trees of arrays.
        variables: The collections that are available inside.
        rngs: The rng streams that are available inside.

    Returns:
        What the function returned. Variables that only one of them writes keep their value in the other.

    Raises:
        ControlFlowError: One creates a variable that the other does not, or they return or write different types.
        TransformTargetError, UnboundModuleError, InvalidScopeError, TransformedMethodReturnValueError: see
            `checkpoint`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Counted(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         n = self.variable('state', 'n', lambda: jnp.array(0))
        ...         def count(mdl, x):
        ...             n.value += 1
        ...             return x
        ...         return nn.cond(x > 0, count, lambda mdl, x: -x, self, x)
        >>> y, state = Counted().apply({'state': {'n': jnp.array(4)}}, jnp.array(2.0), mutable='state')
        >>> float(y), int(state['state']['n'])
        (2.0, 5)
    """
    if is_target(pred):
        raise targets.no_choice(pred, "cond")
    return _branch("cond", jnp.asarray(pred).astype(jnp.int32), (false_fun, true_fun), (1, 0), mdl, operands, variables,
                   rngs)  # fmt: skip


def switch(
    index: Any,
    branches: Sequence[Callable[..., Any]],
    mdl: Any,
    *operands: Any,
    variables: Filter = True,
    rngs: Filter = True,
) -> Any:
    """Run one of several functions of a module.

    Outside of a module use `jax.lax.switch`.

    Args:
        index: Which one: an integer scalar, clamped to the number of branches.
        branches: Functions called as `branch(mdl, *operands)`.
        mdl: A bound Module, a Scope, or a tree of these.
        *operands: Arrays and trees of arrays.
        variables: The collections that are available inside.
        rngs: The rng streams that are available inside.

    Returns:
        What the branch returned. See `cond`.

    Raises:
        ControlFlowError: Some branches create a variable that others do not. Where each has parameters of its own, run
            all of them while `mdl.is_initializing()`, and switch otherwise.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Experts(nn.Module):
        ...     def setup(self):
        ...         self.experts = [nn.Dense(1), nn.Dense(1)]
        ...     def __call__(self, i, x):
        ...         branches = [lambda mdl, x, j=j: mdl.experts[j](x) for j in range(2)]
        ...         if self.is_initializing():
        ...             return [branch(self, x) for branch in branches][0]
        ...         return nn.switch(i, branches, self, x)
        >>> variables = Experts().init(jax.random.key(0), 0, jnp.ones(2))
        >>> Experts().apply(variables, 1, jnp.ones(2)).shape
        (1,)
    """
    if not isinstance(branches, Sequence):
        raise errors.TransformTargetError(
            f"switch: got {describe(branches)} where a sequence of functions of the module is expected. The call is "
            f"{targets.call_of('switch')}."
        )
    order = tuple(range(len(branches)))
    return _branch("switch", index, tuple(branches), order, mdl, operands, variables, rngs)


def _branch(
    name: str,
    index: Any,
    branches: Sequence[Callable[..., Any]],
    order: Sequence[int],
    mdl: Any,
    operands: tuple[Any, ...],
    variables: Filter,
    rngs: Filter,
) -> Any:
    if is_target(index):
        raise targets.no_choice(index, name)
    if not branches or not all(callable(branch) and not is_target(branch) for branch in branches):
        raise errors.TransformTargetError(
            f"{name}: each branch is a function of the module; got {', '.join(map(describe, branches)) or 'none'}. The "
            f"call is {targets.call_of(name)}."
        )
    call = Call(branches[0], mdl, operands, {}, (variables,), rngs, name)
    packed = call.packed
    fns = [as_method(branch, mdl) for branch in branches]
    starts: dict[int, Any] = {}  # branch -> rng counters at its start
    after: dict[int, Any] = {}

    def run(i: int, groups: Any, keys: Any, operands: Any) -> tuple[Any, State]:
        packed.counters = starts[i]
        out, state = call.run(groups, keys, operands, {}, fns[i])
        after[i] = packed.after
        return out, state

    arguments = (packed.groups, packed.keys, call.args)
    counters = packed.counters
    states: dict[int, State] = {}
    writable = any(not filters.is_empty(mutable) for mutable in packed.inner_mutable)
    for i in order:
        starts[i] = counters
        if writable or any(packed.keys):
            states[i] = jax.eval_shape(functools.partial(run, i), *arguments)[1]
            counters = tuple(counts for _, counts in packed.after)
    written = [{key for state in states.values() for key in state.written[root]} for root in range(len(packed.roots))]
    for root, keys in enumerate(written):
        for key in keys:
            lacking = [i for i in order if key not in states[i].written[root]]
            if lacking and not has(packed.groups[0][root], key):
                raise errors.ControlFlowError(
                    f"{name} at {packed.roots[root].path_text}: {_named(name, branches, lacking)} does not "
                    f"write {'/'.join(key)}, which another branch creates. Create it in all branches, or before: "
                    "run each of them once while mdl.is_initializing()."
                )

    def pure(i: int, groups: Any, keys: Any, operands: Any) -> tuple[Any, State]:
        out, state = run(i, groups, keys, operands)
        whole = tuple(
            {key: state.written[root][key] if key in state.written[root] else get(groups[0][root], key) for key in keys}
            for root, keys in enumerate(written)
        )
        return out, State(whole, state.created)

    runs = [functools.partial(pure, i) for i in range(len(branches))]
    try:
        out, state = jax.lax.switch(index, runs, *arguments)
    except TypeError as error:
        _explain(name, branches, order, [functools.partial(jax.eval_shape, run, *arguments) for run in runs], error)
        raise
    if order[-1] in after:
        packed.after = after[order[-1]]
    packed.commit(state)
    return out


def _explain(name: str, branches: Any, order: Sequence[int], types: Sequence[Any], error: TypeError) -> None:
    """Raise `ControlFlowError` from `error` if two branches return or write other types; else return."""
    if isinstance(error, errors.LiftaxError):
        return
    try:
        found = {i: types[i]() for i in order}
    except Exception:  # what a branch itself raised
        return
    first, *others = order
    for i in others:
        both = [("the output", *(found[k][0] for k in (first, i)))]
        for ours, theirs in zip(found[first][1].written, found[i][1].written, strict=True):
            both.extend((f"the variable {'/'.join(key)}", value, theirs[key]) for key, value in ours.items())
        for what, ours, theirs in both:
            if differs := tree_mismatch(ours, theirs, same=True):
                raise errors.ControlFlowError(
                    f"{name}: {what} differs in type between the branches{differs.path and ', at '}{differs.path}: "
                    f"{differs.expected} in {_named(name, branches, [first])}, {differs.got} in "
                    f"{_named(name, branches, [i])}. Return, and write, the same structures, shapes and dtypes in all."
                ) from error


def _named(name: str, branches: Sequence[Callable[..., Any]], positions: Sequence[int]) -> str:
    said = ("false_fun", "true_fun") if name == "cond" else [f"branch {i}" for i in range(len(branches))]
    return " and ".join(f"{said[i]} ({getattr(branches[i], '__name__', 'a function')})" for i in positions)
