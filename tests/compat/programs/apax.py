"""A Gaussian-moment network of apax with forces, trained for some steps on forces."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from apax.config.model_config import GMNNConfig


def build():
    """Return ten steps of training on the forces of four atoms."""
    config = GMNNConfig(nn=[8, 8], n_radial=2, n_contr=2, basis={"name": "bessel", "n_basis": 4, "r_max": 4.0})
    model = config.get_builder()(config.model_dump(), n_species=10).build_energy_derivative_model()
    optimizer = optax.adam(1e-2)
    numbers = jnp.asarray([6, 1, 1, 8])
    pairs = jnp.asarray([(i, j) for i in range(4) for j in range(4) if i != j]).T
    rest = numbers, pairs, jnp.zeros(3), jnp.zeros((pairs.shape[1], 3))
    rng = np.random.default_rng(0)

    def train(key, positions, targets):
        params = model.init(key, positions, *rest)

        def loss(params):
            out = model.apply(params, positions, *rest)
            return jnp.mean((out["forces"] - targets) ** 2)

        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), value

        (params, _), values = jax.lax.scan(step, (params, optimizer.init(params)), length=10)
        return params, values

    return train, (jax.random.key(2), jnp.asarray(rng.normal(size=(4, 3))), jnp.asarray(rng.normal(size=(4, 3))))
