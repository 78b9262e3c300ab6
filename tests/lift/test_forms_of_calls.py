"""Forms in which programs call transforms: bound methods, unbound modules, static arguments by position and by name."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest

from liftax import errors, nn

X = jnp.ones((2, 2))


class Net(nn.Module):
    def setup(self):
        self.a = self.param("a", nn.initializers.ones, ())
        self.b = self.param("b", nn.initializers.ones, ())

    def f(self, x):
        return self.a * x

    def g(self, x):
        return self.b * x

    def loss(self, x, power=2):
        return (self.a * x**power).sum()

    def small(self, x):
        return self.a * x.sum() < 10

    def step(self, carry, x):
        return self.a * carry, x

    def pair(self, x):
        return self.a * x, lambda out_ct: ({"params": {"a": None, "b": None}}, out_ct)

    def with_module(self, mdl, x):
        return (mdl.b * self.a * x).sum()


# `of` holds the methods: a bound module, or its class, whose methods are functions of the module.
CALLS = {
    "cond": lambda m, of, x: nn.cond(x.sum() > 0, of.f, of.g, m, x),
    "switch": lambda m, of, x: nn.switch(1, [of.f, of.g], m, x),
    "while_loop": lambda m, of, x: nn.while_loop(of.small, of.f, m, x),
    "scan": lambda m, of, x: nn.scan(of.step, variable_broadcast="params")(m, x[0], x),
    "vjp": lambda m, of, x: nn.vjp(of.loss, m, x)[1](1.0),
    "jvp": lambda m, of, x: nn.jvp(of.loss, m, (x,), (x,), {"params": {"a": 1.0}}),
    "grad": lambda m, of, x: nn.grad(of.loss, m, x),
    "value_and_grad": lambda m, of, x: nn.value_and_grad(of.loss, m, x),
    "partial": lambda m, of, x: nn.grad(functools.partial(of.loss, power=3), m, x),
    "jacfwd": lambda m, of, x: nn.jacfwd(of.f, m, x),
    "jacrev": lambda m, of, x: nn.jacrev(of.f, m, x),
    "hessian": lambda m, of, x: nn.hessian(of.loss, m, x),
    "hvp": lambda m, of, x: nn.hvp(of.loss, m, (x,), (x,)),
    "linearize": lambda m, of, x: nn.linearize(of.f, m, x)[0],
    "laplacian": lambda m, of, x: nn.laplacian(of.loss, m, x),
    "stop_gradient": lambda m, of, x: nn.stop_gradient(of.f, m, x),
    "jit": lambda m, of, x: nn.jit(of.f)(m, x),
    "remat": lambda m, of, x: nn.remat(of.f)(m, x),
    "fold_rngs": lambda m, of, x: nn.fold_rngs(of.f)(m, x),
    "map_variables": lambda m, of, x: nn.map_variables(of.f, "params")(m, x),
    "vmap": lambda m, of, x: nn.vmap(of.f, variable_axes={"params": None}, split_rngs={})(m, x),
    "custom_vjp": lambda m, of, x: nn.custom_vjp(of.f, lambda mdl, x: nn.vjp(of.f, mdl, x), lambda r, g: r(g))(m, x),
    "custom_gradient": lambda m, of, x: nn.custom_gradient(of.pair)(m, x),
    "lift_transform": lambda m, of, x: nn.transforms.lift_transform(lambda fn: fn, of.f)(m, x),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_bound_method_is_the_program_of_the_function(name):
    variables = {"params": {"a": 0.5, "b": 3.0}}

    def program(of):
        run = nn.apply(lambda m, x: CALLS[name](m, m if of is None else of, x), Net())
        leaves = lambda v, x: jax.tree.leaves(run(v, x))
        return re.sub(r"0x[0-9a-f]+", "", str(jax.make_jaxpr(leaves)(variables, X)))

    assert program(None) == program(Net)


def test_a_bound_method_that_takes_the_module_gets_it():
    by_x = nn.apply(lambda m, x: nn.grad(m.with_module, m, x), Net())({"params": {"a": 2.0, "b": 3.0}}, X)
    assert jnp.array_equal(by_x[0], 6 * X)


class Cache(nn.Module):
    width: int = 3

    @nn.jit
    def jitted(self, x):
        return jnp.full(x.shape[:1], self.width)

    @nn.remat
    def rematerialized(self, x):
        return x * self.width

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.width)(x)


def test_methods_on_an_unbound_module():
    assert Cache().jitted(X).tolist() == [3, 3]
    assert jnp.array_equal(Cache().rematerialized(X), 3 * X)
    assert re.search("remat|checkpoint", str(jax.make_jaxpr(Cache().rematerialized)(X)))
    assert Cache(4).clone().jitted(X).tolist() == [4, 4]
    for lifted in (nn.jit(Cache), nn.remat(Cache)):
        with pytest.raises(errors.CallCompactUnboundModuleError):
            lifted()(X)


class Flagged(nn.Module):
    @nn.compact
    def __call__(self, x, train=False, mode="a"):
        assert isinstance(train, bool) and isinstance(mode, str)
        return -x if train else x + (mode == "b")


FORMS = {
    "position": lambda layer, x: layer(x, True),
    "keyword": lambda layer, x: layer(x, train=True),
    "default": lambda layer, x: layer(x),
    "both": lambda layer, x: layer(x, True, mode="b"),
}
STATIC = {
    "remat": lambda: nn.remat(Flagged, static_argnums=(2, 3)),
    "remat, from the end": lambda: nn.remat(Flagged, static_argnums=(-1, 2)),
    "jit": lambda: nn.jit(Flagged, static_argnums=(2, 3)),
    "jit, by name": lambda: nn.jit(Flagged, static_argnames=("train", "mode")),
    "jit, both": lambda: nn.jit(Flagged, static_argnums=2, static_argnames="mode"),
    "partitioning": lambda: nn.partitioning.remat(Flagged, static_argnums=(1, 2)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", STATIC)
def test_static_arguments_in_any_form(name, form):
    lifted = jax.make_jaxpr(lambda x: FORMS[form](STATIC[name]()().bind({}), x))(X)
    assert ("neg" in str(lifted)) == (form != "default")


def test_counted_without_the_module():
    class Switched(nn.Module):
        def __call__(self, x, train):
            return -x if train else x

    for lifted in (nn.remat(Switched, static_argnums=(1,)), nn.jit(Switched, static_argnums=(1,))):
        with pytest.raises((jax.errors.TracerBoolConversionError, ValueError)) as caught:
            jax.eval_shape(lambda x, cls=lifted: cls().apply({}, x, True), X)
        notes = "".join(caught.value.__notes__)
        assert "counts the module as 0: 1 is 'x'" in notes and "static_argnums=(2,)" in notes


def test_remat_scan_hands_names_of_axes_on():
    init = nn.with_partitioning(nn.initializers.ones, ("in", "out"))
    deep = nn.remat_scan(nn.Dense, (2, 3), metadata_params={nn.PARTITION_NAME: "layers"})(2, kernel_init=init)
    variables = jax.eval_shape(deep.init, jax.random.key(0), X)
    assert variables["params"]["kernel"].names == ("layers", "layers", "in", "out")
    jax.eval_shape(deep.apply, variables, X)
