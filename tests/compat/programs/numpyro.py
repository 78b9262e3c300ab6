"""A network of Linen in a model of NumPyro by `flax_module`, fitted by variational inference for some steps."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from flax import linen as nn
from numpyro.contrib.module import flax_module
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.optim import Adam


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm()(nn.Dense(4)(x))
        return nn.Dense(1)(nn.tanh(x))[..., 0]


def model(x, y):
    """Regress `y` on `x`, with noise of unknown size."""
    network = flax_module("network", Network(), input_shape=(2, 3))
    sigma = numpyro.sample("sigma", dist.LogNormal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(network(x), sigma), obs=y)


def build():
    """Return ten steps of stochastic variational inference."""
    svi = SVI(model, AutoNormal(model), Adam(1e-2), Trace_ELBO())
    x = jax.random.normal(jax.random.key(0), (5, 3))

    def fit(key, x, y):
        state = svi.init(key, x, y)
        state, losses = jax.lax.scan(lambda state, _: svi.update(state, x, y), state, length=10)
        return svi.get_params(state), losses

    return fit, (jax.random.PRNGKey(0), x, jnp.sin(x.sum(1)))
