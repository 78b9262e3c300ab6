"""A `Variable` of a module around, given as a field, is part of the target of every transform."""

import jax
import jax.numpy as jnp
import pytest
from tests.support.cells import assert_trees_close

from liftax import errors, nn

X = jnp.array([1.0, 2.0])


class Reads(nn.Module):
    v: nn.Variable
    at: tuple = ()

    @nn.compact
    def __call__(self, x):
        k = self.param("k", nn.initializers.ones, ())
        return (self.v.value * k * x).sum() + sum(a.value for a in self.at)


class Holder(nn.Module):
    """Parameters `w` = 3, `other`, and those of `Reads`: `k` = 2. The output is 3 k w, w summed over x."""

    body: object

    @nn.compact
    def __call__(self, x):
        self.param("other", nn.initializers.ones, (7,))
        w = self.variable("params", "w", lambda: jnp.float32(3.0))
        return self.body(Reads(w), x)


VARIABLES = {"params": {"other": jnp.ones(7), "w": jnp.float32(3.0), "Reads_0": {"k": jnp.float32(2.0)}}}
GRADIENT = {"params": {"k": 9.0, "v": 6.0}}


def call(mdl, x):
    return mdl(x)


def lifted_grad(fn):
    return lambda mdl, x: nn.grad(fn, mdl, x, wrt="params")[0]


def with_rule(mdl, x):
    def backward(pull, ct):
        variables, x_ct = pull(ct)
        return jax.tree.map(lambda c: 10 * c, variables), x_ct

    return nn.custom_vjp(call, lambda mdl, x: nn.vjp(call, mdl, x), backward)(mdl, x)


def mapped(mdl, x):
    axes = {"params": None}
    return nn.vmap(call, variable_axes=axes, split_rngs={"params": False})(mdl, jnp.stack([x, x])).sum() / 2


def looped(mdl, x):
    scan = nn.scan(lambda m, c, x: (c, m(x)), variable_broadcast="params", split_rngs={"params": False})
    return scan(mdl, 0.0, x)[1].sum()


@pytest.mark.parametrize(
    ("body", "times"),
    [
        (lifted_grad(call), 1),
        (lifted_grad(nn.jit(call)), 1),
        (lifted_grad(nn.remat(call)), 1),
        (lifted_grad(mapped), 1),
        (lifted_grad(looped), 1),
        (lifted_grad(with_rule), 10),
        (nn.jit(lifted_grad(call)), 1),
        (lambda mdl, x: nn.vjp(call, mdl, x)[1](1.0)[0], 1),
        (lambda mdl, x: nn.jacrev(call, mdl, x, wrt="params")[0], 1),
        (lambda mdl, x: nn.jacfwd(call, mdl, x, wrt="params")[0], 1),
    ],
    ids=[
        "grad",
        "grad-jit",
        "grad-remat",
        "grad-vmap",
        "grad-scan",
        "custom_vjp",
        "jit-grad",
        "vjp",
        "jacrev",
        "jacfwd",
    ],
)
def test_gradient(body, times):
    got = Holder(body).apply(VARIABLES, X)
    assert_trees_close(got, jax.tree.map(lambda g: jnp.float32(g * times), GRADIENT), 1e-6)


def test_gradient_at_init():
    gradient, variables = Holder(lifted_grad(call)).init_with_output(jax.random.key(0), X)
    assert gradient == {"params": {"k": 9.0, "v": 3.0}}
    assert jax.tree.structure(variables) == jax.tree.structure(VARIABLES)


def test_tangent():
    tangents = {"params": {"k": jnp.float32(0.0), "v": jnp.float32(1.0)}}
    body = lambda mdl, x: nn.jvp(call, mdl, (x,), (jnp.zeros(2),), variable_tangents=tangents)
    assert Holder(body).apply(VARIABLES, X) == (18.0, 6.0)


def test_second_call_of_a_program_has_the_new_value():
    model = Holder(nn.jit(call))
    apply = lambda w: model.apply({"params": {**VARIABLES["params"], "w": jnp.float32(w)}}, X)
    assert (apply(3.0), apply(5.0), jax.grad(apply)(5.0)) == (18.0, 30.0, 6.0)


class Counts(nn.Module):
    n: nn.Variable

    @nn.compact
    def __call__(self, c, x):
        self.n.value += x * self.param("w", nn.initializers.ones, ())
        return c * self.n.value, self.n.value


class Counter(nn.Module):
    """State `n` = 3, beside a variable `rest` of another shape."""

    body: object

    @nn.compact
    def __call__(self, x):
        self.variable("state", "rest", lambda: jnp.zeros(5))
        n = self.variable("state", "n", lambda: jnp.float32(3.0))
        return self.body(Counts(n), x), n.value


def count(mdl, c, x):
    return mdl(c, x)


@pytest.mark.parametrize(
    ("body", "out", "n"),
    [
        (lambda m, x: nn.jit(count)(m, 2.0, 10.0), (26.0, 13.0), 13.0),
        (lambda m, x: nn.remat(count)(m, 2.0, 10.0), (26.0, 13.0), 13.0),
        (lambda m, x: nn.vjp(count, m, 2.0, 10.0)[0], (26.0, 13.0), 13.0),
        (lambda m, x: nn.jvp(count, m, (2.0, 10.0), (1.0, 0.0))[0], (26.0, 13.0), 13.0),
        (lambda m, x: nn.grad(lambda m, x: m(2.0, x)[0], m, 10.0, wrt="state"), ({"state": {"n": 2.0}}, 2.0), 13.0),
        (
            lambda m, x: nn.scan(count, variable_carry="state", variable_broadcast="params")(m, 1.0, x)[0],
            24.0,
            6.0,
        ),
    ],
    ids=["jit", "remat", "vjp", "jvp", "grad", "scan"],
)
def test_written(body, out, n):
    variables = {
        "params": {"Counts_0": {"w": jnp.float32(1.0)}},
        "state": {"n": jnp.float32(3.0), "rest": jnp.zeros(5)},
    }
    (got, seen), state = Counter(body).apply(variables, X, mutable=["state"])
    assert_trees_close(got, out, 1e-6)
    assert (seen, state["state"]["n"], state["state"]["rest"].shape) == (n, n, (5,))


def test_two_handles_and_a_container():
    """What one variable gives is summed, and shows at the first field that holds it."""

    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            w = self.variable("params", "w", lambda: jnp.float32(3.0))
            u = self.variable("params", "u", lambda: jnp.float32(4.0))
            return nn.grad(call, Reads(w, at=(u, w)), x, wrt="params")[0]

    variables = {"params": {"w": 3.0, "u": 4.0, "Reads_0": {"k": 2.0}}}
    assert Twice().apply(variables, X) == {"params": {"k": 9.0, "v": 7.0, "at_0": 1.0}}


def test_parent_in_the_target():
    """Where the module that the variable belongs to is in the target, it shows there."""

    class Both(nn.Module):
        @nn.compact
        def __call__(self, x):
            w = self.variable("params", "w", lambda: jnp.float32(3.0))
            return nn.grad(lambda mdls, x: mdls[1](x), (self, Reads(w)), x, wrt="params")[0]

    variables = {"params": {"w": 3.0, "Reads_0": {"k": 2.0}}}
    own = {"k": 9.0}
    assert Both().apply(variables, X) == ({"params": {"w": 6.0, "Reads_0": own}}, {"params": own})


def test_field_named_like_a_variable():
    class Clash(nn.Module):
        k: nn.Variable

        @nn.compact
        def __call__(self, x):
            return self.k.value * self.param("k", nn.initializers.ones, ()) * x.sum()

    class Outer(nn.Module):
        body: object

        @nn.compact
        def __call__(self, x):
            return self.body(Clash(self.variable("params", "w", lambda: jnp.float32(3.0))), x)

    variables = {"params": {"w": 3.0, "Clash_0": {"k": 2.0}}}
    assert Outer(nn.jit(call)).apply(variables, X) == 18.0
    with pytest.raises(errors.NameInUseError):
        Outer(lifted_grad(call)).apply(variables, X)
