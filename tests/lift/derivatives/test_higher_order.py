"""Second and third derivatives: lifted transforms in lifted transforms, in raw JAX, against numbers and plain JAX."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from tests.support.cells import assert_trees_close

from liftax import core, lift, nn

X = jnp.asarray([0.4, -0.7])
KEY = jax.random.key(0)
CLOSE = 1e-4


class Energy(nn.Module):
    """A smooth scalar of a small net: `sum(tanh(x A + a) B)`, smooth enough for numerical derivatives in float32."""

    @nn.compact
    def __call__(self, x):
        h = jnp.tanh(nn.Dense(3)(x))
        return jnp.sum(nn.Dense(2)(h) ** 2)


class Through(nn.Module):
    """Hands itself and what it is called with to `body`, in a compact method."""

    body: object

    @nn.compact
    def __call__(self, *args):
        return self.body(self, *args)


def energy(p, x):
    """`Energy` on explicit parameters."""
    layer = lambda q, x: x @ q["kernel"] + q["bias"]
    return jnp.sum(layer(p["Dense_1"], jnp.tanh(layer(p["Dense_0"], x))) ** 2)


PARAMS = Energy().init(KEY, X)["params"]
INSIDE = {"params": {"block": PARAMS}}


# --- one derivative in x after another -------------------------------------------------------------------------------
# Each takes `f(mdl, x) -> array` to a function of the same form whose value is a directional derivative along cos(x).


def along_jvp(f):
    return lambda mdl, x: nn.jvp(f, mdl, (x,), (jnp.cos(x),), variable_tangents={})[1]


def along_vjp(f):
    def derivative(mdl, x):
        y, bwd = nn.vjp(f, mdl, x)
        return jnp.sum(bwd(jnp.ones_like(y))[1] * jnp.cos(x))

    return derivative


def along_grad(f):
    return lambda mdl, x: jnp.sum(nn.grad(f, mdl, x)[0] * jnp.cos(x))


def along_value_and_grad(f):
    return lambda mdl, x: jnp.sum(nn.value_and_grad(f, mdl, x)[1][0] * jnp.cos(x))


def along_custom_vjp(f):
    """A rule that agrees with JAX, differentiated by `nn.grad`."""
    rule = nn.custom_vjp(f, lambda mdl, x: nn.vjp(f, mdl, x), lambda bwd, ct: bwd(ct))
    return along_grad(rule)


def along_raw(f):
    """Raw JAX on a closure over a module: fine while nothing is written."""
    return lambda mdl, x: jax.jvp(lambda x: f(mdl, x), (x,), (jnp.cos(x),))[1]


def along(f):
    """The same on explicit parameters."""
    return lambda p, x: jnp.sum(jax.grad(f, argnums=1)(p, x) * jnp.cos(x))


WAYS = {
    "jvp": along_jvp,
    "vjp": along_vjp,
    "grad": along_grad,
    "value_and_grad": along_value_and_grad,
    "custom_vjp": along_custom_vjp,
}


def is_defined(names):
    """Return whether no forward mode lies around a `custom_vjp`."""
    return all(not (a == "custom_vjp" and "jvp" in names[i + 1 :]) for i, a in enumerate(names))


def composed(names):
    """Return `Energy` with one derivative after another, the last of `names` outermost."""
    f = lambda mdl, x: mdl(x)
    for name in names:
        f = WAYS[name](f)
    return Through(lambda self, x: f(Energy(name="block"), x))


@pytest.mark.parametrize("names", [n for n in itertools.product(WAYS, repeat=2) if is_defined(n)], ids="-".join)
def test_second_order(names):
    """Every pair, at apply, at init, and its gradient through jit."""
    model, want = composed(names), along(along(energy))
    assert_trees_close(model.apply(INSIDE, X), want(PARAMS, X), CLOSE)
    made, variables = model.init_with_output(KEY, X)
    assert_trees_close(made, want(variables["params"]["block"], X), CLOSE)
    got = jax.jit(jax.grad(lambda p, x: model.apply({"params": {"block": p}}, x), argnums=(0, 1)))(PARAMS, X)
    assert_trees_close(got, jax.grad(want, argnums=(0, 1))(PARAMS, X), CLOSE)


TRIPLES = [
    ("grad", "grad", "grad"),
    ("vjp", "vjp", "vjp"),
    ("jvp", "jvp", "jvp"),
    ("grad", "jvp", "vjp"),
    ("vjp", "jvp", "jvp"),
    ("jvp", "grad", "jvp"),
    ("jvp", "custom_vjp", "grad"),
    ("value_and_grad", "custom_vjp", "vjp"),
    ("custom_vjp", "custom_vjp", "custom_vjp"),
]


@pytest.mark.parametrize("names", TRIPLES, ids="-".join)
def test_third_order(names):
    want = along(along(along(energy)))(PARAMS, X)
    assert_trees_close(composed(names).apply(INSIDE, X), want, 5e-4)


@pytest.mark.parametrize("name", WAYS)
def test_lifted_over_and_under_raw(name):
    """Raw JAX inside `fn`, around the lifted transform, and around the whole apply."""
    base = lambda mdl, x: mdl(x)
    raw = {"inside": WAYS[name](along_raw(base))}
    if name != "custom_vjp":
        raw["around"] = along_raw(WAYS[name](base))
    want = along(along(energy))(PARAMS, X)
    for f in raw.values():
        model = Through(lambda self, x, f=f: f(Energy(name="block"), x))
        assert_trees_close(model.apply(INSIDE, X), want, CLOSE)
    whole = composed([name])
    got = jnp.sum(jax.grad(lambda x: whole.apply(INSIDE, x))(X) * jnp.cos(X))
    assert_trees_close(got, want, CLOSE)


@pytest.mark.parametrize("name", WAYS)
def test_check_grads_to_order_2(name):
    """Numerical derivatives of a first derivative, in the parameters and in x."""
    model = composed([name])
    modes = ("rev",) if name == "custom_vjp" else ("fwd", "rev")
    f = lambda p, x: model.apply({"params": {"block": p}}, x)
    check_grads(f, (PARAMS, X), order=2, modes=modes, atol=0.02, rtol=0.02, eps=1e-2)


@pytest.mark.long
def test_check_grads_of_module_and_of_raw_rule_to_order_3():
    check_grads(lambda p, x: Energy().apply({"params": p}, x), (PARAMS, X), order=3, atol=0.05, rtol=0.05, eps=1e-2)


@pytest.mark.long
@pytest.mark.parametrize("name", ["vjp", "grad", "custom_vjp"])
def test_check_grads_with_state_and_rngs(name):
    """The derivative of a block that normalizes, drops and writes, checked numerically to order 2."""

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.Dense(2)(x)
            mean = self.variable("stats", "mean", lambda: jnp.zeros(2))
            if not self.is_initializing():
                mean.value = 0.5 * mean.value + 0.5 * jax.lax.stop_gradient(h)
            kept = jax.random.bernoulli(self.make_rng("dropout"), 0.5, h.shape)
            return jnp.sum(jnp.where(kept, jnp.tanh(h), h * h))

    model = Through(lambda self, x: WAYS[name](lambda mdl, x: mdl(x))(Block(name="block"), x))
    rngs = {"params": KEY, "dropout": jax.random.key(3)}
    variables = model.init(rngs, X)
    f = lambda p, x: model.apply({**variables, "params": p}, x, rngs={"dropout": KEY}, mutable=["stats"])[0]
    check_grads(f, (variables["params"], X), order=2, modes=("rev",), atol=0.02, rtol=0.02, eps=1e-2)
    _, state = model.apply(variables, X, rngs={"dropout": KEY}, mutable=["stats"])
    p = variables["params"]["block"]["Dense_0"]
    assert_trees_close(state["stats"]["block"]["mean"], 0.5 * (X @ p["kernel"] + p["bias"]), 1e-5)


# --- matrices --------------------------------------------------------------------------------------------------------


def test_hessian_of_a_module_by_jvp_of_grad():
    """Forward over reverse: row by row, the Hessian in x, symmetric and JAX's."""

    def body(self, x):
        slope = lambda mdl, x: nn.grad(lambda mdl, x: mdl(x), mdl, x)[0]
        block = Energy(name="block")
        return jnp.stack([nn.jvp(slope, block, (x,), (row,), variable_tangents={})[1] for row in jnp.eye(2)])

    want = jax.hessian(energy, argnums=1)(PARAMS, X)
    got = Through(body).apply(INSIDE, X)
    assert_trees_close(got, want, CLOSE)
    assert_trees_close(got, got.T, CLOSE)


def test_hessian_vector_product_in_the_parameters():
    """`jvp` with variable tangents of `vjp` in the variables: the product with the Hessian in the parameters."""
    tangents = jax.tree.map(lambda p: jnp.cos(3 * p), PARAMS)

    def body(self, x):
        def in_params(mdl, x):
            y, bwd = nn.vjp(lambda mdl, x: mdl(x), mdl, x)
            return bwd(jnp.ones_like(y))

        return nn.jvp(in_params, Energy(name="block"), (x,), (jnp.sin(x),), variable_tangents={"params": tangents})

    first, second = Through(body).apply(INSIDE, X)
    slopes = lambda p, x: (lambda a, b: ({"params": a}, b))(*jax.grad(energy, argnums=(0, 1))(p, x))
    want = jax.jvp(slopes, (PARAMS, X), (tangents, jnp.sin(X)))
    assert_trees_close((first, second), want, CLOSE)


def test_mixed_partials_agree():
    """∂²/∂x∂p from either side: `vjp` in the variables of a `grad` in x, and `jvp` in x of a `vjp` in the variables."""

    def x_then_p(self, x):
        slope = lambda mdl, x: jnp.sum(nn.grad(lambda mdl, x: mdl(x), mdl, x)[0] * jnp.asarray([1.0, 2.0]))
        y, bwd = nn.vjp(slope, Energy(name="block"), x)
        return bwd(jnp.ones_like(y))[0]["params"]

    def p_then_x(self, x):
        def in_params(mdl, x):
            y, bwd = nn.vjp(lambda mdl, x: mdl(x), mdl, x)
            return bwd(jnp.ones_like(y))[0]["params"]

        block = Energy(name="block")
        return nn.jvp(in_params, block, (x,), (jnp.asarray([1.0, 2.0]),), variable_tangents={})[1]

    got, other = (Through(body).apply(INSIDE, X) for body in (x_then_p, p_then_x))
    assert_trees_close(got, other, CLOSE)
    want = jax.grad(lambda p: jnp.sum(jax.grad(energy, argnums=1)(p, X) * jnp.asarray([1.0, 2.0])))(PARAMS)
    assert_trees_close(got, want, CLOSE)


def test_backward_map_differentiates_and_maps():
    """The map that `nn.vjp` returns is a function like any other: linear, differentiable, mappable, and a pytree."""

    def body(self, x):
        y, bwd = nn.vjp(lambda mdl, x: jnp.tanh(mdl(x)), nn.Dense(2, name="dense"), x)
        rows = jax.vmap(bwd)(jnp.eye(2))
        through_jit = jax.jit(lambda bwd, ct: bwd(ct))(bwd, y)
        pushed = jax.jvp(bwd, (y,), (jnp.ones_like(y),))[1]
        return y, rows, through_jit, pushed, bwd(y), bwd(jnp.ones_like(y))

    variables = Through(body).init(KEY, X)
    p = variables["params"]["dense"]
    y, rows, through_jit, pushed, at_y, at_ones = Through(body).apply(variables, X)
    f = lambda p, x: jnp.tanh(x @ p["kernel"] + p["bias"])
    p_rows, x_rows = jax.jacrev(f, argnums=(0, 1))(p, X)
    assert_trees_close(rows, ({"params": p_rows}, x_rows), CLOSE)
    assert_trees_close(through_jit, at_y, CLOSE)
    assert_trees_close(pushed, at_ones, CLOSE)
    assert_trees_close(y, f(p, X), CLOSE)


def test_backward_map_leaves_the_module():
    """Returned from a jitted `apply`, it works outside, under jit and vmap, and twice."""

    def body(self, x):
        return nn.vjp(lambda mdl, x: jnp.tanh(mdl(x)), nn.Dense(2, name="dense"), x)

    model = Through(lambda self, x: nn.Dense(2, name="dense")(x))
    variables = model.init(KEY, X)
    p = variables["params"]["dense"]
    y, bwd = jax.jit(Through(body).apply)(variables, X)
    want_y, want_bwd = jax.vjp(lambda p, x: jnp.tanh(x @ p["kernel"] + p["bias"]), p, X)
    rows = jax.vmap(want_bwd)(jnp.eye(2))
    assert_trees_close(y, want_y, CLOSE)
    for call in (bwd, jax.jit(bwd), lambda ct: jax.jit(lambda b, ct: b(ct))(bwd, ct)):
        p_ct, x_ct = jax.vmap(call)(jnp.eye(2))
        assert_trees_close((p_ct["params"], x_ct), rows, CLOSE)


def test_scope_functions_to_order_3():
    """The same on scopes: d³/dx³ of `w sin(x)`, by three transforms, is `-w cos(x)`."""

    def f(scope, x):
        return scope.param("w", nn.initializers.constant(3.0), ()) * jnp.sin(x)

    def third(scope, x):
        one = lambda scope, x: lift.grad(f, scope, x)[0]
        two = lambda scope, x: lift.jvp(one, scope, (x,), (jnp.ones(()),), variable_tangents={})[1]
        y, bwd = lift.vjp(two, scope, x)
        return bwd(jnp.ones_like(y))

    x = jnp.asarray(0.3)
    out, variables = core.init(third)(KEY, x)
    want = {"params": {"w": -jnp.sin(x)}}, -3 * jnp.cos(x)
    assert_trees_close(out, want, 1e-5)
    assert_trees_close(core.apply(third)(variables, x), want, 1e-5)
    np.testing.assert_array_equal(variables["params"]["w"], 3.0)
