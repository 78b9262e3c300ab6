"""Programs that are traced anew and come out the same: found again, so that JAX works each of them out once.

    found_again : jaxpr -> (name, number of consts) -> (consts, arguments -> results)

The blocks of a model are traced one by one, since what a module does may depend on anything: its name, a closure, the
clock. Most often the programs are equal all the same. JAX keeps what it derives from a function (its linearization,
its transposition, what a checkpoint saves) by the identity of that function; so equal programs are given one. What they
close over is handed in, and is no part of them.

Programs are compared equation by equation. What can't be compared, such as a rule of `custom_jvp` that was made for
this trace, is equal to itself alone, and effects are never taken for one another: at worst, nothing is found.
"""

import collections
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import numpy as np

KEPT = 64
"""How many programs are kept: more than a model has blocks of different kinds."""

_found: collections.OrderedDict[Any, list[tuple[Any, Callable[..., Any]]]] = collections.OrderedDict()
_lock = threading.RLock()


def found_again(jaxpr: Any, name: str) -> Callable[..., Any]:
    """Return the function `(consts, *args) -> results` of the first program that is equal to `jaxpr`.

    Args:
        jaxpr: a jaxpr without its consts.
        name: what the function is called.
    """
    key = (name, len(jaxpr.eqns), *(str(v.aval) for v in (*jaxpr.constvars, *jaxpr.invars)))
    with _lock:
        known = _found.setdefault(key, [])
        _found.move_to_end(key)
        for i, (other, run) in enumerate(known):
            if _same(jaxpr, other):
                del known[i]
                known.insert(0, (jaxpr, run))  # the next block is most often like this one, in its parts the very same
                return run

        def run(consts: Any, *args: Any) -> Any:
            return jax.core.eval_jaxpr(jaxpr, consts, *args)

        run.__name__ = name
        if not jaxpr.effects and not _holds_arrays(jaxpr):
            known.insert(0, (jaxpr, run))
        while sum(map(len, _found.values())) > KEPT:
            _found.popitem(last=False)
        return run


def _same(a: Any, b: Any) -> bool:
    """Tell whether two jaxprs have the same equations, down to the names of variables."""
    if a is b:
        return True
    if len(a.eqns) != len(b.eqns) or len(a.outvars) != len(b.outvars) or a.effects or b.effects:
        return False
    renamed: dict[Any, Any] = {}

    def define(xs: Any, ys: Any) -> bool:
        if len(xs) != len(ys) or any(x.aval != y.aval for x, y in zip(xs, ys, strict=True)):
            return False
        renamed.update(zip(xs, ys, strict=True))
        return True

    def use(xs: Any, ys: Any) -> bool:
        return len(xs) == len(ys) and all(
            _same_literal(x, y) if hasattr(x, "val") else renamed.get(x) is y for x, y in zip(xs, ys, strict=True)
        )

    if not define(a.constvars, b.constvars) or not define(a.invars, b.invars):
        return False
    for e, f in zip(a.eqns, b.eqns, strict=True):
        if e.primitive is not f.primitive or not use(e.invars, f.invars) or not define(e.outvars, f.outvars):
            return False
        if e.ctx != f.ctx or e.params.keys() != f.params.keys():
            return False
        if not all(_same_value(value, f.params[name]) for name, value in e.params.items()):
            return False
    return use(a.outvars, b.outvars)


def _same_literal(x: Any, y: Any) -> bool:
    if not hasattr(y, "val") or x.aval != y.aval:
        return False
    if isinstance(x.val, jax.Array) or isinstance(y.val, jax.Array):
        return x.val is y.val
    return np.asarray(x.val).tobytes() == np.asarray(y.val).tobytes()  # -0.0 equals 0.0, and NaN not itself


def _same_value(x: Any, y: Any) -> bool:
    """Compare parameters of equations."""
    if x is y:
        return True
    if type(x) is not type(y):
        return False
    if isinstance(x, tuple | list):
        return len(x) == len(y) and all(map(_same_value, x, y))
    if isinstance(x, dict):
        return x.keys() == y.keys() and all(_same_value(value, y[name]) for name, value in x.items())
    if hasattr(x, "eqns"):
        if hasattr(x, "consts"):
            return not x.consts and not y.consts and _same(x.jaxpr, y.jaxpr)
        return _same(x, y)
    if isinstance(x, np.ndarray | np.generic | float | complex):
        x, y = np.asarray(x), np.asarray(y)
        return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
    if isinstance(x, jax.Array):
        return False
    try:
        return bool(x == y)
    except Exception:  # an object that holds arrays, or that does not like to be compared
        return False


def _holds_arrays(jaxpr: Any) -> bool:
    """Tell whether `jaxpr`, or one inside of it, holds arrays, which keeping it would keep."""
    for eqn in jaxpr.eqns:
        if any(np.ndim(v.val) for v in eqn.invars if hasattr(v, "val")):
            return True
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if isinstance(value, jax.Array | np.ndarray) or getattr(value, "consts", None):
                return True
            if hasattr(value, "eqns") and _holds_arrays(getattr(value, "jaxpr", value)):
                return True
    return False
