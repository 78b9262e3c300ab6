"""Programs over modules, run on flax.linen and on liftax: the same variables, outputs, state, and errors.

Results are equal to the bit: both libraries draw the same keys and run the same JAX operations in these programs.
"""

from collections.abc import Mapping
from typing import Any

import flax.core
import flax.errors
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.module.programs import MISTAKES, PROGRAMS, SCRIPTS

from liftax import errors, nn


def plain(x: Any) -> Any:
    """Return `x` as data that compares to the bit."""
    if isinstance(x, Mapping):
        return {k: plain(v) for k, v in x.items()}
    if isinstance(x, tuple | list):
        return [plain(v) for v in x]
    if isinstance(x, jax.ShapeDtypeStruct):
        return x.shape, str(x.dtype)
    if hasattr(x, "unbox") and hasattr(x, "names"):
        return "box", x.names, plain(x.unbox())
    if isinstance(x, jax.Array | np.ndarray | np.generic):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        x = np.asarray(x)
        return str(x.dtype), x.shape, x.tolist()
    return x


def run(name: str, lib: Any) -> dict[str, Any]:
    program = PROGRAMS[name]
    model = program.build(lib)
    out, variables = model.init_with_output(program.rngs, *program.args, **program.options)
    init = plain((out, variables))
    stored = {col: tree for col, tree in variables.items() if col != "intermediates"}
    if program.frozen:
        stored = flax.core.freeze(stored)
    first = model.apply(stored, *program.args, rngs=program.rngs, mutable=program.mutable, **program.options)
    again = model.apply(stored, *program.args, rngs=program.rngs, mutable=program.mutable, **program.options)
    return {"init": init, "apply": plain(first), "again": plain(again)}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str):
    assert run(name, nn) == run(name, flax.linen)


@pytest.mark.parametrize("name", SCRIPTS)
def test_script(name: str):
    assert plain(SCRIPTS[name](nn)) == plain(SCRIPTS[name](flax.linen))


# Where liftax names the mistake, and Linen its consequence.
CLEARER = {"module_that_escaped": errors.InvalidScopeError}


def raised(name: str, lib: Any) -> type[Exception]:
    with pytest.raises(Exception) as caught:
        MISTAKES[name](lib)
    return caught.type


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(name: str):
    """Errors that have a class in Linen have it here; where Linen raises a built-in, a class of liftax is better."""
    ours, theirs = raised(name, nn), raised(name, flax.linen)
    if name in CLEARER:
        assert ours is CLEARER[name]
    elif issubclass(theirs, flax.errors.FlaxError):
        assert ours.__name__ == theirs.__name__
    else:
        assert issubclass(ours, theirs | errors.LiftaxError)


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
    assert plain(variables_ct) == plain({"params": {"base": want_variables["params"]}})
    assert plain(x_ct) == plain(want_x)
    assert plain(Net().apply(variables, x)) == plain((y, (variables_ct, x_ct)))


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
