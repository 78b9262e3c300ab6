"""What the layers that normalize say to wrong input, and what they do where the table of layers does not reach."""

from collections.abc import Callable
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from liftax import errors, nn

KEY = jax.random.key(3)
X = jnp.asarray((np.sin(np.arange(120.0) ** 1.5) * 2 + 0.5).reshape(4, 5, 6), jnp.float32)


class Outer(nn.Module):
    """Holds a layer, so that its path is not the root."""

    inner: Any

    @nn.compact
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


def run(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return Outer(layer).init(KEY, *args, **kwargs)


def with_8_channels(layer: nn.Module) -> Any:
    """Make variables for 6 channels, and use them with 8."""
    return Outer(layer).apply(Outer(layer).init(KEY, X), jnp.ones((4, 5, 8)))


ERRORS: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    (
        "scalar",
        lambda: run(nn.GroupNorm(2), 1.0),
        ValueError,
        r"/inner \(GroupNorm\) got a scalar.*\(batch, \.\.\., d\)",
    ),
    ("groups", lambda: run(nn.GroupNorm(4), X), ValueError, r"/inner.*6 channels.*num_groups=4 does not divide.*of 6"),
    ("default", lambda: run(nn.GroupNorm(), X), ValueError, r"/inner.*6 channels.*num_groups=32 does not divide"),
    ("size", lambda: run(nn.GroupNorm(None, 4), X), ValueError, r"/inner.*6 channels.*group_size=4 does not divide"),
    ("no-groups", lambda: run(nn.GroupNorm(0), X), ValueError, r"/inner.*num_groups=0 does not divide"),
    ("negative", lambda: run(nn.GroupNorm(None, -2), X), ValueError, r"/inner.*group_size=-2 does not divide"),
    ("both", lambda: run(nn.GroupNorm(2, 3), X), ValueError, r"/inner.*num_groups=2 and group_size=3.*to be None"),
    ("neither", lambda: run(nn.GroupNorm(None), X), ValueError, r"/inner.*num_groups=None and group_size=None"),
    ("no-axis", lambda: run(nn.GroupNorm(2, reduction_axes=(3,)), X), ValueError, r"no axis 3.*reduction_axes"),
    ("last-axis", lambda: run(nn.GroupNorm(2, reduction_axes=1), X), ValueError, r"/inner.*reduction_axes=1.*Add -1"),
    ("channels", lambda: with_8_channels(nn.GroupNorm(2)), errors.ScopeParamShapeError, r"scale.*/inner"),
]


@pytest.mark.parametrize(("call", "error", "text"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS])
def test_error_of_group_norm(call: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


MASKED = {
    "LayerNorm": nn.LayerNorm(),
    "RMSNorm": nn.RMSNorm(),
    "InstanceNorm": nn.InstanceNorm(),
    "GroupNorm": nn.GroupNorm(2),
    "BatchNorm": nn.BatchNorm(False),
    "BatchNorm-eval": nn.BatchNorm(True),
}


@pytest.mark.parametrize("shape", [(4,), (4, 5, 5), (1, 4, 5, 6), (4, 5)])
@pytest.mark.parametrize("name", MASKED)
def test_mask_of_another_shape(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError) as info:
        run(MASKED[name], X, mask=jnp.ones(shape, bool))
    text = str(info.value)
    assert f"/inner ({name.removesuffix('-eval')}) got a mask of shape {shape}" in text
    assert "(4, 5, 6)" in text


@pytest.mark.parametrize("shape", [(), (6,), (5, 1), (4, 1, 6)])
@pytest.mark.parametrize("name", MASKED)
def test_mask_that_broadcasts(name: str, shape: tuple[int, ...]) -> None:
    layer = MASKED[name]
    mask = np.cos(np.arange(np.prod(shape, dtype=int))).reshape(shape) > -0.9
    variables = layer.init(KEY, X)

    @jax.jit
    def out(mask: Any) -> Any:
        return layer.apply(variables, X, mask=mask, mutable=["batch_stats"])

    full = out(np.broadcast_to(mask, X.shape))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), out(mask), full)


def test_mask_of_lists_of_numbers() -> None:
    layer = nn.LayerNorm()
    variables = layer.init(KEY, X)
    mask = [1, 0, 1, 1, 0, 2]
    ours = layer.apply(variables, X, mask=mask)
    np.testing.assert_array_equal(ours, layer.apply(variables, X, mask=jnp.array(mask, bool)))


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_group_norm_without_fusion(dtype: str) -> None:
    def results(lib: Any) -> Any:
        layer, x = lib.GroupNorm(3), X.astype(dtype)
        params = {"params": {"scale": jnp.sin(jnp.arange(6.0)), "bias": jnp.cos(jnp.arange(6.0))}}
        with jax.disable_jit():
            out, vjp = jax.vjp(lambda params: layer.apply(params, x, mask=x > -1.5), params)
            return out, vjp(jnp.cos(out))

    jax.tree.map(np.testing.assert_array_equal, results(nn), results(flax.linen))


def test_group_norm_of_one_group_is_layer_norm() -> None:
    ours = nn.GroupNorm(1)
    variables = ours.init(KEY, X)
    layer = nn.LayerNorm(reduction_axes=(1, 2))
    np.testing.assert_allclose(ours.apply(variables, X), layer.apply(variables, X), atol=1e-6)


def test_group_norm_of_one_channel_is_instance_norm() -> None:
    ours = nn.GroupNorm(num_groups=None, group_size=1)
    variables = ours.init(KEY, X)
    np.testing.assert_allclose(ours.apply(variables, X), nn.InstanceNorm().apply(variables, X), atol=1e-6)


NAMED: dict[str, dict[str, Any]] = {
    "LayerNorm": {},
    "RMSNorm": {},
    "InstanceNorm": {},
    "GroupNorm": {"num_groups": 2},
    "BatchNorm": {"use_running_average": False},
}


def sharded_results(lib: Any, name: str, fields: dict[str, Any], groups: Any, check_vma: bool) -> Any:
    """Return the output, the state and the gradients of a layer that averages over four devices."""
    layer = getattr(lib, name)(axis_name="i", axis_index_groups=groups, **fields)
    variables = dict(getattr(lib, name)(**fields).init(KEY, X))
    mesh = jax.make_mesh((4,), ("i",), axis_types=(AxisType.Auto,))
    spec, none = PartitionSpec("i"), PartitionSpec()

    def one(x: jax.Array) -> Any:
        y, state = layer.apply(variables, x, mutable=["batch_stats"])
        return y, dict(state)

    kept = {} if name != "BatchNorm" else {"batch_stats": dict.fromkeys(("mean", "var"), none if check_vma else spec)}
    f = jax.shard_map(one, mesh=mesh, in_specs=spec, out_specs=(spec, kept), check_vma=check_vma)

    @jax.jit
    def all_of_it(x: jax.Array) -> Any:
        out, vjp, state = jax.vjp(f, x, has_aux=True)
        return out, state, vjp(jnp.cos(out))

    return all_of_it(X)


@pytest.mark.parametrize("name", NAMED)
def test_named_axis_of_shard_map(name: str) -> None:
    ours, theirs = (sharded_results(lib, name, NAMED[name], None, True) for lib in (nn, flax.linen))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)


@pytest.mark.parametrize("name", NAMED)
def test_groups_of_a_named_axis_of_shard_map(name: str) -> None:
    groups = [[0, 1], [2, 3]]
    ours, theirs = (sharded_results(lib, name, NAMED[name], groups, False) for lib in (nn, flax.linen))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)


@pytest.mark.parametrize("name", NAMED)
def test_named_axis_of_vmap(name: str) -> None:
    def results(lib: Any) -> Any:
        layer = getattr(lib, name)(axis_name="i", **NAMED[name])
        variables = dict(getattr(lib, name)(**NAMED[name]).init(KEY, X))

        def one(x: jax.Array, mask: jax.Array) -> Any:
            out, vjp, state = jax.vjp(
                lambda x: layer.apply(variables, x, mask=mask, mutable=["batch_stats"]), x, has_aux=True
            )
            return out, dict(state), vjp(jnp.cos(out))

        return jax.jit(jax.vmap(one, axis_name="i"))(X.reshape(2, 2, 5, 6), X.reshape(2, 2, 5, 6) > -0.7)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), results(nn), results(flax.linen))
