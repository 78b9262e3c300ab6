"""What is kept for the backward pass, array by array.

    saved : (a -> b) -> a -> Report

The function is differentiated with types alone; nothing is computed. Each array in the VJP function that `jax.vjp`
would return is a row. An array that a loop has stacked is traced back to the equation in the loop that computes a
part of it.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core

from liftax._compat import plans
from liftax.ad.memory import cost
from liftax.ad.memory.program import inlined, is_var, opened
from liftax.explain.functions import demand_callable


@dataclasses.dataclass(frozen=True)
class Row:
    """An array that is kept.

    Args:
        path: the names that it was computed under, from modules and `jax.named_scope`, joined by `/`.
        source: the line of the program that computes it, as `file:line`.
        primitive: the operation that computes it; `argument` or `constant` if none does.
        shape: its shape; in a loop that of one step.
        dtype: its dtype.
        bytes: what it takes, for all steps of a loop together.
        times: how many are kept: the number of steps of the loops around it.
        flops: FLOPs to compute it again, for all steps, from what is kept otherwise.
    """

    path: str
    source: str
    primitive: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    times: int
    flops: int


@dataclasses.dataclass(frozen=True)
class Report:
    """What is kept for the backward pass of a function.

    `print` shows it as a table, drawn by rich if that is installed; notebooks show it as HTML; `plot` draws it.

    Args:
        rows: the arrays, those that take most bytes first.
        flops: FLOPs of the function and its backward pass together.
        plain: the report of the same function without its plan, if it has one (see `liftax.checkpoint`).
    """

    rows: tuple[Row, ...]
    flops: int
    plain: "Report | None" = None

    @property
    def bytes(self) -> int:
        """The bytes of all arrays in the VJP function."""
        return sum(row.bytes for row in self.rows)

    @property
    def computed_bytes(self) -> int:
        """The bytes of those that are neither arguments nor constants: what a budget bounds."""
        return sum(row.bytes for row in self.rows if row.primitive not in ("argument", "constant"))

    def by_module(self, depth: int | None = None) -> dict[str, int]:
        """Return the computed bytes for each path, the largest first.

        Args:
            depth: how many names of a path count; None for all.
        """
        totals: dict[str, int] = {}
        for row in self.rows:
            if row.primitive not in ("argument", "constant"):
                path = "/".join(row.path.split("/")[:depth])
                totals[path] = totals.get(path, 0) + row.bytes
        return dict(sorted(totals.items(), key=lambda item: -item[1]))

    def __str__(self) -> str:
        from liftax.ad.memory.show import text

        return text(self)

    def _repr_html_(self) -> str:
        from liftax.ad.memory.show import html

        return html(self)

    def plot(self, ax: Any = None, depth: int | None = None) -> Any:
        """Draw the computed bytes of each module as bars, beside those without the plan. It takes matplotlib.

        Args:
            ax: matplotlib axes to draw into; None for new ones.
            depth: see `by_module`.

        Returns:
            The axes.
        """
        from liftax.ad.memory.show import plot

        return plot(self, ax, depth)


def saved(fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Report:
    """Report what the backward pass of a function keeps. Nothing is computed.

    For a module see `liftax.nn.saved`.

    Args:
        fun: The function. If `liftax.checkpoint` made it, the report has that of the function without its plan, too.
        *args: Its arguments, arrays or `jax.ShapeDtypeStruct`s, with respect to which it is differentiated.
        **kwargs: More of them, not differentiated.

    Returns:
        A report. Its bytes are those of the arrays in `jax.vjp(fun, *args)[1]`.

    Raises:
        ArityError: `fun` is not callable.

    Example:
        >>> import jax.numpy as jnp
        >>> import liftax as lx
        >>> report = lx.saved(lambda x: jnp.sum(jnp.sin(x) * 2), jnp.ones(3))
        >>> [(row.primitive, row.shape, row.bytes) for row in report.rows if row.shape]
        [('cos', (3,), 12)]
    """
    demand_callable(fun, "saved")
    return report_of(fun, args, (), kwargs)


def report_of(fun: Callable[..., Any], moving: Sequence[Any], fixed: Sequence[Any], kwargs: Any) -> Report:
    """Return the report of `fun(*moving, *fixed, **kwargs)`, differentiated with respect to `moving`."""
    plain = getattr(fun, "without_plan", None)
    leaves, treedef = jax.tree.flatten((moving, fixed, kwargs))
    counts: list[int] = []

    def kept(*leaves: Any) -> list[Any]:
        moving, fixed, kwargs = treedef.unflatten(leaves)
        out, backward = jax.vjp(lambda *xs: fun(*xs, *fixed, **kwargs), *moving)
        found = jax.tree.leaves(backward)
        counts.append(len(found))
        ones = jax.tree.map(lambda x: jax.numpy.ones_like(x) if _floats(x) else _no_cotangent(x), out)
        return [*found, *jax.tree.leaves(backward(ones))]

    closed = jax.make_jaxpr(kept)(*leaves)
    closed = jax.make_jaxpr(lambda *xs: inlined(closed.jaxpr, closed.consts, xs, lambda *_: None))(
        *[v.aval for v in closed.jaxpr.invars]
    )
    jaxpr = closed.jaxpr
    rows = _rows(jaxpr, jaxpr.outvars[: counts[-1]], 1, "")
    rows.sort(key=lambda row: -row.bytes)
    before = None if plain is None else report_of(plain, moving, fixed, kwargs)
    return Report(tuple(rows), sum(map(cost.flops, jaxpr.eqns)), before)


def _floats(x: Any) -> bool:
    return jax.numpy.issubdtype(x.dtype, jax.numpy.inexact)


def _no_cotangent(x: Any) -> Any:
    import numpy as np

    return np.zeros(x.shape, jax.dtypes.float0)


def _rows(jaxpr: Any, atoms: Sequence[Any], times: int, prefix: str) -> list[Row]:
    made = {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars}
    kept = dict.fromkeys(x for x in atoms if is_var(x))
    rows = [_row("", "", "constant", x.aval, times, 0) for x in atoms if not is_var(x)]
    for x in kept:
        eqn = made.get(x)
        if eqn is None:
            kind = "argument" if x in jaxpr.invars and not prefix else "constant" if not prefix else "carry"
            rows.append(_row(prefix, "", kind, x.aval, times, 0))
            continue
        path = "/".join(filter(None, (prefix, path_of(eqn))))
        inner = _inner_output(eqn, x)
        if inner is not None:
            body, atom, steps = inner
            if not is_var(atom) or steps is None:
                rows.append(_row(path, plans.source_line(eqn), eqn.primitive.name, x.aval, times, 0))
            else:
                rows += _rows(body, [atom], times * steps, path or "loop")
        else:
            again = _flops_again(made, kept, x)
            rows.append(_row(path, plans.source_line(eqn), eqn.primitive.name, x.aval, times, again))
    return rows


def _row(path: str, source: str, primitive: str, aval: Any, times: int, flops: int) -> Row:
    shape = tuple(aval.shape)
    return Row(path, source, primitive, shape, str(aval.dtype), cost.nbytes(aval) * times, times, flops * times)


def _inner_output(eqn: Any, v: Any) -> tuple[Any, Any, int | None] | None:
    """Return for what a loop has stacked the program of a step, the variable there, and the number of steps."""
    if eqn.primitive.name != "scan":
        return None
    place = list(eqn.outvars).index(v)
    _, carried = plans.scan_counts(eqn)
    body, _ = opened(eqn.params["jaxpr"])
    return body, body.outvars[place], None if place < carried else eqn.params["length"]


def _flops_again(made: dict[Any, Any], kept: dict[Any, None], v: Any) -> int:
    todo, run = [v], {}
    while todo:
        eqn = made.get(todo.pop())
        if eqn is not None and id(eqn) not in run:
            run[id(eqn)] = cost.flops(eqn)
            todo.extend(x for x in eqn.invars if is_var(x) and x not in kept)
    return sum(run.values())


def path_of(eqn: Any) -> str:
    """Return the names that an equation runs under, without those of transforms."""
    names = str(eqn.source_info.name_stack)
    while re.search(r"\b(jvp|transpose|vmap|linearize)\(", names):
        names = re.sub(r"\b(?:jvp|transpose|vmap|linearize)\(([^()]*)\)", r"\1", names)
    return "/".join(name for name in names.split("/") if name and not name.endswith("_of_plan"))
