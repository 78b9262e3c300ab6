"""What is suspicious is a warning of a class of its own, once a place; what never ends is an error at once."""

import functools
import warnings

import jax
import jax.numpy as jnp
import pytest

from liftax import errors, nn

X = jnp.array([1.0, 2.0])
KEY = jax.random.key(0)


class Body(nn.Module):
    body: object

    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.ones, (2,))
        return self.body(self, w, x)


def product(mdl, x, w=None, *, v=None):
    return ((w if v is None else v) * x).sum()


HOLDERS = {
    "a cell": lambda w: lambda mdl, x: (w * x).sum(),
    "a default": lambda w: lambda mdl, x, w=w: (w * x).sum(),
    "a partial": lambda w: functools.partial(product, v=w),
    "a container": lambda w: (lambda held: lambda mdl, x: (held["w"][0] * x).sum())({"w": [w]}),
    "a function that it closes over": lambda w: (lambda inner: lambda mdl, x: inner(x))(lambda x: (w * x).sum()),
}
ASKING = {
    "vjp": lambda f, m, x: nn.vjp(f, m, x)[1](jnp.ones(()))[0],
    "grad": lambda f, m, x: nn.grad(f, m, x, vjp_variables="params")[0],
    "jvp": lambda f, m, x: nn.jvp(f, m, (x,), (x,), {"params": {"w": x}})[1],
    "jacrev": lambda f, m, x: nn.jacrev(f, m, x, wrt="params")[0],
    "linearize": lambda f, m, x: nn.linearize(f, m, x, wrt="params")[0],
}
NOT_ASKING = {
    "vjp": lambda f, m, x: nn.vjp(f, m, x, vjp_variables=False)[0],
    "grad": lambda f, m, x: nn.grad(f, m, x),
    "jvp": lambda f, m, x: nn.jvp(f, m, (x,), (x,), {})[1],
    "jacrev": lambda f, m, x: nn.jacrev(f, m, x),
    "jit": lambda f, m, x: nn.jit(f)(m, x),
    "remat": lambda f, m, x: nn.remat(f)(m, x),
}
VARIABLES = {"params": {"w": jnp.ones(2)}}


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_variable_that_is_closed_over_is_a_warning(holder):
    model = Body(lambda self, w, x: ASKING["vjp"](HOLDERS[holder](w), self, x))
    with pytest.warns(errors.CapturedVariableWarning, match="params/w at /, with respect to which"):
        got = model.apply(VARIABLES, X)
    assert not got["params"]["w"].any()
    with pytest.warns(errors.CapturedVariableWarning):
        jax.jit(model.init)(KEY, X)


@pytest.mark.parametrize("name", ASKING)
def test_it_is_where_the_derivative_of_the_variable_is_asked_for(name):
    model = Body(lambda self, w, x: ASKING[name](HOLDERS["a cell"](w), self, x))
    with pytest.warns(errors.CapturedVariableWarning, match=f"{name}: <lambda> closes over"):
        model.apply(VARIABLES, X)


@pytest.mark.parametrize("name", NOT_ASKING)
def test_it_is_not_where_nobody_asks(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Body(lambda self, w, x: NOT_ASKING[name](HOLDERS["a cell"](w), self, x)).apply(VARIABLES, X)


def test_it_is_not_for_what_depends_on_the_variable_or_is_stopped():
    def read(mdl, x):
        return (mdl.get_variable("params", "w") * x).sum()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = Body(lambda self, w, x: ASKING["vjp"](read, self, x)).apply(VARIABLES, X)
    assert (got["params"]["w"] == X).all()


def test_it_comes_once_a_place():
    model = Body(lambda self, w, x: ASKING["vjp"](lambda mdl, x: (w * x).sum(), self, x))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            model.apply(VARIABLES, X)
    assert [w.category for w in caught] == [errors.CapturedVariableWarning]
    assert caught[0].filename == __file__


LOOPS = {
    "scan": lambda f, x: jax.lax.scan(lambda c, y: (c, f(y)), 0.0, x)[1],
    "map": lambda f, x: jax.lax.map(f, x),
    "while_loop": lambda f, x: jax.lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, f(c[1])), (0, x))[1],
    "fori_loop": lambda f, x: jax.lax.fori_loop(0, 2, lambda i, c: f(c), x),
}
NO_LOOPS = {
    "vmap": lambda f, x: jax.vmap(f)(x),
    "jit": lambda f, x: jax.jit(f)(x),
    "grad": lambda f, x: jax.grad(lambda x: f(x).sum())(x),
    "cond": lambda f, x: jax.lax.cond(True, f, f, x),
}


class Noisy(nn.Module):
    around: object

    @nn.compact
    def __call__(self, x):
        drop = nn.Dropout(0.5, deterministic=False)
        return self.around(lambda x: drop(x), x)


@pytest.mark.parametrize("name", LOOPS)
def test_a_key_drawn_in_a_raw_loop_is_a_warning(name):
    with pytest.warns(errors.RepeatedKeyWarning, match=r"/Dropout_0 .*'dropout'.*nn\.scan\(…, split_rngs=") as caught:
        Noisy(LOOPS[name]).apply({}, X, rngs={"dropout": KEY})
    assert {w.filename for w in caught} == {__file__}
    with pytest.warns(errors.RepeatedKeyWarning):
        jax.jit(Noisy(LOOPS[name]).apply)({}, X, rngs={"dropout": KEY})


class Step(nn.Module):
    @nn.compact
    def __call__(self, carry, y):
        return carry, nn.Dropout(0.5, deterministic=False)(y)


Scanned = nn.scan(Step, split_rngs={"dropout": True})


@pytest.mark.parametrize("name", NO_LOOPS)
def test_a_key_drawn_elsewhere_is_none(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Noisy(NO_LOOPS[name]).apply({}, X, rngs={"dropout": KEY})
        Noisy(lambda _, x: Scanned()(0.0, x)[1]).apply({}, X, rngs={"dropout": KEY})
        jax.lax.scan(lambda c, y: (c, Noisy(NO_LOOPS["jit"]).apply({}, y, rngs={"dropout": KEY})), 0.0, X)


THEMSELVES = {
    "grad": lambda m, x: nn.grad(lambda m, x: m(x).sum(), m, x)[0],
    "vjp": lambda m, x: nn.vjp(lambda m, x: m(x), m, x)[0],
    "jvp": lambda m, x: nn.jvp(lambda m, x: m(x), m, (x,), (x,), {})[0],
    "hessian": lambda m, x: nn.hessian(lambda m, x: m(x).sum(), m, x),
    "jit": lambda m, x: nn.jit(lambda m, x: m(x))(m, x),
    "vmap": lambda m, x: nn.vmap(lambda m, x: m(x), variable_axes={"params": None}, split_rngs={"params": False})(
        m, x[None]
    )[0],
    "remat": lambda m, x: nn.remat(lambda m, x: m(x))(m, x),
    "custom_vjp": lambda m, x: nn.custom_vjp(lambda m, x: m(x), lambda m, x: (m(x), ()), lambda r, ct: (None, ct))(
        m, x
    ),
}


@pytest.mark.parametrize("name", THEMSELVES)
def test_a_method_that_transforms_itself_is_an_error_at_once(name):
    runs = []

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            runs.append(x)
            return THEMSELVES[name](self, jnp.tanh(x))

    with pytest.raises(errors.SelfCallError, match=r"Model.__call__ calls \w+ of a function .*nn\.grad\(Model\.energy"):
        Model().init(KEY, X)
    assert len(runs) < 10


def test_a_method_of_its_own_is_differentiated():
    class Model(nn.Module):
        @nn.compact
        def energy(self, x):
            return jnp.sum(self.param("k", nn.initializers.ones, ()) * x**2)

        def __call__(self, x):
            return nn.grad(type(self).energy, self, x)[0]

    variables = Model().init(KEY, X)
    assert (Model().apply(variables, X) == 2 * X).all()


def test_a_method_that_comes_back_with_another_order_is_no_error():
    class Sine(nn.Module):
        def __call__(self, x, order=6):
            if order == 0:
                return jnp.sin(x)
            return nn.grad(lambda mdl, x: mdl(x, order - 1), self, x)[0]

    assert abs(Sine().apply({}, 0.5) + jnp.sin(0.5)) < 1e-5
