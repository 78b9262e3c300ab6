"""`cond`, `switch`, `while_loop`, `map_variables`, `jit` and derivatives, with their options."""

from typing import Any

import jax
import jax.numpy as jnp

from ..blocks import top
from ..table import Rounding
from .options import SPLIT, STACKED, option, step


def counting(nn: Any) -> Any:
    """A layer that counts its calls and draws."""

    class Counting(nn.Module):
        @nn.compact
        def __call__(self, x):
            n = self.variable("state", "n", lambda: jnp.zeros(()))
            if not self.is_initializing() and self.is_mutable_collection("state"):
                n.value += 1.0
            return nn.Dense(3)(x) + jax.random.normal(self.make_rng("noise"), ())

    return Counting


@option()
def cond_without_operands(nn: Any) -> Any:
    def body(s, x):
        d = nn.Dense(3)
        d(x)
        return nn.cond(True, lambda m: m(x), lambda m: m(x) * 2, d)

    return top(nn, body)


@option()
def cond_trees(nn: Any) -> Any:
    def body(s, x):
        d = nn.Dense(3)
        d(x)
        return nn.cond(x[0, 0] < 0, lambda m, a, b: (m(a["q"]), b), lambda m, a, b: (m(b), a["q"]), d, {"q": x}, x * 2)

    return top(nn, body)


@option(long=True)
def cond_variables_rngs(nn: Any) -> Any:
    def body(s, x):
        m = counting(nn)()
        m(x)
        return nn.cond(
            x.sum() > 0,
            lambda m, x: m(x),
            lambda m, x: m(x) * 3,
            m,
            x,
            variables=["params", "state"],
            rngs=["noise", "params"],
        )

    return top(nn, body)


@option(long=True)
def switch_clips_its_index(nn: Any) -> Any:
    def body(s, x):
        ms = [nn.Dense(3, name=f"h{i}") for i in range(3)]
        if s.is_initializing():
            for m in ms:
                m(x)
        return [nn.switch(i, [lambda m, x, j=j: ms[j](x) for j in range(3)], s, x) for i in (-3, 0, 1, 2, 9)]

    return top(nn, body)


@option(long=True)
def switch_with_state(nn: Any) -> Any:
    def body(s, x):
        m = counting(nn)()
        m(x)
        return nn.switch(jnp.int32(1), [lambda m, x: x, lambda m, x: m(m(x)), lambda m, x: m(x)], m, x)

    return top(nn, body)


@option(underivable="JAX differentiates no while loop in reverse mode")
def while_loop_same_draws(nn: Any) -> Any:
    def body(s, x):
        m = counting(nn)()
        if s.is_initializing():
            return m(x)
        return nn.while_loop(
            lambda m, c: c[1] < 3,
            lambda m, c: (m(c[0]), c[1] + 1),
            m,
            (x, 0),
            carry_variables=["state"],
            broadcast_variables=["params"],
            split_rngs={"noise": False},
        )

    return top(nn, body)


@option()
def map_variables_normalized(nn: Any) -> Any:
    tin = lambda v: jax.tree.map(lambda a: a / jnp.linalg.norm(a), v)
    return top(nn, lambda s, x: nn.map_variables(nn.Dense, "params", tin, init=s.is_initializing())(3)(x))


@option(long=True)
def jit_of_one_class_at_many_places(nn: Any) -> Any:
    J = nn.jit(counting(nn))

    def body(s, x):
        a = J(name="a")
        b = J()
        return a(a(x)), b(x), J()(x)

    return top(nn, body)


@option()
def jit_variables_rngs(nn: Any) -> Any:
    return top(nn, lambda s, x: nn.jit(counting(nn), variables=["params", "state"], rngs=["params", "noise"])()(x))


@option(long=True)
def jit_in_setup(nn: Any) -> Any:
    class M(nn.Module):
        def setup(self):
            self.l = [nn.jit(nn.Dense)(3) for _ in range(3)]

        def __call__(self, x):
            for layer in self.l:
                x = layer(x)
            return x

    return top(nn, lambda s, x: M()(x))


@option()
def jit_function(nn: Any) -> Any:
    def body(s, x):
        d = nn.Dense(3)
        return nn.jit(lambda m, x, k: m(x) * k)(d, x, 2.0)

    return top(nn, body)


@option(long=True)
def transforms_in_setup(nn: Any) -> Any:
    class M(nn.Module):
        def setup(self):
            self.a = nn.remat(nn.Dense)(3)
            self.b = nn.vmap(nn.Dense, {"params": 0}, {"params": True})(3)
            self.c = nn.jit(nn.Dense)(3, name="jj")
            self.s = nn.scan(step(nn), STACKED, split_rngs=SPLIT, length=2)()

        def __call__(self, x):
            return self.s(self.c(self.b(self.a(x))), None)

    return top(nn, lambda s, x: M()(x))


@option()
def custom_vjp_inside(nn: Any) -> Any:
    def body(s, x):
        m = nn.Dense(3)
        m(x)

        def f(m, x):
            return m(x)

        def fwd(m, x):
            return nn.vjp(f, m, x)

        def bwd(r, t):
            pt, *it = r(t)
            return jax.tree.map(jnp.sign, pt), *it

        return nn.custom_vjp(f, fwd, bwd)(m, x)

    return top(nn, body)


@option()
def grad_inside(nn: Any) -> Any:
    def body(s, x):
        m = nn.Dense(1)
        m(x)
        return nn.grad(lambda m, x: m(x).sum(), m, x), nn.value_and_grad(
            lambda m, x: (m(x).sum(), x), m, x, has_aux=True
        )

    return top(nn, body)


@option(rounding=(Rounding(("grads/x",), "the cotangents of the uses of x are added in another order", 2),))
def jvp_inside(nn: Any) -> Any:
    def body(s, x):
        m = nn.Dense(3)
        m(x)
        return nn.jvp(
            lambda m, x, y: m(x) * y,
            m,
            (x, 2.0),
            (x, 1.0),
            {"params": jax.tree.map(jnp.ones_like, m.variables["params"])},
        )

    return top(nn, body)


@option()
def vjp_with_options(nn: Any) -> Any:
    def body(s, x):
        m = counting(nn)()
        m(x)
        y, f, aux = nn.vjp(
            lambda m, x: (m(x), {"a": x}), m, x, has_aux=True, vjp_variables=["params"], variables=True, rngs=True
        )
        return y, f(y), aux

    return top(nn, body)
