"""Lifted branches: one of several functions of a module runs, and which one is known only to the running program.

    cond   : (Bool, Module -> a -> b, Module -> a -> b) -> Module -> a -> b
    switch : (Int, [Module -> a -> b]) -> Module -> a -> b

One call to `jax.lax.switch`. Its branches return one structure. So where variables may be written, each branch is
traced once before to see which it writes; what the others don't write keeps its value there.

Rng counters go on from branch to branch, as they do in Linen: two branches never draw the same key.

Source: `jax.lax.cond`, `jax.lax.switch`; `flax.linen.cond` and `flax.linen.switch` for the signatures.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from liftax import errors
from liftax.core import filters
from liftax.core.packing.packed import Packed
from liftax.core.packing.run import Effects, Run, State
from liftax.core.packing.targets import is_target
from liftax.explain.transform import Transform, described
from liftax.explain.trees import tree_mismatch
from liftax.explain.values import describe
from liftax.lift.machinery.forms import Call
from liftax.lift.machinery.paths import get, has
from liftax.typing import Filter, Path

COND = Transform("cond", "(pred, true_fun, false_fun, module, *operands)")
SWITCH = Transform("switch", "(index, branches, module, *operands)")


@described(COND)
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
    _check_choice(pred, "a Boolean", COND)
    branches = Branches(COND, (false_fun, true_fun), ("false_fun", "true_fun"), order=(1, 0))
    return _branch(branches, jnp.asarray(pred).astype(jnp.int32), mdl, operands, variables, rngs)


@described(SWITCH)
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
            f"{SWITCH.usage}."
        )
    _check_choice(index, "an integer", SWITCH)
    order = tuple(range(len(branches)))
    names = tuple([f"branch {i}" for i in order])
    return _branch(Branches(SWITCH, tuple(branches), names, order), index, mdl, operands, variables, rngs)


@dataclasses.dataclass(frozen=True)
class Branches:
    """The functions of which one runs.

    Args:
        transform: for error texts.
        functions: called as `function(mdl, *operands)`.
        names: what the user calls them.
        order: the order in which rng counters go on from one to the next.
    """

    transform: Transform
    functions: tuple[Callable[..., Any], ...]
    names: tuple[str, ...]
    order: tuple[int, ...]

    def named(self, positions: Sequence[int]) -> str:
        """Return what to call some of them in a text."""
        functions = [getattr(self.functions[i], "__name__", "a function") for i in positions]
        return " and ".join(f"{self.names[i]} ({name})" for i, name in zip(positions, functions, strict=True))


def _check_choice(choice: Any, expected: str, transform: Transform) -> None:
    if is_target(choice):
        raise errors.TransformTargetError(
            f"{transform}: got the module {type(choice).__name__} where {expected} is expected. The call is "
            f"{transform.usage}."
        )


def _branch(
    branches: Branches, index: Any, mdl: Any, operands: tuple[Any, ...], variables: Filter, rngs: Filter
) -> Any:
    transform, functions, order = branches.transform, branches.functions, branches.order
    if not functions or not all(callable(branch) and not is_target(branch) for branch in functions):
        raise errors.TransformTargetError(
            f"{transform}: each branch is a function of the module; got "
            f"{', '.join(map(describe, functions)) or 'none'}. "
            f"The call is {transform.usage}."
        )
    call = Call.of(transform, functions[0], mdl, operands, {}, (variables,), rngs)
    packed = call.packed
    arguments = (packed.groups, packed.keys, call.args)
    calls = dict.fromkeys(order, call)
    first: dict[int, Run] = {}
    if any(not filters.is_empty(mutable) for mutable in packed.mutable) or any(packed.keys):
        following = call
        for i in order:
            calls[i] = following
            first[i] = jax.eval_shape(functools.partial(following.run, kwargs={}, fn=functions[i]), *arguments)[1]
            following = call.with_(counters=packed.counters_after(first[i].effects))
    written = _written(branches, packed, first)
    ends: dict[int, Effects] = {}

    def pure(i: int, groups: Any, keys: Any, operands: Any) -> tuple[Any, State]:
        out, (state, ends[i]) = calls[i].run(groups, keys, operands, {}, functions[i])
        whole = tuple(
            {key: state.written[root][key] if key in state.written[root] else get(groups[0][root], key) for key in keys}
            for root, keys in enumerate(written)
        )
        return out, State(whole, state.created)

    runs = [functools.partial(pure, i) for i in range(len(functions))]
    try:
        out, state = jax.lax.switch(index, runs, *arguments)
    except TypeError as error:
        _explain(branches, [functools.partial(jax.eval_shape, run, *arguments) for run in runs], error)
        raise
    last = ends[max(ends)]  # without jit, only one has run
    packed.commit(Run(state, dataclasses.replace(ends.get(order[-1], last), names=last.names)))
    return out


def _written(branches: Branches, packed: Packed, first: Mapping[int, Run]) -> list[set[Path]]:
    """Return, for each root, what any branch writes, or raise if one lacks what another one creates."""
    written = [{key for run in first.values() for key in run.state.written[root]} for root in range(len(packed.roots))]
    for root, keys in enumerate(written):
        for key in keys:
            lacking = [i for i in branches.order if key not in first[i].state.written[root]]
            if lacking and not has(packed.groups[0][root], key):
                raise errors.ControlFlowError(
                    f"{branches.transform} at {packed.roots[root].path_text}: {branches.named(lacking)} does not "
                    f"write {'/'.join(key)}, which another branch creates. Create it in all branches, or before: "
                    "run each of them once while mdl.is_initializing()."
                )
    return written


def _explain(branches: Branches, types: Sequence[Callable[[], Any]], error: TypeError) -> None:
    """Raise `ControlFlowError` from `error` if two branches return or write other types; else return."""
    if isinstance(error, errors.LiftaxError):
        return
    try:
        found = {i: types[i]() for i in branches.order}
    except Exception:  # the error of a branch itself
        return
    first, *others = branches.order
    for i in others:
        both = [("the output", *(found[k][0] for k in (first, i)))]
        for ours, theirs in zip(found[first][1].written, found[i][1].written, strict=True):
            both.extend((f"the variable {'/'.join(key)}", value, theirs[key]) for key, value in ours.items())
        for what, ours, theirs in both:
            if differs := tree_mismatch(ours, theirs, same=True):
                raise errors.ControlFlowError(
                    f"{branches.transform}: {what} differs in type between the "
                    f"branches{differs.path and ', at '}{differs.path}: "
                    f"{differs.expected} in {branches.named([first])}, {differs.got} in "
                    f"{branches.named([i])}. Return, and write, the same structures, shapes and dtypes in all."
                ) from error
