"""Tangents and cotangents of variables, completed and checked variable by variable.

    complete : variables -> partial tree -> full tree of (co)tangents

What a user leaves out is zero where the transform says so; what does not fit is an error that names the variable.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from liftax import errors
from liftax.core import meta
from liftax.explain.trees import tree_mismatch
from liftax.explain.values import describe
from liftax.typing import Path


class Completion(NamedTuple):
    """How to complete.

    Args:
        what: the beginning of an error text: what gave these (co)tangents.
        noun: `tangent` or `cotangent`.
        where: the module path.
        error: the class to raise.
        missing_is_zero: a key that is left out means zero; otherwise only None does.
    """

    what: str
    noun: str
    where: str
    error: type[errors.LiftaxError]
    missing_is_zero: bool


def complete(variables: Any, given: Any, how: Completion, path: Path = ()) -> Any:
    """Return a tree of (co)tangents with the structure of `variables`.

    Args:
        variables: nested mappings of arrays, boxes and trees of arrays (or their types).
        given: what the user gave for it: mappings with the same keys, None for zero.
        how: how to complete it.
        path: the names from the target to here, the collection first.
    """
    if given is None:
        return jax.tree.map(zero, variables)
    if meta.is_box(variables):
        return variables.replace_boxed(complete(variables.unbox(), meta.unbox(given), how, path))
    if not isinstance(variables, Mapping):
        found = tree_mismatch(variables, given, any_for_float0=how.noun == "cotangent")
        if found:
            raise how.error(
                f"{how.what} has a {how.noun} for the variable {'/'.join(path)}{found.path} at {how.where} that "
                f"does not fit it: expected {found.expected}, got {found.got}.{found.hint}"
            )
        return given
    here = f"{'/'.join(path)} at {how.where}" if path else how.where
    listed = ", ".join(map(repr, variables)) or "nothing"
    if not isinstance(given, Mapping):
        raise how.error(
            f"{how.what} has {describe(given)} for {here}, where a mapping is expected, with the keys: {listed}."
        )
    for key, tree in given.items():
        if key not in variables and filled(tree):
            if not path:
                raise no_collection(key, variables, how)
            raise how.error(
                f"{how.what} has a {how.noun} for {'/'.join((*path, key))} at {how.where}, which does not exist. "
                f"There is: {listed}.{errors.nearest(key, variables)}"
            )
    for key, tree in variables.items():
        if key not in given and not how.missing_is_zero and filled(tree):
            raise how.error(
                f"{how.what} has no {how.noun} for {'/'.join((*path, key))} at {how.where}. Give one, or None for zero."
            )
    whole = {key: complete(tree, given.get(key), how, (*path, key)) for key, tree in variables.items()}
    return whole if isinstance(variables, dict) else type(variables)(whole)  # type: ignore[call-arg]


def no_collection(key: str, known: Mapping[str, Any], how: Completion) -> errors.LiftaxError:
    """Return the error for `key` given where a collection is expected; `known` has what there is, by collection."""
    listed = ", ".join(map(repr, known)) or "none"
    within = next((col for col, tree in known.items() if isinstance(tree, Mapping) and key in tree), None)
    remedy = errors.nearest(key, known) if within is None else f" Write {{{within!r}: {{{key!r}: …}}}}."
    zero = " What is left out is zero." if how.missing_is_zero else ""
    return how.error(
        f"{how.what} has a {how.noun} for {key} at {how.where}, which does not exist as a collection. Its keys are "
        f"collections, and there are: {listed}.{remedy}{zero}"
    )


def filled(tree: Any) -> bool:
    """Tell whether there is anything in nested mappings."""
    return any(filled(sub) for sub in tree.values()) if isinstance(tree, Mapping) else tree is not None


def zero(x: Any) -> Any:
    """Return the zero (co)tangent of an array, or of its type: `float0` for what has no derivative."""
    dtype = x.dtype if hasattr(x, "dtype") else jax.dtypes.result_type(x)
    if jnp.issubdtype(dtype, jnp.inexact):
        return jnp.zeros(np.shape(x), dtype)
    return np.zeros(np.shape(x), jax.dtypes.float0)
