"""Every layer of the table against flax.linen, under every transform, with numerical derivatives, and with wrong input.

`table.py` says what a row holds; nothing here knows any one layer. Equal is equal to the bit. What is equal up to
rounding only, a row lists in `rounding`, with the reason.
"""

import dataclasses
import os
import re
from collections.abc import Iterator
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from liftax import errors, nn

from . import matrix
from .table import Mistake, Row, first_rows, is_float, load

ROWS = load()
FIRSTS = first_rows(ROWS)
LONG = pytest.mark.long


def each(rows: list[Row]) -> Any:
    return pytest.mark.parametrize("row", rows, ids=str)


# --- the table -----------------------------------------------------------------------------------------------------


def public_layers() -> set[str]:
    """Return the names of the public layers: Module classes but bases, and functions that Linen calls layers."""
    modules = {name for name, x in vars(nn).items() if isinstance(x, type) and issubclass(x, nn.Module)}
    functions = {"avg_pool", "max_pool", "min_pool", "pool", "dot_product_attention"}
    return modules - {"Module", "RNNCellBase"} | functions & set(nn.__all__)


def test_every_layer_has_a_row() -> None:
    assert public_layers() <= {row.layer for row in ROWS}


def test_rows_have_names_of_their_own() -> None:
    assert len({str(row) for row in ROWS}) == len(ROWS)


def test_every_exception_has_a_reason() -> None:
    for row in ROWS:
        reasons = [rounding.reason for rounding in row.rounding] + list(row.alone.values())
        assert all(len(reason) > 20 for reason in reasons), str(row)
        assert set(row.alone) <= {f"{how}-{transform}" for how, transform in matrix.CELLS}


def test_shapes_and_dtypes_are_linens_with_wide_types() -> None:
    with jax.enable_x64(True):
        for row in ROWS:
            assert row.shapes(nn, jnp.float32) == row.shapes(flax.linen, jnp.float32), str(row)


@pytest.fixture
def optimized() -> Iterator[None]:
    """Compile as users do: the compiler rounds bfloat16 otherwise if it is told to save time."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "true")


# --- parity ----------------------------------------------------------------------------------------------------------


SLOW = {"MultiHeadDotProductAttention", "Conv", "ConvTranspose", "RNN", "Bidirectional"} | {
    f"{kind}Cell" for kind in ("Simple", "GRU", "MGU", "LSTM", "OptimizedLSTM", "ConvLSTM")
}
"""Layers of which all rows but the first are compared with Linen in the long sweep."""


@pytest.mark.parametrize(
    "row", [pytest.param(r, id=str(r), marks=[LONG] if r.layer in SLOW and r not in FIRSTS else []) for r in ROWS]
)
def test_equals_linen(row: Row, optimized: None) -> None:
    for dtype in row.dtypes:
        assert row.shapes(nn, dtype) == row.shapes(flax.linen, dtype)
    ours, theirs = row.run(nn), row.run(flax.linen)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, a), b in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type), where
        roundings = [r for r in row.rounding if any(part in where for part in r.parts)]
        if not roundings:
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), where
        for rounding in roundings:
            wide_a, wide_b = np.asarray(a, complex), np.asarray(b, complex)
            tolerance = rounding.ulps * float(jnp.finfo(rounding.unit or a.dtype).eps) * np.abs(wide_b).max()
            np.testing.assert_allclose(wide_a, wide_b, rtol=0, atol=tolerance, err_msg=where)


# --- operations ------------------------------------------------------------------------------------------------------


@each(ROWS)
def test_traces_no_more_operations_than_linen(row: Row) -> None:
    for dtype in row.dtypes:
        ours, theirs = row.operations(nn, dtype), row.operations(flax.linen, dtype)
        assert ours[0] <= theirs[0], f"{dtype}: call"
        assert ours[1] <= theirs[1], f"{dtype}: gradient"


@each([row for row in ROWS if row.by_hand])
def test_traces_no_more_operations_than_by_hand(row: Row) -> None:
    assert row.operations(nn, "float32")[0] <= row.operations_by_hand()


@each([row for row in ROWS if row.by_hand])
def test_equals_what_is_written_by_hand(row: Row) -> None:
    params, state = row.variables(nn, "float32")
    primals, whole = row.primals("float32")

    @jax.jit
    def both(keys: Any) -> Any:
        assert row.by_hand is not None
        out, _ = row.program(nn, "float32")(params, state, primals, row.arrays(), keys)
        return out, row.by_hand({**params, **state}, *whole(primals), keys)

    out, by_hand = both(row.keys())
    if row.collections:
        by_hand, _ = by_hand
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), out, by_hand)


# --- transforms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell", [pytest.param(c, id=str(c), marks=[LONG] if c.is_long else []) for c in matrix.cells_of(ROWS)]
)
def test_transform(cell: matrix.Cell) -> None:
    ours, theirs = matrix.program(cell), matrix.reference(cell)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, a), b in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        assert (a.shape, a.dtype) == (b.shape, b.dtype), where
        if is_float(a):
            atol = cell.row.tolerance * max(1.0, np.abs(b).max(initial=0.0))
            np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=where)
        else:
            np.testing.assert_array_equal(a, b, err_msg=where)


# --- numerical derivatives -------------------------------------------------------------------------------------------


def numerical(rows: list[Row]) -> list[Any]:
    """Return each row and the order to which it is checked: the first of each layer in the short run, to order 1."""
    checks = [(row, row.order if row in FIRSTS else 1) for row in rows if not row.smooth]
    short = [pytest.param(row, 1, id=f"{row}-1") for row, _ in checks if row in FIRSTS]
    long = [pytest.param(row, n, id=f"{row}-{n}", marks=LONG) for row, n in checks if row not in FIRSTS or n > 1]
    return short + long


@pytest.mark.parametrize(("row", "order"), numerical(ROWS))
def test_derivatives_are_those_of_differences(row: Row, order: int) -> None:
    with jax.enable_x64(True):
        wide = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, "float64") if x.dtype == jnp.float32 else x, tree)
        params, state = wide(row.variables(nn, "float64"))
        primals, keys = row.primals("float64")[0], row.keys()
        call = row.program(nn, "float64")

        @jax.jit
        def f(params: Any, primals: Any) -> Any:
            out, _ = call(params, state, primals, row.arrays(), keys)
            return [leaf for leaf in jax.tree.leaves(out) if is_float(leaf)]

        assert all(leaf.dtype in (jnp.float64, jnp.complex128) for leaf in f(params, primals)), "not in float64"
        check_grads(f, (params, primals), order, atol=1e-5, rtol=1e-5, eps=1e-5)


# --- sharding metadata -----------------------------------------------------------------------------------------------


def named(lib: Any, layer: Any) -> Any:
    """Return the layer with initializers that name the axes of what they make, those of modules inside it as well."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(layer):
        value = getattr(layer, field.name)
        if field.name in ("parent", "name", "carry_init"):  # a carry is no variable
            continue
        if isinstance(value, lib.Module):
            changes[field.name] = named(lib, value)
        elif field.name.endswith("_init") and callable(value):
            changes[field.name] = naming(lib, field.name, value)
    return layer.clone(**changes) if changes else layer


def naming(lib: Any, name: str, init: Any) -> Any:
    def boxed(key: Any, shape: Any, *args: Any) -> Any:
        names = tuple(f"{name}_{i}" for i in range(len(shape)))
        return lib.with_logical_partitioning(init, names)(key, shape, *args)

    return boxed


def has_initializers(row: Row) -> bool:
    layer = row.make(nn, jnp.dtype("float32"))
    return named(nn, layer) is not layer


@each([row for row in FIRSTS if has_initializers(row) and not row.any_names])
def test_names_of_axes_survive_init(row: Row) -> None:
    def made(lib: Any) -> Any:
        boxed = dataclasses.replace(row, make=lambda lib, dtype: named(lib, row.make(lib, dtype)))
        return boxed, jax.eval_shape(lambda: boxed.init(lib, "float32", row.keys("params")))

    boxed, ours = made(nn)
    specs = nn.get_partition_spec(ours)
    assert specs == flax.linen.get_partition_spec(made(flax.linen)[1])
    assert any(spec != jax.P() for spec in jax.tree.leaves(specs))

    keys, args = row.keys("params"), (row.primals("float32")[0], row.arrays(), row.keys())
    with_names = boxed.init(nn, "float32", keys)
    without = row.init(nn, "float32", keys)
    jax.tree.map(np.testing.assert_array_equal, nn.unbox(with_names), without)
    results = boxed.program(nn, "float32")({}, with_names, *args), row.program(nn, "float32")({}, without, *args)
    jax.tree.map(np.testing.assert_array_equal, *map(nn.unbox, results))


# --- errors ----------------------------------------------------------------------------------------------------------


class Outer(nn.Module):
    """Holds a layer, so that its path is not the root."""

    inner: Any
    method: str

    @nn.compact
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.inner, self.method)(*args, **kwargs)


def provoke(row: Row, mistake: Mistake) -> None:
    """Make the mistake."""
    dtype = jnp.dtype("float32")
    right = tuple(maker(dtype) for maker in row.inputs)
    wrong = right if mistake.inputs is None else tuple(maker(dtype) for maker in mistake.inputs)
    call = row.call if mistake.call is None else mistake.call
    outer = Outer((mistake.make or row.make)(nn, dtype), row.method)
    keys = row.keys() if mistake.rngs else {}
    if mistake.made:
        variables = Outer(row.make(nn, dtype), row.method).init(row.keys("params"), *right, **row.call)
        outer.apply(variables, *wrong, rngs=keys or None, mutable=list(row.collections), **call)
    else:
        outer.init({"params": jax.random.key(0), **keys}, *wrong, **call)


def mistakes(rows: list[Row]) -> Iterator[Any]:
    for row in rows:
        for mistake in row.mistakes:
            yield pytest.param(row, mistake, id=f"{row}-{mistake.name}")


@pytest.mark.parametrize(("row", "mistake"), list(mistakes(ROWS)))
def test_mistake(row: Row, mistake: Mistake) -> None:
    with pytest.raises(mistake.error, match=f"(?s){mistake.words}"):
        provoke(row, mistake)


@each([row for row in FIRSTS if not row.any_width])
def test_features_of_another_number(row: Row) -> None:
    def wider(maker: Any) -> Any:
        def make(dtype: Any) -> Any:
            return jax.tree.map(lambda x: jnp.concatenate([x, x], -1) if is_float(x) and x.ndim else x, maker(dtype))

        return make

    wrong = tuple(wider(maker) for maker in row.inputs)
    with pytest.raises((errors.LiftaxError, ValueError), match="inner") as caught:
        provoke(row, Mistake("", ValueError, "", inputs=wrong, made=True))
    sizes = {leaf.shape[-1] for maker in wrong for leaf in jax.tree.leaves(maker(jnp.float32)) if leaf.ndim}
    told = {int(number) for number in re.findall(r"\d+", str(caught.value))}
    if row.layer == "ConvLocal":  # whose kernels hold the 3 x 3 numbers of a window along one axis
        sizes = {9 * size for size in sizes}
    assert sizes & told, "the text does not say what was got"


def has_dtype(row: Row) -> bool:
    return hasattr(row.make(nn, jnp.dtype("float32")), "dtype")


@each([row for row in FIRSTS if has_dtype(row) and not row.any_dtype])
def test_integer_dtype(row: Row) -> None:
    def make(lib: Any, dtype: Any) -> Any:
        return row.make(lib, dtype).clone(dtype=jnp.int32)

    with pytest.raises((errors.LiftaxError, ValueError, TypeError), match="int32"):
        provoke(row, Mistake("", ValueError, "", make=make))
