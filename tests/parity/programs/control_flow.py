"""`cond`, `switch`, `while_loop`, `map_variables`, and derivatives inside modules."""

from typing import Any

import jax
import jax.numpy as jnp

from ..blocks import block, top, transformed
from ..table import Rounding


@transformed(long=True)
def cond_both_draw(nn: Any) -> Any:
    def body(self, x):
        mdl = block(nn)()
        yes = lambda mdl, x: mdl(x) * 2
        no = lambda mdl, x: mdl(x)
        if self.is_initializing():
            mdl(x)
        return nn.cond(x[0, 0] > 0, yes, no, mdl, x), nn.cond(x[0, 0] < 0, yes, no, mdl, x)

    return top(nn, body)


@transformed()
def switch_heads(nn: Any) -> Any:
    def body(self, x):
        heads = [nn.Dense(4, name=f"head{i}") for i in range(3)]

        class Pick(nn.Module):
            heads: list

            def __call__(self, x, i):
                branches = [lambda mdl, x, j=j: mdl.heads[j](x) for j in range(3)]
                if self.is_initializing():
                    return sum(branch(self, x) for branch in branches)
                return nn.switch(i, branches, self, x)

        return Pick(heads)(x, 2)

    return top(nn, body)


@transformed(underivable="JAX differentiates no while loop in reverse mode")
def while_loop_state(nn: Any) -> Any:
    class Steps(nn.Module):
        @nn.compact
        def __call__(self, x):
            n = self.variable("state", "n", lambda: jnp.zeros(()))
            n.value = n.value + 1
            return nn.Dense(4)(x) + jax.random.normal(self.make_rng("noise"), ())

    def body(self, x):
        mdl = Steps()
        if self.is_initializing():
            return mdl(x)
        return nn.while_loop(
            lambda mdl, c: mdl.get_variable("state", "n") < 3, lambda mdl, c: mdl(c), mdl, x, carry_variables="state",
            split_rngs={"noise": True},
        )  # fmt: skip

    return top(nn, body)


@transformed()
def map_variables_tied(nn: Any) -> Any:
    def body(self, x):
        transpose = lambda v: jax.tree.map(jnp.transpose, v)
        Transposed = nn.map_variables(nn.Dense, "params", transpose, transpose, init=self.is_initializing())
        return Transposed(2, use_bias=False)(x)

    return top(nn, body)


@transformed()
def map_variables_mutable(nn: Any) -> Any:
    double = lambda v: jax.tree.map(lambda x: 2 * x, v)
    half = lambda v: jax.tree.map(lambda x: x / 2, v)
    return top(nn, lambda self, x: nn.map_variables(block(nn), "state", double, half, mutable=True)()(x))


@transformed()
def map_variables_function(nn: Any) -> Any:
    def body(self, x):
        return nn.map_variables(lambda mdl, x: mdl(x), "params", lambda v: v)(nn.Dense(4), x)

    def run(self, x):
        return nn.Dense(4)(x) if self.is_initializing() else body(self, x)

    return top(nn, run)


@transformed()
def fold_rngs(nn: Any) -> Any:
    fold = nn.fold_rngs if hasattr(nn, "fold_rngs") else nn.transforms.fold_rngs
    return top(nn, lambda self, x: fold(block(nn))()(x))


@transformed()
def named_call(nn: Any) -> Any:
    return top(nn, lambda self, x: nn.named_call(lambda mdl, x: mdl(x) + 1)(block(nn)(), x))


@transformed(rounding=(Rounding(("grads/x",), "the cotangents of the uses of x are added in another order", 2),))
def vjp_around_and_inside(nn: Any) -> Any:
    def body(self, x):
        mdl = nn.remat(block(nn))()
        other = nn.Dense(4)
        if self.is_initializing():  # Linen differentiates with respect to nothing here; see tests/lift/test_spec.py
            return mdl(x), other(x)
        y, pull = nn.vjp(lambda mdl, x: mdl(x), mdl, x)
        Inside = nn.remat(lambda mdl, x: nn.vjp(lambda mdl, x: mdl(x), mdl, x)[1](x))
        return y, pull(y), Inside(other, x)

    return top(nn, body)
