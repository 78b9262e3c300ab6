"""Models of many layers: training steps are those of flax.linen."""

from functools import partial
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import nn

STEPS = 4


def resnet(lib: Any) -> Any:
    """Return a residual network of two stages, the second of which halves the image and doubles the features."""

    class Block(lib.Module):
        features: int
        strides: int
        norm: Any

        @lib.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            conv = partial(lib.Conv, self.features, use_bias=False)
            y = conv((3, 3), strides=(self.strides, self.strides))(x)
            y = lib.relu(self.norm()(y))
            y = self.norm(scale_init=lib.initializers.zeros_init())(conv((3, 3))(y))
            if x.shape != y.shape:
                x = self.norm(name="norm_proj")(conv((1, 1), strides=self.strides, name="proj")(x))
            return lib.relu(x + y)

    class ResNet(lib.Module):
        @lib.compact
        def __call__(self, x: jax.Array, train: bool) -> jax.Array:
            norm = partial(lib.BatchNorm, use_running_average=not train, momentum=0.8)
            x = lib.max_pool(lib.relu(norm()(lib.Conv(4, (3, 3), name="stem")(x))), (3, 3), (2, 2), padding="SAME")
            for i, strides in enumerate((1, 2)):
                x = Block(4 * 2**i, strides, norm)(x)
            return lib.Dense(3)(x.mean((1, 2)))

    return ResNet()


def train(lib: Any) -> Any:
    """Return the variables after some steps, the losses, and what the model then says with its running statistics."""
    model = resnet(lib)
    images = jnp.asarray(np.sin(np.arange(STEPS * 3 * 8 * 8 * 2) ** 1.3).reshape(STEPS, 3, 8, 8, 2), jnp.float32)
    labels = jnp.arange(STEPS * 3).reshape(STEPS, 3) % 3

    @jax.jit
    def run(key: jax.Array) -> Any:
        def step(variables: Any, batch: Any) -> Any:
            def loss(params: Any) -> Any:
                image, label = batch
                logits, new = model.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
                return -jnp.take_along_axis(lib.log_softmax(logits), label[:, None], 1).mean(), new

            (value, new), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
            return {"params": jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], grads), **new}, value

        variables = dict(model.init(key, images[0], train=False))
        variables, losses = jax.lax.scan(step, variables, (images, labels))
        return variables, losses, model.apply(variables, images[0], train=False)

    return run(jax.random.key(0))


@pytest.mark.long
def test_training_a_residual_network_is_linens() -> None:
    ours, theirs = train(nn), train(flax.linen)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, a), b in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        # Cotangents of several uses of an array are added in another order.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=jax.tree_util.keystr(path))
    variables, losses, _ = ours
    assert losses[-1] != losses[0]
    assert not np.allclose(variables["batch_stats"]["Block_1"]["BatchNorm_0"]["mean"], 0)
