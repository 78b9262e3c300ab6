"""`nn.custom_vjp`: state, rngs, keywords, constants, nesting and targets, inside the transforms of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.cells import assert_trees_close, fold, scaled

from liftax import core, errors, lift, nn

X = jnp.asarray([[1.0, -2.0], [0.5, 3.0], [2.0, 0.25]])
CLOSE = 1e-5


def out(mdl, *args):
    return mdl(*args)


def forward(mdl, *args):
    return nn.vjp(out, mdl, *args)


def times(params_factor, x_factor):
    """Return a backward rule that scales what JAX would find."""

    def backward(bwd, ct):
        params_ct, x_ct = bwd(ct)
        return scaled(params_factor, params_ct), scaled(x_factor, x_ct)

    return backward


class Through(nn.Module):
    """Hands itself and what it is called with to `body`, in a compact method."""

    body: object

    @nn.compact
    def __call__(self, *args):
        return self.body(self, *args)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jnp.tanh(nn.BatchNorm(use_running_average=False, momentum=0.5)(nn.Dense(2)(x)))


class Noisy(nn.Module):
    """Writes state and draws from a stream."""

    @nn.compact
    def __call__(self, x):
        h = nn.Dropout(0.5, deterministic=False)(nn.Dense(2)(x))
        mean = self.variable("batch_stats", "mean", lambda: jnp.zeros(2))
        if not self.is_initializing():
            mean.value = 0.5 * mean.value + 0.5 * jnp.mean(h, 0)
        return jnp.tanh(h)


def noisy_by_hand(variables, x, key):
    """`Noisy`, named 'block', on explicit variables: `(y, new mean)`."""
    p = variables["params"]["block"]["Dense_0"]
    kept = jax.random.bernoulli(fold(key, "block", "Dropout_0", 1), 0.5, (*x.shape[:-1], 2))
    h = jnp.where(kept, 2 * (x @ p["kernel"] + p["bias"]), 0.0)
    return jnp.tanh(h), 0.5 * variables["batch_stats"]["block"]["mean"] + 0.5 * jnp.mean(h, 0)


NOISY = {
    "params": {
        "block": {"Dense_0": {"kernel": jnp.asarray([[1.0, 0.5], [-0.25, 2.0]]), "bias": jnp.asarray([0.1, -0.2])}}
    },
    "batch_stats": {"block": {"mean": jnp.asarray([1.0, 2.0])}},
}
NOISY_RULE = nn.custom_vjp(out, forward, times(2.0, 3.0))
NOISY_MODEL = Through(lambda self, x: NOISY_RULE(Noisy(name="block"), x))


def noisy(variables, x, key):
    """The module's side of `noisy_by_hand`, with the rule that doubles and trebles."""
    y, state = NOISY_MODEL.apply(variables, x, rngs={"dropout": key}, mutable=["batch_stats"])
    return y, state["batch_stats"]["block"]["mean"]


@jax.custom_vjp
def noisy_reference(variables, x, key):
    y, mean = noisy_by_hand(variables, x, key)
    return y, mean


def _reference_forward(variables, x, key):
    y, bwd, mean = jax.vjp(
        lambda p, x: noisy_by_hand({**variables, "params": p}, x, key), variables["params"], x, has_aux=True
    )
    return (y, mean), bwd


def _reference_backward(bwd, cts):
    p_ct, x_ct = bwd(cts[0])
    return {"params": scaled(2.0, p_ct), "batch_stats": None}, 3.0 * x_ct, None


noisy_reference.defvjp(_reference_forward, _reference_backward)

KEY = jax.random.key(4)
XS, KEYS = jnp.stack([X, -2 * X]), jax.random.split(KEY, 2)


def around_scan(f):
    def scanned(variables, xs, keys):
        def step(mean, row):
            y, mean = f({**variables, "batch_stats": {"block": {"mean": mean}}}, *row)
            return mean, y

        mean, ys = jax.lax.scan(step, variables["batch_stats"]["block"]["mean"], (xs, keys))
        return ys, mean

    return scanned


AROUND = {
    "eager": (lambda f: f, X, KEY),
    "jit": (jax.jit, X, KEY),
    "checkpoint": (jax.checkpoint, X, KEY),
    "jit of checkpoint": (lambda f: jax.jit(jax.checkpoint(f)), X, KEY),
    "vmap": (lambda f: jax.vmap(f, (None, 0, 0)), XS, KEYS),
    "map": (lambda f: lambda v, xs, keys: jax.lax.map(lambda row: f(v, *row), (xs, keys)), XS, KEYS),
    "scan": (around_scan, XS, KEYS),
    "cond": (
        lambda f: lambda v, x, key: jax.lax.cond(x[0, 0] > 0, f, lambda v, x, key: f(v, 2 * x, key), v, x, key),
        X,
        KEY,
    ),
    "vmap of jit": (lambda f: jax.vmap(jax.jit(f), (None, 0, 0)), XS, KEYS),
    "scan of checkpoint": (lambda f: around_scan(jax.checkpoint(f)), XS, KEYS),
}


def noisy_loss(f, name):
    """Return a scalar function of variables and `x`, with `f` inside the transform called `name`, and that `x`."""
    wrap, x, key = AROUND[name]
    g = wrap(f)

    def loss(variables, x):
        y, mean = g(variables, x, key)
        return jnp.sum(y**3), (y, mean)

    return loss, x


def noisy_gradient(f, name, jit):
    """Return value, output, new state, and gradients to variables and `x`, of `noisy_loss(f, name)`."""
    loss, x = noisy_loss(f, name)
    grad = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    return (jax.jit(grad) if jit else grad)(NOISY, x)


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("jit", [False, True], ids=["eager grad", "jit of grad"])
def test_state_and_rngs_under_raw_transforms(name, jit):
    """Outputs, new state, dropout mask and the rule's own gradient; the caller differentiates all variables."""
    results = [noisy_gradient(f, name, jit) for f in (noisy, noisy_reference)]
    assert_trees_close(*results, 5 * CLOSE)
    (_, (y, _)), (grads, x_grad) = results[0]
    assert jnp.any(y == 0) and jnp.any(x_grad != 0)
    assert not jnp.any(grads["batch_stats"]["block"]["mean"])  # outside grad_vars: a constant
    assert jnp.any(grads["params"]["block"]["Dense_0"]["kernel"] != 0)


def test_one_dropout_mask_however_it_is_traced():
    """The mask of a plain call, of jit, of grad of jit and of jit of grad is one: Linen's first draw."""
    loss = lambda v, x: (jnp.sum(noisy(v, x, KEY)[0]), noisy(v, x, KEY)[0])
    want, _ = noisy_by_hand(NOISY, X, KEY)
    jitted = jax.jit(loss)
    masks = [
        noisy(NOISY, X, KEY)[0],
        jitted(NOISY, X)[1],
        jax.value_and_grad(jitted, has_aux=True)(NOISY, X)[0][1],
        jax.jit(jax.value_and_grad(loss, has_aux=True))(NOISY, X)[0][1],
        jax.value_and_grad(jax.checkpoint(loss), has_aux=True)(NOISY, X)[0][1],
        jax.vjp(lambda x: loss(NOISY, x)[1], X)[0],
    ]
    for got in masks:
        assert_trees_close(got, want)
    assert_trees_close(jitted(NOISY, X)[1], want)  # after the gradient was traced, too


def test_draws_after_the_rule_continue_where_it_stopped():
    """Whether or not a gradient is taken, the next draw from the target's stream is the same."""

    class Drawing(nn.Module):
        def __call__(self, x):
            return x * jax.random.normal(self.make_rng("noise"), x.shape)

    def body(self, x):
        mdl = Drawing(name="block")
        y = nn.custom_vjp(out, forward, times(1.0, 1.0))(mdl, x)
        return y, mdl(x)

    f = lambda x: Through(body).apply({}, x, rngs={"noise": KEY})
    want = tuple(X * jax.random.normal(fold(KEY, "block", count), X.shape) for count in (1, 2))
    assert_trees_close(f(X), want)
    assert_trees_close(jax.jit(f)(X), want)
    assert_trees_close(jax.vjp(f, X)[0], want)
    assert_trees_close(jax.vjp(jax.jit(f), X)[0], want)


# --- arguments -------------------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """A product of everything it is called with."""

    @nn.compact
    def __call__(self, x, power, scale):
        return scale * nn.Dense(2, use_bias=False)(x) ** power


def mixed_gradients(model, variables, x, *rest):
    return jax.grad(lambda v, x: jnp.sum(model.apply(v, x, *rest)), argnums=(0, 1))(variables, x)


@pytest.mark.parametrize("nondiff", [(2,), 2, (-2,), -2], ids=str)
def test_nondiff_argnums_count_the_module_as_argument_0(nondiff):
    seen = []

    def fwd(mdl, x, power, scale):
        return nn.vjp(lambda mdl, x, scale: mdl(x, power, scale), mdl, x, scale)

    def bwd(power, vjp_fn, ct):
        seen.append(power)
        params_ct, x_ct, scale_ct = vjp_fn(ct)
        return params_ct, 2 * x_ct, 5 * scale_ct

    rule = nn.custom_vjp(out, fwd, bwd, nondiff_argnums=nondiff)
    model = Through(lambda self, x, power, scale: rule(Mixed(name="block"), x, power, scale))
    scale = jnp.asarray([0.5, 2.0])
    variables = model.init(KEY, X, 3, scale)
    kernel = variables["params"]["block"]["Dense_0"]["kernel"]
    plain = jax.grad(lambda k, x, s: jnp.sum(s * (x @ k) ** 3), argnums=(0, 1, 2))(kernel, X, scale)
    got = jax.grad(lambda v, x, s: jnp.sum(model.apply(v, x, 3, s)), argnums=(0, 1, 2))(variables, X, scale)
    want = {"params": {"block": {"Dense_0": {"kernel": plain[0]}}}}, 2 * plain[1], 5 * plain[2]
    assert_trees_close(got, want, CLOSE)
    assert seen and all(type(power) is int for power in seen)  # static, as it was given


@pytest.mark.parametrize("nondiff", [(2, 3), (3, 2), [-1, -2], (2, -1), (-2, 3)], ids=str)
def test_several_nondiff_argnums_come_in_the_order_of_the_arguments(nondiff):
    seen = []

    def fwd(mdl, x, power, name):
        return nn.vjp(lambda mdl, x: mdl(x, power, 1.0), mdl, x)

    def bwd(power, name, vjp_fn, ct):
        seen.append((power, name))
        return vjp_fn(scaled(10.0, ct))

    rule = nn.custom_vjp(lambda mdl, x, power, name: mdl(x, power, 1.0), fwd, bwd, nondiff_argnums=nondiff)
    model = Through(lambda self, x: rule(Mixed(name="block"), x, 2, "relu"))
    variables = model.init(KEY, X)
    kernel = variables["params"]["block"]["Dense_0"]["kernel"]
    want = jax.grad(lambda k, x: 10 * jnp.sum((x @ k) ** 2), argnums=(0, 1))(kernel, X)
    got, x_ct = mixed_gradients(model, variables, X)
    assert_trees_close((got["params"]["block"]["Dense_0"]["kernel"], x_ct), want, CLOSE)
    assert set(seen) == {(2, "relu")}


def test_keywords_reach_fn_and_forward_fn():
    seen = []

    def fn(mdl, x, *, power, scale=1.0):
        seen.append(("fn", power, scale))
        return mdl(x, power, scale)

    def fwd(mdl, x, *, power, scale=1.0):
        seen.append(("forward_fn", power, scale))
        return nn.vjp(lambda mdl, x: mdl(x, power, scale), mdl, x)

    rule = nn.custom_vjp(fn, fwd, times(2.0, 3.0))
    model = Through(lambda self, x: rule(Mixed(name="block"), x, power=2, scale=7.0))
    variables = model.init(KEY, X)
    kernel = variables["params"]["block"]["Dense_0"]["kernel"]
    f = lambda k, x: jnp.sum(7 * (x @ k) ** 2)
    p_ct, x_ct = jax.grad(f, argnums=(0, 1))(kernel, X)
    assert_trees_close(jnp.sum(model.apply(variables, X)), f(kernel, X), CLOSE)
    got, got_x = mixed_gradients(model, variables, X)
    assert_trees_close((got["params"]["block"]["Dense_0"]["kernel"], got_x), (2 * p_ct, 3 * x_ct), CLOSE)
    assert {name for name, power, scale in seen if (power, scale) == (2, 7.0)} == {"fn", "forward_fn"}


def test_keyword_array_is_a_constant():
    """An array that nobody differentiates may come as a keyword, traced or not, and gets no cotangent."""
    fn = lambda mdl, x, mask: mdl(x) * mask
    rule = nn.custom_vjp(fn, lambda mdl, x, mask: nn.vjp(lambda m, x: fn(m, x, mask), mdl, x), times(2.0, 3.0))
    model = Through(lambda self, x, mask: rule(nn.Dense(2, name="block"), x, mask=mask))
    mask = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    variables = model.init(KEY, X, mask)
    kernel = variables["params"]["block"]["kernel"]
    loss = lambda x, mask: jnp.sum(model.apply(variables, x, mask) ** 2)
    want = jax.grad(lambda x: 3 * jnp.sum(((x @ kernel) * mask) ** 2))(X)
    for grad in (jax.grad(loss), jax.jit(jax.grad(loss)), jax.grad(jax.jit(loss)), jax.grad(jax.checkpoint(loss))):
        assert_trees_close(grad(X, mask), want, CLOSE)
    batched = jax.vmap(jax.grad(loss), (None, 0))(X, jnp.stack([mask, jnp.ones_like(mask)]))
    assert_trees_close(batched[0], want, CLOSE)


@pytest.mark.parametrize("which", ["params", "x", "both"])
def test_none_is_no_cotangent(which):
    def bwd(vjp_fn, ct):
        params_ct, x_ct = vjp_fn(ct)
        return None if which in ("params", "both") else params_ct, None if which in ("x", "both") else x_ct

    rule = nn.custom_vjp(out, forward, bwd)
    model = Through(lambda self, x: rule(nn.Dense(2, name="block"), x))
    variables = model.init(KEY, X)
    plain = jax.grad(lambda v, x: jnp.sum(nn.Dense(2).apply({"params": v["params"]["block"]}, x) ** 2), argnums=(0, 1))
    want_v, want_x = plain(variables, X)
    if which != "x":
        want_v = scaled(0.0, want_v)
    if which != "params":
        want_x = 0 * want_x
    for wrap in (lambda f: f, jax.jit):
        got = jax.grad(wrap(lambda v, x: jnp.sum(model.apply(v, x) ** 2)), argnums=(0, 1))(variables, X)
        assert_trees_close(got, (want_v, want_x), CLOSE)


def test_none_for_one_leaf_or_one_collection():
    """`None` may stand for a part of a tree."""

    def bwd(vjp_fn, ct):
        (params_ct, x_ct) = vjp_fn(ct)
        return {"params": {"kernel": params_ct["params"]["kernel"], "bias": None}}, x_ct

    model = Through(lambda self, x: nn.custom_vjp(out, forward, bwd)(nn.Dense(2, name="block"), x))
    variables = model.init(KEY, X)
    got = jax.grad(lambda v: jnp.sum(model.apply(v, X)))(variables)["params"]["block"]
    assert_trees_close(got, {"kernel": jnp.broadcast_to(X.sum(0)[:, None], (2, 2)), "bias": jnp.zeros(2)}, CLOSE)


@pytest.mark.parametrize("given", [{"params": None}, {"params": {"inner": None, "own": None}}, {}], ids=str)
def test_none_for_all_variables_of_a_target_that_shares_some(given):
    """`None` above what belongs to several scopes is zero for all of them; what is left out is an error."""
    rule = nn.custom_vjp(out, forward, lambda vjp_fn, ct: (given, vjp_fn(ct)[1]))

    def body(self, x):
        dense = nn.Dense(2)
        return rule(Outer(inner=dense, name="outer"), dense(x))

    model = Through(body)
    variables = model.init(KEY, X)
    loss = jax.grad(lambda v: jnp.sum(model.apply({"params": {"Dense_0": variables["params"]["Dense_0"], **v}}, X)))
    rest = {"outer": variables["params"]["outer"]}
    if given:
        assert_trees_close(loss(rest), scaled(0.0, rest), 0)
    else:
        with pytest.raises(errors.CotangentError, match="no cotangent for params"):
            loss(rest)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("kind", ["map", "None", "float0"])
def test_arguments_without_a_derivative(kind, jit):
    """Integers and keys: their cotangents are what `nn.vjp` gives, `None` or an array of `float0`."""

    class Picked(nn.Module):
        @nn.compact
        def __call__(self, i, key):
            return nn.Embed(4, 3)(i) * jax.random.normal(key)

    ids, key = jnp.array([0, 2]), jax.random.key(1)

    def bwd(vjp_fn, ct):
        params_ct, *cts = vjp_fn(ct)
        return params_ct, *{"map": cts, "None": [None, None], "float0": [np.zeros(2, jax.dtypes.float0), None]}[kind]

    model = Through(lambda self, i, key: nn.custom_vjp(out, forward, bwd)(Picked(name="block"), i, key))
    variables = model.init(KEY, ids, key)
    plain = lambda v: jnp.sum(Picked().apply({"params": v["params"]["block"]}, ids, key) ** 2)
    grad = jax.grad(lambda v: jnp.sum(model.apply(v, ids, key) ** 2))
    assert_trees_close((jax.jit(grad) if jit else grad)(variables), jax.grad(plain)(variables), CLOSE)


def test_cotangents_of_numpy():
    model = Through(
        lambda self, x: nn.custom_vjp(out, forward, lambda _, ct: (None, np.ones((3, 2), "f")))(nn.Dense(2), x)
    )
    x = jnp.ones((3, 2))
    assert_trees_close(jax.grad(lambda x: jnp.sum(model.apply(model.init(KEY, x), x)))(x), np.ones((3, 2)), 0)


def test_pytree_arguments_and_outputs_with_integers():
    """Integers pass through, in and out, and take no cotangent."""

    class Picks(nn.Module):
        @nn.compact
        def __call__(self, batch):
            y = nn.Dense(2)(batch["x"])[batch["rows"]]
            return {"y": y, "best": jnp.argmax(y, -1)}

    def bwd(vjp_fn, ct):
        params_ct, batch_ct = vjp_fn(ct)
        return scaled(2.0, params_ct), {"x": 3 * batch_ct["x"], "rows": None}

    model = Through(lambda self, batch: nn.custom_vjp(out, forward, bwd)(Picks(name="block"), batch))
    rows = jnp.asarray([2, 0, 2])
    variables = model.init(KEY, {"x": X, "rows": rows})
    kernel = variables["params"]["block"]["Dense_0"]["kernel"]

    def loss(v, x):
        result = model.apply(v, {"x": x, "rows": rows})
        return jnp.sum(result["y"] ** 2), result["best"]

    (got, got_x), best = jax.grad(loss, argnums=(0, 1), has_aux=True)(variables, X)
    want = jax.grad(lambda k, x: jnp.sum((x @ k)[rows] ** 2), argnums=(0, 1))(kernel, X)
    assert_trees_close((got["params"]["block"]["Dense_0"]["kernel"], got_x), (2 * want[0], 3 * want[1]), CLOSE)
    assert_trees_close(best, jnp.argmax((X @ kernel)[rows], -1))


# --- residuals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["eager", "jit", "checkpoint"])
def test_residuals_may_be_any_tree_and_static_values(wrap):
    """A backward map, arrays, None, and what is no array at all: a string, a function, a number, a shape."""
    seen = []

    def fwd(mdl, x):
        y, vjp_fn = nn.vjp(out, mdl, x)
        return y, {"vjp": vjp_fn, "norm": jnp.sum(x**2), "mode": "double", "fn": jnp.sign, "n": 3, "none": None}

    def bwd(res, ct):
        seen.append((res["mode"], res["n"], res["none"]))
        params_ct, x_ct = res["vjp"](ct)
        assert res["mode"] == "double"
        return jax.tree.map(res["fn"], params_ct), res["n"] * x_ct + res["norm"]

    model = Through(lambda self, x: nn.custom_vjp(out, fwd, bwd)(nn.Dense(2, name="block"), x))
    variables = model.init(KEY, X)
    kernel = variables["params"]["block"]["kernel"]
    got, got_x = jax.grad(wrap(lambda v, x: jnp.sum(model.apply(v, x))), argnums=(0, 1))(variables, X)
    want = {"kernel": jnp.broadcast_to(jnp.sign(X.sum(0))[:, None], (2, 2)), "bias": jnp.ones(2)}
    assert_trees_close(got["params"]["block"], want, CLOSE)
    assert_trees_close(got_x, 3 * jnp.ones((3, 2)) @ kernel.T + jnp.sum(X**2), CLOSE)
    assert seen and all(s[:1] == ("double",) and s[2] is None for s in seen)


def test_variables_as_residual():
    """The module is not at hand in the backward pass: a snapshot of its variables is."""

    def fwd(mdl, x):
        return mdl(x), (mdl.variables["params"], x)

    def bwd(res, ct):
        params, x = res
        return {"params": {"kernel": x.T @ ct, "bias": ct.sum(0)}}, 10 * ct @ params["kernel"].T

    model = Through(lambda self, x: nn.custom_vjp(out, fwd, bwd)(nn.Dense(2, name="block"), x))
    variables = model.init(KEY, X)
    got, got_x = jax.grad(lambda v, x: jnp.sum(model.apply(v, x) ** 2), argnums=(0, 1))(variables, X)
    plain = Through(lambda self, x: nn.Dense(2, name="block")(x))
    want, want_x = jax.grad(lambda v, x: jnp.sum(plain.apply(v, x) ** 2), argnums=(0, 1))(variables, X)
    assert_trees_close((got, got_x), (want, 10 * want_x), CLOSE)


# --- state -----------------------------------------------------------------------------------------------------------


class Counting(nn.Module):
    """Reads a constant, writes a count."""

    @nn.compact
    def __call__(self, x):
        count = self.variable("counts", "n", lambda: jnp.zeros(()))
        scale = self.variable("consts", "scale", lambda: jnp.ones(()))
        if not self.is_initializing():
            count.value = count.value + 1.0
        return scale.value * nn.Dense(2)(x)


def test_only_written_state_is_published():
    """What the rule did not write stays the caller's own: a later plain use keeps its whole gradient."""

    def body(self, x):
        mdl = Counting(name="block")
        y = nn.custom_vjp(out, forward, times(0.0, 0.0))(mdl, x)
        return y, mdl(2 * x)

    model = Through(body)
    variables = model.init(KEY, X)
    variables = {**variables, "consts": {"block": {"scale": jnp.asarray(3.0)}}}
    p = variables["params"]["block"]["Dense_0"]

    def loss(v, x):
        (y, z), state = model.apply(v, x, mutable=["counts", "params", "consts"])
        return jnp.sum(y) + jnp.sum(z**2), state

    def by_hand(p, scale, x):
        return jnp.sum((scale * ((2 * x) @ p["kernel"] + p["bias"])) ** 2)

    (got, got_x), state = jax.grad(loss, argnums=(0, 1), has_aux=True)(variables, X)
    want_p, want_scale, want_x = jax.grad(by_hand, argnums=(0, 1, 2))(p, jnp.asarray(3.0), X)
    assert_trees_close(got["params"]["block"]["Dense_0"], want_p, CLOSE)
    assert_trees_close(got["consts"]["block"]["scale"], want_scale, CLOSE)
    assert_trees_close(got_x, want_x, CLOSE)
    assert_trees_close(state["counts"]["block"]["n"], 2.0)


def test_written_state_without_cotangent_is_fine():
    """Taking the new state along as auxiliary data needs no rule for it."""
    model = Through(lambda self, x: nn.custom_vjp(out, forward, times(2.0, 3.0))(Normed(name="block"), x))
    plain = Through(lambda self, x: Normed(name="block")(x))
    variables = model.init(KEY, X)

    def gradients(model, wrap):
        loss = lambda v, x: (lambda y, state: (jnp.sum(y**3), state))(*model.apply(v, x, mutable=["batch_stats"]))
        return jax.grad(wrap(loss), argnums=(0, 1), has_aux=True)(variables, X)

    (want, want_x), want_state = gradients(plain, lambda f: f)
    for wrap in (lambda f: f, jax.jit):
        (got, got_x), state = gradients(model, wrap)
        assert_trees_close(got["params"], scaled(2.0, want["params"]), CLOSE)
        assert_trees_close((got_x, state), (3 * want_x, want_state), CLOSE)


def test_stop_gradient_on_written_state_is_fine():
    model = Through(lambda self, x: nn.custom_vjp(out, forward, times(1.0, 1.0))(Normed(name="block"), x))
    variables = model.init(KEY, X)

    def loss(v, x):
        y, state = model.apply(v, x, mutable=["batch_stats"])
        return jnp.sum(y**3) + sum(jnp.sum(s) for s in jax.tree.leaves(jax.lax.stop_gradient(state)))

    want = jax.grad(lambda v, x: jnp.sum(model.apply(v, x, mutable=["batch_stats"])[0] ** 3), argnums=1)(variables, X)
    assert_trees_close(jax.grad(loss, argnums=1)(variables, X), want, CLOSE)


def with_stats(mdl, x):
    y = mdl(x)
    return y, mdl.variables["batch_stats"]


def stats_forward(mdl, x):
    (y, _), bwd = nn.vjp(with_stats, mdl, x)
    return y, bwd


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["eager", "jit", "checkpoint"])
def test_state_cotangents_reach_the_rule(wrap):
    """The cotangent of written state has the shape of what was written, and the right gradient comes of it."""
    seen = []

    def bwd(vjp_fn, ct, state_ct):
        seen.append(jax.tree.structure(state_ct))
        params_ct, x_ct = vjp_fn((ct, state_ct["batch_stats"]))
        return params_ct, x_ct

    rule = nn.custom_vjp(out, stats_forward, bwd, state_cotangents=True)
    model = Through(lambda self, x: rule(Normed(name="block"), x))
    plain = Through(lambda self, x: Normed(name="block")(x))
    variables = model.init(KEY, X)

    def loss(model):
        def of(v, x):
            y, state = model.apply(v, x, mutable=["batch_stats"])
            stats = state["batch_stats"]["block"]["BatchNorm_0"]
            return jnp.sum(y**3) + jnp.sum(stats["mean"] ** 2) + jnp.sum(jnp.sin(stats["var"]))

        return jax.grad(wrap(of), argnums=(0, 1))(variables, X)

    (got, got_x), (want, want_x) = loss(model), loss(plain)
    assert_trees_close((got["params"], got_x), (want["params"], want_x), CLOSE)
    shape = jax.tree.structure({"batch_stats": {"BatchNorm_0": {"mean": 0, "var": 0}}})
    assert seen and set(seen) == {shape}


@pytest.mark.parametrize("wrap", ["scan", "cond", "jit"])
@pytest.mark.parametrize("used", [False, True])
def test_state_cotangent_that_shows_at_run_time_ends_the_program(wrap, used):
    """Where only the compiled program knows that the state has a cotangent, a dropped gradient is its error."""
    model = Through(lambda self, x: nn.custom_vjp(out, forward, times(1.0, 1.0))(Normed(name="block"), x))
    plain = Through(lambda self, x: Normed(name="block")(x))
    variables = model.init(KEY, X)

    def loss(x, model=model):
        def run(stats, x):
            y, state = model.apply({**variables, "batch_stats": stats}, x, mutable=["batch_stats"])
            return state["batch_stats"], y

        if wrap == "scan":
            stats, y = jax.lax.scan(run, variables["batch_stats"], x[None])
        elif wrap == "jit":
            stats, y = jax.jit(run)(variables["batch_stats"], x)
        else:
            stats, y = jax.lax.cond(x[0, 0] > 0, run, lambda stats, x: run(stats, 2 * x), variables["batch_stats"], x)
        return jnp.sum(y**3) + (sum(jnp.sum(s) for s in jax.tree.leaves(stats)) if used else 0.0)

    if used:
        text = r"batch_stats/BatchNorm_0/(mean|var) at /block[\s\S]*state_cotangents=True"
        with pytest.raises(jax.errors.JaxRuntimeError, match=text):
            jax.block_until_ready(jax.grad(loss)(X))
    else:
        assert_trees_close(jax.grad(loss)(X), jax.grad(lambda x: loss(x, plain))(X), CLOSE)


def test_state_cotangents_of_unused_state_are_zeros():
    def bwd(vjp_fn, ct, state_ct):
        assert_trees_close(state_ct, {"batch_stats": {"BatchNorm_0": {"mean": jnp.zeros(2), "var": jnp.zeros(2)}}})
        return vjp_fn((ct, state_ct["batch_stats"]))

    rule = nn.custom_vjp(out, stats_forward, bwd, state_cotangents=True)
    model = Through(lambda self, x: rule(Normed(name="block"), x))
    plain = Through(lambda self, x: Normed(name="block")(x))
    variables = model.init(KEY, X)
    got, want = (
        jax.grad(lambda x, m=m: jnp.sum(m.apply(variables, x, mutable=["batch_stats"])[0] ** 3))(X)
        for m in (model, plain)
    )
    assert_trees_close(got, want, CLOSE)


def test_state_cotangents_come_after_nondiff_arguments():
    seen = []

    def bwd(power, vjp_fn, ct, state_ct):
        seen.append((power, sorted(state_ct)))
        return vjp_fn((ct, state_ct["batch_stats"]))

    fn = lambda mdl, x, power: mdl(x) ** power
    fwd = lambda mdl, x, power: (lambda r, b: (r[0], b))(
        *nn.vjp(lambda mdl, x: (mdl(x) ** power, mdl.variables["batch_stats"]), mdl, x)
    )
    rule = nn.custom_vjp(fn, fwd, bwd, nondiff_argnums=(2,), state_cotangents=True)
    model = Through(lambda self, x: rule(Normed(name="block"), x, 3))
    variables = model.init(KEY, X)
    plain = Through(lambda self, x: Normed(name="block")(x) ** 3)

    def grad(model):
        def loss(x):
            y, state = model.apply(variables, x, mutable=["batch_stats"])
            return jnp.sum(y) + jnp.sum(state["batch_stats"]["block"]["BatchNorm_0"]["mean"])

        return jax.grad(loss)(X)

    assert_trees_close(grad(model), grad(plain), CLOSE)
    assert seen[0] == (3, ["batch_stats"])


def test_grad_vars_with_statistics():
    """`grad_vars=['params', 'batch_stats']` gives both a cotangent."""

    class Shifted(nn.Module):
        @nn.compact
        def __call__(self, x):
            shift = self.variable("stats", "shift", lambda: jnp.zeros(2))
            return nn.Dense(2)(x) + shift.value

    def gradients(grad_vars):
        fwd = lambda mdl, x: nn.vjp(out, mdl, x, vjp_variables=grad_vars)
        rule = nn.custom_vjp(out, fwd, times(2.0, 3.0), grad_vars=grad_vars)
        model = Through(lambda self, x: rule(Shifted(name="block"), x))
        variables = {**model.init(KEY, X), "stats": {"block": {"shift": jnp.ones(2)}}}
        return jax.grad(lambda v: jnp.sum(model.apply(v, X)))(variables)

    both = gradients(["params", "stats"])
    assert_trees_close(both["stats"]["block"]["shift"], jnp.full(2, 6.0))
    assert_trees_close(both["params"]["block"]["Dense_0"]["bias"], jnp.full(2, 6.0))
    one = gradients("stats")
    assert_trees_close(one["stats"]["block"]["shift"], jnp.full(2, 6.0))
    assert_trees_close(one["params"]["block"]["Dense_0"]["bias"], jnp.zeros(2))


# --- nesting and targets ---------------------------------------------------------------------------------------------


def test_rule_within_a_rule():
    """The inner rule serves the outer one's `nn.vjp`; each applies once."""
    inner = nn.custom_vjp(out, forward, times(2.0, 3.0))
    outer_fn = lambda mdl, x: jnp.sin(inner(mdl, x))
    outer = nn.custom_vjp(outer_fn, lambda mdl, x: nn.vjp(outer_fn, mdl, x), times(5.0, 7.0))
    model = Through(lambda self, x: outer(nn.Dense(2, name="block"), x))
    variables = model.init(KEY, X)
    plain = Through(lambda self, x: jnp.sin(nn.Dense(2, name="block")(x)))
    want, want_x = jax.grad(lambda v, x: jnp.sum(plain.apply(v, x)), argnums=(0, 1))(variables, X)
    for wrap in (lambda f: f, jax.jit, jax.checkpoint):
        got = jax.grad(wrap(lambda v, x: jnp.sum(model.apply(v, x))), argnums=(0, 1))(variables, X)
        assert_trees_close(got, (scaled(10.0, want), 21 * want_x), CLOSE)


def test_rule_differentiated_by_lifted_transforms():
    rule = nn.custom_vjp(out, forward, times(2.0, 3.0))

    def body(self, x):
        mdl = nn.Dense(2, name="block")
        fn = lambda mdl, x: jnp.sum(rule(mdl, x) ** 2)
        y, bwd = nn.vjp(fn, mdl, x)
        return y, bwd(jnp.ones(())), nn.grad(fn, mdl, x), nn.value_and_grad(fn, mdl, x)

    model = Through(body)
    variables = model.init(KEY, X)
    p = variables["params"]["block"]
    y, (p_ct, x_ct) = (lambda y, b: (y, b(jnp.ones(()))))(
        *jax.vjp(lambda p, x: jnp.sum((x @ p["kernel"] + p["bias"]) ** 2), p, X)
    )
    want = y, ({"params": scaled(2.0, p_ct)}, 3 * x_ct), (3 * x_ct,), (y, (3 * x_ct,))
    assert_trees_close(model.apply(variables, X), want, CLOSE)
    assert_trees_close(jax.jit(model.apply)(variables, X), want, CLOSE)


class Outer(nn.Module):
    """A module around one that lives elsewhere."""

    inner: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="own")(jnp.tanh(self.inner(x)))


def test_shared_submodule_appears_under_its_field():
    trees = []

    def bwd(vjp_fn, ct):
        params_ct, x_ct = vjp_fn(ct)
        trees.append(jax.tree.structure(params_ct))
        return scaled(2.0, params_ct), 3 * x_ct

    def body(self, x):
        dense = nn.Dense(2)
        x = dense(x)
        return nn.custom_vjp(out, forward, bwd)(Outer(inner=dense, name="outer"), x)

    model = Through(body)
    variables = model.init(KEY, X)
    assert set(variables["params"]) == {"Dense_0", "outer"} and set(variables["params"]["outer"]) == {"own"}
    leaf = {"kernel": 0, "bias": 0}

    def by_hand(p, x):
        layer = lambda q, x: x @ q["kernel"] + q["bias"]
        rule = jax.custom_vjp(lambda p, x: layer(p["own"], jnp.tanh(layer(p["inner"], x))))

        def fwd(p, x):
            return jax.vjp(rule.fun, p, x)

        rule.defvjp(fwd, lambda bwd, ct: (lambda a, b: (scaled(2.0, a), 3 * b))(*bwd(ct)))
        return jnp.sum(rule({"inner": p["Dense_0"], "own": p["outer"]["own"]}, layer(p["Dense_0"], x)) ** 2)

    want = jax.grad(by_hand, argnums=(0, 1))(variables["params"], X)
    got, got_x = jax.grad(lambda v, x: jnp.sum(model.apply(v, x) ** 2), argnums=(0, 1))(variables, X)
    assert_trees_close((got["params"], got_x), want, CLOSE)
    assert set(trees) == {jax.tree.structure({"params": {"inner": leaf, "own": leaf}})}


def test_shared_submodule_without_own_parameters():
    """`Wrap(inner=Dense_0)` gives `{'params': {'inner': …}}`."""

    class Wrap(nn.Module):
        inner: nn.Module

        def __call__(self, x):
            return self.inner(x) ** 2

    def body(self, x):
        dense = nn.Dense(2)
        dense(x)
        y, bwd = nn.vjp(out, Wrap(inner=dense), x)
        return bwd(jnp.ones_like(y))[0]

    made, variables = Through(body).init_with_output(KEY, X)
    p = variables["params"]["Dense_0"]
    want = jax.grad(lambda p: jnp.sum((X @ p["kernel"] + p["bias"]) ** 2))(p)
    assert_trees_close(made, {"params": {"inner": want}}, CLOSE)
    assert_trees_close(Through(body).apply(variables, X), {"params": {"inner": want}}, CLOSE)


@pytest.mark.parametrize("tree", ["tuple", "list", "dict"])
def test_tree_of_modules_as_target(tree):
    """`fn` gets the tree, and the cotangents of the variables come in a tree of the same form."""

    def body(self, x):
        a, b = nn.Dense(2, name="a"), nn.Dense(2, name="b")
        target = {"tuple": (a, b), "list": [a, b], "dict": {"first": a, "second": b}}[tree]

        def fn(target, x):
            first, second = target.values() if tree == "dict" else target
            return second(jnp.tanh(first(x)))

        def fwd(target, x):
            return nn.vjp(fn, target, x)

        def bwd(vjp_fn, ct):
            cts, x_ct = vjp_fn(ct)
            assert type(cts) is type(target)
            parts = list(cts.values()) if tree == "dict" else cts
            assert [set(part) for part in parts] == [{"params"}, {"params"}]
            return scaled(2.0, cts), 3 * x_ct

        return nn.custom_vjp(fn, fwd, bwd)(target, x)

    model = Through(body)
    variables = model.init(KEY, X)
    layer = lambda q, x: x @ q["kernel"] + q["bias"]
    want = jax.grad(lambda p, x: jnp.sum(layer(p["b"], jnp.tanh(layer(p["a"], x))) ** 2), argnums=(0, 1))(
        variables["params"], X
    )
    got, got_x = jax.grad(lambda v, x: jnp.sum(model.apply(v, x) ** 2), argnums=(0, 1))(variables, X)
    assert_trees_close((got["params"], got_x), (scaled(2.0, want[0]), 3 * want[1]), CLOSE)


def test_scope_as_target():
    def fn(scope, x):
        return scope.param("w", nn.initializers.ones, (2,)) * x

    def bwd(vjp_fn, ct):
        params_ct, x_ct = vjp_fn(ct)
        return scaled(2.0, params_ct), 3 * x_ct

    rule = lift.custom_vjp(fn, lambda scope, x: lift.vjp(fn, scope, x), bwd)
    _, variables = core.init(rule)(KEY, X)
    assert_trees_close(variables, {"params": {"w": jnp.ones(2)}})
    got, got_x = jax.grad(lambda v, x: jnp.sum(core.apply(rule)(v, x) ** 2), argnums=(0, 1))(variables, X)
    want, want_x = jax.grad(lambda w, x: jnp.sum((w * x) ** 2), argnums=(0, 1))(jnp.ones(2), X)
    assert_trees_close((got, got_x), ({"params": {"w": 2 * want}}, 3 * want_x), CLOSE)


def test_rule_runs_fn_alone_where_nothing_is_differentiated():
    calls = []

    def fn(mdl, x):
        calls.append("fn")
        return mdl(x)

    def fwd(mdl, x):
        calls.append("forward_fn")
        return nn.vjp(out, mdl, x)

    model = Through(lambda self, x: nn.custom_vjp(fn, fwd, lambda bwd, ct: bwd(ct))(nn.Dense(2), x))
    variables = model.init(KEY, X)
    assert set(calls) == {"fn"}
    calls.clear()
    model.apply(variables, X)
    assert calls == ["fn"]
    jax.grad(lambda v: jnp.sum(model.apply(v, X)))(variables)
    assert "forward_fn" in calls


def test_no_forward_mode():
    """JAX has no forward mode of a reverse rule, and says so."""
    model = Through(lambda self, x: nn.custom_vjp(out, forward, times(1.0, 1.0))(nn.Dense(2), x))
    variables = model.init(KEY, X)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: model.apply(variables, x), (X,), (X,))


def test_same_values_to_the_bit_with_and_without_a_rule():
    plain = Through(lambda self, x: Noisy(name="block")(x))
    rngs = {"params": KEY, "dropout": jax.random.key(1)}
    made, variables = NOISY_MODEL.init_with_output(rngs, X)
    want, want_variables = plain.init_with_output(rngs, X)
    np.testing.assert_array_equal(made, want)
    jax.tree.map(np.testing.assert_array_equal, variables, want_variables)
    assert jax.tree.structure(variables) == jax.tree.structure(want_variables)


def test_state_cotangent_that_is_not_taken_is_an_error_through_the_lifted_vjp_too():
    """`nn.vjp` of a function that returns what the rule wrote asks for the state's cotangent."""
    rule = nn.custom_vjp(out, forward, times(1.0, 1.0))

    def body(self, x):
        def fn(mdl, x):
            y = rule(mdl, x)
            return y, mdl.variables["batch_stats"]

        result, bwd = nn.vjp(fn, Normed(name="block"), x)
        return bwd(jax.tree.map(jnp.ones_like, result))

    variables = Through(lambda self, x: Normed(name="block")(x)).init(KEY, X)
    with pytest.raises(errors.StateCotangentError, match="batch_stats"):
        Through(body).apply(variables, X, mutable=["batch_stats"])
