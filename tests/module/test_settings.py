"""What is set for a class or for the process, as in Linen."""

import threading

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import nn

X = np.ones((2, 3), np.float32)


@pytest.mark.parametrize("preserve", [True, False])
def test_preserve_adopted_names(preserve):
    def run(nn):
        class Net(nn.Module):
            preserve_adopted_names = preserve
            sub: nn.Module
            more: tuple

            @nn.compact
            def __call__(self, x):
                return self.sub(x) + sum(layer(x) for layer in self.more)

        trees = []
        for name in ("keep", None):
            fields = nn.Dense(2, name=name), (nn.Dense(2, name=name and "other"), nn.Dense(2))
            trees.append(Net(*fields).init(jax.random.key(0), X)["params"])
        return [jax.tree.map(lambda x: np.asarray(x).tolist(), tree) for tree in trees]

    ours = run(nn)
    assert ours == run(flax.linen)
    assert set(ours[0]) == ({"keep", "other", "more_1"} if preserve else {"sub", "more_0", "more_1"})


def test_named_call_is_switched_for_all_threads():
    class Scale(nn.Module):
        def __call__(self, x):
            return x * 2

    texts = []

    def run():
        apply = jax.jit(lambda x: Scale(name="mine").apply({}, x))
        texts.append(apply.lower(jnp.ones(2)).as_text(debug_info=True))

    for switch in (nn.disable_named_call, nn.enable_named_call):
        switch()
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert ["/mine/" in text for text in texts] == [False, True]
