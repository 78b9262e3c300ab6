"""`liftax.testing.check_grads`: it passes what is right, and names the leaf, the mode and the order of what is not."""

import jax
import jax.numpy as jnp
import pytest

from liftax import errors, nn
from liftax.testing import check_grads

X = jnp.asarray([[1.0, -2.0], [0.5, 1.5]])


class Model(nn.Module):
    """Statistics, dropout, and a rule that is wrong by `factor` in one mode and one leaf."""

    factors: tuple = (1.0, 1.0)
    backwards: bool = False

    @nn.compact
    def __call__(self, x):
        params_factor, x_factor = self.factors
        f = lambda mdl, x: jnp.tanh(mdl(x))

        def jvp_fn(mdl, primals, tangents, variable_tangents):
            kernel = params_factor * variable_tangents["params"]["kernel"]
            tangents = (x_factor * tangents[0],)
            return nn.jvp(f, mdl, primals, tangents, {"params": {**variable_tangents["params"], "kernel": kernel}})

        def backward(bwd, ct):
            ((params_ct), x_ct) = bwd(ct)
            params_ct = params_ct["params"]
            return {"params": {**params_ct, "kernel": params_factor * params_ct["kernel"]}}, x_factor * x_ct

        layer = nn.Dense(2, name="layer")
        if self.backwards:
            h = nn.custom_vjp(f, lambda mdl, x: nn.vjp(f, mdl, x), backward)(layer, x)
        else:
            h = nn.custom_jvp(f, jvp_fn)(layer, x)
        h = nn.BatchNorm(use_running_average=False, momentum=0.5)(nn.Dropout(0.3, deterministic=False)(h) + x)
        return {"y": h, "n": jnp.argmax(h)}


RNGS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
VARIABLES = Model().init(RNGS, X)


@pytest.mark.parametrize(("order", "backwards"), [(1, True), (2, False)])
def test_what_is_right(order, backwards):
    model = Model(backwards=backwards)
    modes = ("rev",) if backwards else ("fwd", "rev")
    found = check_grads(model, VARIABLES, X, order=order, modes=modes, rngs=RNGS, mutable=["batch_stats"])
    names = {f"params/{m}/{v}" for m, v in [("layer", "kernel"), ("layer", "bias"), ("BatchNorm_0", "scale")]}
    stats = {f"batch_stats/BatchNorm_0/{v}" for v in ("mean", "var")}
    assert set(found) == names | stats | {"params/BatchNorm_0/bias", "argument 0"}
    assert max(found.values()) < 1


@pytest.mark.parametrize(
    ("factors", "backwards", "modes", "text"),
    [
        ((1.5, 1.0), False, ("fwd",), r"\(fwd\): moving params/layer/kernel changes output.*\[\d\] by"),
        ((1.0, 1.5), False, ("fwd",), r"\(fwd\): moving argument 0 changes output"),
        ((1.5, 1.0), True, ("rev",), r"\(rev\): moving params/layer/kernel changes"),
        ((1.0, float("nan")), True, ("rev",), r"\(rev\): moving argument 0 changes .* by nan"),
    ],
)
def test_what_is_wrong(factors, backwards, modes, text):
    with pytest.raises(errors.GradientCheckError, match=text):
        check_grads(Model(factors, backwards), VARIABLES, X, modes=modes, rngs=RNGS, mutable=["batch_stats"])


def test_wrong_second_order_of_a_function():
    @jax.custom_jvp
    def square(x):
        return x**2

    @jax.custom_jvp
    def double(x):
        return 2 * x

    square.defjvp(lambda p, t: (square(*p), double(*p) * t[0]))
    double.defjvp(lambda p, t: (double(*p), 5 * t[0]))
    f = lambda variables, batch: variables["w"] * square(batch["x"])
    variables, batch = {"w": jnp.ones(())}, {"x": jnp.asarray([1.0, 2.0]), "n": 3}
    assert set(check_grads(f, variables, batch, wrt="w")) == {"w", "argument 0['x']"}
    assert set(check_grads(f, variables, batch, wrt=False)) == {"argument 0['x']"}
    with pytest.raises(errors.GradientCheckError, match=r"\(fwd, then fwd\): moving argument 0\['x'\]"):
        check_grads(f, variables, batch, order=2)
    with pytest.raises(errors.GradientCheckError, match=r"\(rev, then rev\): moving argument 0\['x'\]"):
        check_grads(f, variables, batch, order=2, modes="rev")


@pytest.mark.parametrize(
    "given",
    [
        {"modes": ("up",)}, {"modes": ()}, {"modes": None}, {"order": 0}, {"order": 1.5}, {"order": True},
        {"eps": 0.0}, {"eps": "1"}, {"atol": -1.0}, {"rtol": float("nan")}, {"seed": "1"},
    ],
)  # fmt: skip
def test_wrong_arguments(given):
    with pytest.raises(errors.ArityError, match="check_grads got"):
        check_grads(lambda v, x: x, {}, X, **given)


def test_nothing_to_vary_and_typos():
    with pytest.raises(errors.ArityError, match="nothing to vary"):
        check_grads(lambda v, x: x, {}, 3)
    with pytest.raises(errors.UnknownCollectionError, match=r"check_grads.*parms"):
        check_grads(Model(), VARIABLES, X, wrt="parms")


def test_what_can_not_be_compared():
    with pytest.raises(errors.NonDifferentiableOutputError, match="no floating-point array"):
        check_grads(lambda v, x: jnp.argmax(x), {}, X)
    with pytest.raises(errors.GradientCheckError, match="by -inf by the derivative"):  # infinite, hence never close
        check_grads(lambda v, x: 1 / x, {}, jnp.zeros(()))
    with pytest.raises(errors.ArityError, match="got tracers"):
        jax.jit(lambda x: check_grads(lambda v, x: x, {}, x))(X)
    with pytest.raises(errors.ApplyScopeInvalidVariablesTypeError, match=r"got float32.* for variables"):
        check_grads(lambda v, x: x, X)
    with pytest.raises(errors.ArityError, match="check_grads expected a function and got a str"):
        check_grads("model", {}, X)
    with pytest.raises(errors.ArityError, match=r"check_grads calls .* \(variables\) with 2"):
        check_grads(lambda variables: variables["w"], {"w": X}, X)


def test_notes_that_reverse_mode_can_be_tested_alone():
    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: (x**2, x), lambda x, ct: (2 * x * ct,))
    assert check_grads(lambda v, x: square(x), {}, X, modes="rev")["argument 0"] < 1
    with pytest.raises(TypeError, match="custom_vjp") as error:
        check_grads(lambda v, x: square(x), {}, X)
    assert any("modes=('rev',)" in note for note in error.value.__notes__)
