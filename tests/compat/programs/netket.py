"""Wave functions of NetKet: an RBM and an autoregressive network on a chain, with the gradient of log psi."""

import jax
import jax.numpy as jnp
import netket as nk


def build():
    """Return log psi of all states of four spins, its gradient, and parameters, of two models."""
    hilbert = nk.hilbert.Spin(0.5, 4)
    states = hilbert.all_states()
    models = [nk.models.RBM(alpha=1, param_dtype=float), nk.models.ARNNDense(hilbert=hilbert, layers=2, features=3)]

    def run(key, states):
        results = []
        for model in models:
            variables = model.init(key, states)
            params = variables.pop("params")

            def log_psi(params, model=model, variables=variables):
                return model.apply({"params": params, **variables}, states).real

            grads = jax.grad(lambda params, log_psi=log_psi: jnp.sum(log_psi(params) ** 2))(params)
            results.append((params, log_psi(params), grads))
        return results

    return run, (jax.random.key(0), jnp.asarray(states))
