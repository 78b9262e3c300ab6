"""Axes that do not exist or do not agree, of `vmap` and `scan` alike; NumPy arrays that are mapped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import errors, nn

KEY, X = jax.random.key(0), jnp.array([1.0, 2.0, 3.0])
YS = jnp.ones((4, 3))


class Scale(nn.Module):
    @nn.compact
    def __call__(self, x):
        return self.param("s", lambda key: jnp.float32(1)) * x


class Cell(nn.Module):
    @nn.compact
    def __call__(self, c, y):
        return Scale()(c) + y, c


def mapped(name, axis=0, **options):
    options = {"variable_axes": {"params": axis}, "split_rngs": {"params": True}, **options}
    if name == "vmap":
        return nn.vmap(Scale, **options)(), (YS,), lambda s: {"params": {"s": s}}
    return nn.scan(Cell, **options)(), (X, YS), lambda s: {"params": {"Scale_0": {"s": s}}}


@pytest.mark.parametrize("name", ["vmap", "scan"])
@pytest.mark.parametrize(
    ("s", "text"),
    [
        (jnp.float32(1), r"the variable params/.*s of shape \(\) has no axis 0 to map over"),
        (jnp.ones(3), r"different sizes: 3 for axis 0 of the variable params/.*s of shape \(3,\); 4 for axis 0 of arg"),
    ],
    ids=["no-axis", "length"],
)
def test_variable_that_does_not_fit(name, s, text):
    model, args, variables = mapped(name)
    with pytest.raises(errors.MappedAxisError, match=f"^{name}: .*{text}"):
        model.apply(variables(s), *args)


@pytest.mark.parametrize("name", ["vmap", "scan"])
@pytest.mark.parametrize("axis", [1, -2])
def test_created_variable_can_not_have_the_axis(name, axis):
    model, args, _ = mapped(name, axis)
    text = rf"the variable params/.*has shape \(\) inside.*axis {axis} is none"
    with pytest.raises(errors.MappedAxisError, match=text):
        model.init(KEY, *args)


@pytest.mark.parametrize(("name", "who"), [("vmap", "the output"), ("scan", "y in the output")])
@pytest.mark.parametrize("axis", [2, -3])
def test_output_can_not_have_the_axis(name, who, axis):
    model, args, _ = mapped(name, out_axes=axis)
    with pytest.raises(errors.MappedAxisError, match=rf"{name}: {who} has shape \(3,\) inside.*axis {axis} is none"):
        model.init(KEY, *args)


@pytest.mark.parametrize("name", ["vmap", "scan"])
@pytest.mark.parametrize("axis", [1, -1])
def test_last_axis_that_can_be(name, axis):
    model, args, variables = mapped(name, out_axes=axis)
    out = model.apply(variables(jnp.ones(4)), *args)
    assert (out if name == "vmap" else out[1]).shape == (3, 4)


def test_variables_tell_the_length_of_a_loop():
    class Step(nn.Module):
        @nn.compact
        def __call__(self, c):
            return Scale()(c), None

    loop = nn.scan(Step, variable_axes={"params": 0}, split_rngs={"params": True})()
    c, _ = loop.apply({"params": {"Scale_0": {"s": jnp.array([2.0, 3.0])}}}, X)
    np.testing.assert_array_equal(c, 6 * X)


@pytest.mark.parametrize("rule", ["custom_vjp", "custom_jvp"])
def test_numpy_variables_of_a_rule_that_is_mapped_in_a_compiled_function(rule):
    call = lambda mdl, x: mdl(x)
    if rule == "custom_vjp":
        ruled = nn.custom_vjp(call, lambda mdl, x: nn.vjp(call, mdl, x), lambda pull, ct: pull(ct))
    else:
        ruled = nn.custom_jvp(call, lambda mdl, p, t, v: nn.jvp(call, mdl, p, t, v))

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
            return nn.vmap(lambda mdl, x: ruled(mdl, x), **axes)(Scale(), x)

    variables = {"params": {"Scale_0": {"s": np.array([1, 2], np.float32)}}}
    for x in (jnp.stack([X, X]), np.ones((2, 3), np.float32)):
        run = lambda x=x: Model().apply(variables, x)
        expected = variables["params"]["Scale_0"]["s"][:, None] * x
        np.testing.assert_array_equal(jax.jit(run)(), expected)
        np.testing.assert_array_equal(run(), expected)
