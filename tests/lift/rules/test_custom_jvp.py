"""`nn.custom_jvp`: state, rngs, keywords, constants, nesting and errors, inside the transforms of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.cells import assert_trees_close, scaled

from liftax import core, errors, lift, nn

from .test_custom_vjp import (
    AROUND,
    KEY,
    NOISY,
    Mixed,
    Noisy,
    Normed,
    Through,
    X,
    noisy_by_hand,
    noisy_gradient,
    noisy_loss,
    out,
)

CLOSE = 1e-5


def rule(mdl, primals, tangents, variable_tangents):
    """Twice what JAX finds for variables, and three times what it finds for arguments."""
    return nn.jvp(out, mdl, primals, scaled(3.0, tangents), scaled(2.0, variable_tangents))


NOISY_RULE = nn.custom_jvp(out, rule)
NOISY_MODEL = Through(lambda self, x: NOISY_RULE(Noisy(name="block"), x))


def noisy(variables, x, key):
    y, state = NOISY_MODEL.apply(variables, x, rngs={"dropout": key}, mutable=["batch_stats"])
    return y, jax.lax.stop_gradient(state["batch_stats"]["block"]["mean"])


@jax.custom_jvp
def by_hand(params, mean, x, key):
    y, mean = noisy_by_hand({"params": params, "batch_stats": {"block": {"mean": mean}}}, x, key)
    return y, jax.lax.stop_gradient(mean)


@by_hand.defjvp
def _(primals, tangents):
    params, mean, x, key = primals
    f = lambda p, x: by_hand.fun(p, mean, x, key)
    return jax.jvp(f, (params, x), (scaled(2.0, tangents[0]), 3.0 * tangents[2]))


def reference(variables, x, key):
    return by_hand(variables["params"], variables["batch_stats"]["block"]["mean"], x, key)


SHORT = {("eager", False), ("jit", False), ("scan of checkpoint", True), ("vmap", True), ("cond", True)}


@pytest.mark.parametrize(
    ("name", "jit"),
    [pytest.param(n, j, marks=[] if (n, j) in SHORT else [pytest.mark.long]) for n in AROUND for j in (False, True)],
)
def test_state_and_rngs_under_raw_transforms(name, jit):
    """Outputs, new state, dropout mask and derivatives in both modes; the caller differentiates all variables."""
    results = []
    for f in (noisy, reference):
        loss, x = noisy_loss(f, name)
        push = lambda v, x, f=loss: jax.jvp(lambda v, x: f(v, x)[0], (v, x), (scaled(0.5, v), jnp.cos(x)))
        results.append([noisy_gradient(f, name, jit), (jax.jit(push) if jit else push)(NOISY, x)])
    assert_trees_close(*results, CLOSE)
    (_, (y, _)), (_, x_grad) = results[0][0]
    assert jnp.any(y == 0) and jnp.any(x_grad != 0)


def test_one_dropout_mask_however_it_is_traced():
    want, _ = noisy_by_hand(NOISY, X, KEY)
    f = lambda x: noisy(NOISY, x, KEY)[0]
    for g in (f, jax.jit(f), jax.checkpoint(f)):
        assert_trees_close(g(X), want)
        assert_trees_close(jax.vjp(g, X)[0], want)
        assert_trees_close(jax.jvp(g, (X,), (X,))[0], want)


@pytest.mark.parametrize("kind", ["custom_jvp", "custom_vjp"])
def test_draws_after_a_rule_that_draws_more_do_not_depend_on_who_differentiates(kind):
    class Drawing(nn.Module):
        def __call__(self, x):
            return x * jax.random.normal(self.make_rng("noise"), x.shape)

    def body(self, x):
        mdl = Drawing(name="block")

        def greedy(mdl, primals, tangents, _):
            mdl.make_rng("noise")
            return nn.jvp(out, mdl, primals, tangents, {})

        def forward(mdl, x):
            y, bwd = nn.vjp(out, mdl, x)
            mdl.make_rng("noise")
            return y, bwd

        f = nn.custom_jvp(out, greedy) if kind == "custom_jvp" else nn.custom_vjp(out, forward, lambda bwd, ct: bwd(ct))
        f(mdl, x)
        return mdl(x)

    f = lambda x: Through(body).apply({}, x, rngs={"noise": KEY})
    want = f(X)
    assert_trees_close(jax.vjp(f, X)[0], want)
    assert_trees_close(jax.vjp(jax.jit(f), X)[0], want)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["eager", "jit", "checkpoint"])
def test_arguments(wrap):
    """A static argument, a keyword, integers in a tree, and the structure that the rule gets."""
    seen = []

    def fn(mdl, batch, power, *, scale):
        y = mdl(batch["x"], power, scale)[batch["rows"]]
        return {"y": y, "best": jnp.argmax(y, -1)}

    def jvp_fn(mdl, power, primals, tangents, variable_tangents, *, scale):
        seen.append((power, scale, jax.tree.structure(variable_tangents), type(mdl)))
        f = lambda mdl, batch: fn(mdl, batch, power, scale=scale)
        return nn.jvp(f, mdl, primals, tangents, scaled(2.0, variable_tangents))

    rows = jnp.asarray([2, 0, 2])
    f = nn.custom_jvp(fn, jvp_fn, nondiff_argnums=-1)
    model = Through(lambda self, x: f(Mixed(name="block"), {"x": x, "rows": rows}, 3, scale=7.0))
    variables = model.init(KEY, X)
    kernel = variables["params"]["block"]["Dense_0"]["kernel"]
    loss = wrap(lambda v, x: jnp.sum(model.apply(v, x)["y"]))
    got, got_x = jax.grad(loss, argnums=(0, 1))(variables, X)
    want, want_x = jax.grad(lambda k, x: jnp.sum(7 * (x @ k)[rows] ** 3), argnums=(0, 1))(kernel, X)
    assert_trees_close((got["params"]["block"]["Dense_0"]["kernel"], got_x), (2 * want, want_x), CLOSE)
    assert set(seen) == {(3, 7.0, jax.tree.structure({"params": {"Dense_0": {"kernel": 0}}}), Mixed)}


def test_nested_vmapped_and_of_second_order():
    inner = nn.custom_jvp(out, rule)
    outer_fn = lambda mdl, x: jnp.sin(inner(mdl, x))
    outer = nn.custom_jvp(outer_fn, lambda mdl, p, t, v: nn.jvp(outer_fn, mdl, p, scaled(7.0, t), scaled(5.0, v)))
    model = Through(lambda self, x: outer(nn.Dense(2, name="block"), x))
    variables = model.init(KEY, X)
    p = variables["params"]["block"]
    layer = lambda p, x: x @ p["kernel"] + p["bias"]

    @jax.custom_jvp
    def g(p, x):
        return layer(p, x)

    g.defjvp(lambda a, t: jax.jvp(layer, a, (scaled(2.0, t[0]), 3.0 * t[1])))

    @jax.custom_jvp
    def h(p, x):
        return jnp.sin(g(p, x))

    h.defjvp(lambda a, t: jax.jvp(h.fun, a, (scaled(5.0, t[0]), 7.0 * t[1])))

    def derivatives(f):
        first = jax.vmap(jax.grad(lambda p, x: jnp.sum(f(p, x) ** 2), argnums=(0, 1)), (None, 0))
        second = jax.hessian(lambda x: jnp.sum(f(p, x) ** 2))
        mixed = jax.grad(lambda p: jnp.sum(jax.jvp(lambda x: f(p, x), (X,), (X,))[1]))
        return first(p, X), second(X[0]), mixed(p)

    assert_trees_close(derivatives(lambda p, x: model.apply({"params": {"block": p}}, x)), derivatives(h), 1e-4)


@pytest.mark.parametrize("transform", ["jvp", "vjp", "linearize", "hessian", "hvp"])
def test_inside_lifted_transforms_at_init_and_apply(transform):
    f = nn.custom_jvp(out, rule)

    def body(self, x):
        mdl = nn.Dense(2, name="block")
        if transform == "jvp":
            return nn.jvp(f, mdl, (x,), (x,), {})
        if transform == "vjp":
            y, bwd = nn.vjp(f, mdl, x)
            return y, bwd(y)
        if transform == "linearize":
            y, jvp_fn = nn.linearize(f, mdl, x, wrt="params")
            return y, jvp_fn({}, x)
        total = lambda mdl, x: jnp.sum(f(mdl, x) ** 3)
        return nn.hessian(total, mdl, x) if transform == "hessian" else nn.hvp(total, mdl, (x,), (x,))

    @jax.custom_jvp
    def g(p, x):
        return x @ p["kernel"] + p["bias"]

    g.defjvp(lambda a, t: jax.jvp(g.fun, a, (scaled(2.0, t[0]), 3.0 * t[1])))

    def plain(p, x):
        if transform in ("jvp", "linearize"):
            return jax.jvp(lambda x: g(p, x), (x,), (x,))
        if transform == "vjp":
            y, bwd = jax.vjp(g, p, x)
            p_ct, x_ct = bwd(y)
            return y, ({"params": p_ct}, x_ct)
        total = lambda x: jnp.sum(g(p, x) ** 3)
        if transform == "hessian":
            return jax.hessian(total)(x)
        return (lambda a, b: ((a,), (b,)))(*jax.jvp(jax.grad(total), (x,), (x,)))

    made, variables = Through(body).init_with_output(KEY, X)
    want = plain(variables["params"]["block"], X)
    assert_trees_close(made, want, 1e-4)
    assert_trees_close(jax.jit(Through(body).apply)(variables, X), want, 1e-4)


def test_interceptors_and_captures_hold_in_the_rule():
    def doubled(next_fun, args, kwargs, context):
        return 2 * next_fun(*args, **kwargs) if isinstance(context.module, nn.Dense) else next_fun(*args, **kwargs)

    model = Through(lambda self, x: nn.custom_jvp(out, rule)(nn.Dense(2, name="block"), x))
    variables = model.init(KEY, X)
    kernel = variables["params"]["block"]["kernel"]

    @jax.jit
    def f(x):
        with nn.intercept_methods(doubled):
            y, state = model.apply(variables, x, capture_intermediates=True)
        return y, jax.lax.stop_gradient(state)

    (y, state), (y_t, _) = jax.jvp(f, (X,), (X,))
    assert_trees_close((y, y_t), (2 * X @ kernel, 6 * X @ kernel), CLOSE)
    assert_trees_close(state["intermediates"]["block"]["__call__"][0], y, CLOSE)


# --- state -----------------------------------------------------------------------------------------------------------


def with_stats(mdl, x):
    return mdl(x), mdl.variables["batch_stats"]


def stats_rule(mdl, primals, tangents, variable_tangents):
    (y, _), (y_t, stats_t) = nn.jvp(with_stats, mdl, primals, tangents, variable_tangents)
    return y, (y_t, {"batch_stats": stats_t})


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["eager", "jit", "checkpoint"])
def test_state_tangents(wrap):
    told = Through(lambda self, x: nn.custom_jvp(out, stats_rule, state_tangents=True)(Normed(name="block"), x))
    plain = Through(lambda self, x: Normed(name="block")(x))
    variables = plain.init(KEY, X)
    results = []
    for model in (told, plain):
        f = wrap(lambda p, x, m=model: m.apply({**variables, "params": p}, x, mutable=["batch_stats"]))
        loss = lambda p, x, f=f: sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(f(p, x)))
        p = variables["params"]
        results.append((jax.jvp(f, (p, X), (p, X)), jax.grad(loss, argnums=(0, 1))(p, X)))
    assert_trees_close(*results, CLOSE)


@pytest.mark.parametrize("wrap", [None, jax.jit, jax.checkpoint], ids=["eager", "jit", "checkpoint"])
def test_state_without_tangents_is_loud(wrap):
    """An error where the tangent or a cotangent of the state is used, and nothing where it is not."""
    model = Through(lambda self, x: nn.custom_jvp(out, rule)(Normed(name="block"), x))
    plain = Through(lambda self, x: Normed(name="block")(x))
    variables = model.init(KEY, X)
    text = r"batch_stats/BatchNorm_0/mean at /block[\s\S]*state_tangents=True"
    mean = lambda state: jnp.sum(state["batch_stats"]["block"]["BatchNorm_0"]["mean"])

    def f(x, model=model):
        return model.apply(variables, x, mutable=["batch_stats"])

    g = wrap(f) if wrap else f
    want = jax.jvp(lambda x: f(x, plain)[0], (X,), (X,))
    assert_trees_close(jax.jvp((wrap or (lambda f: f))(lambda x: f(x)[0]), (X,), (X,)), want, 1e-4)
    assert_trees_close(jax.jit(lambda x: jax.jvp(g, (x,), (x,), has_aux=True)[:2])(X), want, 1e-4)
    assert jnp.all(jnp.isfinite(jax.grad(lambda x: jnp.sum(g(x)[0] ** 3))(X)))
    with pytest.raises(errors.StateCotangentError, match=text):
        jax.jvp(lambda x: mean(g(x)[1]), (X,), (X,))
    with pytest.raises(errors.StateCotangentError, match=text):
        jax.jit(lambda x: jax.jvp(lambda x: mean(g(x)[1]), (x,), (x,)))(X)
    with pytest.raises(jax.errors.JaxRuntimeError if wrap else errors.StateCotangentError, match=text):
        jax.block_until_ready(jax.grad(lambda x: mean(g(x)[1]))(X))


def test_tangent_of_state_that_the_rule_does_not_tell():
    """It may be dropped and shown; any use is an error."""
    model = Through(lambda self, x: nn.custom_jvp(out, rule)(Normed(name="block"), x))
    variables = model.init(KEY, X)
    _, (y_t, state_t) = jax.jvp(lambda x: model.apply(variables, x, mutable=["batch_stats"]), (X,), (X,))
    assert jnp.all(jnp.isfinite(y_t))
    mean_t = state_t["batch_stats"]["block"]["BatchNorm_0"]["mean"]
    assert mean_t.shape == (2,) and "its tangent is used" in repr(mean_t)
    for use in (lambda t: t + 1, float, jax.jit(jnp.sum), np.asarray, jax.vmap(jnp.sin), bool):
        with pytest.raises(errors.StateCotangentError, match="its tangent is used"):
            use(mean_t)


@pytest.mark.parametrize("used", [False, True])
def test_state_carried_through_a_scan(used):
    model = Through(lambda self, x: nn.custom_jvp(out, rule)(Normed(name="block"), x))
    variables = model.init(KEY, X)

    def loss(x):
        def step(stats, x):
            y, state = model.apply({**variables, "batch_stats": stats}, x, mutable=["batch_stats"])
            return state["batch_stats"], y

        stats, y = jax.lax.scan(step, variables["batch_stats"], jnp.stack([x, 2 * x]))
        return jnp.sum(y**3) + (sum(jnp.sum(s) for s in jax.tree.leaves(stats)) if used else 0.0)

    if not used:
        assert jnp.all(jnp.isfinite(jax.grad(loss)(X)))
        return
    with pytest.raises(jax.errors.JaxRuntimeError, match="a cotangent flows back into it"):
        jax.block_until_ready(jax.grad(loss)(X))


# --- errors ----------------------------------------------------------------------------------------------------------


def returning(change):
    return lambda mdl, p, t, v: change(*nn.jvp(out, mdl, p, t, v))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda y, t: y, errors.AuxError, r"jvp_fn must return a pair \(output, output_tangent\)"),
        (lambda y, t: (y, t[0]), errors.TangentError, r"at /block.*expected float32\[3,2\], got float32\[2\]"),
        (lambda y, t: (y, (t,)), errors.TangentError, r"expected float32\[3,2\], got a tuple"),
        (lambda y, t: (y, t.astype(jnp.bfloat16)), errors.TangentError, "got bfloat16.*astype"),
        (lambda y, t: (y[0], t[0]), errors.CustomRuleError, "jvp_fn returns another output"),
    ],
)
def test_wrong_rules(wrap, change, error, text):
    model = Through(lambda self, x: nn.custom_jvp(out, returning(change))(nn.Dense(2, name="block"), x))
    variables = model.init(KEY, X)
    with pytest.raises(error, match=text):
        jax.grad(wrap(lambda x: jnp.sum(model.apply(variables, x))))(X)


def test_none_is_no_tangent():
    model = Through(lambda self, x: nn.custom_jvp(out, returning(lambda y, t: (y, None)))(nn.Dense(2), x))
    variables = model.init(KEY, X)
    y, y_t = jax.jvp(lambda x: model.apply(variables, x), (X,), (X,))
    assert_trees_close(y_t, 0 * y)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_state_that_the_rule_does_not_write(wrap):
    def forgets(mdl, primals, tangents, variable_tangents):
        return X, tangents[0]

    model = Through(lambda self, x: nn.custom_jvp(out, forgets)(Normed(name="block"), x))
    variables = model.init(KEY, X)
    with pytest.raises(errors.CustomRuleError, match=r"fn and jvp_fn write different variables: batch_stats/\S+mean"):
        jax.grad(wrap(lambda x: jnp.sum(model.apply(variables, x, mutable=["batch_stats"])[0])))(X)


def test_constants_and_closures():
    f = nn.custom_jvp(lambda mdl, x, *, scale: mdl(x) * scale, lambda mdl, p, t, v, *, scale: (p[0], t[0]))
    model = Through(lambda self, s: f(nn.Dense(2, name="block"), X, scale=s))
    variables = model.init(KEY, 1.0)
    with pytest.raises(errors.DroppedGradientError, match=r"custom_jvp at /block: the keyword argument 'scale'"):
        jax.grad(lambda s: jnp.sum(model.apply(variables, s)))(jnp.ones(()))

    def closes(self, s):
        return nn.custom_jvp(lambda mdl, x: mdl(x) * s, returning(lambda y, t: (y * s, t)))(nn.Dense(2), X)

    with pytest.raises(errors.DroppedGradientError, match="closes over"):
        jax.grad(lambda s: jnp.sum(Through(closes).apply({"params": NOISY["params"]["block"]}, s)))(jnp.ones(()))


@pytest.mark.parametrize("number", [0, 2, -2])
def test_positions(number):
    model = Through(lambda self, x: nn.custom_jvp(out, rule, nondiff_argnums=number)(nn.Dense(2), x))
    with pytest.raises(errors.ArityError, match=f"custom_jvp: nondiff_argnums has {number}"):
        model.init(KEY, X)


def test_scope_as_target():
    def fn(scope, x):
        return scope.param("w", nn.initializers.ones, (2,)) * x

    f = lift.custom_jvp(fn, lambda scope, p, t, v: lift.jvp(fn, scope, p, scaled(3.0, t), scaled(2.0, v)))
    _, variables = core.init(f)(KEY, X)
    got, got_x = jax.grad(lambda v, x: jnp.sum(core.apply(f)(v, x) ** 2), argnums=(0, 1))(variables, X)
    np.testing.assert_allclose(got["params"]["w"], 2 * jnp.sum(2 * X * X, 0))
    np.testing.assert_allclose(got_x, 3 * 2 * X)
