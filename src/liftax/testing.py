"""What programs that use derivatives need to test them: automatic derivatives against numerical ones, leaf by leaf.

    check_grads : Module -> variables -> a -> {leaf: error}

For each array that varies, along one random direction `v` in it and with one random cotangent `u` of all outputs,

    fwd   J v        against  (f(x + h v) - f(x - h v)) / 2h
    rev   <J^T u, v> against  <u, J v>, the latter from the same two values of f

A wrong number in a derivative shows in the direction that moves the leaf it belongs to, which is so known by name.
Order n asks the same of `x -> J(x) v` and `x -> J(x)^T u`, up to n - 1 times.

Source: `jax.test_util.check_grads` for the modes and orders.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from liftax import _compat, errors
from liftax.ad.notes import lacks_forward_mode, noted
from liftax.core import filters
from liftax.explain.functions import demand_callable
from liftax.explain.transform import Transform
from liftax.explain.values import describe, is_value
from liftax.typing import Filter

__all__ = ["check_grads"]

CHECK_GRADS = Transform("check_grads")

_MODES = ("fwd", "rev")


def check_grads(
    module: Any,
    variables: Any,
    *args: Any,
    order: int = 1,
    modes: Sequence[str] = _MODES,
    wrt: Filter = True,
    rngs: Any = None,
    method: Any = None,
    mutable: Filter = False,
    atol: float | None = None,
    rtol: float | None = None,
    eps: float | None = None,
    seed: int = 0,
    **kwargs: Any,
) -> dict[str, float]:
    """Compare the derivatives of a module with numerical ones, in every variable and argument by itself.

    Args:
        module: A Module that is not bound; or a function, called as `module(variables, *args, **kwargs)`.
        variables: `{collection: tree}`.
        *args: Arguments; the floating-point arrays in them vary.
        order: Up to which order of derivatives.
        modes: Which of `'fwd'` and `'rev'` to test, at each order. A module with a `custom_vjp` has `('rev',)` alone.
        wrt: Which collections vary: a filter. Of these, floating-point arrays do.
        rngs: The rng streams, as in `apply`. Every run draws the same keys.
        method: What to call, as in `apply`.
        mutable: Which collections `apply` may write, as in `apply`. What is written counts as output.
        atol: How far a derivative may be off, absolutely; None for 0.001 in float32, and what suits other dtypes.
        rtol: The same as a ratio to its size; None for 0.005 in float32.
        eps: The step `h`; None for the cube root of the dtype's precision.
        seed: Where the random directions come from.
        **kwargs: Keyword arguments; they do not vary.

    Returns:
        For each leaf that varies, such as `params/Dense_0/kernel` or `argument 0['x']`, the largest error that was
        found, as a ratio to what was allowed: below 1.

    Raises:
        GradientCheckError: A derivative is off. The text names the order and modes, the leaf that was moved, the output
            that answered wrongly, both numbers and what was allowed.
        UnknownCollectionError: `wrt` names no collection in `variables`.
        ArityError: `module` can't be called, `modes`, `order`, `seed` or a tolerance is none, or nothing varies.
        ApplyScopeInvalidVariablesTypeError: `variables` is no mapping.
        NonDifferentiableOutputError: The function returns no floating-point array.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> from liftax.testing import check_grads
        >>> model, x = nn.Dense(2), jnp.array([1.0, -2.0])
        >>> errors = check_grads(model, model.init(jax.random.key(0), x), x, order=2)
        >>> sorted(errors), max(errors.values()) < 1
        (['argument 0', 'params/bias', 'params/kernel'], True)
    """
    modes = _checked(module, variables, order, modes, {"atol": atol, "rtol": rtol, "eps": eps}, seed)
    if not isinstance(wrt, bool):
        filters.check_known(wrt, set(variables), "wrt", "check_grads", "the variables")
    names, point, put_back = _varying(variables, args, wrt)
    if not point:
        raise errors.ArityError(
            f"check_grads has nothing to vary: there is no floating-point array in the collections wrt={wrt!r} or in "
            "the arguments."
        )
    if any(_compat.is_tracer(x) for x in point):
        raise errors.ArityError("check_grads compares numbers, and got tracers. Call it outside of jit and its kin.")

    def run(*leaves: Any) -> dict[str, Any]:
        varied, given = put_back(leaves)
        if hasattr(module, "apply"):
            out = module.apply(varied, *given, rngs=rngs, method=method, mutable=mutable, **kwargs)
        else:
            out = module(varied, *given, **kwargs)
        found = {f"output{jax.tree_util.keystr(path)}": x for path, x in jax.tree_util.tree_leaves_with_path(out)}
        return {name: x for name, x in found.items() if _moves(x)}

    coarsest = max((jnp.finfo(x.dtype).eps for x in point), key=float)
    bound = float(coarsest) ** (1 / 3)
    absolute = bound / 5 if atol is None else atol
    relative = bound if rtol is None else rtol
    check = _Check(names, modes, bound if eps is None else float(eps), absolute, relative, seed)
    called = None if hasattr(module, "apply") or kwargs else module
    try:
        with noted(called, (variables, *args), CHECK_GRADS):
            check.run(jax.jit(run), tuple(point), order, "")
    except TypeError as error:
        if lacks_forward_mode(error):
            error.add_note("liftax: check_grads tests both modes; pass modes=('rev',) for reverse mode alone.")
        raise
    return dict(zip(names, check.worst, strict=True))


class _Check:
    """One call of `check_grads`."""

    def __init__(self, names: list[str], modes: tuple[str, ...], eps: float, atol: float, rtol: float, seed: int):
        self.names, self.modes, self.eps, self.atol, self.rtol = names, modes, eps, atol, rtol
        self.random = np.random.default_rng(seed)
        self.worst = [0.0] * len(names)

    def run(self, f: Callable[..., dict[str, Any]], point: tuple[Any, ...], order: int, before: str) -> None:
        """Compare `f` at `point`, and then its derivatives, `order` times in all."""
        directions = tuple(self._like(x) for x in point)
        types = jax.eval_shape(f, *point)
        if not types:
            raise errors.NonDifferentiableOutputError(
                "check_grads: the function returned no floating-point array, so that there is nothing to compare."
            )
        cotangent = {name: self._like(x) for name, x in types.items()}
        pushed = jax.jit(lambda *x_and_v: jax.jvp(f, x_and_v[: len(point)], x_and_v[len(point) :])[1])
        pulled = jax.jit(lambda *x: dict(zip(self.names, jax.vjp(f, *x)[1](cotangent), strict=True)))
        slopes = pulled(*point) if "rev" in self.modes else {}
        for i, (name, v) in enumerate(zip(self.names, directions, strict=True)):
            ahead, behind = (f(*point[:i], point[i] + step * v, *point[i + 1 :]) for step in (self.eps, -self.eps))
            numerical = {o: (ahead[o] - behind[o]) / (2 * self.eps) for o in types}
            if "fwd" in self.modes:
                alone = [v if j == i else jnp.zeros_like(x) for j, x in enumerate(point)]
                for output, t in pushed(*point, *alone).items():
                    self._compare(i, f"{before}fwd", name, output, t, numerical[output])
            if "rev" in self.modes:
                product = sum(jnp.vdot(cotangent[o].conj(), numerical[o]).real for o in types)
                back = jnp.vdot(slopes[name].conj(), v).real
                self._compare(i, f"{before}rev", name, ", ".join(types), back, product)
        if order > 1:
            if "fwd" in self.modes:
                self.run(jax.jit(lambda *x: pushed(*x, *directions)), point, order - 1, f"{before}fwd, then ")
            if "rev" in self.modes:
                self.run(pulled, point, order - 1, f"{before}rev, then ")

    def _compare(self, i: int, modes: str, name: str, output: str, automatic: Any, numerical: Any) -> None:
        got, want = np.asarray(automatic, np.complex128), np.asarray(numerical, np.complex128)
        size = max(float(np.max(np.abs(want), initial=0.0)), float(np.max(np.abs(got), initial=0.0)))
        off = np.abs(got - want)
        allowed = self.atol + self.rtol * size
        where = np.unravel_index(int(np.argmax(np.where(np.isnan(off), np.inf, off))), off.shape) if off.size else ()
        error = float(off[where]) if off.size else 0.0
        if not (error <= allowed and np.isfinite(size)):
            at = f"[{', '.join(map(str, where))}]" if where else ""
            raise errors.GradientCheckError(
                f"check_grads ({modes}): moving {name} changes {output}{at} by {_number(want[where])} numerically and "
                f"by {_number(got[where])} by the derivative, for a step of 1 in a random direction: they differ by "
                f"{error:.3g}, and {allowed:.3g} is allowed. If the function bends strongly there, pass eps=, atol= "
                "or rtol=; otherwise a derivative rule on the way is wrong."
            )
        self.worst[i] = max(self.worst[i], error / allowed)

    def _like(self, x: Any) -> Any:
        v = self.random.normal(size=x.shape)
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            v = v + 1j * self.random.normal(size=x.shape)
        norm = float(np.sqrt(np.sum(np.abs(v) ** 2))) or 1.0
        return jnp.asarray(v / norm, x.dtype)


def _checked(
    module: Any, variables: Any, order: Any, modes: Any, numbers: dict[str, Any], seed: Any
) -> tuple[str, ...]:
    """Return the modes, or raise."""
    demand_callable(getattr(module, "apply", module), CHECK_GRADS)
    if not isinstance(variables, Mapping):
        raise errors.ApplyScopeInvalidVariablesTypeError(
            f"check_grads got {describe(variables)} for variables, expected {{collection: tree}}, as init returns it: "
            "check_grads(module, variables, *args). A function without any takes {}."
        )
    modes = (modes,) if isinstance(modes, str) else modes
    listed = isinstance(modes, Sequence) and len(modes) > 0 and all(mode in _MODES for mode in modes)
    if not listed or isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise errors.ArityError(
            f"check_grads got modes={modes!r} and order={order!r}: expected one or both of 'fwd' and 'rev', and an "
            "order of at least 1."
        )
    for name, x in numbers.items():
        real = x is None or (is_value(x) and np.shape(x) == () and not np.iscomplexobj(x))
        if not real or (x is not None and not x >= 0) or (name == "eps" and x == 0):
            raise errors.ArityError(f"check_grads got {name}={x!r}, expected a number above 0, or None.")
    if not isinstance(seed, int | np.integer):
        raise errors.ArityError(f"check_grads got seed={describe(seed)}, expected an integer.")
    return tuple(modes)


def _moves(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.inexact)


def _number(x: Any) -> str:
    return f"{x:.6g}" if x.imag else f"{x.real:.6g}"


def _varying(variables: Any, args: tuple[Any, ...], wrt: Filter) -> tuple[list[str], list[Any], Callable[..., Any]]:
    """Return names and values of the arrays that vary, and what puts others in their place."""
    with_paths, treedef = jax.tree_util.tree_flatten_with_path((dict(variables), args))
    names, point, where = [], [], []
    leaves = [x for _, x in with_paths]
    for i, ((part, *path), x) in enumerate(with_paths):
        x = jnp.asarray(x) if isinstance(x, float | complex | np.ndarray | np.generic) else x
        in_variables = part.idx == 0
        if not _moves(x) or (in_variables and not filters.in_filter(wrt, path[0].key)):
            continue
        if in_variables:
            names.append("/".join(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path))
        else:
            names.append(f"argument {path[0].idx}{jax.tree_util.keystr(tuple(path[1:]))}")
        point.append(x)
        where.append(i)

    def put_back(values: Sequence[Any]) -> Any:
        whole = list(leaves)
        for i, x in zip(where, values, strict=True):
            whole[i] = x
        return treedef.unflatten(whole)

    return names, point, put_back
