"""Why a variable can't be written or made: which call or transform is in the way, and what lets the variable through.

    immutable, foreign, not_found, no_start : store, collection, name, path -> error
    no_stream                               : store, rng stream, path -> error

Transforms stand one inside the other, and each lets in what its filters name. The one to speak of is the outermost that
keeps a collection out: everything outside of it would let the variable be written.
"""

import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from liftax import _compat, errors
from liftax.core.calls import Within
from liftax.core.filters import in_filter, named
from liftax.core.store import Store
from liftax.explain.transform import Transform, lifted_names


def blocker(store: Store, col: str) -> Store:
    """Return the store of the outermost call or transform in which the collection is immutable."""
    while store.outer is not None and not store.outer.is_mutable(col):
        store = store.outer
    return store


def immutable(store: Store, col: str, name: str, where: str) -> errors.ModifyScopeVariableError:
    """Return what to raise where a variable of an immutable collection is written."""
    block = blocker(store, col)
    if block.outer is None:
        remedy = f"Pass mutable=[{col!r}] to apply, and use the variables that it returns."
    elif block.owner.to_write is not None:
        remedy = block.owner.to_write.format(col=repr(col))
    else:
        remedy = f"Name the collection in {_arguments(block)}."
    return errors.ModifyScopeVariableError(
        f"{col}/{name} at {where} can't be written: the collection {col!r} is immutable in this {block.owner}. {remedy}"
    )


def foreign(
    store: Store, col: str, name: str, where: str, transform: str, within: Within | None
) -> errors.JaxTransformError:
    """Return the error for a variable outside of a trace that is written with a tracer of it.

    Args:
        store: the store of the variable.
        col: its collection.
        name: its name.
        where: the path of its module.
        transform: the transform of JAX that the tracer belongs to.
        within: the innermost lifted transform that runs, if the variable is older.
    """
    if within is not None:
        lifted, target = within.transform, within.target
        return errors.JaxTransformError(
            f"{col}/{name} at {where} is written inside nn.{lifted}, whose target, {target}, does not include it: the "
            f"value is a tracer of {transform}, and would leak out. Make the module part of the target, (mdl, other) "
            f"instead of mdl: nn.{lifted} takes a tree of modules; or return the value and write it outside. "
            "Reading a variable there is fine, and so is writing a value that does not depend on what is transformed."
        )
    return errors.JaxTransformError(
        f"{col}/{name} at {where} is written inside a JAX transform that started after this {store.owner} did, with a "
        f"tracer of {transform}: it would leak out of the transform. Use the lifted transform instead, with the module "
        f"as target; there are: {', '.join(lifted_names())}. If it has another target, hand it this module too "
        "(fn, (mdl, other), x); or return the value and write it outside. Reading a variable there is fine."
    )


def not_found(
    store: Store, col: str, name: str, where: str, here: Iterable[str], cls: type[errors.LiftaxError]
) -> errors.LiftaxError:
    """Return what to raise where a variable does not exist and can't be created.

    Args:
        store: where it is looked for.
        col: its collection.
        name: its name.
        where: the path of its module.
        here: the names that the module has in the collection.
        cls: the class for a collection that is not empty.
    """
    block = blocker(store, col)
    kept_out = block.outer is not None
    if kept_out and not block.creates:
        return no_start(block.owner, col, name, where)
    remedy = "Use variables from init of the same module with the same settings, or make the collection mutable."
    given, closed = _given(store, col)
    if not given.get(col):
        cls = errors.ScopeCollectionNotFound
        known = ", ".join(repr(k) for k in given) or "none"
        why = f"the collection {col!r} is {'empty' if col in given else 'missing'} (given: {known})"
        if not kept_out and closed is not None:
            why += f"; it exists, and the filters of this {closed.owner} leave it out of reach: name it"
    elif here:
        why = f"this module has {', '.join(map(repr, here))} there"
    else:
        why = f"the collection {col!r} has nothing for this module"
    if kept_out and block.owner.to_create is not None and any(in_filter(f, col) for f in block.filters):
        return cls(_cant(store, col, name, where) + f"{why}. {block.owner.to_create.format(col=repr(col))}")
    if kept_out:
        names = {n for f in block.filters for n in named(f)}
        said = f"name {', '.join(map(repr, sorted(names)))}" if names else "name nothing"
        why += f"; the filters of this {block.owner} {said} and leave it out"
        close = errors.nearest(col, names) and f" Did you mean {col!r}?"
        remedy = f"Name {col!r} in {_arguments(block)}."
        return cls(_cant(store, col, name, where) + f"{why}.{close} {remedy}")
    return cls(_cant(store, col, name, where) + f"{why}.{errors.nearest(name, here)} {remedy}")


def _given(store: Store, col: str) -> tuple[Mapping[str, Any], Store | None]:
    """Return the collections of the call, or of the transform whose filters keep `col` out, and that transform."""
    while store.outer is not None:
        if not any(in_filter(f, col) for f in store.filters):
            return store.variables, store if col in store.known else None
        store = store.outer
    return store.variables, None


def no_start(transform: Transform, col: str, name: str, where: str) -> errors.ControlFlowError:
    """Return the error for a step of a loop that creates a variable."""
    return errors.ControlFlowError(
        f"{transform}: a step creates {col}/{name} at {where}, and the loop has no value to start with. Create it "
        "before the loop, such as by calling body_fn(mdl, init) once while mdl.is_initializing()."
    )


def no_stream(store: Store, name: str, where: str) -> errors.InvalidRngError:
    """Return what to raise where a key of an rng stream is needed that is not there, nor the stream 'params'."""
    needs = f"{where} needs a key of the rng stream {name!r}"
    block, owners = store, [store.owner]
    while block.outer is not None and name not in block.outer.keys:
        block = block.outer
        owners.append(block.owner)
    if block.outer is None:
        given = ", ".join(repr(k) for k in store.keys) or "none"
        splitting = next((owner for owner in owners if getattr(owner, "splits", "")), None)
        let_in = f", and let it into the {splitting}: split_rngs={{{name!r}: True}}" if splitting else ""
        return errors.InvalidRngError(
            f"{needs}, and the streams given are: {given}. Pass rngs={{{name!r}: jax.random.key(seed)}}{let_in}."
        )
    needs += f", which was given, and which this {block.owner} does not let in: "
    along = block.owner.splits
    if along:
        return errors.InvalidRngError(
            f"{needs}its split_rngs leaves it out. Add split_rngs={{{name!r}: True}} for draws that differ along the "
            f"{along}, or split_rngs={{{name!r}: False}} for the same draws everywhere."
        )
    return errors.InvalidRngError(f"{needs}its filter rngs leaves it out. Name {name!r} in rngs, or pass rngs=True.")


def warn_repeated(scope: Any, name: str) -> None:
    """Warn, once a place in the user's program, if a key of the stream `name` is drawn inside of a raw loop of JAX."""
    began = scope.store.trace
    if _compat.trace_state() == began or not _compat.loop_inside(began):
        return
    warnings.warn(
        f"{scope.path_text} draws a key of the rng stream {name!r} in a loop of JAX, whose body is traced once: all "
        f"steps get the same key, and dropout the same mask. Use nn.scan(…, split_rngs={{{name!r}: True}}), or "
        "nn.while_loop with split_rngs, for a key in each step; for the same one in all, draw it before the loop.",
        errors.RepeatedKeyWarning, stacklevel=_outside_of_liftax(),
    )  # fmt: skip


def _outside_of_liftax() -> int:
    """Return which frame, counted from `warn_repeated`, is the first that is not of this package or of JAX."""
    packages, frame, level = (__name__.partition(".")[0] + ".", "jax."), sys._getframe(1), 1
    while frame.f_back is not None and f"{frame.f_globals.get('__name__', '')}.".startswith(packages):
        frame, level = frame.f_back, level + 1
    return level


def no_initializer(col: str, name: str, where: str, got: Any) -> TypeError:
    """Return what to raise where a variable is declared with a value in the place of a function that makes it."""
    made = "param(name, lambda key: value)" if col == "params" else f"variable({col!r}, name, lambda: value)"
    return TypeError(
        f"{col}/{name} at {where}: got a {type(got).__name__} where a function is expected that makes its first value: "
        f"{'an initializer (key, *args) -> array' if col == 'params' else 'init_fn(*args)'}. For a given value write "
        f"{made.replace('name', repr(name))}."
    )


def _cant(store: Store, col: str, name: str, where: str) -> str:
    return f"{col}/{name} at {where} does not exist, and can't be created in this {store.owner}: "


def _arguments(block: Store) -> str:
    return f"the filters of {block.owner} ({', '.join(block.owner.filters)})"


def variable_for_submodule(store: Store, col: str, path: str) -> errors.NameInUseError:
    """Return the error for a submodule whose name a variable has."""
    return errors.NameInUseError(
        f"{store.owner}: the name of the submodule at {path} is in use: a variable of the collection {col!r} has it. "
        "Choose another name for one of them."
    )


def ended(store: Store, path: str) -> errors.InvalidScopeError:
    """Return the error for a scope that is used after its call or transform."""
    return errors.InvalidScopeError(
        f"The scope {path} was used after its {store.owner} had ended. A module made or bound inside a call or a "
        "transform holds its variables only until the end of it: return arrays from it, not modules or scopes."
    )
