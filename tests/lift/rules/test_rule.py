"""What a function with a rule of its own creates: made outside of the rule, so that `init` gives what `apply` gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import nn

KEY, X = jax.random.key(0), jnp.arange(6.0).reshape(2, 3)
call = lambda mdl, *args: mdl(*args)


def gradient(mdl, x):
    y, vjp_fn = nn.vjp(call, mdl, x)
    return y, vjp_fn


RULES = {
    "custom_vjp": lambda: nn.custom_vjp(call, gradient, lambda pull, ct: pull(ct)),
    "custom_gradient": lambda: nn.custom_gradient(gradient),
    "custom_jvp": lambda: nn.custom_jvp(call, lambda mdl, p, t, v: nn.jvp(call, mdl, p, t, v)),
}


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=True)(x)


class Perturbed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return self.perturb("h", 2.0 * x)


class Score(nn.Module):
    block: type[nn.Module]
    rule: str

    @nn.compact
    def __call__(self, x):
        rule = RULES[self.rule]()
        energy = lambda mdl, x: jnp.sum(rule(mdl, x) ** 2) + jnp.sum(mdl(x) ** 2)
        return nn.grad(energy, self.block(name="m"), x)[0]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("block", "slope"), [(Normed, 4 / (1 + 1e-5)), (Perturbed, 16.0)])
def test_init_gives_what_apply_gives(rule, block, slope):
    model = Score(block, rule)
    out, variables = jax.jit(model.init_with_output)(KEY, X)
    assert set(variables) == ({"params", "batch_stats"} if block is Normed else {"perturbations"})
    np.testing.assert_allclose(out, slope * X, 1e-6)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, X), slope * X, 1e-6)
    if block is Perturbed:  # created in apply, too
        out, made = model.apply({}, X, mutable=["perturbations"])
        np.testing.assert_allclose(out, slope * X, 1e-6)
        np.testing.assert_array_equal(made["perturbations"]["m"]["h"], jnp.zeros_like(X))


class Table(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x * self.variable("consts", "t", lambda: jnp.array([2.0, 0.0, 1.0])).value


@pytest.mark.parametrize("rule", RULES)
def test_constant_that_a_rule_creates_does_not_depend_on_the_step(rule):
    class Cell(nn.Module):
        @nn.compact
        def __call__(self, c, y):
            return RULES[rule]()(Table(name="m"), c + y), None

    loop = nn.scan(Cell, variable_broadcast=["consts"])()
    (c, _), variables = loop.init_with_output(KEY, X[0], jnp.ones((2, 3)))
    np.testing.assert_array_equal(variables["consts"]["m"]["t"], [2.0, 0.0, 1.0])
    np.testing.assert_array_equal(c, loop.apply(variables, X[0], jnp.ones((2, 3)))[0])


class Sown(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.sow("intermediates", "h", x)
        count = self.variable("state", "n", jnp.zeros, ())
        if self.is_mutable_collection("state"):
            count.value += jnp.sum(x)
        return 1.5 * x


class Ruled(nn.Module):
    @nn.compact
    def __call__(self, x):
        return RULES["custom_jvp"]()(Sown(name="m"), x)


class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.jit(call)(Ruled(name="m"), x)


@pytest.mark.parametrize("model", [Ruled, nn.jit(Ruled), Twice, nn.jit(Twice)], ids=["plain", "jit", "lambda", "twice"])
@pytest.mark.parametrize("mode", ["jvp", "jacfwd"])
def test_forwards_out_of_a_compiled_function_where_no_tangent_of_state_is_used(model, mode):
    def out(x):
        y, state = model().apply({}, x, mutable=["intermediates", "state"])
        assert set(state) == {"intermediates", "state"}
        return y

    x = X[0]
    if mode == "jacfwd":
        np.testing.assert_array_equal(jax.jacfwd(out)(x), 1.5 * jnp.eye(3))
    else:
        np.testing.assert_array_equal(jax.jvp(out, (x,), (x,))[1], 1.5 * x)


def test_tangent_of_state_out_of_a_compiled_function_is_no_number():
    used = lambda x: nn.jit(Ruled)().apply({}, x, mutable=["state"])[1]["state"]["m"]["n"]
    n, n_t = jax.jvp(used, (X[1],), (X[1],))
    assert n == 12.0
    assert jnp.isnan(n_t)
