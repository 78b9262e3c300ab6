"""Policy and value networks of brax's agents, with and without spectral norms: outputs and gradients."""

import jax
import jax.numpy as jnp
from brax.training import networks


def build():
    """Return a function of observations: means, values and Q values, and the gradient of their sum."""
    policy = networks.make_policy_network(4, 3, hidden_layer_sizes=(8, 8))
    value = networks.make_value_network(3, hidden_layer_sizes=(8,))
    q = networks.make_q_network(3, 2, hidden_layer_sizes=(8,))

    def run(key, obs, actions):
        params = policy.init(key), value.init(key), q.init(key)

        def outputs(params):
            at_policy, at_value, at_q = params
            return (
                policy.apply(None, at_policy, obs),
                value.apply(None, at_value, obs),
                q.apply(None, at_q, obs, actions),
            )

        grads = jax.grad(lambda params: sum(jnp.sum(x**2) for x in jax.tree.leaves(outputs(params))))(params)
        return params, outputs(params), grads

    keys = jax.random.split(jax.random.key(1))
    return run, (jax.random.PRNGKey(0), jax.random.normal(keys[0], (5, 3)), jax.random.normal(keys[1], (5, 2)))
