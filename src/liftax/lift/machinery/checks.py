"""What can be wrong with a call to a lifted transform, besides what `ad.checks` looks at."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from liftax import errors
from liftax.core import filters
from liftax.core.packing.packed import Packed
from liftax.core.packing.run import Run
from liftax.core.packing.targets import is_target
from liftax.core.variable import Variable
from liftax.explain.transform import Transform
from liftax.explain.trees import tree_mismatch
from liftax.explain.values import describe
from liftax.lift.machinery.paths import flat, get, has
from liftax.typing import Filter


def check_filters(packed: Packed, given: Mapping[str, Filter], run: Run | None = None) -> None:
    """Raise `UnknownCollectionError` for a filter with a typo in it, or one that matches nothing.

    Args:
        packed: the target.
        given: argument name -> filter.
        run: the run of the function; None before it, when collections that may be created are given a chance.
    """
    for argument, filter_ in given.items():
        if isinstance(filter_, bool) or filter_ == "params":
            continue
        known: set[str] = set()
        creatable = False
        for scope in packed.roots:
            known |= scope.store.collections()
            creatable = creatable or scope.store.flags.get("initializing", False)
        for created in (*packed.included, *run.state.created) if run else ():
            known |= {key[0] for key in created}
        if run is not None or not creatable:
            filters.check_known(filter_, known, argument, str(packed.transform), packed.where)


def check_streams(packed: Packed, rngs: Filter) -> None:
    """Raise `UnknownCollectionError` for a filter of rng streams with a near miss of one that was given in it."""
    if isinstance(rngs, bool):
        return
    given = {name for scope in packed.roots for name in scope.store.keys}
    where = f"{packed.transform} at {packed.where}"
    try:
        named = filters.named(rngs)
    except errors.InvalidFilterError as error:
        raise errors.InvalidFilterError(f"{where}: rngs: {error}") from None
    for name in sorted(named - given):
        hint = errors.nearest(name, given)
        if hint:
            raise errors.UnknownCollectionError(
                f"{where}: rngs={rngs!r} names the rng stream {name!r}, which was not "
                f"given. The streams are {', '.join(map(repr, sorted(given)))}.{hint}"
            )


def check_primals(primals: Iterable[Any], transform: Transform, *, values: bool = False) -> None:
    """Raise `NonDifferentiablePrimalError` for a module, scope or variable among the primals.

    Args:
        primals: the arguments.
        transform: for error texts.
        values: also reject leaves that are not valid JAX types.
    """
    for i, primal in enumerate(primals):
        if isinstance(primal, jax.Array):
            continue
        for leaf in jax.tree.leaves(primal, is_leaf=is_target):
            if is_target(leaf) or isinstance(leaf, Variable):
                raise errors.NonDifferentiablePrimalError(
                    f"{transform}: argument {i} holds a {type(leaf).__name__}, which is not a value to differentiate "
                    f"at. Give modules as the target, {transform}(fn, (mdl, other), …), and of a variable its .value."
                )
            if values and _no_value(leaf):
                raise errors.NonDifferentiablePrimalError(
                    f"{transform}: argument {i} holds {describe(leaf)}, which is not a value to differentiate at. "
                    f"{transform.leaves_out.format(name=transform)}"
                )


def check_output(out: Any, packed: Packed, fn: Any, *, values: bool = True) -> None:
    """Raise `TransformedMethodReturnValueError` for a module, scope or variable in what a function returned.

    Args:
        out: what it returned.
        packed: the target.
        fn: the function.
        values: also reject leaves that are not valid JAX types, unless the transform allows them.
    """
    for leaf in (out,) if isinstance(out, jax.Array) else jax.tree.leaves(out):
        if isinstance(leaf, jax.Array):  # by far the most frequent case, and no call
            continue
        bound = is_target(leaf) or isinstance(leaf, Variable)
        if bound or (values and not packed.transform.any_output and _no_value(leaf)):
            why = "which ends with the transform" if bound else "which JAX can't give back"
            raise errors.TransformedMethodReturnValueError(
                f"{packed.transform} at {packed.where}: {getattr(fn, '__name__', 'the function')} returned "
                f"{describe(leaf)}, {why}. Return arrays; of a variable, its .value."
            )


def explain_carry(step: Callable[..., Any], before: Any, xs: tuple[Any, ...], error: TypeError, packed: Packed) -> None:
    """Raise `ControlFlowError` from `error` if a step changes the type of what a loop carries; else return.

    Args:
        step: the step, a function of `(variables, carry)` and `xs` to `(variables, carry)`.
        before: the first `(variables, carry)`.
        xs: what else the step gets, or types of it.
        error: what JAX raised.
        packed: the target.
    """
    if isinstance(error, errors.LiftaxError):
        return
    try:
        before, after = jax.eval_shape(lambda *args: (args[0], step(*args)), before, *xs)
    except Exception:  # what the step itself raised
        return
    where = f"{packed.transform} at {packed.where}"
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
