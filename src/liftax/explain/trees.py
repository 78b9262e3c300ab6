"""The first difference between two trees.

tree_mismatch : tree of types -> tree -> Mismatch | None
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import keystr

from liftax.explain.values import describe, describe_type, dtype_of, type_text
from liftax.typing import PyTree


class Mismatch(NamedTuple):
    """The first place where a tree differs from the one expected."""

    path: str
    expected: str
    got: str
    hint: str = ""


def tree_mismatch(
    expected: PyTree, got: PyTree, *, any_for_float0: bool = True, same: bool = False, path: tuple = ()
) -> Mismatch | None:
    """Return the first place where `got` is not a (co)tangent of `expected`, or None.

    Args:
        expected: A tree of arrays or of `jax.ShapeDtypeStruct`: the values that the (co)tangents belong to.
        got: The tree to check.
        any_for_float0: Accept any dtype where the value is not floating-point.
        same: Compare with the types of `expected` themselves, as the carry of a loop requires.
        path: The key path of both trees in a larger one.

    Returns:
        The first difference in the order of the expected tree.
    """
    children, treedef = _open(expected)
    got_children, got_treedef = _open(got)
    if children is None and got_children is None and same:
        return None if _same_type(expected, got) else Mismatch(keystr(path), describe_type(expected), describe(got))
    if children is None and got_children is None:
        return _leaf_mismatch(expected, got, any_for_float0, keystr(path))
    if children is None or got_children is None or type(expected) is not type(got):
        dtype = None if any_for_float0 else dtype_of(expected)
        if dtype is None or jnp.issubdtype(dtype, jnp.inexact):
            return Mismatch(keystr(path), describe_type(expected), describe(got))
        return Mismatch(
            keystr(path), type_text(jax.dtypes.float0, jnp.shape(expected)), describe(got), _float0(expected)
        )
    for key in [k for k in children if k not in got_children]:
        return Mismatch(keystr((*path, *key)), describe_type(children[key]), "nothing there")
    for key in [k for k in got_children if k not in children]:
        return Mismatch(keystr((*path, *key)), "nothing there", describe(got_children[key]))
    options: dict[str, Any] = {"any_for_float0": any_for_float0, "same": same}
    for key, child in children.items():
        if found := tree_mismatch(child, got_children[key], **options, path=(*path, *key)):
            return found
    if treedef != got_treedef:  # the same children, other static data
        return Mismatch(keystr(path), str(treedef), str(got_treedef))
    return None


def _open(tree: PyTree) -> tuple[dict[tuple, Any] | None, Any]:
    """Return the children of a node by key, and its structure, one level deep; None for a leaf."""
    children, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is not tree)
    if jax.tree_util.treedef_is_leaf(treedef) and children and not children[0][0]:
        return None, treedef
    return dict(children), treedef


def _same_type(x: Any, y: Any) -> bool:
    """Return whether `y` can replace `x`; JAX gives a Python number whatever type is needed."""
    ours, theirs = dtype_of(x), dtype_of(y)
    if ours is None or theirs is None or jnp.shape(x) != jnp.shape(y):
        return False
    return ours == theirs or (getattr(x, "weak_type", False) and jnp.promote_types(ours, theirs) == theirs)


def _leaf_mismatch(expected: Any, got: Any, any_for_float0: bool, path: str) -> Mismatch | None:
    shape, dtype = jnp.shape(expected), dtype_of(expected)
    inexact = dtype is not None and jnp.issubdtype(dtype, jnp.inexact)
    ct_dtype = dtype if inexact else jax.dtypes.float0
    got_dtype = dtype_of(got)
    same_shape = got_dtype is not None and jnp.shape(got) == shape
    if same_shape and (got_dtype == ct_dtype or (not inexact and any_for_float0)):
        return None
    hint = ""
    if not inexact and dtype is not None and not any_for_float0:
        hint = _float0(expected)
    elif isinstance(got, bool | int) and inexact and shape == ():
        hint = f" Write {float(got)} instead of {got}."
    elif inexact and same_shape:
        hint = f" Cast it with `.astype({dtype})`."
    return Mismatch(path, type_text(ct_dtype, shape), describe(got), hint)


def _float0(x: Any) -> str:
    return f" An integer has no tangent but np.zeros({jnp.shape(x)}, jax.dtypes.float0)."
