"""One table of small programs, each written for `nn`: Linen's or ours.

A program is a function of the namespace that returns a module; the module is called with one array of shape (3, 4). It
may use the rng streams `params`, `dropout` and `noise`, and the collections `batch_stats`, `state` and `intermediates`.
"""

import functools

import jax
import jax.numpy as jnp

PROGRAMS = {}


def program(fun):
    PROGRAMS[fun.__name__] = fun
    return fun


def block(nn):
    """A module that has everything: parameters, statistics, sown values, two streams, state."""

    class Block(nn.Module):
        features: int = 4
        shared: nn.Module = None
        train: bool = True

        @nn.compact
        def __call__(self, x, extra=None):
            early = jax.random.uniform(self.make_rng("noise"), ())
            x = nn.Dense(self.features)(x)
            self.sow("intermediates", "h", x)
            x = nn.Dropout(0.5, deterministic=not self.train)(x)
            n = self.variable("state", "n", lambda: jnp.zeros(()))
            if not self.is_initializing() and self.is_mutable_collection("state"):
                n.value = n.value + x.mean()
            if self.shared is not None:
                x = self.shared(x)
            if extra is not None:
                x = x + extra
            return jnp.tanh(x) + early + jax.random.normal(self.make_rng("noise"), x.shape)

        def helper(self, x):
            return self(x) * 2

    return Block


def top(nn, body, **fields):
    """A module whose compact call is `body(self, x)`, between two draws of its own."""

    class Top(nn.Module):
        @nn.compact
        def __call__(self, x):
            first = jax.random.uniform(self.make_rng("noise"), ())
            out = body(self, x)
            return out, first, jax.random.uniform(self.make_rng("noise"), ()), nn.Dense(1)(x)

    return Top()


ALL = {"params": 0, "state": 0, "intermediates": 0}
SPLIT = {"params": True, "dropout": True, "noise": True}
SAME = {"params": False, "dropout": False, "noise": False}


@program
def remat_class(nn):
    return top(nn, lambda self, x: nn.remat(block(nn))()(nn.remat(block(nn))()(x)))


@program
def remat_static_policy(nn):
    class Branching(nn.Module):
        @nn.compact
        def __call__(self, x, double):
            return nn.Dense(4)(x) * (2 if double else 1)

    Remat = nn.remat(Branching, static_argnums=(2,), policy=jax.checkpoint_policies.everything_saveable)
    return top(nn, lambda self, x: Remat()(Remat(name="named")(x, False), True))


@program
def remat_function(nn):
    def body(self, x):
        mdl = block(nn)()
        return nn.remat(lambda mdl, x: mdl(x) + mdl(x))(mdl, x)

    return top(nn, body)


@program
def remat_decorator(nn):
    class Decorated(nn.Module):
        @nn.remat
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4)(x)
            return nn.Dense(4)(x) + jax.random.normal(self.make_rng("noise"), ())

    return top(nn, lambda self, x: Decorated()(Decorated()(x)))


@program
def remat_methods(nn):
    return top(nn, lambda self, x: nn.remat(block(nn), methods=["__call__", "helper"])().helper(x))


@program
def remat_methods_options(nn):
    methods = {"__call__": {"prevent_cse": False}, "helper": {"rngs": True}}
    return top(nn, lambda self, x: nn.remat(block(nn), methods=methods)().helper(x))


@program
def remat_partial(nn):
    return top(nn, lambda self, x: nn.remat(functools.partial(block(nn), 4))()(x))


@program
def remat_setup(nn):
    class WithSetup(nn.Module):
        def setup(self):
            self.w = self.param("w", nn.initializers.normal(), (4,))
            self.layer = nn.Dense(4)

        def __call__(self, x):
            return self.layer(x) * self.w

    return top(nn, lambda self, x: nn.remat(WithSetup)()(x))


@program
def remat_shared(nn):
    def body(self, x):
        shared = nn.Dense(4)
        return nn.remat(block(nn))(4, shared)(x) + nn.remat(block(nn))(4, shared)(x) + shared(x)

    return top(nn, body)


@program
def remat_module_argument(nn):
    class Uses(nn.Module):
        @nn.compact
        def __call__(self, x, other):
            return nn.Dense(4)(other(x))

    return top(nn, lambda self, x: nn.remat(Uses)()(x, nn.Dense(4, name="other")))


@program
def vmap_split(nn):
    return top(nn, lambda self, x: nn.vmap(block(nn), variable_axes=ALL, split_rngs=SPLIT)()(x))


@program
def vmap_axes(nn):
    axes = {"params": 1, "state": 0, "intermediates": -1}
    Mapped = nn.vmap(block(nn), variable_axes=axes, split_rngs=SPLIT, in_axes=1, out_axes=-1)
    return top(nn, lambda self, x: Mapped()(x))


@program
def vmap_shared_parameters(nn):
    axes = {"params": None, "state": 0, "intermediates": 0}
    rngs = {"params": False, "dropout": True, "noise": False}
    return top(nn, lambda self, x: nn.vmap(block(nn), variable_axes=axes, split_rngs=rngs)()(x))


@program
def vmap_axis_size(nn):
    Mapped = nn.vmap(nn.Dense, {"params": 0}, {"params": True}, in_axes=None, out_axes=0, axis_size=5)
    return top(nn, lambda self, x: Mapped(features=2)(x))


@program
def vmap_axis_name(nn):
    class Normalized(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.BatchNorm(use_running_average=False, axis_name="batch")(nn.Dense(4)(x))

    axes = {"params": None, "batch_stats": None}
    Mapped = nn.vmap(Normalized, axes, {"params": False}, axis_name="batch")
    return top(nn, lambda self, x: Mapped()(x))


@program
def vmap_function_two_arguments(nn):
    def body(self, x):
        mapped = nn.vmap(lambda mdl, x, y: mdl(x, y), ALL, SPLIT, in_axes=(0, None))
        return mapped(block(nn)(), x, jnp.arange(4.0))

    return top(nn, body)


@program
def vmap_of_remat_of_vmap(nn):
    inner = nn.remat(nn.vmap(block(nn), variable_axes=ALL, split_rngs=SPLIT))
    Nested = nn.vmap(inner, variable_axes=ALL, split_rngs=SPLIT, in_axes=None, axis_size=2)
    return top(nn, lambda self, x: Nested()(x))


def cell(nn):
    class Cell(nn.Module):
        @nn.compact
        def __call__(self, carry, x):
            y = block(nn)()(carry, x)
            return y, y.sum(-1)

    return Cell


@program
def scan_layers(nn):
    Scanned = nn.scan(cell(nn), variable_axes=ALL, split_rngs=SPLIT, length=3)
    return top(nn, lambda self, x: Scanned()(x, None))


@program
def scan_axes_reversed(nn):
    axes = {"params": 1, "state": 0, "intermediates": 1}
    Scanned = nn.scan(cell(nn), axes, split_rngs=SPLIT, in_axes=1, out_axes=1, reverse=True, unroll=2)
    return top(nn, lambda self, x: Scanned()(x, jnp.arange(9.0).reshape(3, 3, 1)))


@program
def scan_shared_parameters(nn):
    Scanned = nn.scan(
        cell(nn), {"state": 0, "intermediates": 0}, variable_broadcast="params",
        split_rngs={"params": False, "dropout": True, "noise": True},
    )  # fmt: skip
    return top(nn, lambda self, x: Scanned()(x[0], x))


@program
def scan_twice_then_draw(nn):
    Scanned = nn.scan(
        cell(nn), {"state": 0, "intermediates": 0}, variable_broadcast="params", split_rngs=SAME, length=2
    )

    def body(self, x):
        scanned = Scanned()
        return scanned(scanned(x, None)[0], None)

    return top(nn, body)


@program
def scan_carried_state(nn):
    class Counts(nn.Module):
        @nn.compact
        def __call__(self, c, x):
            n = self.variable("state", "n", lambda: jnp.zeros(()))
            n.value = n.value + x.sum()
            return nn.Dense(4)(c) * n.value, n.value

    def body(self, x):
        mdl = Counts()
        if self.is_initializing():
            return mdl(x[0], x[0])
        return nn.scan(lambda mdl, c, x: mdl(c, x), variable_broadcast="params", variable_carry="state")(mdl, x[0], x)

    return top(nn, body)


@program
def scan_broadcast(nn):
    def body(self, x):
        step = lambda mdl, c, x, y: (mdl(c) + y, (x, y * 2))
        return nn.scan(
            step, variable_broadcast="params", split_rngs={"params": False}, in_axes=(0, nn.broadcast),
            out_axes=(0, nn.broadcast),
        )(nn.Dense(4), x[0], x, x[1])  # fmt: skip

    return top(nn, body)


@program
def scan_of_remat(nn):
    Scanned = nn.scan(nn.remat(cell(nn)), variable_axes=ALL, split_rngs=SPLIT, length=2)
    return top(nn, lambda self, x: Scanned()(x, None))


@program
def scan_unchecked(nn):
    Scanned = nn.scan(cell(nn), ALL, split_rngs=SPLIT, length=2, check_constancy_invariants=False)
    return top(nn, lambda self, x: Scanned()(x, None))


@program
def remat_scan_class(nn):
    return top(nn, lambda self, x: nn.remat_scan(block(nn), lengths=(2, 3))()(x))


@program
def jit_class(nn):
    Jitted = nn.jit(block(nn))

    def body(self, x):
        twice = Jitted()
        return Jitted()(twice(twice(x)))

    return top(nn, body)


@program
def jit_decorator(nn):
    class Decorated(nn.Module):
        @nn.jit
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4)(x) + jax.random.normal(self.make_rng("noise"), ())

    return top(nn, lambda self, x: Decorated()(Decorated()(x)))


@program
def jit_shared(nn):
    def body(self, x):
        shared = block(nn)()
        return nn.jit(block(nn))(4, shared)(x) + shared(x)

    return top(nn, body)


@program
def jit_static(nn):
    class Branching(nn.Module):
        @nn.compact
        def __call__(self, x, double, triple=False):
            return nn.Dense(4)(x) * (2 if double else 1) * (3 if triple else 1)

    Jitted = nn.jit(Branching, static_argnums=(2,), static_argnames=("triple",))
    return top(nn, lambda self, x: Jitted()(Jitted()(x, True), False, triple=True))


@program
def jit_of_scan_of_jit(nn):
    inner = nn.scan(nn.jit(cell(nn)), variable_axes=ALL, split_rngs=SPLIT, length=2)
    return top(nn, lambda self, x: nn.jit(inner)()(x, None))


@program
def vmap_of_jit(nn):
    Mapped = nn.vmap(nn.jit(block(nn)), variable_axes=ALL, split_rngs=SPLIT)
    return top(nn, lambda self, x: Mapped()(x))


@program
def cond_both_draw(nn):
    def body(self, x):
        mdl = block(nn)()
        yes = lambda mdl, x: mdl(x) * 2
        no = lambda mdl, x: mdl(x)
        if self.is_initializing():
            mdl(x)
        return nn.cond(x[0, 0] > 0, yes, no, mdl, x), nn.cond(x[0, 0] < 0, yes, no, mdl, x)

    return top(nn, body)


@program
def switch_heads(nn):
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


@program
def while_loop_state(nn):
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


@program
def map_variables_tied(nn):
    def body(self, x):
        transpose = lambda v: jax.tree.map(jnp.transpose, v)
        Transposed = nn.map_variables(nn.Dense, "params", transpose, transpose, init=self.is_initializing())
        return Transposed(2, use_bias=False)(x)

    return top(nn, body)


@program
def map_variables_mutable(nn):
    double = lambda v: jax.tree.map(lambda x: 2 * x, v)
    half = lambda v: jax.tree.map(lambda x: x / 2, v)
    return top(nn, lambda self, x: nn.map_variables(block(nn), "state", double, half, mutable=True)()(x))


@program
def map_variables_function(nn):
    def body(self, x):
        return nn.map_variables(lambda mdl, x: mdl(x), "params", lambda v: v)(nn.Dense(4), x)

    def run(self, x):
        return nn.Dense(4)(x) if self.is_initializing() else body(self, x)

    return top(nn, run)


@program
def fold_rngs(nn):
    fold = nn.fold_rngs if hasattr(nn, "fold_rngs") else nn.transforms.fold_rngs
    return top(nn, lambda self, x: fold(block(nn))()(x))


@program
def named_call(nn):
    return top(nn, lambda self, x: nn.named_call(lambda mdl, x: mdl(x) + 1)(block(nn)(), x))


@program
def vjp_around_and_inside(nn):
    def body(self, x):
        mdl = nn.remat(block(nn))()
        other = nn.Dense(4)
        if self.is_initializing():  # Linen differentiates with respect to nothing here; see tests/lift/test_spec.py
            return mdl(x), other(x)
        y, pull = nn.vjp(lambda mdl, x: mdl(x), mdl, x)
        Inside = nn.remat(lambda mdl, x: nn.vjp(lambda mdl, x: mdl(x), mdl, x)[1](x))
        return y, pull(y), Inside(other, x)

    return top(nn, body)
