"""Programs in which other libraries drop a gradient, leak a tracer, or say something else than what is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import core, errors, lift, nn

KEY = jax.random.key(0)
X = jnp.array([1.0, 2.0, 3.0])


class Through(nn.Module):
    body: object

    @nn.compact
    def __call__(self, *args):
        return self.body(self, *args)


class Outer(nn.Module):
    inner: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(self.inner(x))


def applied(body, *args, **kwargs):
    model = Through(body)
    return model.apply(model.init(KEY, *args), *args, **kwargs)


def same_rule(f):
    """A custom rule that does what differentiation does."""
    return nn.custom_vjp(f, lambda mdl, *args: nn.vjp(f, mdl, *args), lambda vjp_fn, ct: vjp_fn(ct))


def call(mdl, x):
    return mdl(x)


def test_writing_the_state_of_a_module_outside_the_target():
    def body(self, x):
        norm, dense = nn.BatchNorm(use_running_average=False), nn.Dense(2)
        norm(x[None])
        return nn.grad(lambda mdl, x: mdl(norm(x[None])).sum(), dense, x)

    with pytest.raises(errors.JaxTransformError, match=r"(?s)batch_stats/mean at /BatchNorm_0.*\(mdl, other\)"):
        applied(body, X, mutable=["batch_stats"])


def test_a_tree_of_modules_gets_a_tree_of_cotangents():
    def body(self, x):
        pair = (nn.Dense(2), nn.Dense(3))
        _, vjp_fn = nn.vjp(lambda mdls, x: mdls[0](x).sum() + mdls[1](x).sum(), pair, x)
        return vjp_fn(1.0)[0]

    first, second = applied(body, X)
    np.testing.assert_array_equal(first["params"]["kernel"], np.outer(X, np.ones(2)))
    np.testing.assert_array_equal(second["params"]["bias"], np.ones(3))


def test_a_parent_and_its_child_as_targets_at_once():
    def body(self, x):
        child = nn.Dense(2)
        _, vjp_fn = nn.vjp(lambda mdls, x: mdls["child"](x).sum(), {"parent": self, "child": child}, x)
        return vjp_fn(1.0)[0]

    ct = applied(body, X)
    np.testing.assert_array_equal(ct["child"]["params"]["bias"], np.ones(2))
    np.testing.assert_array_equal(ct["parent"]["params"]["Dense_0"]["bias"], np.ones(2))


@pytest.mark.parametrize("kind", ["custom_vjp", "custom_jvp"])
def test_a_rule_over_a_parent_and_its_child(kind):
    """What both targets hold counts once, and may come back from the rule as it was given."""

    def body(self, x):
        child = nn.Dense(2, name="child")
        child(x)
        fn = lambda mdls, x: mdls[1](x) + mdls[0].get_variable("params", "child")["bias"]
        if kind == "custom_vjp":
            rule = same_rule(fn)
        else:
            rule = nn.custom_jvp(fn, lambda mdls, *given: nn.jvp(fn, mdls, *given))
        return rule((self, child), x).sum()

    model = Through(body)
    grads = jax.jit(jax.grad(model.apply))(model.init(KEY, X), X)
    np.testing.assert_array_equal(grads["params"]["child"]["bias"], 2 * np.ones(2))


def test_a_module_from_elsewhere_shows_under_its_field():
    def body(self, x):
        outer = Outer(nn.Dense(3, name="shared"))
        _, vjp_fn = nn.vjp(lambda mdl, x: mdl(x).sum(), outer, x)
        variables_ct, x_ct = vjp_fn(1.0)
        ones = jax.tree.map(jnp.ones_like, variables_ct)
        _, y_t = nn.jvp(lambda mdl, x: mdl(x).sum(), outer, (x,), (x,), ones)
        return variables_ct, x_ct, y_t

    variables_ct, x_ct, y_t = applied(body, X)
    assert set(variables_ct["params"]) == {"inner", "Dense_0"}
    total = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(variables_ct)) + x_ct @ X
    np.testing.assert_allclose(total, y_t, rtol=1e-5)


def test_layers_of_a_sequential_made_in_a_compact_method():
    def body(self, x):
        layers = nn.Sequential([nn.Dense(2), nn.tanh, nn.Dense(1)])
        return nn.vjp(lambda mdl, x: mdl(x).sum(), layers, x)[1](1.0)[0]

    assert set(applied(body, X)["params"]) == {"layers_0", "layers_2"}


def test_a_gradient_as_a_learning_signal_during_init():
    def body(self, x):
        dense = nn.Dense(2)
        y, vjp_fn = nn.vjp(call, dense, x)
        step = lambda p, g: p - 0.1 * g
        return jax.tree.map(step, dense.variables["params"], vjp_fn(y)[0]["params"])

    model = Through(body)
    out, variables = model.init_with_output(KEY, X)
    np.testing.assert_allclose(out["kernel"], model.apply(variables, X)["kernel"])


@pytest.mark.parametrize("primal", [lambda self: nn.Dense(2), lambda self: self.variable("a", "b", lambda: 1.0)])
def test_modules_and_variables_are_no_primals(primal):
    with pytest.raises(errors.NonDifferentiablePrimalError, match="argument 0"):
        applied(lambda self, x: nn.vjp(call, nn.Dense(2), primal(self)), X)


@pytest.mark.parametrize("variables", [False, ["params"], nn.DenyList("cache")])
def test_filters_of_the_other_collections(variables):
    def body(self, x):
        return nn.jvp(call, nn.Dense(2), (x,), (x,), {"params": {"bias": jnp.ones(2)}}, variables=variables)[1]

    model = Through(body)
    given = model.init(KEY, X)
    want = X @ given["params"]["Dense_0"]["kernel"] + 1
    np.testing.assert_allclose(model.apply(given, X), want, rtol=1e-6)


def test_a_typo_in_a_filter_of_rng_streams():
    body = lambda self, x: nn.vjp(call, nn.Dropout(0.5, deterministic=False), x, rngs="dropot")
    with pytest.raises(errors.UnknownCollectionError, match="Did you mean 'dropout'"):
        Through(body).apply({}, X, rngs={"dropout": KEY})


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_a_rule_over_a_value_from_outside_is_an_error(wrap):
    def body(self, x):
        dense, other = nn.Dense(2), nn.Dense(2)
        other(x)
        return same_rule(lambda mdl, x: mdl(x) + other(x))(dense, x).sum()

    model = Through(body)
    variables = model.init(KEY, X)
    with pytest.raises(errors.DroppedGradientError, match="closes over"):
        wrap(jax.grad(model.apply))(variables, X)


AROUND = {
    "nothing": lambda f: jax.grad(f),
    "jit": lambda f: jax.grad(jax.jit(f)),
    "jit of grad": lambda f: jax.jit(jax.grad(f)),
    "checkpoint": lambda f: jax.grad(jax.checkpoint(f)),
    "scan": lambda f: jax.grad(lambda v: jax.lax.scan(lambda c, _: (c + f(v), None), 0.0, None, length=2)[0]),
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("kind", ["custom_vjp", "custom_jvp", "custom_gradient"])
@pytest.mark.parametrize("where", ["function", "rule", "both"])
def test_a_closure_over_a_value_from_outside_is_an_error_wherever_jax_traces_it(kind, where, around):
    """It is no silent zero, and no tracer of an ended transform."""

    def body(self, x):
        w = jnp.sin(self.param("w", nn.initializers.ones, ()))
        fn = (lambda mdl, x: w * mdl(x)) if where != "rule" else call
        other = (lambda mdl, x: w * mdl(x)) if where != "function" else call
        if kind == "custom_vjp":
            rule = nn.custom_vjp(fn, lambda mdl, x: nn.vjp(other, mdl, x), lambda vjp_fn, ct: vjp_fn(ct))
        elif kind == "custom_jvp":
            rule = nn.custom_jvp(fn, lambda mdl, *given: nn.jvp(other, mdl, *given))
        else:

            def with_map(mdl, x):
                y, vjp_fn = nn.vjp(fn, mdl, x)
                return y, lambda ct: vjp_fn(ct * w if where != "function" else ct)

            rule = nn.custom_gradient(with_map)
        return rule(nn.Dense(2, name="dense"), x).sum()

    model = Through(body)
    dense = nn.Dense(2).init(KEY, X)["params"]
    with pytest.raises(errors.DroppedGradientError, match=f"{kind} at /dense.*closes over a value.*Pass the value as"):
        AROUND[around](lambda v: model.apply(v, X))({"params": {"w": jnp.ones(()), "dense": dense}})


def test_a_function_may_close_over_what_is_not_differentiated():
    def body(self, x, shift):
        fn = lambda mdl, x: mdl(x) + shift
        rule = lambda mdl, p, t, v: (lambda y, y_t: (y + shift, 2 * y_t))(*nn.jvp(call, mdl, p, t, v))
        told = nn.custom_jvp(fn, rule) if self.has_variable("params", "w") else nn.custom_jvp(fn, lambda *_: None)
        return told(nn.Dense(2, name="dense"), x).sum()

    variables = {"params": {"w": jnp.ones(()), "dense": nn.Dense(2).init(KEY, X)["params"]}}
    model = Through(body)
    got = jax.grad(lambda v, x: model.apply(v, x, jnp.ones(2)))(variables, X)
    np.testing.assert_allclose(got["params"]["dense"]["bias"], 2 * np.ones(2))
    without = {"params": {"dense": variables["params"]["dense"]}}
    for around in (jax.jit, jax.checkpoint, jax.vmap):
        xs, shift = (X[None], jnp.ones((1, 2))) if around is jax.vmap else (X, jnp.ones(2))
        f = around(lambda x, shift: model.apply(without, x, shift))
        np.testing.assert_allclose(f(xs, shift).ravel(), [model.apply(without, X, jnp.ones(2))], rtol=1e-6)


def test_a_rule_over_both_modules_is_right():
    def body(self, x):
        rule = same_rule(lambda mdls, x: mdls[0](x) + mdls[1](x))
        return rule((nn.Dense(2), nn.Dense(2)), x).sum()

    model = Through(body)
    grads = jax.grad(model.apply)(model.init(KEY, X), X)
    np.testing.assert_array_equal(grads["params"]["Dense_1"]["bias"], np.ones(2))


def test_parameters_that_a_rule_did_not_write_keep_their_gradient():
    def body(self, x):
        dense = nn.Dense(3)
        zero = nn.custom_vjp(call, lambda mdl, x: nn.vjp(call, mdl, x), lambda vjp_fn, ct: (None, None))
        return zero(dense, x).sum() + dense(x).sum()

    model = Through(body)
    variables = model.init(KEY, X)
    grads = jax.grad(lambda v: model.apply(v, X, mutable=["params"])[0])(variables)
    np.testing.assert_array_equal(grads["params"]["Dense_0"]["bias"], np.ones(3))


def test_masks_do_not_depend_on_who_differentiates():
    def body(self, x):
        drop = nn.Dropout(0.5, deterministic=False)
        weights = jnp.arange(1.0, 1 + x.size)
        return same_rule(call)(drop, x) @ weights + 1000 * (nn.Dropout(0.5, deterministic=False)(x) @ weights)

    f = lambda x: Through(body).apply({}, x, rngs={"dropout": KEY})
    x = jnp.ones(10)
    values = [f(x), jax.jit(f)(x), *(g(x)[0] for g in (jax.value_and_grad(jax.jit(f)), jax.value_and_grad(f)))]
    assert len({float(v) for v in values}) == 1


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_rules_that_write_different_state_are_an_error(wrap):
    def forward(mdl, x):
        return nn.vjp(lambda mdl, x: x * 2, mdl, x)

    rule = nn.custom_vjp(lambda mdl, x: mdl(x), forward, lambda vjp_fn, ct: vjp_fn(ct))
    model = Through(lambda self, x: rule(nn.BatchNorm(use_running_average=False), x).sum())
    x = jnp.ones((2, 3))
    variables = model.init(KEY, x)
    loss = jax.jit(lambda v: model.apply(v, x, mutable=["batch_stats"])[0])
    with pytest.raises(errors.CustomRuleError, match="batch_stats"):
        wrap(jax.grad(loss))(variables)


def test_inner_scopes_and_modules_end_with_their_transform():
    kept = []

    def keeping(scope, x):
        lift.vjp(lambda inner, x: kept.append(inner) or x, scope, x)
        return kept[-1].param("w", nn.initializers.ones, ())

    def body(self, x):
        nn.vjp(lambda mdl, x: kept.append(nn.Dense(2)) or kept[-1](x), self, x)
        return kept[-1](x)

    for run in (lambda: core.init(keeping)(KEY, X), lambda: Through(body).init(KEY, X)):
        with pytest.raises(errors.InvalidScopeError, match="vjp had ended"):
            run()


def test_frozen_variables_are_accepted_and_kept():
    frozen = nn.FrozenDict({"params": {"Dense_0": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}}})
    ct, _ = Through(lambda self, x: nn.vjp(call, nn.Dense(2), x)[1](jnp.ones(2))).apply(frozen, X)
    np.testing.assert_array_equal(ct["params"]["bias"], np.ones(2))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
@pytest.mark.parametrize("change", [lambda y: y.sum(-1), lambda y: y.astype(jnp.float16), lambda y: (y, y)])
def test_a_forward_rule_with_another_output_is_an_error(wrap, change):
    rule = nn.custom_vjp(call, lambda mdl, x: (change(mdl(x)), x), lambda x, ct: (None, x))
    model = Through(lambda self, x: rule(nn.Dense(2), x))
    variables = model.init(KEY, X)
    with pytest.raises(errors.CustomRuleError, match="forward_fn returns another output"):
        wrap(lambda x: jax.vjp(lambda x: model.apply(variables, x), x)[0])(X)


def test_cotangents_add_up_in_refs_shaped_like_the_target():
    bound = Outer(nn.Dense(3)).bind({"params": Outer(nn.Dense(3)).init(KEY, X)["params"]})
    y, vjp_fn = nn.vjp(call, bound, X)
    cotangents = vjp_fn(y)
    refs = jax.tree.map(lambda ct: jax.new_ref(jnp.zeros_like(ct)), cotangents)
    for _ in range(2):
        vjp_fn.with_refs(*refs)(y)
    jax.tree.map(lambda ref, ct: np.testing.assert_allclose(ref[...], 2 * ct, rtol=1e-6), refs, cotangents)


class Cache(nn.Module):
    @nn.compact
    def __call__(self, x):
        c = self.variable("cache", "v", jnp.ones, (3,))
        y = x + c.value
        if self.is_mutable_collection("cache"):
            c.value = jnp.sin(x)
        return y


@pytest.mark.parametrize("nothing", [None, {}, "each"])
@pytest.mark.parametrize("how", ["vjp", "linearize", "jvp", "hvp", "custom_jvp"])
def test_no_value_for_the_variables_of_a_tree_of_modules(how, nothing):
    """What is left out is zero, for one module and for several."""
    x = jnp.array([1.0, 2.0, 3.0])

    class Both(nn.Module):
        @nn.compact
        def __call__(self, x):
            mdls, both = (Cache(), Cache()), lambda mdls, x: mdls[1](mdls[0](x))
            none = (None, {}) if nothing == "each" else nothing
            if how == "vjp":
                _, vjp_fn = nn.vjp(both, mdls, x, state_cotangents=True)
                return vjp_fn(x, *([none] if nothing else []))[1]
            if how == "linearize":
                return nn.linearize(both, mdls, x, wrt="cache")[1](none, x)
            if how == "jvp":
                return nn.jvp(both, mdls, (x,), (x,), variable_tangents=none)[1]
            if how == "hvp":
                half = lambda mdls, x: jnp.sum(both(mdls, x) ** 2) / 2
                return nn.hvp(half, mdls, (x,), (x,), variable_tangents=none, wrt="cache")[1][-1]
            rule = lambda mdls, p, t, v: (both(mdls, *p), (t[0], none))
            return nn.custom_jvp(both, rule, state_tangents=True)(mdls, x)

    run = lambda x: Both().apply({"cache": {"Cache_0": {"v": x}, "Cache_1": {"v": x}}}, x, mutable=["cache"])[0]
    got = jax.jvp(run, (x,), (x,))[1] if how == "custom_jvp" else run(x)
    np.testing.assert_array_equal(got, x)


@pytest.mark.parametrize("transform", [nn.vjp, nn.value_and_grad])
def test_init_outside_of_the_axis_that_cotangents_are_summed_over(transform):
    """It passes the name over, as BatchNorm does its own; inside of the axis, and in apply, it counts."""

    class Slope(nn.Module):
        @nn.compact
        def __call__(self, x):
            fn = lambda mdl, x: mdl(x).sum()
            _, found = transform(fn, nn.Dense(1), x, reduce_axes="batch", vjp_variables="params")
            return found(1.0)[0] if transform is nn.vjp else found[0]

    model, xs = Slope(), jnp.stack([X, 2 * X])
    slope, variables = model.init_with_output(KEY, X)
    np.testing.assert_array_equal(slope["params"]["kernel"], X[:, None])
    options = {"axis_name": "batch", "out_axes": None}
    for got in (
        jax.vmap(lambda x: model.apply(variables, x), **options)(xs),
        jax.vmap(lambda x: model.init_with_output(KEY, x)[0], **options)(xs),
    ):
        np.testing.assert_array_equal(got["params"]["kernel"], 3 * X[:, None])
    with pytest.raises(errors.ReduceAxesError, match="no axis of that name is bound"):
        model.apply(variables, X)
