"""Variables that a differentiated function closes over as arrays: constants to the transform, where they seem to vary.

    w = self.param('w', …)
    nn.vjp(lambda mdl, x: (w * x).sum(), self, x)     # the cotangent of w is zero

The function has the value that `w` had outside, not the one that the transform varies.
"""

import contextlib
import functools
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from liftax import errors
from liftax.core.packing.packed import Packed

_SEEN: dict[Any, Any] = {}  # where Python notes which places it has warned of already


def warn_captured(fn: Callable[..., Any], packed: Packed, what: str, index: int = 0) -> None:
    """Warn with `CapturedVariableWarning` if `fn` closes over an array of a variable that it is differentiated in.

    Args:
        fn: the function.
        packed: the target.
        what: the transform's name.
        index: the group of the variables that vary.
    """
    varying = {
        id(x): f"{jax.tree_util.keystr(path, simple=True, separator='/')} at {root.path_text}"
        for root, group in zip(packed.roots, packed.groups[index], strict=True)
        for path, x in jax.tree_util.tree_leaves_with_path(group)
        if isinstance(x, jax.Array)
    }
    if not varying:
        return
    found = next((varying[id(x)] for x in _held(fn, set()) if id(x) in varying), None)
    code = _code(fn)
    if found is None or code is None:
        return
    warnings.warn_explicit(
        f"{what}: {code.co_name} closes over the value of the variable {found}, with respect to which it is "
        "differentiated. That value is a constant to it, and its derivative zero. Read the variable inside, through "
        "the module that the function is given: mdl.get_variable(collection, name), or a method that uses it. If it is "
        "meant to be constant, close over jax.lax.stop_gradient of it.",
        errors.CapturedVariableWarning, code.co_filename, code.co_firstlineno, registry=_SEEN,
    )  # fmt: skip


def _code(fn: Any) -> types.CodeType | None:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return getattr(getattr(fn, "__func__", fn), "__code__", None)


def _held(x: Any, seen: set[int]) -> Iterator[Any]:
    """Yield the arrays that a function holds, or a container in it, or a function that it closes over."""
    if isinstance(x, jax.Array):
        yield x
        return
    if id(x) in seen or len(seen) > 1000:
        return
    seen.add(id(x))
    inside: Any = ()
    if isinstance(x, types.FunctionType):
        inside = [*_filled(x), *(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values()]
    elif isinstance(x, types.MethodType):
        inside = [x.__func__]
    elif isinstance(x, functools.partial):
        inside = [x.func, *x.args, *x.keywords.values()]
    elif isinstance(x, Mapping):
        inside = list(x.values())
    elif isinstance(x, list | tuple | set | frozenset):
        inside = list(x)
    for part in inside:
        yield from _held(part, seen)


def _filled(fn: types.FunctionType) -> list[Any]:
    cells = []
    for cell in fn.__closure__ or ():
        with contextlib.suppress(ValueError):  # not filled yet
            cells.append(cell.cell_contents)
    return cells
