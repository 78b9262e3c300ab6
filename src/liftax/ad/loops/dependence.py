"""What depends on what in the body of a loop, read off its jaxpr.

    reached : Jaxpr -> which inputs -> which outputs depend on them
    needed  : Jaxpr -> which outputs -> which inputs they depend on

Both err on the side of dependence: of an equation that holds a loop or a branch, each output depends on each input.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def is_float(x: Any) -> bool:
    """Tell whether `x`, an array or its type, has a derivative: a real or complex floating-point dtype."""
    return bool(jnp.issubdtype(x.dtype, jnp.inexact))


def reached(jaxpr: Any, inputs: Sequence[bool], differentiably: bool = False) -> list[bool]:
    """Return which outputs of `jaxpr` depend on the inputs that are marked.

    Args:
        jaxpr: A jaxpr, closed or open.
        inputs: For each input whether it is marked.
        differentiably: Leave out what goes through integers, Booleans or `stop_gradient`.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    marked = {v for v, m in zip(jaxpr.invars, inputs, strict=True) if m and _counts(v, differentiably)}
    for eqn in jaxpr.eqns:
        if differentiably and eqn.primitive.name == "stop_gradient":
            continue
        if not any(_is_var(v) and v in marked for v in eqn.invars):
            continue
        if (inner := _called(eqn)) is not None:
            outs = reached(inner, [_is_var(v) and v in marked for v in eqn.invars], differentiably)
        else:
            outs = [True] * len(eqn.outvars)
        marked.update(v for v, m in zip(eqn.outvars, outs, strict=True) if m and _counts(v, differentiably))
    return [_is_var(v) and v in marked for v in jaxpr.outvars]


def needed(jaxpr: Any, outputs: Sequence[bool], differentiably: bool = False) -> list[bool]:
    """Return which inputs of `jaxpr` the outputs that are marked depend on; for `differentiably` see `reached`."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)

    def chosen(variables: Sequence[Any], marks: Sequence[bool]) -> set[Any]:
        return {v for v, m in zip(variables, marks, strict=True) if m and _is_var(v) and _counts(v, differentiably)}

    marked = chosen(jaxpr.outvars, outputs)
    for eqn in reversed(jaxpr.eqns):
        outs = [v in marked for v in eqn.outvars]
        if not any(outs) or (differentiably and eqn.primitive.name == "stop_gradient"):
            continue
        inner = _called(eqn)
        marked |= chosen(eqn.invars, [True] * len(eqn.invars) if inner is None else needed(inner, outs, differentiably))
    return [v in marked for v in jaxpr.invars]


def names_axes(jaxpr: Any) -> bool:
    """Tell whether `jaxpr` holds an operation over a named axis, which `vmap` must be seen by itself."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    for eqn in jaxpr.eqns:
        for name in ("axes", "axis", "axis_name"):
            axes = eqn.params.get(name, ())
            axes = axes if isinstance(axes, tuple | list | set | frozenset) else (axes,)
            if any(not isinstance(axis, int) and axis is not None for axis in axes):
                return True
        if any(names_axes(inner) for inner in _inside(eqn.params.values())):
            return True
    return False


def _counts(var: Any, differentiably: bool) -> bool:
    return not differentiably or is_float(var.aval)


def _is_var(v: Any) -> bool:
    return not hasattr(v, "val")  # what has a value is a literal


def _called(eqn: Any) -> Any:
    """Return the jaxpr that an equation evaluates on its operands, in order, as a compiled function does."""
    inner = (
        eqn.params.get("jaxpr") if eqn.primitive.name in ("pjit", "jit", "closed_call", "remat", "checkpoint") else None
    )
    inner = getattr(inner, "jaxpr", inner)
    fits = inner is not None and len(inner.invars) == len(eqn.invars) and len(inner.outvars) == len(eqn.outvars)
    return inner if fits else None


def _inside(params: Iterable[Any]) -> list[Any]:
    leaves = jax.tree.leaves(list(params), is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr"))
    return [getattr(v, "jaxpr", v) for v in leaves if hasattr(getattr(v, "jaxpr", v), "eqns")]
