"""WeightNorm and SpectralNorm, against those of flax.linen: to the bit."""

from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import errors, nn

X = jnp.asarray(np.sin(np.arange(12.0)).reshape(4, 3), jnp.float32)
LAYERS: dict[str, Any] = {
    "weight": lambda lib: (lib.WeightNorm(lib.Dense(4), scale_init=jax.nn.initializers.normal()), {}),
    "all": lambda lib: (lib.WeightNorm(lib.Dense(4), variable_filter=None, feature_axes=None), {}),
    "spectral": lambda lib: (lib.SpectralNorm(lib.Dense(4), n_steps=2), {"update_stats": True}),
    "spectral-eval": lambda lib: (lib.SpectralNorm(lib.Dense(4)), {"update_stats": False}),
}


def results(lib: Any, name: str) -> Any:
    layer, call = LAYERS[name](lib)
    variables = jax.tree.map(lambda x: x * 1.3, dict(layer.init(jax.random.key(0), X, **call)))

    @jax.jit
    def gradients(variables: Any, x: jax.Array) -> Any:
        def f(params: Any, x: jax.Array) -> Any:
            out, state = layer.apply({**variables, "params": params}, x, mutable=["batch_stats"], **call)
            return out, dict(state)

        out, vjp, state = jax.vjp(f, variables["params"], x, has_aux=True)
        return out, vjp(jnp.cos(out)), state

    return variables, gradients(variables, X)


@pytest.mark.parametrize("name", LAYERS)
def test_equal(name: str) -> None:
    jax.tree.map(np.testing.assert_array_equal, results(nn, name), results(flax.linen, name))


@pytest.mark.parametrize("name", ["WeightNorm", "SpectralNorm"])
def test_class_in_place_of_a_layer(name: str) -> None:
    call = {"update_stats": False} if name == "SpectralNorm" else {}
    with pytest.raises(errors.TransformTargetError, match="an instance, not a class"):
        getattr(nn, name)(nn.Dense).init(jax.random.key(0), X, **call)
