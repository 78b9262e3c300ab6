"""A message-passing network of e3x with forces as the derivative of its energy, trained for some steps."""

import functools

import e3x
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn


class ForceField(nn.Module):
    features: int = 4
    max_degree: int = 1
    iterations: int = 2
    cutoff: float = 4.0
    elements: int = 9

    def energy(self, numbers, positions, dst, src):
        """Return minus the energy, whose derivative is the forces, and the energy."""
        basis = e3x.nn.basis(
            positions[src] - positions[dst],
            num=4,
            max_degree=self.max_degree,
            radial_fn=e3x.nn.reciprocal_bernstein,
            cutoff_fn=functools.partial(e3x.nn.smooth_cutoff, cutoff=self.cutoff),
        )
        x = e3x.nn.Embed(num_embeddings=self.elements, features=self.features)(numbers)
        for i in range(self.iterations):
            if i + 1 < self.iterations:
                y = e3x.nn.MessagePass()(x, basis, dst_idx=dst, src_idx=src)
            else:  # only scalars enter the energy
                y = e3x.nn.MessagePass(max_degree=0, include_pseudotensors=False)(x, basis, dst_idx=dst, src_idx=src)
                x = e3x.nn.change_max_degree_or_type(x, max_degree=0, include_pseudotensors=False)
            y = e3x.nn.silu(e3x.nn.Dense(self.features)(e3x.nn.add(x, y)))
            x = e3x.nn.add(x, e3x.nn.Dense(self.features)(y))
        bias = self.param("element_bias", lambda key, shape: jnp.zeros(shape), (self.elements,))
        energy = (nn.Dense(1, use_bias=False)(x)[..., 0, 0, 0] + bias[numbers]).sum()
        return -energy, energy

    @nn.compact
    def __call__(self, numbers, positions, dst, src):
        (_, energy), forces = jax.value_and_grad(self.energy, argnums=1, has_aux=True)(numbers, positions, dst, src)
        return energy, forces


def build():
    """Return ten steps of training on the forces of four atoms."""
    model, optimizer = ForceField(), optax.adam(1e-2)
    numbers = jnp.asarray([6, 1, 1, 8])
    dst, src = e3x.ops.sparse_pairwise_indices(4)
    positions = jax.random.normal(jax.random.key(0), (4, 3))
    targets = jax.random.normal(jax.random.key(1), (4, 3))

    def train(key, positions, targets):
        params = model.init(key, numbers, positions, dst, src)
        state = optimizer.init(params)

        def loss(params):
            energy, forces = model.apply(params, numbers, positions, dst, src)
            return jnp.mean((forces - targets) ** 2) + energy**2

        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), value

        (params, _), values = jax.lax.scan(step, (params, state), length=10)
        return params, values

    return train, (jax.random.key(2), positions, targets)
