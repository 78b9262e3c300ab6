"""The table of layers: what a row says of one, and the programs that are made from it.

A row is one way to use one layer. From it `test_table.py` generates the layer's tests: parity with flax.linen, counts
of operations, transforms (`matrix.py`), numerical derivatives, sharding metadata, and errors. To add a layer, append
rows to `ROWS` of a file in `rows/`; a new file there is found by itself.

    ROWS = [
        Row(
            "Dense",                                            # the name in liftax.nn, for the coverage test
            "default",                                          # what sets this row apart from the layer's others
            lambda lib, dtype: lib.Dense(5),                    # lib is liftax.nn or flax.linen
            inputs=(numbers(4, 3),),                            # one maker for each argument: dtype -> tree of arrays
            by_hand=lambda v, x, rngs: x @ v["params"]["kernel"] + v["params"]["bias"],
            rounding=(Rounding(("grads/x0",), "the cotangents of two uses are added in another order"),),
            mistakes=(Mistake("scalar", ValueError, "got a scalar", inputs=(lambda dtype: jnp.ones(()),)),),
        ),
    ]

The contract:

- The first row of a layer gets every cell of the transform matrix, and its operations are printed; later rows get a
  sample of the cells. So the first row is the plain use, as most programs have it.
- `make` builds the layer anew in each call, for any of float16, bfloat16, float32 and, for `check_grads`, float64.
  Where a function is what is public (`avg_pool`), return `lib.Sequential([lambda x: lib.avg_pool(x, ...)])`.
- The leaves of the inputs that are floating-point are differentiated; the others are not. So are the parameters.
- Parts of a result have paths, which `Rounding.parts` matches as substrings: `float32/init/params/kernel`,
  `float32/out`, `bfloat16/state/batch_stats/mean`, `float16/grads/params/params/kernel`, `float16/grads/x0` (the first
  floating-point leaf of the inputs). What no `Rounding` names is equal to the bit; the reason is for the reader.
- `collections` are those that a call writes, `rngs` the streams that it draws from.
- A layer is never left out of a group of tests without a reason: `smooth`, `any_width`, `any_dtype`,
  `any_names`, `alone` hold it.

`python -m tests.nn.table` prints the table: layers, cells, and operations traced by liftax, by Linen and by hand.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Mistake", "Rounding", "Row", "count", "integers", "load", "numbers"]

KEY = jax.random.key(7)
CALLS = ("jit", "pjit", "custom_jvp_call", "custom_vjp_call")
FLOATS = ("float32", "bfloat16", "float16")

Tree = Any
Maker = Callable[[Any], Any]


# --- makers of inputs ---


def numbers(*shape: int) -> Maker:
    """Return a maker of inputs of `shape`, spread over both signs, with a mean that is not zero."""
    size = int(np.prod(shape))
    return lambda dtype: jnp.asarray((np.sin(np.arange(size) * 1.7) * 2 + 0.5).reshape(shape), dtype)


def integers(*shape: int, below: int = 5) -> Maker:
    """Return a maker of inputs of `shape`, in int32, from 0 on."""
    return lambda _: jnp.asarray((np.arange(np.prod(shape)) * 3 % below).reshape(shape), jnp.int32)


# --- rows ---


class Rounding(NamedTuple):
    """What is equal up to rounding only.

    Attributes:
        parts: substrings of the paths of the results that it is about.
        reason: why the operations of the two libraries round differently.
        ulps: the distance allowed, in units in the last place of the largest element.
        unit: the dtype whose units these are, where it is not that of the result.
    """

    parts: tuple[str, ...]
    reason: str
    ulps: float = 2
    unit: str | None = None


class Mistake(NamedTuple):
    """A wrong use, and the error that says so.

    Attributes:
        name: what pytest prints.
        error: the class of the error.
        words: a regular expression that its text matches. The layer is called at the path `/inner`.
        make: the layer, `(lib, dtype) -> layer`; None for that of the row.
        inputs: its inputs; None for those of the row.
        call: keyword arguments of the call; None for those of the row.
        made: whether variables are made with the row's own inputs first. The mistake is then one of `apply`.
        rngs: whether the rng streams of the row are given.
    """

    name: str
    error: type[Exception]
    words: str
    make: Callable[..., Any] | None = None
    inputs: tuple[Maker, ...] | None = None
    call: Mapping[str, Any] | None = None
    made: bool = False
    rngs: bool = True


@dataclasses.dataclass(frozen=True)
class Row:
    """One way to use one layer.

    Attributes:
        layer: its name in `liftax.nn`.
        name: what sets the row apart from the others of the layer.
        make: `(lib, dtype) -> layer`, where `lib` is the namespace to take it from and `dtype` the one under test.
        inputs: makers of the positional arguments, each from the dtype under test.
        call: keyword arguments of the call; those that are arrays are traced.
        method: the method that is called.
        dtypes: those under test.
        collections: those that a call writes.
        rngs: the streams that a call draws from.
        rounding: what is equal to Linen's up to rounding only.
        by_hand: `(variables, *inputs, rngs) -> output`, what a careful person writes, of no more operations.
        mistakes: wrong uses, beside those that are generated.
        started: whether to start from the variables that `init` gives, rather than from made-up ones.
        order: the order to which derivatives are checked numerically.
        smooth: why derivatives are not checked numerically, or the empty string.
        any_width: why inputs with a last axis of another size are no mistake, or the empty string.
        any_dtype: why `dtype=int32` is no mistake, or the empty string.
        any_names: why names of axes are not compared with those that Linen keeps, or the empty string.
        alone: cells of the transform matrix that do not apply -> why.
        tolerance: relative to the largest element, for the cells of the transform matrix.
    """

    layer: str
    name: str
    make: Callable[..., Any]
    inputs: tuple[Maker, ...] = (numbers(4, 3),)
    call: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    method: str = "__call__"
    dtypes: tuple[str, ...] = FLOATS
    collections: tuple[str, ...] = ()
    rngs: tuple[str, ...] = ()
    rounding: tuple[Rounding, ...] = ()
    by_hand: Callable[..., Any] | None = None
    mistakes: tuple[Mistake, ...] = ()
    started: bool = False
    order: int = 2
    smooth: str = ""
    any_width: str = ""
    any_dtype: str = ""
    any_names: str = ""
    alone: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tolerance: float = 2e-5

    def __str__(self) -> str:
        return f"{self.layer}-{self.name}"

    # What the layer is called with.

    def primals(self, dtype: Any) -> tuple[list[jax.Array], Callable[[Sequence[Any]], tuple[Any, ...]]]:
        """Return the floating-point leaves of the inputs, and the function that puts them back."""
        return partition(tuple(maker(jnp.dtype(dtype)) for maker in self.inputs))

    def arrays(self) -> dict[str, Any]:
        """Return the keyword arguments that are arrays."""
        return {name: x for name, x in self.call.items() if isinstance(x, (np.ndarray, jax.Array))}

    def keys(self, *more: str) -> dict[str, jax.Array]:
        """Return a key for each stream, and for those named `more`."""
        return {name: jax.random.fold_in(KEY, len(name)) for name in (*more, *self.rngs)}

    # What it makes and computes.

    def init(self, lib: Any, dtype: Any, keys: Any) -> dict[str, Any]:
        """Return the variables that the layer makes."""
        primals, whole = self.primals(dtype)
        layer = self.make(lib, jnp.dtype(dtype))
        return dict(layer.init(keys, *whole(primals), method=self.method, **self.call))

    def shapes(self, lib: Any, dtype: Any) -> dict[str, Any]:
        """Return their shapes and dtypes."""
        return jax.eval_shape(lambda: self.init(lib, dtype, self.keys("params")))

    def variables(self, lib: Any, dtype: Any) -> tuple[Tree, Tree]:
        """Return the variables to test with: `{'params': …}`, or nothing, and the other collections."""
        made = self.init(lib, dtype, self.keys("params")) if self.started else values(self.shapes(lib, dtype))
        params = {"params": made.pop("params")} if "params" in made else {}
        return params, made

    def program(self, lib: Any, dtype: Any) -> Callable[..., tuple[Any, dict[str, Any]]]:
        """Return `(params, state, primals, arrays, keys) -> (output, state)`, the call with everything explicit."""
        layer = self.make(lib, jnp.dtype(dtype))
        whole = self.primals(dtype)[1]
        options = {"mutable": list(self.collections), "method": self.method}

        def call(params: Any, state: Any, primals: Any, arrays: Any, keys: Any) -> Any:
            out, new = layer.apply(
                {**params, **state}, *whole(primals), rngs=keys or None, **options, **{**self.call, **arrays}
            )
            return out, dict(new)

        return call

    def results(self, lib: Any, dtype: Any, arrays: Any, keys: Any) -> dict[str, Any]:
        """Return everything that is compared with Linen: output, state, and gradients."""
        call, (params, state) = self.program(lib, dtype), self.variables(lib, dtype)
        primals, _ = self.primals(dtype)
        out, vjp, new = jax.vjp(lambda p, x: call(p, state, x, arrays, keys), params, primals, has_aux=True)
        params_ct, primals_ct = vjp(jax.tree.map(cotangent, out))
        return {
            "out": out,
            "state": new,
            "grads": {"params": params_ct, **{f"x{i}": ct for i, ct in enumerate(primals_ct)}},
        }

    def run(self, lib: Any) -> dict[str, Any]:
        """Return the results for each dtype, and the initial variables for the first, from one compiled program."""

        def all_dtypes(arrays: Any, keys: Any, init_keys: Any) -> dict[str, Any]:
            found = {dtype: self.results(lib, dtype, arrays, keys) for dtype in self.dtypes}
            found[self.dtypes[0]]["init"] = self.init(lib, self.dtypes[0], init_keys)
            return found

        return jax.jit(all_dtypes)(self.arrays(), self.keys(), self.keys("params"))

    def operations(self, lib: Any, dtype: Any) -> tuple[int, int]:
        """Return the number of operations of a call, and of its gradient, as traced."""
        call, shapes = self.program(lib, dtype), self.shapes(lib, dtype)
        params = {name: shapes.pop(name) for name in ("params",) if name in shapes}

        def gradient(params: Any, state: Any, primals: Any, *rest: Any) -> Any:
            return jax.grad(lambda p, x: total(call(p, state, x, *rest)[0]), (0, 1))(params, primals)

        args = (params, shapes, self.primals(dtype)[0], self.arrays(), self.keys())
        return count(jax.make_jaxpr(call)(*args).jaxpr), count(jax.make_jaxpr(gradient)(*args).jaxpr)

    def operations_by_hand(self) -> int:
        """Return the number of operations of `by_hand`, in float32."""
        from liftax import nn

        assert self.by_hand is not None
        whole, shapes = self.primals("float32"), self.shapes(nn, "float32")
        return count(jax.make_jaxpr(self.by_hand)(shapes, *whole[1](whole[0]), self.keys()).jaxpr)


def load() -> list[Row]:
    """Return the rows of all files in `rows/`."""
    folder = importlib.import_module(f"{__package__}.rows")
    names = sorted(info.name for info in pkgutil.iter_modules(folder.__path__))
    return [row for name in names for row in importlib.import_module(f"{folder.__name__}.{name}").ROWS]


def first_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the first row of each layer."""
    return list({row.layer: row for row in reversed(rows)}.values())[::-1]


# --- trees ---


def is_float(x: Any) -> bool:
    """Return whether `x` is floating-point or complex."""
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def partition(tree: Tree) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
    """Return the floating-point leaves of `tree`, and the function from such leaves to a tree."""
    leaves, treedef = jax.tree.flatten(tree)
    floats = [is_float(leaf) for leaf in leaves]

    def whole(given: Sequence[Any]) -> Any:
        fresh = iter(given)
        return treedef.unflatten(next(fresh) if ok else leaf for leaf, ok in zip(leaves, floats, strict=True))

    return [leaf for leaf, ok in zip(leaves, floats, strict=True) if ok], whole


def values(shapes: Tree) -> Tree:
    """Return arrays of these shapes and dtypes, whose elements differ, and are positive as a variance has to be.

    Counters, which are integers, and flags are zero.
    """
    leaves, treedef = jax.tree.flatten(shapes)
    return treedef.unflatten(
        jnp.asarray(1.3 + np.sin(np.arange(leaf.size) + i).reshape(leaf.shape), leaf.dtype)
        if is_float(leaf)
        else jnp.zeros(leaf.shape, leaf.dtype)
        for i, leaf in enumerate(leaves)
    )


def cotangent(out: jax.Array) -> Any:
    """Return a cotangent of `out` whose elements differ."""
    if not is_float(out):
        return np.zeros(out.shape, jax.dtypes.float0)
    return jnp.asarray(np.cos(np.arange(out.size)).reshape(out.shape), out.dtype)


def total(tree: Tree) -> jax.Array:
    """Return the sum of the real parts of all floating-point leaves."""
    return sum((jnp.real(leaf).sum() for leaf in jax.tree.leaves(tree) if is_float(leaf)), start=jnp.zeros(()))


def count(jaxpr: Any) -> int:
    """Count the operations of a jaxpr and of those inside it; a call counts as what it holds, as for XLA."""
    inner = (sub for eqn in jaxpr.eqns for param in eqn.params.values() for sub in _each(param))
    return sum(eqn.primitive.name not in CALLS for eqn in jaxpr.eqns) + sum(
        count(getattr(sub, "jaxpr", sub)) for sub in inner if hasattr(sub, "jaxpr") or hasattr(sub, "eqns")
    )


def _each(param: Any) -> Iterator[Any]:
    yield from param if isinstance(param, (tuple, list)) else (param,)


# --- printing ---


WIDTHS = (30, 4, 5, 9, 5, 7, 12, 5)


def main() -> None:
    """Print layers, rows, cells, and operations traced, as a table in Markdown."""
    import flax.linen

    from liftax import nn

    from .matrix import CELLS, cells_of

    rows = load()
    cells = cells_of(rows)
    line("", "", "", "a call", "", "", "its gradient", "")
    line(*("-" * width for width in WIDTHS))
    line("layer", "rows", "cells", "liftax", "Linen", "by hand", "liftax", "Linen")
    sums = [0] * 5
    for row in sorted(first_rows(rows), key=lambda row: row.layer.lower()):
        ours, theirs = row.operations(nn, "float32"), row.operations(flax.linen, "float32")
        numbers = [ours[0], theirs[0], row.operations_by_hand(), ours[1], theirs[1]]
        sums = [a + b for a, b in zip(sums, numbers, strict=True)]
        mine = [sum(x.layer == row.layer for x in found) for found in (rows, [cell.row for cell in cells])]
        line(f"`{row.layer}`", *mine, *numbers)
    line("sum", len(rows), len(cells), *sums)
    print(f"\n{len(first_rows(rows))} layers, {len(rows)} rows, {len(cells)} cells of {len(CELLS)} transforms.")


def line(name: str, *entries: Any) -> None:
    """Print a line of the table."""
    print(f"| {name:<{WIDTHS[0]}}", *(f"{x:>{n}}" for x, n in zip(entries, WIDTHS[1:], strict=True)), "", sep=" | ")


if __name__ == "__main__":
    main()
