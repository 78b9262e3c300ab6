"""`scan` over layers of `remat` of a block that holds a lifted `grad`, with dropout and batch statistics.

Against Linen on the same variables and keys, to the bit, and, without dropout, against one layer after the other, in
plain JAX.
"""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import nn

LAYERS = 3
X = jnp.linspace(-1.0, 1.0, 12).reshape(3, 4)
KEYS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}


def block(nn, dropout):
    class Energy(nn.Module):
        @nn.compact
        def __call__(self, x):
            return jnp.tanh(nn.Dense(4)(x)).sum()

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            energy = Energy()
            if self.is_initializing():  # Linen differentiates with respect to nothing there
                energy(x)
            (force,) = nn.grad(lambda mdl, x: mdl(x), energy, x)
            x = nn.BatchNorm(use_running_average=False)(x - force)
            return nn.Dropout(dropout, deterministic=not dropout)(nn.Dense(4)(x)), None

    return Block


def stack(nn, dropout):
    return nn.scan(
        nn.remat(block(nn, dropout), prevent_cse=False), variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True, "dropout": True}, length=LAYERS,
    )()  # fmt: skip


def run(apply):
    def loss(params, stats, x):
        y, stats = apply(params, stats, x)
        return (y**2).sum(), (y, stats)

    return jax.value_and_grad(loss, (0, 2), has_aux=True)


def of(module):
    def apply(params, stats, x):
        variables = {"params": params, "batch_stats": stats}
        (y, _), state = module.apply(variables, x, None, rngs=KEYS, mutable=["batch_stats"])
        return y, state["batch_stats"]

    return apply


def one_after_the_other(params, stats, x):
    module, seen = block(nn, 0.0)(), []
    for i in range(LAYERS):
        layer = jax.tree.map(lambda v, i=i: v[i], {"params": params, "batch_stats": stats})
        (x, _), state = module.apply(layer, x, None, mutable=["batch_stats"])
        seen.append(state["batch_stats"])
    return x, jax.tree.map(lambda *layers: jnp.stack(layers), *seen)


WRAPPED = {
    "jit": jax.jit,
    "vmap": lambda f: jax.jit(
        lambda p, s, x: jax.vmap(f, (None, None, 0))(p, s, jnp.stack([x, 2 * x, x**2]))
    ),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("wrap", ["jit", pytest.param("vmap", marks=pytest.mark.long)])
@pytest.mark.parametrize("dropout", [0.5, 0.0])
def test_deep_stack(wrap, dropout):
    variables = jax.jit(stack(nn, dropout).init)(KEYS, X, None)
    want = jax.jit(stack(flax.linen, dropout).init)(KEYS, X, None)
    assert jax.tree.structure(variables) == jax.tree.structure(want)
    for g, w in zip(jax.tree.leaves(variables["params"]), jax.tree.leaves(want["params"]), strict=True):
        np.testing.assert_array_equal(g, w)
    reference = of(stack(flax.linen, dropout)) if dropout else one_after_the_other
    arguments = variables["params"], variables["batch_stats"], X
    got = WRAPPED[wrap](run(of(stack(nn, dropout))))(*arguments)
    want = WRAPPED[wrap](run(reference))(*arguments)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    # Linen's stack is the same program. Plain layers are no loop, and XLA may round them otherwise: float32 is up to
    # 1.5e-5 of the largest element away from float64 here, as the derivatives of batch norm over three rows enlarge it.
    allowed = 0.0 if dropout else 3e-5
    for (path, g), w in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        distance = np.abs(np.asarray(g) - np.asarray(w)).max() / np.abs(w).max()
        assert distance <= allowed, jax.tree_util.keystr(path)
