"""How often a lifted jit traces."""

from typing import Any

import cloudpickle
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import errors, nn


def layer(traces):
    class Layer(nn.Module):
        width: int = 2
        scale: object = 1.0

        @nn.jit
        @nn.compact
        def __call__(self, x):
            traces.append(self.width)
            n = self.variable("state", "n", lambda: jnp.zeros(()))
            n.value = n.value + 1
            noise = jax.random.normal(self.make_rng("noise"), ())
            return nn.Dense(self.width)(x) * self.scale + noise

    return Layer


class Stack(nn.Module):
    layers: tuple

    def __call__(self, x):
        for one in self.layers:
            x = one(x)
        return x


KEYS = {"params": jax.random.key(0), "noise": jax.random.key(1)}


def test_equal_layers_trace_once_and_then_never_again():
    traces = []
    Layer = layer(traces)
    make = lambda: Stack(tuple(Layer() for _ in range(4)))
    x = jnp.ones(2)
    _, variables = make().init_with_output(KEYS, x)
    assert len(traces) == 1
    first = make().apply(variables, x, rngs=KEYS, mutable=["state"])
    assert len(traces) == 2
    again = make().apply(variables, x, rngs=KEYS, mutable=["state"])
    assert len(traces) == 2
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    other = make().apply(variables, x, rngs={**KEYS, "noise": jax.random.key(2)}, mutable=["state"])
    assert len(traces) == 2 and not np.allclose(other[0], first[0])
    assert all(state["n"] == 2 for state in other[1]["state"].values())


@pytest.mark.parametrize(
    ("fields", "x", "count"),
    [
        ({}, jnp.ones(2), 1),
        ({"width": 3}, jnp.ones(2), 2),
        ({}, jnp.ones((5, 2)), 2),
        ({"scale": 2.0}, jnp.ones(2), 2),
        ({"scale": np.ones(2)}, jnp.ones(2), 2),
        ({"scale": 1}, jnp.ones(2), 2),
    ],
)
def test_what_makes_a_trace(fields, x, count):
    traces = []
    Layer = layer(traces)
    Layer().init(KEYS, jnp.ones(2))
    Layer(**fields).init(KEYS, x)
    assert len(traces) == count


def test_arrays_in_fields():
    traces = []
    Layer = layer(traces)
    for scale in (np.ones(2), jnp.ones(2)):
        traces.clear()
        y, _ = Layer(scale=scale).init_with_output(KEYS, jnp.ones(2))
        Layer(scale=scale).init(KEYS, jnp.ones(2))
        assert len(traces) == 1
        other, _ = Layer(scale=5 * scale).init_with_output(KEYS, jnp.ones(2))
        assert len(traces) == 2
        assert not np.allclose(y, other)


def test_names_and_counts_go_on_without_a_trace():
    """What a trace does besides state is done by calls that find it in the cache."""

    class Namer(nn.Module):
        @nn.compact
        def __call__(self, x):
            grow = nn.jit(lambda mdl, x: nn.Dense(2)(x) * jax.random.normal(mdl.make_rng("noise")))
            return nn.Dense(2)(grow(self, grow(self, x))), self.make_rng("noise")

    (_, key), variables = Namer().init_with_output(KEYS, jnp.ones(2))
    assert set(variables["params"]) == {"Dense_0", "Dense_1", "Dense_2"}
    (_, same), _ = Namer().apply(variables, jnp.ones(2), rngs=KEYS, mutable=["state"])
    assert key == same


def test_donated_and_static_arguments():
    class Scaled(nn.Module):
        @nn.compact
        def __call__(self, x, flag, *, name_only):
            return nn.Dense(2)(x) if flag and name_only == "yes" else x

    Jitted = nn.jit(Scaled, static_argnums=(0, 2), static_argnames="name_only", donate_argnums=1)
    variables = Jitted().init(KEYS, jnp.ones(2), True, name_only="yes")
    np.testing.assert_array_equal(Jitted().apply(variables, jnp.ones(2), False, name_only="yes"), jnp.ones(2))
    assert Jitted().apply(variables, jnp.ones(2), True, name_only="yes").shape == (2,)


def test_tracers_and_unhashable_values_in_fields():
    Layer = layer([])
    with pytest.raises(errors.StaticValueError, match=r"Layer\.scale is a tracer"):
        jax.jit(lambda s: Layer(scale=s).init(KEYS, jnp.ones(2)))(1.0)

    class Odd:
        __hash__ = None

    with pytest.raises(errors.StaticValueError, match=r"Layer\.scale holds a Odd"):
        Layer(scale=Odd()).init(KEYS, jnp.ones(2))


def test_a_class_or_function_is_transformed_once():
    """`nn.jit(Block)` in a method is the same class in each call, so that nothing is traced again."""
    traces = []

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            traces.append("class")
            return nn.Dense(2)(x)

    def double(mdl, x):
        traces.append("function")
        return 2 * mdl(x)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(3):
                x = nn.jit(double)(nn.jit(Block)(), x)
            return x

    x = jnp.ones(2)
    variables = Net().init(KEYS, x)
    assert traces == ["function", "class"]
    for _ in range(3):
        Net().apply(variables, x)
    assert traces == 2 * ["function", "class"]
    assert nn.jit(Block) is nn.jit(Block) is not nn.jit(Block, variables=["params"])

    class Child(Block):
        pass

    assert nn.jit(Child) is not nn.jit(Block) and issubclass(nn.jit(Child), Child)
    assert cloudpickle.loads(cloudpickle.dumps(Block)).__name__ == "Block"


def test_scan_traces_its_body_as_often_as_jax_does():
    """Once, where nothing that is made or drawn has to be known before the loop; once more where something has."""
    traces = []

    def body(carry, x):
        traces.append(1)
        return carry + x, carry

    xs = jnp.ones((4, 2))
    jax.lax.scan(body, xs[0], xs)
    by_jax = len(traces)
    traces.clear()

    class Cell(nn.Module):
        @nn.compact
        def __call__(self, carry, x):
            return body(nn.Dense(2)(carry), x)

    Chain = nn.scan(Cell, variable_broadcast="params", split_rngs={"params": False})
    variables = Chain().init(jax.random.key(0), xs[0], xs)
    traces.clear()
    Chain().apply(variables, xs[0], xs)
    assert len(traces) == by_jax


def test_numbers_in_fields_are_told_apart():
    """NumPy's are compared by type and bits, and 0.0 is not -0.0."""

    @nn.jit
    class Angle(nn.Module):
        y: Any

        @nn.compact
        def __call__(self, x):
            return jnp.arctan2(self.y, x)

    x = -jnp.ones(())
    for y in (0.0, -0.0, np.float32(0.0), np.float32(-0.0), np.int64(2), 2, np.float64(-0.0)):
        np.testing.assert_allclose(Angle(y).apply({}, x), np.arctan2(np.float32(y), -1.0), rtol=1e-6)
    sizes: Any = (8, np.prod((2, 2)), 8)
    layers = nn.Sequential([nn.jit(nn.Dense)(features) for features in sizes])
    assert layers.init_with_output(KEYS, jnp.ones(3))[0].shape == (8,)


@pytest.mark.parametrize("transform", ["jit", "fold_rngs"])
def test_what_setup_makes_draws_as_in_linen_after_a_first_call_inside(transform):
    """Linen sets a module up with the forked keys, which what it makes then keeps; `init` and `apply` alike."""

    def draws(lib):
        within = getattr(lib, transform) if hasattr(lib, transform) else getattr(lib.transforms, transform)

        class Noise(lib.Module):
            @lib.compact
            def __call__(self):
                return jax.random.key_data(self.make_rng("noise"))

        class Deep(lib.Module):
            def setup(self):
                self.noise = Noise()

            def __call__(self):
                return self.noise()

        class Block(lib.Module):
            def setup(self):
                self.noise, self.deep = Noise(), Deep()

            @within
            def inside(self):
                return self.noise(), self.deep()

            def outside(self):
                return self.noise(), self.deep(), jax.random.key_data(self.make_rng("noise"))

        class Model(lib.Module):
            def setup(self):
                self.a, self.b = Block(), Block()

            def __call__(self):
                inside_first = self.a.inside(), self.a.outside(), self.a.inside(), self.a.outside()
                return inside_first, (self.b.outside(), self.b.inside(), self.b.outside())

        return Model().apply({}, rngs={"noise": jax.random.key(0)})

    jax.tree.map(np.testing.assert_array_equal, draws(nn), draws(flax.linen))
