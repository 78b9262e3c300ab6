"""`nn.custom_gradient`: a function that returns its own backward map."""

import jax
import jax.numpy as jnp
import pytest
from tests.support.cells import assert_trees_close, scaled

from liftax import errors, nn

from .test_custom_vjp import AROUND, KEY, Noisy, Normed, Through, X, noisy_gradient, noisy_reference, out

CLOSE = 1e-5


def doubled(mdl, x):
    """What closes over a backward map, an integer array, and a value that the function computed."""
    y, bwd = nn.vjp(out, mdl, x)
    order = jnp.argsort(x[:, 0])
    factor = 1.0 + 0.0 * jnp.sum(y)

    def vjp_fn(ct):
        variables_ct, x_ct = bwd(ct)
        return scaled(2.0, variables_ct), (3.0 * factor * x_ct)[order][jnp.argsort(order)]

    return y, vjp_fn


RULE = nn.custom_gradient(doubled)
MODEL = Through(lambda self, x: RULE(Noisy(name="block"), x))


def noisy(variables, x, key):
    y, state = MODEL.apply(variables, x, rngs={"dropout": key}, mutable=["batch_stats"])
    return y, state["batch_stats"]["block"]["mean"]


SHORT = {("eager", False), ("jit", False), ("scan", True), ("checkpoint", True)}


@pytest.mark.parametrize(
    ("name", "jit"),
    [pytest.param(n, j, marks=[] if (n, j) in SHORT else [pytest.mark.long]) for n in AROUND for j in (False, True)],
)
def test_state_and_rngs_under_raw_transforms(name, jit):
    results = [noisy_gradient(f, name, jit) for f in (noisy, noisy_reference)]
    assert_trees_close(*results, 5 * CLOSE)


def test_of_second_order_and_as_jax_does_it():
    """Arguments alone, a bare cotangent for one argument, integers in the output."""

    def fn(mdl, x):
        w = mdl.variables["params"]["kernel"] if not mdl.is_initializing() else jnp.ones((2, 2))
        y = mdl(x)
        return (y, jnp.argmax(y)), lambda ct: 2 * jnp.sin(x) * (ct[0] @ w.T)

    @jax.custom_gradient
    def reference(x, p):
        y = x @ p["kernel"] + p["bias"]
        return (y, jnp.argmax(y)), lambda ct: (2 * jnp.sin(x) * (ct[0] @ p["kernel"].T), None)

    f = nn.custom_gradient(fn, grad_vars=False)
    model = Through(lambda self, x: f(nn.Dense(2, name="block"), x))
    variables = model.init(KEY, X)
    p = jax.lax.stop_gradient(variables["params"]["block"])
    assert_trees_close(model.apply(variables, X)[1], jnp.argmax(X @ p["kernel"] + p["bias"]))
    want = lambda x: reference(x, p)[0]
    for wrap in (lambda f: f, jax.jit):
        got = wrap(lambda x: model.apply(variables, x)[0])
        slopes = [jax.grad(lambda x, g=g: jnp.sum(g(x) ** 2)) for g in (got, want)]
        assert_trees_close(*(g(X) for g in slopes), CLOSE)
        assert_trees_close(*(jax.grad(lambda x, g=g: jnp.sum(jnp.cos(g(x))))(X) for g in slopes), 1e-4)


def test_the_map_of_vjp_is_one():
    model = Through(
        lambda self, x: nn.custom_gradient(lambda mdl, x: nn.vjp(out, mdl, x))(nn.Dense(2, name="block"), x)
    )
    plain = Through(lambda self, x: nn.Dense(2, name="block")(x))
    (y, variables), want = model.init_with_output(KEY, X), plain.init_with_output(KEY, X)
    assert_trees_close((y, variables), want)
    grads = [
        jax.grad(lambda v, x, m=m: jnp.sum(m.apply(v, x) ** 2), argnums=(0, 1))(variables, X) for m in (model, plain)
    ]
    assert_trees_close(*grads, CLOSE)


@pytest.mark.parametrize(
    ("fn", "error", "text"),
    [
        (lambda mdl, x: mdl(x), errors.AuxError, r"custom_gradient.*pair \(output, vjp_fn\)"),
        (lambda mdl, x: (mdl(x), 3.0), errors.CustomRuleError, "custom_gradient.*float"),
        (lambda mdl, x: (mdl(x), lambda ct: ct), errors.CotangentError, "custom_gradient at /block.*with 2 cotangents"),
        (lambda mdl, x: (mdl(x), lambda ct: (None, ct[0])), errors.CotangentError, r"float32\[3,2\], got float32\[2\]"),
    ],
)
def test_errors(fn, error, text):
    model = Through(lambda self, x: nn.custom_gradient(fn)(nn.Dense(2, name="block"), x))
    variables = {"params": {"block": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}}
    with pytest.raises(error, match=text):
        jax.grad(lambda x: jnp.sum(model.apply(variables, x)))(X)


def test_cotangent_of_written_state_is_an_error():
    model = Through(lambda self, x: nn.custom_gradient(doubled)(Normed(name="block"), x))
    variables = model.init(KEY, X)
    with pytest.raises(errors.StateCotangentError, match="custom_gradient: the variable batch_stats/BatchNorm_0"):
        jax.grad(lambda x: jnp.sum(jax.tree.leaves(model.apply(variables, x, mutable=["batch_stats"])[1])[0]))(X)


def test_residuals_hold_snapshots_backward_maps_and_functions():
    """`mdl.variables`, two backward maps and what is no array are residuals of `custom_vjp`."""

    def forward(mdl, x):
        y, first = nn.vjp(out, mdl, x)
        return y, (mdl.variables, [first, nn.vjp(lambda mdl, x: jnp.sin(mdl(x)), mdl, x)[1]], "mode", jnp.sign, 3)

    def backward(residuals, ct):
        variables, (first, second), mode, function, n = residuals
        assert mode == "mode"
        (a, x_ct), (b, _) = first(ct), second(ct)
        return jax.tree.map(lambda a, b, v: function(a) * n + b * v, a, b, {"params": variables["params"]}), x_ct

    model = Through(lambda self, x: nn.custom_vjp(out, forward, backward)(nn.Dense(2, name="block"), x))
    variables = model.init(KEY, X)
    p = variables["params"]["block"]
    layer = lambda p: X @ p["kernel"] + p["bias"]
    a, b = (jax.grad(lambda p, g=g: jnp.sum(g(layer(p))))(p) for g in (lambda y: y, jnp.sin))
    want = jax.tree.map(lambda a, b, v: 3 * jnp.sign(a) + b * v, a, b, p)
    for wrap in (lambda f: f, jax.jit, jax.checkpoint):
        got = jax.grad(wrap(lambda v: jnp.sum(model.apply(v, X))))(variables)
        assert_trees_close(got["params"]["block"], want, CLOSE)
