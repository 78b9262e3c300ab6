"""A lifted transform that runs itself: `nn.grad(lambda mdl, x: mdl(x), self, x)` in `__call__` of the same module.

The function calls the method in which the transform is called, and so on without end. Python would say so after a
thousand calls, each under one more derivative. A method that comes back to itself with other arguments, such as the
order of a derivative, ends, and is left alone.
"""

import sys
from collections.abc import Hashable
from typing import Any

import jax

from liftax import errors

DEPTH = 4
"""How often a transform runs itself, with the same arguments, before that is an error."""


def check_recursion(target: Any, running: Any, name: Any, where: str) -> None:
    """Raise `SelfCallError` if the transforms that run are one that calls itself without end.

    Args:
        target: the target of the transform that begins.
        running: the transforms that run: see `liftax.core.calls.Within`.
        name: the descriptor of the transform that begins.
        where: the path of its target.
    """
    depth = 0
    while running is not None:
        depth += running.leaf is target
        running = running.outer
    if depth < DEPTH:
        return
    method = _repeated(target)
    if method is not None:
        cls = type(target).__name__
        raise errors.SelfCallError(
            f"{name} at {where}: {cls}.{method} calls {name} of a function that calls {cls}.{method} again, and so on "
            f"without end: the module is the target, and fn calls it, while it runs. Give what is differentiated a "
            f"method of its own: def energy(self, …) in {cls}, and nn.grad({cls}.energy, self, …) in {method}."
        )


def _repeated(target: Any) -> str | None:
    """Return the name of a method of `target` that runs `DEPTH` times, with arguments of the same kinds."""
    runs: dict[Any, list[Any]] = {}
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if names and code.co_name != "<lambda>" and frame.f_locals.get(names[0]) is target:
            same = runs.setdefault(code, [])
            same.append([_kind(frame.f_locals.get(argument)) for argument in names[1:]])
            is_method = getattr(getattr(type(target), code.co_name, None), "__name__", None) == code.co_name
            if is_method and len(same) >= DEPTH and all(kinds == same[-1] for kinds in same[-DEPTH:]):
                return code.co_name
        frame = frame.f_back
    return None


def _kind(x: Any) -> Any:
    leaves, treedef = jax.tree.flatten(x)
    return treedef, [
        (leaf.shape, leaf.dtype) if hasattr(leaf, "dtype") and hasattr(leaf, "shape")
        else leaf if isinstance(leaf, Hashable) and type(leaf).__hash__ is not None else id(leaf)
        for leaf in leaves
    ]  # fmt: skip
