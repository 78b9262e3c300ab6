"""What `fn` closes over: the module itself, its parts, and names that go on as in Linen after a transform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from tests.support.cells import assert_trees_close, scaled

from liftax import nn

X = jnp.asarray([[1.0, -2.0], [0.5, 3.0], [2.0, 0.25]])
KEY = jax.random.key(0)
CLOSE = 1e-5
TRANSFORMS = ("vjp", "jvp", "grad", "value_and_grad", "custom_vjp")


class Through(nn.Module):
    """Hands itself and what it is called with to `body`, in a compact method."""

    body: object

    @nn.compact
    def __call__(self, *args):
        return self.body(self, *args)


def layer(p, x):
    """A dense layer on explicit parameters."""
    return x @ p["kernel"] + p["bias"]


def results(transform, fn, target, x, tangents):
    """Return what a transform gives, in one form for all: whatever it says about `fn` at `x`."""
    if transform == "vjp":
        y, bwd = nn.vjp(fn, target, x)
        return y, bwd(jnp.cos(y))
    if transform == "jvp":
        return nn.jvp(fn, target, (x,), (jnp.cos(x),), variable_tangents=tangents)
    if transform == "custom_vjp":

        def backward(bwd, ct):
            variables_ct, x_ct = bwd(ct)
            return scaled(2.0, variables_ct), 3 * x_ct

        return nn.custom_vjp(fn, lambda mdl, x: nn.vjp(fn, mdl, x), backward)(target, x)
    return getattr(nn, transform)(lambda mdl, x: jnp.sum(jnp.sin(fn(mdl, x))), target, x)


def wanted(transform, f, p, x):
    """Return what `results` should, `f(p, x)` being `fn` on the explicit parameters `p` of the target."""
    if transform == "vjp":
        y, bwd = jax.vjp(f, p, x)
        p_ct, x_ct = bwd(jnp.cos(y))
        return y, ({"params": p_ct}, x_ct)
    if transform == "jvp":
        return jax.jvp(f, (p, x), (scaled(0.5, p), jnp.cos(x)))
    if transform == "custom_vjp":
        rule = jax.custom_vjp(f)
        rule.defvjp(lambda p, x: jax.vjp(f, p, x), lambda bwd, ct: (lambda a, b: (scaled(2.0, a), 3 * b))(*bwd(ct)))
        return rule(p, x)
    value, slope = jax.value_and_grad(lambda x: jnp.sum(jnp.sin(f(p, x))))(x)
    return (slope,) if transform == "grad" else (value, (slope,))


class WithSetup(nn.Module):
    """Submodules of `setup`, one alone and two in a list; `way` says how `fn` reaches them."""

    way: str
    transform: str

    def setup(self):
        self.dense = nn.Dense(2)
        self.layers = [nn.Dense(2), nn.Dense(2)]

    def direct(self, x):
        return self.layers[1](jnp.tanh(self.dense(x))) + self.layers[0](x)

    def __call__(self, x):
        ways = {
            "argument": lambda mdl, x: mdl.direct(x),
            "self": lambda mdl, x: self.direct(x),
            "parts": lambda mdl, x: self.layers[1](jnp.tanh(self.dense(x))) + self.layers[0](x),
            "part": lambda mdl, x: layers[1](jnp.tanh(dense(x))) + layers[0](x),
            "mixed": lambda mdl, x: mdl.layers[1](jnp.tanh(self.dense(x))) + self.layers[0](x),
            "method": lambda mdl, x: direct(x),
        }
        layers, dense, direct = self.layers, self.dense, self.direct
        if self.is_initializing():
            self.direct(x)
        tangents = {"params": scaled(0.5, self.variables["params"])}
        return results(self.transform, ways[self.way], self, x, tangents), self.direct(2 * x)


def with_setup_by_hand(p, x):
    return layer(p["layers_1"], jnp.tanh(layer(p["dense"], x))) + layer(p["layers_0"], x)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("way", ["argument", "self", "parts", "part", "mixed", "method"])
def test_closure_over_self_with_setup(transform, way):
    """`lambda mdl, x: self.dense(x)` has the same derivatives as `lambda mdl, x: mdl.dense(x)`."""
    model = WithSetup(way, transform)
    _, variables = model.init_with_output(KEY, X)
    got, after = model.apply(variables, X)
    assert_trees_close(got, wanted(transform, with_setup_by_hand, variables["params"], X), CLOSE)
    assert_trees_close(after, with_setup_by_hand(variables["params"], 2 * X), CLOSE)
    assert_trees_close(jax.jit(model.apply)(variables, X), (got, after), CLOSE)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("way", ["self", "part"])
def test_gradient_through_a_closure(transform, way):
    """The whole apply is differentiated, too: nothing that `fn` closes over is a constant."""

    def loss(f):
        return lambda p, x: sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(f(p, x)))

    model = WithSetup(way, transform)
    params = model.init(KEY, X)["params"]
    by_hand = lambda p, x: (wanted(transform, with_setup_by_hand, p, x), with_setup_by_hand(p, 2 * x))
    got = jax.grad(loss(lambda p, x: model.apply({"params": p}, x)), argnums=(0, 1))(params, X)
    assert_trees_close(got, jax.grad(loss(by_hand), argnums=(0, 1))(params, X), 1e-4)


class Holding(nn.Module):
    """An array parameter and a variable that `setup` keeps on `self`, beside a submodule."""

    way: str
    transform: str

    def setup(self):
        self.w = self.param("w", nn.initializers.ones, (2,))
        self.shift = self.variable("consts", "shift", lambda: jnp.full(2, 0.5))
        self.dense = nn.Dense(2)

    def run(self, x):
        return jnp.tanh(self.w * self.dense(x) + self.shift.value)

    def __call__(self, x):
        ways = {
            "argument": lambda mdl, x: mdl.run(x),
            "attributes of argument": lambda mdl, x: jnp.tanh(mdl.w * mdl.dense(x) + mdl.shift.value),
            "self": lambda mdl, x: self.run(x),
            "attributes of self": lambda mdl, x: jnp.tanh(self.w * self.dense(x) + self.shift.value),
        }
        if self.is_initializing():
            self.run(x)
        tangents = {"params": scaled(0.5, self.variables["params"])}
        return results(self.transform, ways[self.way], self, x, tangents), self.run(2 * x)


def holding_by_hand(p, x):
    return jnp.tanh(p["w"] * layer(p["dense"], x) + 0.5)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("way", ["argument", "attributes of argument", "self", "attributes of self"])
def test_parameter_kept_on_self_by_setup(transform, way):
    """`setup` ran outside of the transform, and what it keeps is differentiated inside all the same."""
    model = Holding(way, transform)
    variables = model.init(KEY, X)
    got, after = model.apply(variables, X)
    assert_trees_close(got, wanted(transform, holding_by_hand, variables["params"], X), CLOSE)
    assert_trees_close(after, holding_by_hand(variables["params"], 2 * X), CLOSE)
    loss = lambda p, x: sum(map(jnp.sum, jax.tree.leaves(model.apply({**variables, "params": p}, x))))
    by_hand = lambda p, x: sum(
        map(jnp.sum, jax.tree.leaves((wanted(transform, holding_by_hand, p, x), holding_by_hand(p, 2 * x))))
    )
    got, want = (jax.grad(f, argnums=(0, 1))(variables["params"], X) for f in (loss, by_hand))
    assert_trees_close(got, want, 1e-4)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_closure_over_a_compact_child(transform):
    """A child made in the compact method and reached by its variable; the target is the host, or the child."""

    def body(self, x, whole):
        dense = nn.Dense(2, name="dense")
        if self.is_initializing():
            dense(x)
        target = self if whole else dense
        tangents = {"params": scaled(0.5, target.variables["params"])}
        return results(transform, lambda mdl, x: jnp.tanh(dense(x)), target, x, tangents), dense(2 * x)

    model = Through(body)
    variables = model.init(KEY, X, True)
    p = variables["params"]
    got, after = model.apply(variables, X, True)
    assert_trees_close(got, wanted(transform, lambda p, x: jnp.tanh(layer(p["dense"], x)), p, X), CLOSE)
    assert_trees_close(after, layer(p["dense"], 2 * X), CLOSE)
    got, after = model.apply(variables, X, False)
    assert_trees_close(got, wanted(transform, lambda p, x: jnp.tanh(layer(p, x)), p["dense"], X), CLOSE)
    assert_trees_close(after, layer(p["dense"], 2 * X), CLOSE)


def test_closure_over_a_field_of_the_target():
    """A module that the target holds in a field is reachable from it, by its own name as well."""

    class Wrap(nn.Module):
        inner: nn.Module

        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="own")(self.inner(x))

    def body(self, x):
        dense = nn.Dense(2, name="dense")
        wrap = Wrap(dense, name="wrap")
        y, bwd = nn.vjp(lambda mdl, x: mdl(x) + jnp.sin(dense(x)), wrap, x)
        return y, bwd(jnp.cos(y)), dense(x)

    model = Through(body)
    variables = model.init(KEY, X)
    p = variables["params"]
    f = lambda p, x: layer(p["own"], layer(p["inner"], x)) + jnp.sin(layer(p["inner"], x))
    y, cts, after = model.apply(variables, X)
    assert_trees_close((y, cts), wanted("vjp", f, {"own": p["wrap"]["own"], "inner": p["dense"]}, X), CLOSE)
    assert_trees_close(after, layer(p["dense"], X), CLOSE)


def test_closure_over_a_bound_module():
    """The same at top level, on a bound module."""
    model = WithSetup("self", "vjp")
    variables = model.init(KEY, X)
    bound = model.bind(variables)
    y, bwd = nn.vjp(lambda mdl, x: bound.direct(x), bound, X)
    assert_trees_close((y, bwd(jnp.cos(y))), wanted("vjp", with_setup_by_hand, variables["params"], X), CLOSE)
    assert_trees_close(bound.direct(X), with_setup_by_hand(variables["params"], X), CLOSE)


def test_closure_writes_state_once():
    """State written through the closure comes out like state written through the argument."""

    class Counting(nn.Module):
        way: str

        def setup(self):
            self.norm = nn.BatchNorm(use_running_average=False, momentum=0.5)
            self.count = self.variable("counts", "n", lambda: jnp.zeros((), jnp.int32))

        def run(self, x):
            if not self.is_initializing():
                self.count.value += 1
            return self.norm(x)

        def __call__(self, x):
            fn = (lambda mdl, x: self.run(x)) if self.way == "self" else (lambda mdl, x: mdl.run(x))
            y, bwd = nn.vjp(fn, self, x)
            return y, bwd(jnp.cos(y))

    variables = Counting("self").init(KEY, X)
    (got, state), (want, want_state) = (
        Counting(way).apply(variables, X, mutable=["batch_stats", "counts"]) for way in ("self", "argument")
    )
    assert_trees_close((got, state), (want, want_state))
    assert_trees_close(state["counts"]["n"], jnp.asarray(1, jnp.int32))
    assert_trees_close(state["batch_stats"]["norm"]["mean"], 0.5 * X.mean(0), CLOSE)


def test_error_in_fn_leaves_the_module_usable():
    """The module is bound to its own variables again, however `fn` ended."""
    model = WithSetup("self", "vjp")
    variables = model.init(KEY, X)
    bound = model.bind(variables)

    def fails(mdl, x):
        bound.direct(x)
        raise ZeroDivisionError("of the user's own")

    for transform in TRANSFORMS:
        tangents = {"params": scaled(0.5, variables["params"])}
        with pytest.raises(ZeroDivisionError):
            results(transform, fails, bound, X, tangents)
        assert_trees_close(bound.direct(X), with_setup_by_hand(variables["params"], X), CLOSE)
        assert_trees_close(bound.variables, variables, 0)


def test_nested_transforms_over_one_self():
    """Inside a transform of `self`, another of `self`: both see the innermost variables."""

    class Energy(nn.Module):
        def setup(self):
            self.dense = nn.Dense(2)

        def energy(self, x):
            return jnp.sum(jnp.tanh(self.dense(x)) ** 2)

        def __call__(self, x):
            forces = lambda mdl, x: -nn.grad(lambda mdl, x: self.energy(x), self, x)[0]
            f, bwd = nn.vjp(forces, self, x)
            return f, bwd(jnp.cos(f)), self.energy(x)

    variables = Energy().init(KEY, X)
    energy = lambda p, x: jnp.sum(jnp.tanh(layer(p["dense"], x)) ** 2)
    forces = lambda p, x: -jax.grad(energy, argnums=1)(p, x)
    f, cts, e = Energy().apply(variables, X)
    assert_trees_close((f, cts), wanted("vjp", forces, variables["params"], X), CLOSE)
    assert_trees_close(e, energy(variables["params"], X), CLOSE)


# --- names go on as in Linen -----------------------------------------------------------------------------------------
# Each program is written once, over the namespace `m`, and run on Linen and on liftax.


def twice(mdl, x):
    return mdl(mdl(x))


def plain_target(m, self, x, two):
    _, bwd = m.vjp(lambda mdl, x: mdl(x), m.Dense(2), x)
    return m.Dense(3)(x) + bwd(x)[1].sum()


def target_made_before(m, self, x, two):
    a, b = m.Dense(2), m.Dense(2)
    y, _ = m.vjp(lambda mdl, x: mdl(x), b, x)
    return a(y)


def two_transforms(m, self, x, two):
    y, _ = m.vjp(lambda mdl, x: mdl(x), m.Dense(2), x)
    z, _ = m.jvp(lambda mdl, x: mdl(x), m.Dense(2), (y,), (y,), variable_tangents={})
    return m.Dense(2)(z)


def made_inside_fn_on_self(m, self, x, two):
    y, _ = m.vjp(lambda mdl, x: m.Dense(2, parent=mdl)(x), self, x)
    return y


def compact_target(m, self, x, two):
    (slope,) = m.grad(lambda mdl, x: mdl(x).sum(), two(), x)
    return two()(slope)


def one_target_twice(m, self, x, two):
    mdl = two()
    y, _ = m.vjp(lambda mdl, x: mdl(x), mdl, x)
    z, _ = m.vjp(lambda mdl, x: mdl(x), mdl, y)
    return mdl(z)


def value_and_grad_target(m, self, x, two):
    value, (slope,) = m.value_and_grad(lambda mdl, x: mdl(x).sum(), two(), x)
    return m.Dense(2)(value * slope)


def custom_target(m, self, x, two):
    rule = m.custom_vjp(twice, lambda mdl, x: m.vjp(twice, mdl, x), lambda bwd, ct: bwd(ct))
    return m.Dense(2)(rule(m.Dense(2), x))


def nested(m, self, x, two):
    inner = lambda mdl, x: m.vjp(lambda mdl, x: mdl(x), mdl, x)[0]
    y, _ = m.vjp(inner, two(), x)
    return m.Dense(2)(y)


def parameters_of_self(m, self, x, two):
    self.param("a", m.initializers.normal(), (2,))
    y, _ = m.vjp(lambda mdl, x: mdl(x), m.Dense(2), x)
    return y * self.param("b", m.initializers.normal(), (2,))


def named_target(m, self, x, two):
    y, _ = m.vjp(lambda mdl, x: mdl(x), m.Dense(2, name="mine"), x)
    return m.Dense(2)(m.Dense(2, name="Dense_1")(y))


def drawing_target(m, self, x, two):
    drop = m.Dropout(0.5, deterministic=False)
    y, _ = m.vjp(lambda mdl, x: mdl(x), drop, x)
    return drop(y) + m.Dropout(0.5, deterministic=False)(x) + m.Dense(2)(x)


def normed_target(m, self, x, two):
    y, _ = m.vjp(lambda mdl, x: mdl(x), m.BatchNorm(use_running_average=False), x)
    return m.BatchNorm(use_running_average=False)(y)


def self_reads_child(m, self, x, two):
    dense = m.Dense(2)
    y = dense(x)
    z, _ = m.vjp(lambda mdl, x: mdl(x), dense, y)
    return m.Dense(2)(z)


PROGRAMS = [
    plain_target,
    target_made_before,
    two_transforms,
    made_inside_fn_on_self,
    compact_target,
    one_target_twice,
    value_and_grad_target,
    custom_target,
    nested,
    parameters_of_self,
    named_target,
    drawing_target,
    normed_target,
    self_reads_child,
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_names_and_values_are_those_of_linen(program):
    """The variables of init are Linen's to the bit, and so are the output and the state of apply."""
    sides = []
    for m in (nn, linen):

        class Two(m.Module):
            @m.compact
            def __call__(self, x, m=m):
                return m.Dense(2)(jnp.tanh(m.Dense(3)(x)))

        class Program(m.Module):
            @m.compact
            def __call__(self, x, m=m, two=Two):
                return program(m, self, x, two)

        variables = Program().init({"params": KEY, "dropout": jax.random.key(1)}, X)
        out, state = Program().apply(variables, X, rngs={"dropout": jax.random.key(2)}, mutable=["batch_stats"])
        sides.append((variables, out, state))
    (variables, *rest), (want_variables, *want_rest) = sides
    assert jax.tree.structure(variables) == jax.tree.structure(want_variables)
    jax.tree.map(np.testing.assert_array_equal, variables, want_variables)
    assert_trees_close(rest, want_rest)


def test_unnamed_submodule_made_inside_fn():
    """A submodule that `fn` makes belongs to the target, and the next unnamed one follows it."""

    def body(self, x):
        y, bwd = nn.vjp(lambda mdl, x: nn.Dense(2, parent=mdl)(x), self, x)
        return nn.Dense(2)(y), bwd(jnp.cos(y))

    variables = Through(body).init(KEY, X)
    assert set(variables["params"]) == {"Dense_0", "Dense_1"}
    p = variables["params"]
    _, cts = Through(body).apply(variables, X)
    y, bwd = jax.vjp(lambda q, x: layer(q["Dense_0"], x), p, X)
    p_ct, x_ct = bwd(jnp.cos(y))
    assert_trees_close(cts, ({"params": p_ct}, x_ct), CLOSE)
