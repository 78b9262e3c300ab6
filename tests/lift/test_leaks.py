"""No transform leaves a tracer or an array behind, and `jax.checking_leaks` has nothing to report of any."""

import gc

import jax
import jax.numpy as jnp
import pytest

from liftax import nn


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jnp.tanh(nn.Dense(3)(x)).sum()


def call(mdl, x):
    return mdl(x)


def rule(mdl, x):
    return nn.custom_vjp(call, lambda m, x: nn.vjp(call, m, x), lambda pull, ct: pull(ct))(mdl, x)


def loop(mdl, x):
    def step(m, c, _):
        return c * m(x), None

    steps = nn.scan(step, variable_broadcast="params", split_rngs={"params": False}, length=2)
    return steps(mdl, x, None)[0].sum()


BODIES = {
    "vjp": lambda m, x: nn.vjp(call, m, x)[1](1.0)[1].sum(),
    "jvp": lambda m, x: nn.jvp(call, m, (x,), (x,))[1],
    "grad": lambda m, x: nn.grad(call, m, x)[0].sum(),
    "custom_vjp": rule,
    "jit": lambda m, x: nn.jit(call)(m, x),
    "remat": lambda m, x: nn.remat(call)(m, x),
    "scan": loop,
    "laplacian": lambda m, x: nn.laplacian(call, m, x)[1],
}


class Outer(nn.Module):
    body: str

    @nn.compact
    def __call__(self, x):
        return BODIES[self.body](Block(name="block"), x)


X = jnp.arange(3.0) / 3


def live() -> tuple[int, int]:
    gc.collect()
    tracers = sum(isinstance(x, jax.core.Tracer) for x in gc.get_objects())
    return tracers, len(jax.live_arrays())


@pytest.mark.parametrize("name", BODIES)
def test_nothing_lives_on(name):
    model = Outer(name)
    variables = model.init(jax.random.key(0), X)
    loss = lambda variables: model.apply(variables, X).sum()

    def run():
        jax.block_until_ready(jax.jit(jax.grad(loss))(variables))

    tracers, _ = live()
    run()
    _, arrays = live()
    run()
    assert all(now <= before for now, before in zip(live(), (tracers, arrays), strict=True))


@pytest.mark.parametrize("name", BODIES)
def test_under_checking_leaks(name):
    model = Outer(name)
    variables = model.init(jax.random.key(0), X)
    with jax.checking_leaks():
        for grad in (jax.grad, lambda f: jax.jit(jax.grad(f))):
            got = grad(lambda variables: model.apply(variables, X).sum())(variables)
            assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(got))
