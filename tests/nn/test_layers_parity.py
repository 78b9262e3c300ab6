"""Each layer against the one of flax.linen that it stands in for: the same program, run on both.

One table, `CASES`, describes the layers. For each, in each dtype: the variables it makes, its output, the state after
a call, and the gradients with respect to parameters and inputs, compiled as one program. Equal is equal to the bit. A
case lists in `rounded` what is equal up to rounding only, and `ONE_CAST` and its neighbours say why.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import nn

KEY = jax.random.key(7)
MASK = np.array([[True, True, False], [False, True, True], [True, True, True], [True, False, True]])
ROWS = MASK[:, :1]


def numbers(*shape: int) -> Callable[[Any], jax.Array]:
    """Return a maker of inputs of `shape`, spread over both signs, with a mean that is not zero."""
    size = int(np.prod(shape))
    return lambda dtype: jnp.asarray((np.sin(np.arange(size) * 1.7) * 2 + 0.5).reshape(shape), dtype)


def indices(dtype: Any) -> Callable[[Any], jax.Array]:
    """Return a maker of indices into a table of 5 rows: inside it, from its end, and outside it."""
    values = [[0, 4, 2], [1, 7, 3]] if jnp.issubdtype(dtype, jnp.unsignedinteger) else [[0, 4, -1], [-5, 5, -6]]
    return lambda _: jnp.asarray(values, dtype)


def complex_numbers(_: Any) -> jax.Array:
    return numbers(4, 3)(jnp.float32) + 1j * numbers(4, 3)(jnp.float32)[::-1]


@dataclasses.dataclass(frozen=True)
class Case:
    """A program that runs on both libraries.

    Attributes:
        name: what pytest prints.
        make: the layer, from the namespace to take it from and the dtype under test.
        x: its input, from the dtype under test.
        call: keyword arguments of the call.
        method: the method that is called.
        dtypes: those under test.
        rounded: the parts of the result that are equal up to rounding only, to two units in the last place of the
            largest element.
        unit: the dtype whose units these are, where it is not that of the result.
    """

    name: str
    make: Callable[..., Any]
    x: Callable[[Any], Any] = numbers(4, 3)
    call: dict[str, Any] = dataclasses.field(default_factory=dict)
    method: str = "__call__"
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    rounded: tuple[str, ...] = ()
    unit: str | None = None

    def layer(self, lib: Any, dtype: str) -> tuple[Any, Any]:
        """Return the layer and its input."""
        return self.make(lib, jnp.dtype(dtype)), self.x(jnp.dtype(dtype))

    def init(self, lib: Any, dtype: str, rngs: Any) -> Any:
        """Return the variables that the layer makes."""
        layer, x = self.layer(lib, dtype)
        return dict(layer.init(rngs, x, method=self.method, **self.call))

    def shapes(self, lib: Any, dtype: str) -> Any:
        """Return their shapes and dtypes."""
        return jax.eval_shape(lambda: self.init(lib, dtype, RNGS))

    def program(self, lib: Any, dtype: str) -> Callable[[Any, Any, Any, Any], tuple[jax.Array, dict[str, Any]]]:
        """Return `(variables, x, arrays, rngs) -> (output, state)`, where `arrays` are those of the call."""
        layer, _ = self.layer(lib, dtype)

        def call(variables: Any, x: Any, arrays: Any, rngs: Any) -> Any:
            options = {"mutable": ["batch_stats"], "method": self.method, **self.call, **arrays}
            out, state = layer.apply(variables, x, rngs=rngs, **options)
            return out, dict(state)

        return call

    def arrays(self) -> dict[str, Any]:
        return {name: value for name, value in self.call.items() if not isinstance(value, bool)}

    def run(self, lib: Any) -> dict[str, Any]:
        """Return everything that is compared, for each dtype, from one compiled program."""

        def all_dtypes(arrays: Any, rngs: Any) -> dict[str, Any]:
            return {dtype: self.results(lib, dtype, arrays, rngs) for dtype in self.dtypes}

        return jax.jit(all_dtypes)(self.arrays(), RNGS)

    def results(self, lib: Any, dtype: str, arrays: Any, rngs: Any) -> dict[str, Any]:
        """Return the output, the state after the call, and the gradients."""
        call, (_, x) = self.program(lib, dtype), self.layer(lib, dtype)
        variables = values(self.shapes(lib, dtype))
        params = {"params": variables.pop("params", {})}
        floats = jnp.issubdtype(x.dtype, jnp.inexact)

        def f(params: Any, *primals: Any) -> Any:
            return call({**variables, **params}, *(primals or (x,)), arrays, rngs)

        out, vjp, state = jax.vjp(f, params, *([x] if floats else []), has_aux=True)
        ct = jnp.asarray(np.cos(np.arange(out.size)).reshape(out.shape), out.dtype)
        return {"out": out, "state": state, "grads": dict(zip(("params", "x"), vjp(ct), strict=False))}

    def equations(self, lib: Any, dtype: str) -> tuple[int, int]:
        """Return the number of equations of a call, and of its gradient, as traced."""
        call, (_, x), shapes = self.program(lib, dtype), self.layer(lib, dtype), self.shapes(lib, dtype)

        def gradient(variables: Any, x: Any, arrays: Any, rngs: Any) -> Any:
            argnums = (0, 1) if jnp.issubdtype(x.dtype, jnp.inexact) else 0
            return jax.grad(lambda v, x: jnp.real(call(v, x, arrays, rngs)[0]).sum(), argnums)(variables, x)

        args = (shapes, x, self.arrays(), RNGS)
        return count(jax.make_jaxpr(call)(*args).jaxpr), count(jax.make_jaxpr(gradient)(*args).jaxpr)


RNGS = {"params": KEY, "dropout": jax.random.fold_in(KEY, 1)}


def values(shapes: Any) -> Any:
    """Return arrays of these shapes and dtypes, whose elements differ, and are positive as a variance has to be."""
    leaves, treedef = jax.tree.flatten(shapes)
    return treedef.unflatten(
        jnp.asarray(1.3 + np.sin(np.arange(leaf.size) + i).reshape(leaf.shape), leaf.dtype)
        for i, leaf in enumerate(leaves)
    )


def count(jaxpr: Any) -> int:
    """Count the equations of a jaxpr and of those inside it; a `jit` is what it holds, since XLA sees no more of it."""
    inner = (
        sub
        for eqn in jaxpr.eqns
        for param in eqn.params.values()
        for sub in (param if isinstance(param, (tuple, list)) else (param,))
    )
    return sum(eqn.primitive.name not in ("jit", "pjit") for eqn in jaxpr.eqns) + sum(
        count(getattr(sub, "jaxpr", sub)) for sub in inner if hasattr(sub, "jaxpr") or hasattr(sub, "eqns")
    )


def inits(lib: Any) -> dict[str, Any]:
    """Return initializers for the layers whose parameters start as zeros and ones, to make them tell."""
    return {"scale_init": lib.initializers.normal(1.0), "bias_init": lib.initializers.uniform(1.0)}


def norm(name: str, **fields: Any) -> Callable[..., Any]:
    return lambda lib, _: getattr(lib, name)(**inits(lib), **fields)


def norm_in(name: str, **fields: Any) -> Callable[..., Any]:
    return lambda lib, dtype: getattr(lib, name)(dtype=dtype, **inits(lib), **fields)


def chain(lib: Any) -> list[Any]:
    """Return layers that hand on an array, a dict and a tuple."""
    return [
        lib.Dense(5),
        lib.relu,
        lambda x: {"inputs": x, "deterministic": False},
        lib.Dropout(0.5),
        lambda x: (x, x),
        lambda x, y: x * y,
        lib.LayerNorm(),
    ]


def dot_float32(*args: Any, **kwargs: Any) -> jax.Array:
    return jax.lax.dot_general(*args, preferred_element_type=jnp.float32, **kwargs)


# Where an input has 16 bits and the statistics 32, liftax casts the input once, and the cotangents of its three uses
# are added in float32; Linen casts it for each use, and they are added in 16 bits.
ONE_CAST = ("bfloat16/grads/x", "float16/grads/x")
# `x - mean` is computed once, for the variance and for the output; in Linen twice. The cotangents of the two uses are
# added in another order.
ONE_DIFFERENCE = ("grads/x",)
# The elements that the mask hides are set to zero, and the others counted, once; in Linen for each mean. XLA fuses the
# two programs differently.
ONE_MASK = ("grads", "bfloat16/out")
# The table is contracted along its second axis, not transposed first: another layout for the matrix product.
NO_TRANSPOSE = ("out", "grads/x")
# XLA keeps more than 16 bits between operations that it fuses, and it fuses the two programs differently.
EXCESS_PRECISION = ("out", "grads")

BIAS = jax.nn.initializers.normal()
TRAIN: dict[str, Any] = {"use_running_average": False}

CASES = [
    Case("dense", lambda lib, dtype: lib.Dense(5, bias_init=BIAS)),
    Case("dense-1d", lambda lib, dtype: lib.Dense(5), numbers(3)),
    Case("dense-4d", lambda lib, dtype: lib.Dense(5), numbers(2, 2, 4, 3)),
    Case("dense-no-bias", lambda lib, dtype: lib.Dense(5, use_bias=False)),
    Case("dense-dtype", lambda lib, dtype: lib.Dense(5, dtype=dtype), dtypes=("float16", "bfloat16")),
    Case("dense-param-dtype", lambda lib, dtype: lib.Dense(5, param_dtype=dtype, bias_init=BIAS)),
    Case("dense-integers", lambda lib, dtype: lib.Dense(5, dtype=dtype), indices(jnp.int32)),
    Case("dense-dot-general", lambda lib, dtype: lib.Dense(5, dtype=dtype, dot_general=dot_float32)),
    Case("dense-dot-general-cls", lambda lib, dtype: lib.Dense(5, dot_general_cls=lambda: jax.lax.dot_general)),
    Case("embed", lambda lib, dtype: lib.Embed(5, 3, param_dtype=dtype), indices(jnp.int32)),
    Case("embed-dtype", lambda lib, dtype: lib.Embed(5, 3, dtype=dtype), indices(jnp.int8)),
    Case("embed-unsigned", lambda lib, dtype: lib.Embed(5, 3), indices(jnp.uint8), dtypes=("float32",)),
    Case("embed-one-row", lambda lib, dtype: lib.Embed(1, 3), indices(jnp.int32), dtypes=("float32",)),
    Case("embed-attend", lambda lib, dtype: lib.Embed(5, 3, dtype=dtype), method="attend", rounded=NO_TRANSPOSE),
    Case("layer-norm", norm("LayerNorm"), rounded=ONE_CAST),
    Case("layer-norm-1d", norm("LayerNorm"), numbers(3), rounded=ONE_CAST),
    Case("layer-norm-dtype", norm_in("LayerNorm"), rounded=ONE_CAST),
    Case(
        "layer-norm-own-dtype",
        norm_in("LayerNorm", force_float32_reductions=False),
        dtypes=("bfloat16", "float16"),
        rounded=EXCESS_PRECISION,
        unit="bfloat16",
    ),
    Case(
        "layer-norm-wide-input",
        norm("LayerNorm", dtype=jnp.float16, force_float32_reductions=False, use_fast_variance=False),
        lambda dtype: numbers(4, 3)(jnp.float32) + 200,
        dtypes=("float32",),
    ),
    Case("layer-norm-two-pass", norm("LayerNorm", use_fast_variance=False), rounded=ONE_DIFFERENCE),
    Case("layer-norm-mask", norm("LayerNorm"), call={"mask": MASK}, rounded=ONE_MASK),
    Case(
        "layer-norm-mask-two-pass",
        norm("LayerNorm", use_fast_variance=False),
        call={"mask": MASK[0]},
        rounded=ONE_MASK,
    ),
    Case(
        "layer-norm-axes",
        norm("LayerNorm", reduction_axes=(1, -1), feature_axes=(-1, -2)),
        numbers(2, 4, 3),
        rounded=ONE_CAST,
    ),
    Case("layer-norm-over-all", norm("LayerNorm", reduction_axes=(0, 1), feature_axes=1), rounded=ONE_CAST),
    Case("layer-norm-apart", norm("LayerNorm", reduction_axes=0, feature_axes=2), numbers(4, 2, 3), rounded=ONE_CAST),
    Case("layer-norm-bare", lambda lib, dtype: lib.LayerNorm(use_bias=False, use_scale=False), rounded=ONE_CAST),
    Case(
        "layer-norm-param-dtype",
        norm("LayerNorm", param_dtype=jnp.bfloat16, epsilon=0.1),
        dtypes=("float16",),
        rounded=ONE_CAST,
    ),
    Case("layer-norm-integers", norm("LayerNorm"), indices(jnp.int32), dtypes=("float32",)),
    Case("layer-norm-complex", norm("LayerNorm"), complex_numbers, dtypes=("float32",)),
    Case("batch-norm", norm("BatchNorm"), call=TRAIN, rounded=ONE_CAST),
    Case("batch-norm-4d", norm("BatchNorm", momentum=0.9), numbers(2, 2, 4, 3), TRAIN, rounded=ONE_CAST),
    Case("batch-norm-dtype", norm_in("BatchNorm"), call=TRAIN, rounded=ONE_CAST),
    Case(
        "batch-norm-own-dtype",
        lambda lib, dtype: lib.BatchNorm(dtype=dtype, param_dtype=dtype, force_float32_reductions=False),
        call=TRAIN,
        dtypes=("bfloat16", "float16"),
        rounded=EXCESS_PRECISION,
        unit="bfloat16",
    ),
    Case("batch-norm-two-pass", norm("BatchNorm", use_fast_variance=False), call=TRAIN, rounded=ONE_DIFFERENCE),
    Case("batch-norm-eval", norm("BatchNorm"), call={"use_running_average": True}),
    Case("batch-norm-mask", norm("BatchNorm"), call={"mask": ROWS, **TRAIN}, rounded=ONE_MASK),
    Case("batch-norm-axis", norm("BatchNorm", axis=1), numbers(2, 4, 3), TRAIN, rounded=ONE_CAST),
    Case("batch-norm-axes", norm("BatchNorm", axis=(-1, 1)), numbers(4, 2, 3), TRAIN, rounded=ONE_CAST),
    Case("batch-norm-no-bias", lambda lib, dtype: lib.BatchNorm(use_bias=False), call=TRAIN, rounded=ONE_CAST),
    Case("batch-norm-no-scale", lambda lib, dtype: lib.BatchNorm(use_scale=False), call=TRAIN, rounded=ONE_CAST),
    Case("rms-norm", lambda lib, dtype: lib.RMSNorm(scale_init=BIAS), rounded=("grads", "out")),
    Case(
        "rms-norm-mask", lambda lib, dtype: lib.RMSNorm(scale_init=BIAS), call={"mask": MASK}, rounded=("grads", "out")
    ),
    Case("instance-norm", norm("InstanceNorm"), numbers(2, 4, 3), rounded=ONE_CAST),
    Case(
        "instance-norm-two-pass",
        norm("InstanceNorm", use_fast_variance=False),
        numbers(2, 4, 3),
        dtypes=("float32",),
        rounded=ONE_DIFFERENCE,
    ),
    Case("dropout", lambda lib, dtype: lib.Dropout(0.4, deterministic=False)),
    Case(
        "dropout-broadcast",
        lambda lib, dtype: lib.Dropout(0.3, (-1, 0), deterministic=False),
        numbers(2, 4, 3),
        dtypes=("float32",),
    ),
    Case("dropout-all", lambda lib, dtype: lib.Dropout(1.0), call={"deterministic": False}),
    Case("dropout-none", lambda lib, dtype: lib.Dropout(0.0), call={"deterministic": False}),
    Case("dropout-deterministic", lambda lib, dtype: lib.Dropout(0.4), call={"deterministic": True}),
    Case(
        "dropout-stream",
        lambda lib, dtype: lib.Dropout(0.4, rng_collection="params"),
        call={"deterministic": False},
        dtypes=("float16",),
    ),
    Case(
        "dropout-key",
        lambda lib, dtype: lib.Dropout(0.4),
        call={"deterministic": False, "rng": KEY},
        dtypes=("float32",),
    ),
    Case("sequential", lambda lib, dtype: lib.Sequential(chain(lib)), dtypes=("float32",)),
]


def ids(case: Any) -> str | None:
    return case.name if isinstance(case, Case) else None


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_equal(case: Case) -> None:
    for dtype in case.dtypes:
        assert case.shapes(nn, dtype) == case.shapes(flax.linen, dtype)
    ours, theirs = case.run(nn), case.run(flax.linen)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, a), b in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type), where
        assert_equal(a, b, where, case.unit or a.dtype if any(part in where for part in case.rounded) else None)


def assert_equal(a: jax.Array, b: jax.Array, where: str, unit: Any = None) -> None:
    """Compare to the bit, or, with a `unit`, to two units in the last place of the largest element."""
    if unit is None:
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), where
    else:
        wide_a, wide_b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        tolerance = 2 * float(jnp.finfo(unit).eps) * np.abs(wide_b).max()
        np.testing.assert_allclose(wide_a, wide_b, rtol=0, atol=tolerance, err_msg=where)


INITIAL = ("dense-param-dtype", "embed", "layer-norm-axes", "batch-norm-own-dtype", "sequential")


@pytest.mark.parametrize("case", [case for case in CASES if case.name in INITIAL], ids=ids)
def test_initial_values_are_equal(case: Case) -> None:
    dtype = case.dtypes[0]
    ours, theirs = (jax.jit(lambda rngs, lib=lib: case.init(lib, dtype, rngs))(RNGS) for lib in (nn, flax.linen))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, a), b in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        assert_equal(a, b, jax.tree_util.keystr(path))


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_traces_no_more_equations(case: Case) -> None:
    for dtype in case.dtypes:
        ours, theirs = case.equations(nn, dtype), case.equations(flax.linen, dtype)
        assert ours[0] <= theirs[0], f"{dtype}: call"
        assert ours[1] <= theirs[1], f"{dtype}: gradient"


# What a careful person writes. Each takes the variables, an input of shape (4, 3), and a key.


def hand_dense(variables: Any, x: jax.Array, _: jax.Array) -> jax.Array:
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    return x @ kernel + jax.lax.broadcast_in_dim(bias, (4, 5), (1,))


def hand_layer_norm(variables: Any, x: jax.Array, _: jax.Array) -> jax.Array:
    scale, bias = variables["params"]["scale"], variables["params"]["bias"]
    mean, mean_square = x.mean(-1, keepdims=True), jax.lax.square(x).mean(-1, keepdims=True)
    var = jnp.maximum(mean_square - jax.lax.square(mean), 0.0)
    return (x - mean) * (jax.lax.rsqrt(var + 1e-6) * scale) + bias


def hand_batch_norm(variables: Any, x: jax.Array, _: jax.Array) -> Any:
    scale, bias = variables["params"]["scale"], variables["params"]["bias"]
    stats = variables["batch_stats"]
    mean, mean_square = x.mean(0), jax.lax.square(x).mean(0)
    var = jnp.maximum(mean_square - jax.lax.square(mean), 0.0)
    state = {"mean": 0.99 * stats["mean"] + 0.01 * mean, "var": 0.99 * stats["var"] + 0.01 * var}
    return (x - mean) * (jax.lax.rsqrt(var + 1e-5) * scale) + bias, state


def hand_attend(variables: Any, x: jax.Array, _: jax.Array) -> jax.Array:
    return jnp.einsum("ij,kj->ik", x, variables["params"]["embedding"])


def hand_dropout(_: Any, x: jax.Array, key: jax.Array) -> jax.Array:
    keep = jax.random.bernoulli(jax.random.fold_in(key, 0), 0.6, x.shape)
    return jax.lax.select(keep, x / 0.6, jnp.zeros_like(x))


HAND = {
    "dense": hand_dense,
    "layer-norm": hand_layer_norm,
    "batch-norm": hand_batch_norm,
    "embed-attend": hand_attend,
    "dropout": hand_dropout,
}


@pytest.mark.parametrize("case", [case for case in CASES if case.name in HAND], ids=ids)
def test_traces_no_more_equations_than_by_hand(case: Case) -> None:
    _, x = case.layer(nn, "float32")
    variables = case.shapes(nn, "float32")
    by_hand = count(jax.make_jaxpr(HAND[case.name])(variables, x, KEY).jaxpr)
    assert case.equations(nn, "float32")[0] <= by_hand
