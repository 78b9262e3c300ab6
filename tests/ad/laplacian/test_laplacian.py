"""Laplacian and divergence against the traces of whole matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import liftax as lx
from liftax import errors

KEYS = jax.random.split(jax.random.key(0), 4)
W = [jax.random.normal(k, s) / s[0] ** 0.5 for k, s in zip(KEYS, [(32, 64), (64, 64), (64, 1)], strict=False)]
X = jax.random.normal(KEYS[3], (4,))


def mlp(act, sizes=W):
    def f(x):
        for w in sizes[:-1]:
            x = act(x @ w)
        return (x @ sizes[-1])[0]

    return f


def looped(x):
    return jax.lax.scan(lambda c, _: (jnp.sin(c) * c[::-1], jnp.sum(c**3)), x, None, length=3)[1].sum()


FUNCTIONS = {
    "products": lambda x: jnp.prod(x) / (1 + x @ x),
    "norm": lambda x: jnp.sqrt(jnp.sum(x**2)) + jnp.max(x) ** 2,
    "softplus": lambda x: jnp.sum(jax.nn.softplus(x) * jax.nn.gelu(x)),
    "integers": lambda x: jnp.sum(x**2 * jnp.floor(4 * x).astype(int)) + x[jnp.argmax(x)] ** 3,
    "loops": looped,
    "branches": lambda x: jax.lax.cond(x[0] > 0, lambda x: jnp.sum(x**3), lambda x: jnp.sum(jnp.exp(x)), x),
    "jit": jax.jit(lambda x: jnp.sum(jnp.tanh(jnp.outer(x, x)) ** 2)),
    "linear": lambda x: jnp.outer(x, jnp.arange(4.0))[2, 3],
    "constant": lambda x: jnp.asarray(2.0),
    "ranks": lambda x: jnp.sum(jnp.sin(x * jnp.sum(x)) * jnp.linalg.norm(x)),
    "attention": lambda x: jnp.sum(jax.nn.softmax(jnp.outer(x, x)) @ jnp.tanh(jnp.outer(x, x)) @ x),
    "complex": lambda x: jnp.sum(jnp.abs(jnp.exp(1j * x) * x + x[0]) + jnp.exp(2j * x).real),
    "remat": jax.checkpoint(lambda x: jnp.sum(jnp.sin(x) * x)),
    "stopped": lambda x: jnp.sum(x**2 * jax.lax.stop_gradient(x)),
    "half": lambda x: jnp.sum(jnp.tanh(x.astype(jnp.bfloat16) * 2).astype(jnp.float32) ** 2),
}


ACTIVATIONS = (
    "tanh softplus silu gelu sigmoid relu relu6 elu selu celu leaky_relu mish log_sigmoid soft_sign squareplus"
)


@jax.custom_jvp
def steep(x):
    """tanh with the slope of another function, on each number alone."""
    return jnp.tanh(x)


@jax.custom_jvp
def scaled(x):
    """The identity with a slope that all numbers enter."""
    return x


steep.defjvp(lambda x, t: (steep(*x), jnp.exp(x[0]) * t[0]))
scaled.defjvp(lambda x, t: (scaled(x[0]), t[0] * jnp.sum(x[0] ** 2)))


@pytest.mark.parametrize("name", ACTIVATIONS.split() + ["steep", "scaled"])
def test_activations(name):
    act = {"steep": steep, "scaled": scaled}.get(name) or getattr(jax.nn, name)
    f = mlp(act, [2 * W[0][:4, :8], W[1][:8, :8], W[2][:8]])
    ours, whole = jax.jit(lambda x: lx.laplacian(f, x)[1]), jax.jit(lambda x: jnp.trace(jax.hessian(f)(x)))
    np.testing.assert_allclose(ours(X), whole(X), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["softplus", "gelu", "silu", "tanh"])
def test_activations_multiply_the_directions_once(name):
    f, x = mlp(getattr(jax.nn, name)), jax.random.normal(KEYS[3], (32,))
    program = jax.make_jaxpr(lambda x: lx.laplacian(f, x)[1])(x)
    wide = [e for e in program.jaxpr.eqns if any(v.aval.shape == (32, 64) for v in e.outvars)]
    assert len([e for e in wide if e.primitive.name == "dot_general"]) == 1
    assert len([e for e in wide if e.primitive.name == "mul"]) <= 4  # the slopes in and the squares, of two layers


@pytest.mark.parametrize("name", FUNCTIONS)
def test_laplacian_is_the_trace_of_the_hessian(name):
    f = FUNCTIONS[name]
    out, lap = lx.laplacian(f, X)
    np.testing.assert_allclose(out, f(X), rtol=1e-6)
    np.testing.assert_allclose(lap, jnp.trace(jax.hessian(f)(X)), rtol=0.05 if name == "half" else 2e-5, atol=1e-5)
    assert lap.dtype == out.dtype


def test_laplacian_of_a_network_costs_under_half_of_the_hessian():
    f, x = mlp(jnp.tanh), jax.random.normal(KEYS[3], (32,))
    ours = jax.jit(lambda x: lx.laplacian(f, x)[1])
    whole = jax.jit(lambda x: jnp.trace(jax.hessian(f)(x)))
    np.testing.assert_allclose(ours(x), whole(x), rtol=1e-5, atol=1e-5)
    flops = [g.lower(x).compile().cost_analysis()["flops"] for g in (ours, whole)]
    assert flops[0] < 0.45 * flops[1]


def test_derivatives_of_an_activation_cost_no_more_than_by_hand():
    """Softplus: a logarithm, an exponential, and the one of its slope; zeros that JAX writes out multiply nothing."""
    f = lambda x: jnp.sum(jax.nn.softplus(x))
    program = jax.jit(lambda x: lx.laplacian(f, x)).lower(jnp.ones(16)).compile()
    assert program.cost_analysis()["transcendentals"] == 3 * 16


def test_trees_arguments_and_aux():
    def f(x, n):
        return {"a": jnp.outer(x["r"] ** 2, x["s"] ** 3), "b": n * x["s"]}, n

    x = {"r": jnp.asarray([1.0, 2.0]), "s": jnp.asarray([3.0])}
    out, lap, aux = lx.laplacian(f, x, 2.0, has_aux=True)
    np.testing.assert_allclose(lap["a"], 2 * x["s"] ** 3 + 6 * x["s"] * x["r"][:, None] ** 2)
    assert (lap["b"].tolist(), out["b"].tolist(), aux) == ([0.0], [6.0], 2.0)
    field, div, aux = lx.divergence(lambda x, n: (jax.tree.map(lambda v: n * v**2, x), n), x, 2.0, has_aux=True)
    assert (div, aux, field["s"].tolist()) == (24.0, 2.0, [18.0])


@pytest.mark.long
def test_under_transforms():
    f = lambda w, x: jnp.sum(jnp.tanh(w @ x) ** 2)
    w, xs = jax.random.normal(KEYS[0], (3, 4)), jax.random.normal(KEYS[1], (2, 4))

    def mean(laplacian):
        return lambda w: jnp.mean(jax.vmap(lambda x: laplacian(lambda x: f(w, x), x))(xs))

    ours = mean(lambda f, x: lx.laplacian(f, x)[1])
    whole = mean(lambda f, x: jnp.trace(jax.hessian(f)(x)))
    np.testing.assert_allclose(jax.jit(jax.grad(ours))(w), jax.grad(whole)(w), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(jax.jvp(ours, (w,), (w,))[1], jax.jvp(whole, (w,), (w,))[1], rtol=1e-4)


def test_estimates():
    a = jax.random.normal(KEYS[0], (4, 4))
    f = lambda x: 0.5 * x @ a @ x
    key = jax.random.key(3)
    _, lap = lx.laplacian(f, X, key=key, samples=4000)
    _, div = lx.divergence(lambda x: a @ x, X, key=key, samples=4000)
    np.testing.assert_allclose([lap, div], jnp.trace(a), atol=0.25)
    diagonal = lambda x: jnp.sum(jnp.arange(4.0) * x**2)
    np.testing.assert_allclose(lx.laplacian(diagonal, X, key=key, samples=1)[1], 12.0, rtol=1e-6)  # no variance
    assert lx.laplacian(f, X, key=key, samples=1)[1] != lx.laplacian(f, X)[1]


def test_error_texts():
    with pytest.raises(errors.ArityError, match="both key and samples"):
        lx.laplacian(jnp.sum, X, samples=3)
    with pytest.raises(errors.ArityError, match="write divergence"):
        lx.divergence(jnp.sum)
    with pytest.raises(
        errors.NonDifferentiableOutputError, match=r"divergence.*expected float32\[4\], got float32\[\]"
    ):
        lx.divergence(jnp.sum, X)
    with pytest.raises(errors.NonDifferentiablePrimalError, match=r"laplacian.*argument 0.*int32\[3\]"):
        lx.laplacian(jnp.sum, jnp.arange(3))
