"""What can be wrong with a call to a lifted transform, besides what `ad.checks` says."""

from collections.abc import Callable, Iterable
from typing import Any

import jax

from liftax import errors
from liftax.ad.checks import describe, tree_mismatch
from liftax.core import filters
from liftax.core.pack import Packed, State, is_target
from liftax.core.variable import Variable
from liftax.lift.nested import flat, get, has
from liftax.typing import Filter


def check_filters(packed: Packed, what: str, state: State | None = None, **given: Filter) -> None:
    """Raise `UnknownCollectionError` for a filter with a typo in it, or one that matches nothing.

    Args:
        packed: the target.
        what: the transform that speaks.
        state: what the run created; None before the run, when collections that may be created are given a chance.
        **given: argument name -> filter.
    """
    for argument, filter_ in given.items():
        if isinstance(filter_, bool) or filter_ == "params":
            continue
        known: set[str] = set()
        creatable = False
        for scope in packed.roots:
            known |= scope.store.collections()
            creatable = creatable or scope.store.flags.get("initializing", False)
        for created in (*packed.included, *state.created) if state else ():
            known |= {key[0] for key in created}
        if state is not None or not creatable:
            filters.check_known(filter_, known, argument, what, packed.roots[0].path_text)


def check_streams(packed: Packed, rngs: Filter, what: str) -> None:
    """Raise `UnknownCollectionError` for a filter of rng streams with a near miss of one that was given in it."""
    if isinstance(rngs, bool):
        return
    given = {name for scope in packed.roots for name in scope.store.keys}
    try:
        named = filters.named(rngs)
    except errors.InvalidFilterError as error:
        raise errors.InvalidFilterError(f"{what} at {packed.roots[0].path_text}: rngs: {error}") from None
    for name in sorted(named - given):
        hint = errors.nearest(name, given)
        if hint:
            raise errors.UnknownCollectionError(
                f"{what} at {packed.roots[0].path_text}: rngs={rngs!r} names the rng stream {name!r}, which was not "
                f"given. The streams are {', '.join(map(repr, sorted(given)))}.{hint}"
            )


def check_primals(primals: Iterable[Any], what: str, *, values: bool = False) -> None:
    """Raise `NonDifferentiablePrimalError` for a module, scope or variable among the primals.

    Args:
        primals: the arguments.
        what: the transform that speaks.
        values: raise for whatever else is no value to JAX, too.
    """
    for i, primal in enumerate(primals):
        if isinstance(primal, jax.Array):
            continue
        for leaf in jax.tree.leaves(primal, is_leaf=is_target):
            if is_target(leaf) or isinstance(leaf, Variable):
                raise errors.NonDifferentiablePrimalError(
                    f"{what}: argument {i} holds a {type(leaf).__name__}, which is no value to differentiate at. Give "
                    f"modules as the target, {what}(fn, (mdl, other), …), and of a variable its .value."
                )
            if values and _no_value(leaf):
                remedy = (
                    f"Give what is no array to the function by a closure: {what}(lambda mdl, x: fn(mdl, x, …), mdl, …)."
                )
                if what.startswith("custom_"):
                    remedy = "Pass what is no array by keyword, or name its position in nondiff_argnums."
                raise errors.NonDifferentiablePrimalError(
                    f"{what}: argument {i} holds {describe(leaf)}, which is no value to differentiate at. {remedy}"
                )


def check_output(out: Any, what: str, packed: Packed, fn: Any, *, values: bool = True) -> None:
    """Raise `TransformedMethodReturnValueError` for a module, scope or variable in what a function returned.

    Args:
        out: what it returned.
        what: the transform that speaks.
        packed: the target.
        fn: the function.
        values: raise for whatever else is no value to JAX, too.
    """
    for leaf in (out,) if isinstance(out, jax.Array) else jax.tree.leaves(out):
        if isinstance(leaf, jax.Array):  # by far the most frequent case, and no call
            continue
        bound = is_target(leaf) or isinstance(leaf, Variable)
        if bound or (values and _no_value(leaf)):
            why = "which ends with the transform" if bound else "which JAX can't give back"
            raise errors.TransformedMethodReturnValueError(
                f"{what} at {packed.roots[0].path_text}: {getattr(fn, '__name__', 'the function')} returned "
                f"{describe(leaf)}, {why}. Return arrays; of a variable, its .value."
            )


def explain_carry(
    step: Callable[..., Any], before: Any, xs: tuple[Any, ...], error: TypeError, packed: Packed, what: str
) -> None:
    """Raise `ControlFlowError` from `error` if a step changes the type of what a loop carries; else return.

    Args:
        step: the step, a function of `(variables, carry)` and `xs` to `(variables, carry)`.
        before: the first `(variables, carry)`.
        xs: what else the step gets, or types of it.
        error: what JAX raised.
        packed: the target.
        what: the transform that speaks.
    """
    if isinstance(error, errors.LiftaxError):
        return
    try:
        before, after = jax.eval_shape(lambda *args: (args[0], step(*args)), before, *xs)
    except Exception:  # what the step itself raised
        return
    where = f"{what} at {packed.roots[0].path_text}"
    for root, old, new in zip(packed.roots, before[0], after[0], strict=True):
        for key, value in flat(old).items():
            if found := tree_mismatch(value, get(new, key) if has(new, key) else None, same=True):
                raise errors.ControlFlowError(
                    f"{where}: a step changes the type of the variable {'/'.join(key)}{found.path} at "
                    f"{root.path_text}: it goes in as {found.expected}, and comes out as {found.got}. Write it with "
                    "the structure, the shape and the dtype that it has."
                ) from error
    if found := tree_mismatch(before[1], after[1], same=True):
        raise errors.ControlFlowError(
            f"{where}: a step changes the type of the carry{found.path and ' at '}{found.path}: it goes in as "
            f"{found.expected}, and comes out as {found.got}. Return a carry with the structure, the shapes and the "
            "dtypes of the one that came in."
        ) from error


def _no_value(x: Any) -> bool:
    if isinstance(x, jax.Array) or hasattr(x, "__jax_array__"):
        return False
    try:
        jax.typeof(x)
    except TypeError:
        return True
    return False
