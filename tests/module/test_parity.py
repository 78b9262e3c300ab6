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
