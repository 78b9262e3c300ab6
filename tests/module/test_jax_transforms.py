"""Raw transforms of JAX inside a module: what writes state of the module around is an error, reading it works."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import errors, nn

RAW = {
    "grad": (lambda f: jax.grad(lambda x: f(x).sum()), "nn.grad"),
    "vjp": (lambda f: lambda x: jax.vjp(f, x)[0], "nn.vjp"),
    "jvp": (lambda f: lambda x: jax.jvp(f, (x,), (x,))[0], "nn.jvp"),
    "vmap": (jax.vmap, "nn.vmap"),
    "scan": (lambda f: lambda x: jax.lax.scan(lambda c, x: (c, f(x)), 0.0, x)[1], "nn.scan"),
    "cond": (lambda f: lambda x: jax.lax.cond(x.sum() > 0, f, lambda x: x, x), "nn.cond"),
    "switch": (lambda f: lambda x: jax.lax.switch(1, [jnp.sin, f], x), "nn.switch"),
    "while_loop": (
        lambda f: lambda x: jax.lax.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 1, f(c[1])), (0, x))[1],
        "nn.while_loop",
    ),
    "jit": (jax.jit, "nn.jit"),
    "checkpoint": (jax.checkpoint, "nn.remat"),
}


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
    raw, lifted = RAW[name]
    variables = {"state": {"total": jnp.array(3.0)}}
    with pytest.raises(errors.JaxTransformError, match="state/total at /") as caught:
        Net(raw, True).apply(variables, jnp.arange(3.0), mutable="state")
    assert lifted in str(caught.value)
    assert variables["state"]["total"] == 3.0


@pytest.mark.parametrize("name", RAW)
def test_reading_works(name):
    raw, _ = RAW[name]
    x = jnp.arange(3.0)
    got, state = Net(raw, False).apply({"state": {"total": jnp.array(3.0)}}, x, mutable="state")
    np.testing.assert_allclose(got, raw(lambda x: 3.0 * x)(x))
    assert state["state"]["total"] == 3.0
