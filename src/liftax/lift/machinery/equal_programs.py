"""Programs that are traced anew and come out the same: found again, so that JAX works each of them out once.

    worked_out_once : (a -> b) -> (a -> b)

The blocks of a model are traced one by one, since what a module does may depend on anything: its name, a closure, the
clock. Most often the programs are equal all the same. JAX keeps what it derives from a function under `jax.jit` (its
linearization, what a checkpoint saves) by the identity of that function; so equal programs are given one, and inlined,
which leaves no call in the program around them. What they close over is handed in, and is no part of them.

Programs are compared equation by equation. What can't be compared, such as a rule of `custom_jvp` that was made for
this trace, is equal to itself alone, and effects are never taken for one another: at worst, nothing is found.
"""

import collections
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import numpy as np

from liftax import _compat

KEPT = 64
"""How many programs are kept: more than a model has blocks of different kinds."""


class _Program(NamedTuple):
    jaxpr: Any
    options: Any
    run: Callable[..., Any]
    jitted: Callable[..., Any]


_found: collections.OrderedDict[Any, list[_Program]] = collections.OrderedDict()
_lock = threading.RLock()


def worked_out_once(
    fun: Callable[..., Any],
    args: tuple[Any, ...],
    name: str,
    transform: Callable[..., Any] = lambda run, **_: run,
    **options: Any,
) -> Any:
    """Return what `transform(fun, **options)(*args)` does, and let JAX derive what follows from it once.

    Args:
        fun: traced at once.
        args: its arguments, trees of arrays.
        name: what the function is called.
        transform: what JAX does with it, such as `jax.checkpoint`.
        options: of `transform`. Programs under equal ones are found again.
    """
    leaves, treedef = jax.tree.flatten(args)
    structures = []

    def flat(*leaves: Any) -> list[Any]:
        out, structure = jax.tree.flatten(fun(*treedef.unflatten(leaves)))
        structures.append(structure)
        return out

    traced = jax.make_jaxpr(flat)(*leaves)
    program = _found_again(_compat.without_consts(traced), name, transform, options)
    run = program.jitted if _compat.staging() else program.run  # one equation after the other where values are known
    return structures[0].unflatten(run(traced.consts, *leaves))


def _found_again(jaxpr: Any, name: str, transform: Callable[..., Any], options: dict[str, Any]) -> _Program:
    """Return the first program that is equal to `jaxpr`."""
    key = (name, len(jaxpr.eqns), *[str(v.aval) for v in (*jaxpr.constvars, *jaxpr.invars)])
    with _lock:
        known = _found.setdefault(key, [])
        _found.move_to_end(key)
        for i, program in enumerate(known):
            if program.options == options and _same(jaxpr, program.jaxpr):
                del known[i]
                known.insert(0, program._replace(jaxpr=jaxpr))  # the next block is most often like this one, in its
                return program  # parts the very same

        def run(consts: Any, *args: Any) -> Any:
            return jax.core.eval_jaxpr(jaxpr, consts, *args)

        run.__name__ = name
        made = transform(run, **options)
        if jaxpr.effects or _holds_arrays(jaxpr):
            return _Program(jaxpr, options, made, made)
        known.insert(0, _Program(jaxpr, options, made, jax.jit(made, inline=True)))
        while sum(map(len, _found.values())) > KEPT:
            _found.popitem(last=False)
        return known[0]


def _same(a: Any, b: Any) -> bool:
    """Tell whether two jaxprs have the same equations, down to the names of variables."""
    if a is b:
        return True
    if len(a.eqns) != len(b.eqns) or a.effects or b.effects:
        return False
    renamed: dict[Any, Any] = {}
    if not _define(a.constvars, b.constvars, renamed) or not _define(a.invars, b.invars, renamed):
        return False
    for e, f in zip(a.eqns, b.eqns, strict=True):
        if e.primitive is not f.primitive or e.params.keys() != f.params.keys() or e.ctx != f.ctx:
            return False
        if not _use(e.invars, f.invars, renamed) or not _define(e.outvars, f.outvars, renamed):
            return False
        for name, value in e.params.items():
            other = f.params[name]
            if value is not other and not _same_value(value, other):
                return False
    return _use(a.outvars, b.outvars, renamed)


def _define(xs: Any, ys: Any, renamed: dict[Any, Any]) -> bool:
    if len(xs) != len(ys):
        return False
    for x, y in zip(xs, ys, strict=True):
        if x.aval is not y.aval and x.aval != y.aval:
            return False
        renamed[x] = y
    return True


def _use(xs: Any, ys: Any, renamed: dict[Any, Any]) -> bool:
    if len(xs) != len(ys):
        return False
    for x, y in zip(xs, ys, strict=True):
        if hasattr(x, "val"):
            if not _same_literal(x, y):
                return False
        elif renamed.get(x) is not y:
            return False
    return True


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
