"""`remat` with a budget over modules: the same values, state and draws, and less that waits for the backward pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import liftax as lx
from liftax import errors, nn

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (4, 8))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        y = nn.BatchNorm(use_running_average=not train)(nn.Dense(16)(x))
        y = nn.Dropout(0.5, deterministic=not train)(jnp.sin(nn.gelu(y)))
        return x + nn.Dense(8)(y)


class Model(nn.Module):
    wrap: str = ""

    @nn.compact
    def __call__(self, x):
        options = {"budget": 0} if self.wrap != "free" else {"recompute": 0}
        for i in range(2):
            cls = nn.remat(Block, static_argnums=2, **options) if self.wrap == "class" else Block
            block = cls(name=f"block_{i}")
            if self.wrap in ("function", "free"):
                x = nn.remat(lambda block, x: block(x), **options)(block, x)
            elif self.wrap == "class":
                x = block(x, True)
            else:
                x = block(x)
        return x


@functools.cache
def trained(wrap):
    model = Model(wrap)
    variables = model.init({"params": KEY, "dropout": KEY}, X)

    def loss(params):
        out, state = model.apply({**variables, "params": params}, X, rngs={"dropout": KEY}, mutable=["batch_stats"])
        return jnp.sum(out**2), state

    (value, state), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    return variables, value, state, slope, lx.saved(lambda p: loss(p)[0], variables["params"]).computed_bytes


@pytest.mark.parametrize("wrap", ["class", "function", "free"])
def test_same_values_state_and_draws(wrap):
    *got, kept = trained(wrap)
    *want, plain = trained("")
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, 1e-4, 1e-5), got, want)
    assert kept < plain


def test_method_and_raw_transforms_around():
    class Twice(nn.Module):
        @functools.partial(nn.remat, budget="50%")
        @nn.compact
        def __call__(self, x):
            first, second = nn.Dense(8), nn.Dense(8)
            return jnp.sum(jnp.tanh(second(jnp.sin(first(x)))) ** 2)

    model = Twice()
    variables = model.init(KEY, X)
    plain = lambda v, x: jnp.sum(
        jnp.tanh(jnp.sin(x @ v["params"]["Dense_0"]["kernel"]) @ v["params"]["Dense_1"]["kernel"]) ** 2
    )
    run = lambda f: jax.jit(jax.vmap(jax.grad(f, argnums=1), (None, 0)))(variables, X[:, None])
    np.testing.assert_allclose(run(model.apply), run(plain), 1e-4, 1e-6)


def test_forces_inside():
    class Forces(nn.Module):
        wrap: bool = False

        @nn.compact
        def __call__(self, x):
            def slopes(net, x):
                return nn.grad(lambda net, x: jnp.sum(jnp.sin(net(x))), net, x)[0]

            return (nn.remat(slopes, budget=0) if self.wrap else slopes)(nn.Dense(8), jnp.cos(x))

    variables = Forces().init(KEY, X)
    loss = lambda model: jax.jit(jax.grad(lambda v: jnp.sum(model.apply(v, X) ** 2)))(variables)
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, 1e-4, 1e-6), loss(Forces(True)), loss(Forces()))


def test_mistakes():
    with pytest.raises(errors.MemoryPlanError, match="budget"):
        nn.remat(Block, budget="much")


def test_saved_names_modules():
    report = nn.saved(Model("free"), {"params": KEY, "dropout": KEY})(X)
    plain = nn.saved(Model(), {"params": KEY, "dropout": KEY})(jax.ShapeDtypeStruct(X.shape, X.dtype))
    assert report.computed_bytes < plain.computed_bytes
    assert any("block_1" in row.path and "BatchNorm_0" in row.path for row in plain.rows)
    assert any("block_1" in row.path and "BatchNorm_0" in row.path for row in report.rows)
    assert {"Model/block_0", "Model/block_1"} <= set(plain.by_module(2))
