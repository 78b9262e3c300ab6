"""Where a module does more than Linen's, or otherwise; what is the same is in `tests/parity`."""

import jax
import jax.numpy as jnp
import pytest
from tests.parity.table import difference, plain

from liftax import errors, nn


def test_method_may_be_a_submodule():
    """Linen finds a submodule by name only on bound modules; here it is a method like any other."""
    x = jnp.ones((1, 3))
    model = nn.Sequential([nn.Dense(3)])

    class Net(nn.Module):
        inner: nn.Module

        def setup(self):
            self.outer = nn.Dense(2)

        def __call__(self, x):
            return self.outer(self.inner(x))

    net = Net(model)
    variables = net.init(jax.random.key(0), x)
    inner = net.apply(variables, x, method="inner")
    assert (net.apply(variables, inner, method="outer") == net.apply(variables, x)).all()


def test_state_written_inside_a_transform_of_jax_is_an_error():
    """Linen lets the tracer leak."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            n = self.variable("state", "n", lambda: jnp.zeros(()))

            def f(x):
                n.value = x.sum()
                return x.sum()

            return jax.grad(f)(x)

    with pytest.raises(errors.JaxTransformError, match="state/n at /"):
        Net().init(jax.random.key(0), jnp.ones(3))


def test_lazy_init_that_needs_a_value_is_an_error():
    """Linen gives the variable some value on recent versions of JAX."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return self.param("w", lambda key: x.sum())

    with pytest.raises(errors.LazyInitError, match="depends on the value of an argument"):
        Net().lazy_init(jax.random.key(0), jax.ShapeDtypeStruct((2,), jnp.float32))


def test_compact_name_scope_lies_in_its_module():
    """Also in a submodule, where Linen puts it into the module around."""

    class Inner(nn.Module):
        @nn.compact_name_scope
        def up(self, x):
            return nn.Dense(3)(x)

        def __call__(self, x):
            return self.up(x)

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Inner()(Inner()(x))

    shapes = jax.tree.map(jnp.shape, Outer().init(jax.random.key(0), jnp.ones((1, 3))))
    up = {"up": {"Dense_0": {"bias": (3,), "kernel": (3, 3)}}}
    assert shapes == {"params": {"Inner_0": up, "Inner_1": up}}


def test_sharing_modules_inside_transforms():
    """share_scope and compact_name_scope hold inside lifted transforms, at init and at apply."""

    class Adapted(nn.Module):
        base: nn.Module

        def setup(self):
            nn.share_scope(self, self.base)

        @nn.compact_name_scope
        def head(self, x):
            return nn.Dense(1)(x)

        @nn.compact
        def __call__(self, x):
            return self.head(self.base(x) * self.param("scale", nn.initializers.ones, ())).sum()

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            y, vjp_fn = nn.vjp(lambda m, x: m(x), Adapted(nn.Dense(3)), x)
            return y, vjp_fn(jnp.ones(()))

    x = jnp.ones((2, 3))
    (y, (variables_ct, x_ct)), variables = Net().init_with_output(jax.random.key(0), x)
    expected = jax.grad(lambda v, x: Adapted(nn.Dense(3)).apply(v, x), (0, 1))
    inner = {"params": variables["params"]["Dense_0"]}
    assert set(inner["params"]) == {"kernel", "bias", "scale", "head"}
    want_variables, want_x = expected(inner, x)
    # Before setup has run the variables are those of the field `base`, and that is how they are packed.
    assert not difference(plain(variables_ct), plain({"params": {"base": want_variables["params"]}}))
    assert not difference(plain(x_ct), plain(want_x))
    assert not difference(plain(Net().apply(variables, x)), plain((y, (variables_ct, x_ct))))


def test_interceptors_hold_in_rules_traced_later():
    """JAX traces the forward rule of custom_vjp when it differentiates, after the `with` block has ended."""
    seen = []

    def interceptor(next_fun, args, kwargs, context):
        seen.append(context.method_name)
        return next_fun(*args, **kwargs)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            f = lambda mdl, x: mdl(x).sum()
            backward = lambda vjp_fn, ct: vjp_fn(ct)
            return nn.custom_vjp(f, lambda mdl, x: nn.vjp(f, mdl, x), backward)(nn.Dense(1), x)

    variables = Net().init(jax.random.key(0), jnp.ones(3))

    @jax.jit
    def run(x):
        with nn.intercept_methods(interceptor):
            return Net().apply(variables, x)

    jax.grad(run)(jnp.ones(3))
    assert seen.count("__call__") == 3  # Net, Dense, and Dense in the forward rule


def test_interceptor_that_fails_leaves_no_trace():
    def interceptor(next_fun, args, kwargs, context):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"), nn.intercept_methods(interceptor):
        nn.Dense(1).init(jax.random.key(0), jnp.ones(3))
    assert nn.Dense(1).init(jax.random.key(0), jnp.ones(3))["params"]["kernel"].shape == (3, 1)


def test_named_call():
    """The names of modules stand in the compiled program unless they are switched off."""

    class Scale(nn.Module):
        def __call__(self, x):
            return x * 2

    def text():
        return jax.jit(lambda x: Scale(name="mine").apply({}, x)).lower(jnp.ones(2)).as_text(debug_info=True)

    assert "/mine/" in text()
    with nn.override_named_call(False):
        assert "/mine/" not in text()
    nn.disable_named_call()
    assert "/mine/" not in text()
    nn.enable_named_call()
    assert "/mine/" in text()
