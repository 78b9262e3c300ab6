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


def boxed(lib: Any, name: str) -> Any:
    """Return a layer whose variables name their axes, where it makes them with initializers."""
    named = {"kernel_init": lib.with_partitioning(lib.initializers.lecun_normal(), ("a", "b"))}
    if name == "SpectralNorm":
        return lib.SpectralNorm(lib.Dense(4, **named))
    return lib.WeightNorm(lib.Dense(4, **named), scale_init=lib.with_partitioning(lib.initializers.normal(), ("c",)))


def test_boxes_of_weight_norm() -> None:
    ours, theirs = (boxed(lib, "WeightNorm").init(jax.random.key(0), X) for lib in (nn, flax.linen))
    assert nn.get_partition_spec(ours) == flax.linen.get_partition_spec(theirs)
    jax.tree.map(np.testing.assert_array_equal, nn.unbox(ours), flax.linen.unbox(theirs))


@pytest.mark.parametrize(("name", "call"), [("WeightNorm", {}), ("SpectralNorm", {"update_stats": True})])
def test_boxes_are_optional(name: str, call: dict[str, Any]) -> None:
    layer = boxed(nn, name)
    variables = layer.init(jax.random.key(0), X, **call)
    assert variables["params"]["layer_instance"]["kernel"].names == ("a", "b")
    results = [layer.apply(v, X, mutable=["batch_stats"], **call) for v in (variables, nn.unbox(variables))]
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_boxes_leave_names_of_state() -> None:
    variables = boxed(nn, "SpectralNorm").init(jax.random.key(0), X, update_stats=True)
    assert set(variables["batch_stats"]) == {"layer_instance/kernel/u", "layer_instance/kernel/sigma"}
