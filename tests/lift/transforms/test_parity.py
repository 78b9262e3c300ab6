"""The same program on Flax Linen and on liftax: parameters, outputs, draws, state and gradients."""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import nn

from .programs import PROGRAMS

STREAMS = ("params", "dropout", "noise")
DIFFERENTIATED = {
    "remat_class", "remat_shared", "vmap_axes", "scan_layers", "scan_shared_parameters", "scan_broadcast",
    "jit_decorator", "switch_heads", "map_variables_function", "vjp_around_and_inside",
}  # fmt: skip
LONG = {
    "vmap_of_remat_of_vmap", "scan_unchecked", "jit_of_scan_of_jit", "vmap_of_jit", "scan_twice_then_draw",
    "jit_shared", "scan_axes_reversed", "remat_methods_options", "scan_of_remat", "vmap_shared_parameters",
}  # fmt: skip
MUTABLE = ["state", "batch_stats", "intermediates"]


def run(namespace, name):
    """Return what a program does at init and at apply, and, for some, its gradients."""
    module = PROGRAMS[name](namespace)
    x = jnp.linspace(-1.0, 1.0, 12).reshape(3, 4)
    keys = lambda seed: dict(zip(STREAMS, jax.random.split(jax.random.key(seed), 3), strict=True))
    out, variables = module.init_with_output(keys(0), x)
    applied = module.apply(variables, x, rngs=keys(1), mutable=MUTABLE)

    def loss(params, x):
        out, state = module.apply({**variables, "params": params}, x, rngs=keys(3), mutable=MUTABLE)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves((out, state)))

    gradients = jax.grad(loss, (0, 1))(variables["params"], x) if name in DIFFERENTIATED else ()
    return (out, variables, applied), gradients


@pytest.mark.parametrize("name", [pytest.param(p, marks=[pytest.mark.long] if p in LONG else []) for p in PROGRAMS])
def test_program(name):
    want, want_gradients = run(flax.linen, name)
    got, gradients = run(nn, name)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, g), w in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=3e-6, atol=1e-6, err_msg=jax.tree_util.keystr(path))
    # what init makes, and the draws of `Top` itself, agree to the bit
    for g, w in zip(
        jax.tree.leaves((got[1], got[2][0][1:3])), jax.tree.leaves((want[1], want[2][0][1:3])), strict=True
    ):
        np.testing.assert_array_equal(g, w)
    for g, w in zip(jax.tree.leaves(gradients), jax.tree.leaves(want_gradients), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5)


def test_table_is_whole():
    assert len(PROGRAMS) >= 40
