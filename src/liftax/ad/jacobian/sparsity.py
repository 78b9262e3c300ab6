"""Matrices of which most entries are zero for every input: detected, colored, and found by few products.

    colored : (R^n -> R^m) -> R^n -> coloring
    entries : coloring -> products -> the entries that may differ from zero

Two columns that share no row with entries can be found by one product, with the sum of their unit vectors. Which
entries can differ from zero is read from the program; a coloring of the columns (or rows) tells which to sum. A Hessian
is symmetric, which saves more. Both are the work of asdex, an optional dependency.

Source: A. R. Curtis, M. J. D. Powell, J. K. Reid, "On the estimation of sparse Jacobian matrices", IMA J. Appl. Math.
13 (1974); A. Hill, G. Dalle, "Sparser, better, faster, stronger: sparsity detection for efficient automatic
differentiation", 2025.
"""

import importlib.metadata
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from liftax import _compat
from liftax.ad.jacobian.products import Flat
from liftax.errors import JaxVersionError, MissingPackageError, SparsityError
from liftax.explain.transform import Transform
from liftax.explain.values import describe


def colored(
    transform: Transform, sparsity: Any, f: Callable[[Any], Any], x: Any, mode: str | None, symmetric: bool
) -> Any:
    """Return an `asdex.ColoredPattern` of the Jacobian of `f`, a function of vectors, at `x`.

    Args:
        transform: for error texts.
        sparsity: "auto", or a pattern: what `asdex` takes for one, or a coloring.
        f: the function. It may close over tracers.
        x: its argument.
        mode: "fwd" to sum columns, "rev" to sum rows, None for whatever takes fewer products.
        symmetric: the Jacobian is that of a gradient.
    """
    asdex = _asdex(transform)
    if isinstance(sparsity, asdex.ColoredPattern):
        shape, by_rows = sparsity.sparsity.shape, sparsity.mode == "rev"
        if mode is not None and not symmetric and by_rows != (mode == "rev"):
            other = "reverse" if by_rows else "forward"
            raise SparsityError(
                f"{transform} got a coloring for {other} mode. Use jacobian, which takes either, or recolor."
            )
    elif isinstance(sparsity, str):
        sparsity = _detected(transform, asdex, f, x)
        shape = sparsity.shape
    else:
        shape = sparsity.shape
        if isinstance(sparsity, jax.Array):
            sparsity = np.asarray(sparsity)
    size = jax.eval_shape(f, x).size
    if shape != (size, x.size):
        raise SparsityError(
            f"{transform} got a pattern of shape {tuple(shape)}, expected {(size, x.size)}: a row for each number in "
            "the output, and a column for each one that varies, in the order of jax.tree.leaves."
        )
    if isinstance(sparsity, asdex.ColoredPattern):
        return sparsity
    if symmetric:
        return asdex.hessian_coloring_from_sparsity(sparsity)
    return asdex.jacobian_coloring_from_sparsity(sparsity, mode=mode)


def entries(coloring: Any, product: Callable[[Any], Any], dtype: Any, chunk: int | None) -> Any:
    """Return the entries in the order of the coloring's pattern: a vector.

    Args:
        coloring: an `asdex.ColoredPattern`.
        product: a product of the Jacobian with a vector, from the side that the coloring compresses.
        dtype: the dtype of the vectors.
        chunk: how many products at a time; None for all.
    """
    import asdex

    colors = jnp.asarray(coloring.colors)
    if not coloring.sparsity.nnz:
        return jnp.zeros(0, dtype)
    summed = jax.lax.map(
        lambda color: product((colors == color).astype(dtype)),
        jnp.arange(coloring.num_colors),
        batch_size=coloring.num_colors if chunk is None else chunk,
    )
    return asdex.decompress_data(summed, coloring)


def arranged(coloring: Any, data: Any, inputs: Flat, outputs: Flat, dense: bool) -> Any:
    """Return the matrix from `inputs` to `outputs` as `products` arranges it, of arrays or of `BCOO`s."""
    from jax.experimental import sparse  # on demand: it imports SciPy's sparse matrices

    rows, cols = np.asarray(coloring.sparsity.rows), np.asarray(coloring.sparsity.cols)

    def block(out: jax.ShapeDtypeStruct, top: int, into: jax.ShapeDtypeStruct, left: int) -> Any:
        inside = (top <= rows) & (rows < top + out.size) & (left <= cols) & (cols < left + into.size)
        places = (
            *np.unravel_index(rows[inside] - top, out.shape or (1,))[: len(out.shape)],
            *np.unravel_index(cols[inside] - left, into.shape or (1,))[: len(into.shape)],
        )
        found = data if inside.all() else data[np.flatnonzero(inside)]
        shape = (*out.shape, *into.shape)
        if dense:
            flat = np.ravel_multi_index(places, shape) if shape else np.zeros(found.shape, int)
            return jnp.zeros(int(np.prod(shape)), found.dtype).at[flat].set(found).reshape(shape)
        indices = np.stack(places, 1) if shape else np.zeros((found.size, 0), int)
        return sparse.BCOO((found, jnp.asarray(indices, jnp.int32)), shape=shape, unique_indices=True)

    def row(out: jax.ShapeDtypeStruct, top: int) -> Any:
        parts = zip(inputs.types, inputs.offsets, strict=False)
        return inputs.treedef.unflatten([block(out, top, t, i) for t, i in parts])

    return outputs.treedef.unflatten([row(t, i) for t, i in zip(outputs.types, outputs.offsets, strict=False)])


def is_pattern(x: Any) -> bool:
    """Tell whether `x` is a matrix of places, as an array or as an object with a shape."""
    return len(getattr(x, "shape", ())) == 2 or hasattr(x, "sparsity")


def _detected(transform: Transform, asdex: Any, f: Callable[[Any], Any], x: Any) -> Any:
    """Return the pattern that asdex finds, which reads values that `f` closes over, and can't read tracers."""
    run, consts = _compat.closed(f, x)
    keys = [i for i, c in enumerate(consts) if hasattr(c, "dtype") and jnp.issubdtype(c.dtype, jax.dtypes.prng_key)]
    traced = [i for i, c in enumerate(consts) if i in keys or _compat.is_tracer(c)]
    bits = [jax.random.key_data(consts[i]) if i in keys else consts[i] for i in traced]

    def opened(x: Any, bits: Any) -> Any:
        values = list(consts)
        for i, value in zip(traced, bits, strict=True):
            values[i] = jax.random.wrap_key_data(value, impl=jax.random.key_impl(consts[i])) if i in keys else value
        return run(values, x)

    blank = [np.zeros(v.shape, v.dtype) for v in bits]  # asdex looks at types
    try:
        return asdex.jacobian_sparsity(opened, np.zeros(x.shape, x.dtype), blank)
    except NotImplementedError as error:
        raise SparsityError(
            f"{transform} can't tell which entries of the matrix are zero: {error} Pass the pattern itself, "
            f"sparsity=pattern, or leave sparsity out. The function's argument is {describe(x)} when packed."
        ) from error


def _asdex(transform: Transform) -> Any:
    try:
        import asdex
    except ImportError as error:
        if importlib.util.find_spec("asdex") is not None:  # it reads parts of JAX that move
            raise JaxVersionError(
                f"{transform}: sparsity needs the package asdex, and asdex {importlib.metadata.version('asdex')} can't "
                f"be imported with JAX {jax.__version__}: {error}. Install versions of the two that fit, or leave "
                "sparsity out."
            ) from error
        raise MissingPackageError(
            f"{transform}: sparsity needs the package asdex, which is not installed. Install it with "
            "`pip install liftax[sparse]` or `pip install asdex`, or leave sparsity out."
        ) from error
    return asdex
