"""The Laplacian by the whole Hessian, and what the tests of rules share."""

import jax
import jax.numpy as jnp
import numpy as np

import liftax as lx

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 3)) * 0.7 + 0.1
W, V, C = RNG.normal(size=(3, 5)), RNG.normal(size=(5, 5)), 0.1 * RNG.normal(size=(4, 4))


def trace_of_hessian(f, x):
    """Return the trace of the Hessian of each number that `f` returns."""
    flat = lambda v: f(v.reshape(x.shape))
    return jnp.trace(jax.hessian(flat)(x.ravel()), axis1=-2, axis2=-1)


def check(*functions, x=X, rtol=1e-8, sparsities=("auto",)):
    """Compare the Laplacians of functions of `x`, in float64 and in one program, with the traces of their Hessians."""
    with jax.enable_x64(True):
        x = jnp.asarray(x)

        def program(x):
            ours = [[lx.laplacian(f, x, sparsity=s) for s in sparsities] for f in functions]
            return ours, [(f(x), trace_of_hessian(f, x)) for f in functions]

        for i, (found, (y, lap)) in enumerate(zip(*jax.jit(program)(x), strict=True)):
            for out, ours in found:
                np.testing.assert_allclose(out, y, rtol=rtol, atol=rtol, err_msg=f"value {i}")
                np.testing.assert_allclose(ours, lap, rtol=rtol, atol=rtol, err_msg=f"Laplacian {i}")


def widest(f, x, rank):
    """Return the largest leading axis of an array of features, of the rank, in the program of a Laplacian."""
    found = [1]
    holds_features = lambda shape: len(shape) == rank and np.prod(shape[1:]) > 1

    def visit(jaxpr):
        live = set(map(id, jaxpr.outvars))
        for eqn in reversed(jaxpr.eqns):
            if not any(id(v) in live for v in eqn.outvars):  # the compiler drops it
                continue
            live.update(map(id, eqn.invars))
            found.extend(v.aval.shape[0] for v in eqn.outvars if holds_features(v.aval.shape))
            for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
                if hasattr(inner, "eqns"):
                    visit(getattr(inner, "jaxpr", inner))

    visit(jax.make_jaxpr(lambda x: lx.laplacian(f, x)[1])(x).jaxpr)
    return max(found)
