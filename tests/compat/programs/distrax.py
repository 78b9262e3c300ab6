"""A normalizing flow of distrax with couplings conditioned by networks of Linen: log density and gradient."""

import distrax
import jax
import jax.numpy as jnp
from flax import linen as nn


class Flow(nn.Module):
    @nn.compact
    def __call__(self, x):
        def coupling(i):
            network = nn.Sequential([nn.Dense(4), nn.tanh, nn.Dense(4)])

            def conditioner(kept):
                shift, scale = jnp.split(network(kept), 2, axis=-1)
                return {"shift": shift, "log_scale": jnp.tanh(scale)}

            mask = jnp.arange(2) % 2 == i % 2
            return distrax.MaskedCoupling(mask, conditioner, lambda p: distrax.ScalarAffine(**p))

        bijector = distrax.Inverse(distrax.Chain([coupling(0), coupling(1)]))
        base = distrax.MultivariateNormalDiag(jnp.zeros(2), jnp.ones(2))
        return distrax.Transformed(base, bijector).log_prob(x).mean()


def build():
    """Return the parameters from a key, the log density and its gradient."""
    flow = Flow()

    def density(key, x):
        params = flow.init(key, x)
        return params, jax.value_and_grad(flow.apply)(params, x)

    return density, (jax.random.key(0), jax.random.normal(jax.random.key(1), (3, 2)))
