"""Raw transforms of JAX inside a module: writing a tracer into the module around is an error, all else works."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import errors, nn

RAW = {  # name -> (transform, the lifted one, how the text names the transform that a tracer belongs to)
    "grad": (lambda f: jax.grad(lambda x: f(x).sum()), "nn.grad", "jax.grad, jax.vjp"),
    "vjp": (lambda f: lambda x: jax.vjp(f, x)[0], "nn.vjp", "jax.grad, jax.vjp"),
    "linearize": (lambda f: lambda x: jax.linearize(f, x)[1](x), "nn.linearize", "jax.linearize"),
    "jacrev": (jax.jacrev, "nn.jacrev", "jax.jacrev"),
    "jacfwd": (jax.jacfwd, "nn.jacfwd", "jax.jacfwd"),
    "hessian": (jax.hessian, "nn.hessian", "jax.jacrev"),
    "jvp": (lambda f: lambda x: jax.jvp(f, (x,), (x,))[0], "nn.jvp", "jax.jvp"),
    "vmap": (lambda f: lambda x: jax.vmap(f)(x[None])[0], "nn.vmap", "jax.vmap"),
    "scan": (lambda f: lambda x: jax.lax.scan(lambda c, x: (c, f(x)), 0.0, x[None])[1][0], "nn.scan", "scan"),
    "cond": (lambda f: lambda x: jax.lax.cond(x.sum() > 0, f, lambda x: x, x), "nn.cond", "cond"),
    "switch": (lambda f: lambda x: jax.lax.switch(1, [jnp.sin, f], x), "nn.switch", "switch"),
    "while_loop": (
        lambda f: lambda x: jax.lax.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 1, f(c[1])), (0, x))[1],
        "nn.while_loop", "while_body",
    ),
    "jit": (jax.jit, "nn.jit", "jit"),
    "checkpoint": (jax.checkpoint, "nn.remat", "checkpoint"),
}  # fmt: skip
SEEN = ("grad", "vjp", "linearize", "jacrev", "jacfwd", "hessian", "jvp", "vmap")
"""Those under which a value that does not depend on what is transformed is no tracer."""


class Net(nn.Module):
    raw: object
    writes: bool

    @nn.compact
    def __call__(self, x):
        total = self.variable("state", "total", lambda: jnp.ones(()))

        def f(x):
            if self.writes:
                total.value = x.sum()
            return x * total.value

        return self.raw(f)(x)


@pytest.mark.parametrize("name", RAW)
def test_writing_is_an_error_that_names_the_variable_and_the_lifted_transform(name):
    raw, lifted, owner = RAW[name]
    variables = {"state": {"total": jnp.array(3.0)}}
    with pytest.raises(errors.JaxTransformError, match="state/total at /") as caught:
        Net(raw, True).apply(variables, jnp.arange(3.0), mutable="state")
    assert lifted in str(caught.value)
    assert owner in str(caught.value).split("tracer of")[1].split(":")[0]
    assert variables["state"]["total"] == 3.0


@pytest.mark.parametrize("name", RAW)
def test_reading_works(name):
    raw, *_ = RAW[name]
    x = jnp.arange(3.0)
    got, state = Net(raw, False).apply({"state": {"total": jnp.array(3.0)}}, x, mutable="state")
    np.testing.assert_allclose(got, raw(lambda x: 3.0 * x)(x))
    assert state["state"]["total"] == 3.0


class Head(nn.Module):
    """Has a submodule and a count that are first used, and a value that is first written, inside of a raw transform."""

    raw: object

    @nn.compact
    def __call__(self, x):
        dense = nn.Dense(3, name="dense")
        count = self.variable("state", "count", lambda: jnp.zeros(()))

        def f(x):
            count.value = count.value + 1
            return jnp.tanh(dense(x))

        return self.raw(f)(x)


@pytest.mark.parametrize("name", SEEN)
def test_variables_are_made_and_written_where_no_tracer_is_in_them(name):
    raw, *_ = RAW[name]
    x, key = jnp.arange(3.0), jax.random.key(0)
    variables = Head(raw).init(key, x)
    plain = Head(lambda f: f).init(key, x)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), variables, plain))
    jax.tree.map(np.testing.assert_allclose, jax.jit(Head(raw).init)(key, x), plain)
    got, state = Head(raw).apply(variables, x, mutable="state")
    kernel, bias = variables["params"]["dense"]["kernel"], variables["params"]["dense"]["bias"]
    np.testing.assert_allclose(got, raw(lambda x: jnp.tanh(x @ kernel + bias))(x), rtol=1e-6)
    assert state["state"]["count"] == 2.0


@pytest.mark.parametrize("name", [name for name in RAW if name not in SEEN])
def test_variables_can_not_be_made_where_all_values_are_traced(name):
    raw, lifted, owner = RAW[name]
    with pytest.raises(errors.JaxTransformError, match=r"params/kernel at /dense|state/count at /") as caught:
        Head(raw).init(jax.random.key(0), jnp.arange(3.0))
    assert lifted in str(caught.value)
    assert owner in str(caught.value)


def test_a_method_that_makes_submodules_is_differentiated_while_initializing():
    class Model(nn.Module):
        def energy(self, x):
            return nn.Dense(1)(jnp.tanh(nn.Dense(8)(x))).sum()

        @nn.compact
        def __call__(self, x):
            return jax.value_and_grad(self.energy)(x)

    x = jnp.ones(3)
    (value, slope), variables = Model().init_with_output(jax.random.key(0), x)
    got, want = Model().apply(variables, x), (value, slope)
    jax.tree.map(np.testing.assert_allclose, got, want)
    inner, outer = variables["params"]["Dense_1"], variables["params"]["Dense_0"]
    assert inner["kernel"].shape == (3, 8)
    by_hand = jax.grad(lambda x: (jnp.tanh(x @ inner["kernel"]) @ outer["kernel"]).sum())(x)
    np.testing.assert_allclose(slope, by_hand, rtol=1e-6)


LIFTED = {
    "vjp": lambda f, mdl, x: nn.vjp(f, mdl, x)[0],
    "jvp": lambda f, mdl, x: nn.jvp(f, mdl, (x,), (x,), {})[0],
    "grad": lambda f, mdl, x: nn.grad(lambda mdl, x: f(mdl, x).sum(), mdl, x),
    "jacfwd": nn.jacfwd,
    "jacrev": nn.jacrev,
    "hessian": nn.hessian,
    "linearize": lambda f, mdl, x: nn.linearize(f, mdl, x)[0],
    "hvp": lambda f, mdl, x: nn.hvp(lambda mdl, x: f(mdl, x).sum(), mdl, (x,), (x,))[0],
    "vmap": lambda f, mdl, x: nn.vmap(f, variable_axes={"params": None}, split_rngs={"params": False})(mdl, x[None]),
}


class Beside(nn.Module):
    lifted: object
    traced: bool = False

    @nn.compact
    def __call__(self, x):
        target, other = nn.Dense(3, name="target"), nn.Dense(3, name="other")
        last = self.variable("state", "last", lambda: jnp.zeros(3))

        def f(mdl, x):
            if self.traced:
                last.value = x
            return jnp.tanh(other(mdl(x)))

        return self.lifted(f, target, x)


@pytest.mark.parametrize("name", LIFTED)
def test_the_rule_for_writes_beside_the_target_of_a_lifted_transform_is_the_same(name):
    lifted, x, key = LIFTED[name], jnp.arange(3.0), jax.random.key(0)
    variables = Beside(lifted).init(key, x)
    plain = Beside(lambda f, mdl, x: f(mdl, x)).init(key, x)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), variables, plain))
    for run in (lambda: Beside(lifted, True).apply(variables, x, mutable="state"),
                lambda: Beside(lifted, True).init(key, x)):  # fmt: skip
        with pytest.raises(errors.JaxTransformError, match="state/last at / is written inside nn"):
            run()
