"""What the layers say to wrong input, and what they do where a comparison with flax.linen does not reach."""

import dataclasses
import importlib
import inspect
import pickle
from collections.abc import Callable
from typing import Any, cast

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from liftax import errors, nn

from .table import count

KEY = jax.random.key(3)
X = jnp.asarray(np.sin(np.arange(12.0)).reshape(4, 3), jnp.float32)


class Outer(nn.Module):
    """Holds a layer, so that its path is not the root."""

    inner: Any

    @nn.compact
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["activation", "initializers"])
def test_names_are_linens(module: str) -> None:
    theirs = getattr(flax.linen, module)
    ours = importlib.import_module(f"liftax.nn.{module}")
    functions = {name: f for name, f in vars(theirs).items() if getattr(f, "__module__", "").startswith("jax.")}
    assert len(functions) > 15
    for name, function in functions.items():
        same = getattr(ours, name) is function
        assert same or name in OURS.get(module, ())
        assert name in ours.__all__


OURS = {"activation": ("gelu", "relu", "relu6"), "initializers": ("orthogonal", "delta_orthogonal")}
"""Functions that differ: activations that JAX traces anew at each call, initializers that fail in half precision."""


@pytest.mark.parametrize("dtype", ["int32", "float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "more"), [("gelu", {}), ("gelu", {"approximate": False}), ("relu", {}), ("relu6", {})]
)
def test_activations_that_are_traced_once(name: str, more: dict[str, Any], dtype: str) -> None:
    ours, theirs = getattr(nn, name), getattr(jax.nn, name)
    x = jnp.linspace(-3, 9, 13).astype(dtype)
    own, bare = (count(jax.make_jaxpr(lambda x, f=f: f(x, **more))(x).jaxpr) for f in (ours, theirs))
    assert own == bare
    np.testing.assert_array_equal(*(jax.jit(lambda x, f=f: f(x, **more))(x) for f in (ours, theirs)))
    many = jnp.linspace(-5, 5, 1001).astype(dtype)
    np.testing.assert_array_equal(ours(many, **more), theirs(many, **more))
    assert ours(x, **more).dtype == theirs(x, **more).dtype
    assert jax.make_jaxpr(ours)(2).out_avals == jax.make_jaxpr(theirs)(2).out_avals
    assert pickle.loads(pickle.dumps(ours)) is ours
    with pytest.raises(TypeError, match="got <class 'list'>"):
        ours([1.0, 2.0])


def test_star_import_brings_every_public_name() -> None:
    public = {name for name, value in vars(nn).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert public == {name for name in nn.__all__ if not inspect.ismodule(getattr(nn, name))}
    assert len(nn.__all__) == len(set(nn.__all__))


@pytest.mark.parametrize("name", ["ones", "zeros", "ones_init", "zeros_init"])
def test_initializers_that_linen_has_at_its_top(name: str) -> None:
    assert getattr(nn, name) is getattr(nn.initializers, name)
    assert hasattr(flax.linen, name)


def test_initializers_made_without_arguments() -> None:
    assert nn.initializers.zeros_init() is flax.linen.zeros_init()
    assert nn.initializers.ones_init() is flax.linen.ones_init()


# --- errors --------------------------------------------------------------------------------------------------------


def run(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return Outer(layer).init(KEY, *args, **kwargs)


def applied_to_5(layer: nn.Module, **kwargs: Any) -> Any:
    """Make variables for 3 features, and use them with 5."""
    variables = Outer(layer).init(KEY, X, **kwargs)
    return Outer(layer).apply(variables, jnp.ones((4, 5)), mutable=["batch_stats"], **kwargs)


ERRORS: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    ("dense-scalar", lambda: run(nn.Dense(2), 1.0), ValueError, r"/inner \(Dense\) got a scalar.*shape \(\.\.\., d\)"),
    ("dense-features", lambda: applied_to_5(nn.Dense(2)), errors.ScopeParamShapeError, r"kernel.*/inner"),
    ("dense-dtype", lambda: run(nn.Dense(2, dtype=jnp.int32), X), ValueError, "dtype=int32.*floating-point"),
    ("embed-floats", lambda: run(nn.Embed(5, 3), X), ValueError, r"/inner \(Embed\).*float32.*integers"),
    ("embed-bools", lambda: run(nn.Embed(5, 3), X > 0), ValueError, r"/inner \(Embed\).*bool.*integers"),
    (
        "attend-size",
        lambda: nn.Embed(5, 2).init(KEY, X, method="attend"),
        ValueError,
        r"attend at / \(Embed\).*\(4, 3\).*\(\.\.\., 2\)",
    ),
    (
        "attend-scalar",
        lambda: nn.Embed(5, 2).init(KEY, 1.0, method="attend"),
        ValueError,
        r"attend at / \(Embed\).*\(\).*\(\.\.\., 2\)",
    ),
    ("layer-norm-scalar", lambda: run(nn.LayerNorm(), 1.0), ValueError, r"/inner \(LayerNorm\).*no axis -1"),
    ("layer-norm-axes", lambda: run(nn.LayerNorm(feature_axes=(0, 2)), X), ValueError, r"no axis 2.*feature_axes"),
    ("layer-norm-features", lambda: applied_to_5(nn.LayerNorm()), errors.ScopeParamShapeError, "scale.*/inner"),
    ("rms-norm-scalar", lambda: run(nn.RMSNorm(), 1.0), ValueError, r"/inner \(RMSNorm\).*no axis -1"),
    ("rms-norm-features", lambda: applied_to_5(nn.RMSNorm()), errors.ScopeParamShapeError, "scale.*/inner"),
    (
        "instance-norm-batch",
        lambda: run(nn.InstanceNorm(feature_axes=-2), X),
        ValueError,
        r"/inner \(InstanceNorm\).*feature_axes=-2 names the first axis",
    ),
    ("batch-norm-axis", lambda: run(nn.BatchNorm(True, axis=-3), X), ValueError, r"/inner \(BatchNorm\).*no axis -3"),
    ("batch-norm-mode", lambda: run(nn.BatchNorm(), X), ValueError, "use_running_average"),
    (
        "batch-norm-mode-twice",
        lambda: run(nn.BatchNorm(True), X, use_running_average=True),
        ValueError,
        "use_running_average",
    ),
    (
        "batch-norm-features",
        lambda: applied_to_5(nn.BatchNorm(), use_running_average=False),
        errors.ScopeParamShapeError,
        r"batch_stats/mean at /inner \(BatchNorm\).*\(3,\).*\(5,\)",
    ),
    (
        "batch-norm-immutable",
        lambda: nn.BatchNorm(False).apply(nn.BatchNorm(False).init(KEY, X), X),
        errors.ModifyScopeVariableError,
        "batch_stats",
    ),
    (
        "dropout-rng",
        lambda: Outer(nn.Dropout(0.5, deterministic=False)).apply({}, X),
        errors.InvalidRngError,
        "/inner.*'dropout'",
    ),
    (
        "dropout-stream",
        lambda: Outer(nn.Dropout(0.5, rng_collection="noise", deterministic=False)).apply({}, X),
        errors.InvalidRngError,
        "/inner.*'noise'",
    ),
    ("dropout-mode", lambda: run(nn.Dropout(0.5), X), ValueError, "deterministic"),
    ("dropout-mode-twice", lambda: run(nn.Dropout(0.5, (), True), X, deterministic=True), ValueError, "deterministic"),
    ("dropout-rate", lambda: run(nn.Dropout(1.5), X, deterministic=False), ValueError, r"/inner.*rate=1\.5.*0 to 1"),
    ("dropout-nan", lambda: run(nn.Dropout(float("nan")), X, deterministic=False), ValueError, "rate=nan"),
    (
        "dropout-axis",
        lambda: run(nn.Dropout(0.5, (2,)), X, deterministic=False),
        ValueError,
        r"broadcast_dims=\(2,\).*\(4, 3\)",
    ),
    (
        "dropout-integers",
        lambda: run(nn.Dropout(0.5), jnp.arange(3), deterministic=False),
        TypeError,
        r"/inner \(Dropout\).*int32",
    ),
    ("sequential-layers", lambda: nn.Sequential(cast(Any, nn.relu)), ValueError, r"(?s)right: nn\.Sequential\(\["),
    ("sequential-empty", lambda: run(nn.Sequential([]), X), ValueError, r"/inner \(Sequential\) has no layers"),
]


@pytest.mark.parametrize(("call", "error", "text"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS])
def test_error(call: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


# --- Embed ---------------------------------------------------------------------------------------------------------


def test_embed_takes_lists_and_empty_indices() -> None:
    layer = nn.Embed(5, 3)
    variables = layer.init(KEY, [0])
    table = variables["params"]["embedding"]
    np.testing.assert_array_equal(layer.apply(variables, [[1, -1]]), table[None, jnp.array([1, 4])])
    assert layer.apply(variables, jnp.zeros((0, 2), int)).shape == (0, 2, 3)


def test_embed_wraps_small_indices_of_a_large_table() -> None:
    table = jnp.arange(200.0)[:, None]
    rows = nn.Embed(200, 1).apply({"params": {"embedding": table}}, jnp.array([-1, 100, -128], jnp.int8))
    np.testing.assert_array_equal(rows[:, 0], [199, 100, 72])


# --- normalization ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("hidden", [100.0, np.inf, np.nan])
def test_what_the_mask_hides_has_no_effect(fast: bool, hidden: float) -> None:
    layer = nn.BatchNorm(False, use_fast_variance=fast)
    variables = layer.init(KEY, X)

    @jax.jit
    def three_of(x: jax.Array, mask: Any) -> Any:
        out, state = layer.apply(variables, x, mask=mask, mutable=["batch_stats"])
        return out[:3], state

    ours = three_of(X.at[3].set(hidden), np.array([[True], [True], [True], [False]]))
    expected = three_of(X[:3], None)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, expected)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("name", ["LayerNorm", "BatchNorm"])
def test_statistics_over_a_named_axis(name: str, fast: bool) -> None:
    def results(lib: Any) -> Any:
        fields = {"use_running_average": False} if name == "BatchNorm" else {}
        layer = getattr(lib, name)(axis_name="i", use_fast_variance=fast, **fields)
        variables = dict(getattr(lib, name)(**fields).init(KEY, X))

        def one(x: jax.Array) -> Any:
            y, state = layer.apply(variables, x, mutable=["batch_stats"])
            return y, dict(state), jax.grad(lambda x: (layer.apply(variables, x, mutable=True)[0] ** 3).sum())(x)

        return jax.jit(jax.vmap(one, axis_name="i"))(X.reshape(2, 2, 3))

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6), results(nn), results(flax.linen))


def test_named_axis_is_not_needed_to_initialize_batch_norm() -> None:
    variables = nn.BatchNorm(False, axis_name="i").init(KEY, X)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0.0)


def test_statistics_over_groups_of_a_named_axis() -> None:
    layer = nn.BatchNorm(False, axis_name="i", axis_index_groups=[[0, 1], [2, 3]])
    variables = layer.init(KEY, X)
    mesh = jax.make_mesh((4,), ("i",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("i")

    def one(x: jax.Array) -> jax.Array:
        return layer.apply(variables, x, mutable=["batch_stats"])[0]

    out = jax.shard_map(one, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)(X)
    halves = [nn.BatchNorm(False).apply(variables, x, mutable=["batch_stats"])[0] for x in (X[:2], X[2:])]
    np.testing.assert_allclose(out, jnp.concatenate(halves), atol=1e-5)


def test_momentum_may_be_traced() -> None:
    variables = nn.BatchNorm(False).init(KEY, X)

    def mean(momentum: Any) -> Any:
        return nn.BatchNorm(False, momentum=momentum).apply(variables, X, mutable=["batch_stats"])[1]["batch_stats"][
            "mean"
        ]

    np.testing.assert_allclose(jax.jit(mean)(0.75), X.mean(0) / 4, rtol=1e-6)


# --- Dropout -------------------------------------------------------------------------------------------------------


def test_dropout_takes_raw_keys() -> None:
    layer, raw = nn.Dropout(0.5, deterministic=False), jax.random.PRNGKey(5)
    ours = layer.apply({}, X, rngs={"dropout": raw})
    theirs = flax.linen.Dropout(0.5, deterministic=False).apply({}, X, rngs={"dropout": raw})
    np.testing.assert_array_equal(ours, theirs)


# --- traced once ---------------------------------------------------------------------------------------------------


TRACED = [nn.Dense(3), nn.LayerNorm(), nn.BatchNorm(False), nn.BatchNorm(True)]


def applied(layer: nn.Module, variables: Any, x: Any) -> Any:
    return layer.apply(variables, x, rngs={"dropout": KEY}, mutable=["batch_stats"])


@pytest.mark.parametrize(
    "layer", [*TRACED, nn.Dropout(0.5, deterministic=False)], ids=lambda layer: type(layer).__name__
)
def test_second_application_traces_no_arithmetic(layer: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    x = jnp.ones((23, 3))  # a shape of this test alone, as is the other one
    variables = layer.init(KEY, x)
    jax.make_jaxpr(lambda x: applied(layer, variables, x))(x)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("traced again")

    for operation in ("dot_general", "add", "rsqrt", "select"):
        monkeypatch.setattr(jax.lax, operation, never)
    monkeypatch.setattr(jax.random, "bernoulli", never)
    fields = {f.name: getattr(layer, f.name) for f in dataclasses.fields(layer) if f.name not in ("parent", "name")}
    again = type(layer)(**fields)
    if not isinstance(layer, nn.Dense):  # whose default for dot_general is jax.lax.dot_general
        jax.make_jaxpr(lambda x: applied(again, variables, x))(x)
    with pytest.raises(AssertionError, match="traced again"):
        jax.make_jaxpr(lambda x: applied(again, variables, x))(jnp.ones((29, 3)))


@pytest.mark.parametrize("layer", TRACED, ids=lambda layer: type(layer).__name__)
def test_same_without_jit(layer: nn.Module) -> None:
    variables = layer.init(KEY, X)
    with jax.disable_jit():
        plain = applied(layer, variables, X)
    # XLA may fuse, and so round less often, what is compiled as a whole.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), plain, applied(layer, variables, X)
    )


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("x64", [True, False])
def test_dtype_of_the_output_is_linens(make: Callable[[Any], Any], x64: bool) -> None:
    with jax.enable_x64(x64):
        x = make([[1.0, 2.0, 4.0]])
        for name in ("Dense", "LayerNorm"):
            ours, theirs = (
                getattr(lib, name)(**({"features": 2} if name == "Dense" else {})) for lib in (nn, flax.linen)
            )
            y, expected = (layer.init_with_output(KEY, x)[0] for layer in (ours, theirs))
            assert (y.dtype, y.weak_type) == (expected.dtype, expected.weak_type)
            np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_statistics_over_a_named_axis_of_two_sizes() -> None:
    layer = nn.BatchNorm(False, axis_name="i")
    variables = layer.init(KEY, X)

    def mean(x: jax.Array) -> jax.Array:
        return jax.vmap(lambda x: applied(layer, variables, x)[1]["batch_stats"]["mean"], axis_name="i")(x)[0]

    one = nn.BatchNorm(False)
    for parts in (X.reshape(2, 2, 3), jnp.stack([X[:2], X[2:], X[:2], X[:2]])):
        expected = applied(one, variables, parts.reshape(-1, 3))[1]["batch_stats"]["mean"]
        np.testing.assert_allclose(mean(parts), expected, rtol=1e-5)


# --- sharding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        nn.Dense(3),
        nn.LayerNorm(),
        nn.LayerNorm(use_fast_variance=False),
        nn.BatchNorm(False),
        nn.BatchNorm(True),
        nn.Dropout(0.5, deterministic=False),
    ],
    ids=["dense", "layer-norm", "layer-norm-two-pass", "batch-norm", "batch-norm-eval", "dropout"],
)
def test_explicit_sharding_is_kept(layer: nn.Module) -> None:
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    spec = PartitionSpec("data", None)
    with jax.set_mesh(mesh):
        x = jax.device_put(X, jax.NamedSharding(mesh, spec))
        variables = layer.init(KEY, X)

        def f(x: jax.Array) -> jax.Array:
            return layer.apply(variables, x, rngs={"dropout": KEY}, mutable=["batch_stats"])[0]

        out, grad = jax.jit(f)(x), jax.jit(jax.grad(lambda x: jnp.sin(f(x)).sum()))(x)
        assert jax.typeof(out).sharding.spec == jax.typeof(grad).sharding.spec == spec
    np.testing.assert_allclose(out, f(X), atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Conv(2, (9,), padding="VALID"), r"/ \(Conv\) got an input of shape \(2, 4, 3\).*no place for it"),
        (nn.Sequential([lambda x: nn.max_pool(x, (5,))]), r"pool got an input of shape \(2, 4, 3\).*no place for it"),
    ],
)
def test_windows_that_do_not_fit(layer, words):
    with pytest.raises(ValueError, match=words):
        layer.init(jax.random.key(0), jnp.ones((2, 4, 3)))


def test_cells_and_layers_are_not_taken_for_one_another():
    x, cell, cls = jnp.ones((2, 4, 3)), nn.LSTMCell(3), cast(Any, nn.LSTMCell)
    for layer, words in (
        (nn.RNN(cls), r"/ \(RNN\) got the class LSTMCell as cell.*an instance"),
        (nn.Bidirectional(cell, cell), r"/ \(Bidirectional\) got an instance of LSTMCell.*nn\.RNN"),
    ):
        with pytest.raises(errors.TransformTargetError, match=words):
            layer.init(jax.random.key(0), x)
