"""How submodules and parameters get their names: where they are used, and in `setup`."""

from typing import Any

import jax
import jax.numpy as jnp

from ..table import program


@program()
def automatic_names(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4)(x)
            x = nn.Dropout(0.5, deterministic=True)(x)
            x = nn.Sequential([nn.Dense(4)])(x)
            return nn.Dense(2)(x)

    return Net()


@program()
def explicit_names(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="out")(nn.Dense(4, name="in")(x))

    return Net()


@program()
def explicit_and_automatic_names(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4, name="first")(x)
            x = nn.Dense(4)(x)
            x = nn.Dense(4, name="mid")(x)
            return nn.Dense(2)(x)

    return Net()


@program()
def made_in_another_order_than_called(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            a, b = nn.Dense(3), nn.Dense(3)
            return a(b(x))

    return Net()


@program()
def made_in_a_loop(nn: Any) -> Any:
    class Net(nn.Module):
        widths: tuple = (4, 3, 2)

        @nn.compact
        def __call__(self, x):
            for i, width in enumerate(self.widths):
                x = nn.tanh(nn.Dense(width, name=f"layer{i}")(x))
            return x

    return Net()


@program()
def same_name_param_in_two_collections(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            w = self.param("w", nn.initializers.normal(1.0), (3,))
            s = self.variable("stats", "w", jnp.ones, (3,))
            return x * w + s.value

    return Net()


@program(mutable=["stats"])
def three_levels(nn: Any) -> Any:
    class Leaf(nn.Module):
        @nn.compact
        def __call__(self, x):
            n = self.variable("stats", "n", lambda: jnp.zeros(()))
            n.value += 1
            return x * self.param("s", nn.initializers.normal(1.0), (x.shape[-1],))

    class Mid(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Leaf()(nn.Dense(3)(Leaf()(x)))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Mid()(Mid(name="m")(x))

    return Net()


@program()
def setup_only(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.a = nn.Dense(4)
            self.b = nn.Dense(2)

        def __call__(self, x):
            return self.b(self.a(x))

    return Net()


@program()
def setup_with_compact(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.a = nn.Dense(4)
            self.w = self.param("w", nn.initializers.normal(1.0), (4,))

        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(self.a(x) * self.w)

    return Net()


@program()
def setup_lists(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.layers = [nn.Dense(4), nn.Dense(2)]

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    return Net()


@program()
def setup_nested_containers(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.parts = {"b": [nn.Dense(3), (nn.Dense(3),)], "a": {"x": nn.Dense(3)}}

        def __call__(self, x):
            return self.parts["a"]["x"](self.parts["b"][1][0](self.parts["b"][0](x)))

    return Net()


@program()
def setup_with_explicit_name(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.a = nn.Dense(3, name="other")
            self.b = nn.Dense(3)

        def __call__(self, x):
            return self.b(self.a(x))

    return Net()


@program()
def setup_shares_an_attribute(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.a = nn.Dense(3)
            self.b = self.a

        def __call__(self, x):
            return self.b(self.a(x))

    return Net()


@program()
def setup_unused_submodule(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.used = nn.Dense(3)
            self.unused = nn.Dense(5)

        def __call__(self, x):
            return self.used(x)

    return Net()


@program()
def setup_called_in_reverse_order(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.b = nn.Dense(3)
            self.a = nn.Dense(3)
            self.p = self.param("p", nn.initializers.normal(1.0), (3,))
            self.q = self.variable("state", "q", lambda: self.make_rng("noise"))

        def __call__(self, x):
            return self.b(self.a(x)) * self.p, jax.random.key_data(self.q.value)

    return Net()


@program()
def setup_uses_a_submodule(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.a = nn.Dense(3)
            self.y = self.a(jnp.ones((1, 3)))

        def __call__(self, x):
            return self.a(x) + self.y

    return Net()


@program()
def setup_of_setup(nn: Any) -> Any:
    class Inner(nn.Module):
        def setup(self):
            self.d = nn.Dense(3)
            self.width = 3

        def __call__(self, x):
            return self.d(x)

    class Net(nn.Module):
        def setup(self):
            self.inner = Inner()
            self.k = self.inner.width

        def __call__(self, x):
            return self.inner(x) * self.k

    return Net()


@program()
def setup_variable_handles(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.n = self.variable("state", "n", jnp.zeros, (3,))
            self.list = [self.param(f"p{i}", nn.initializers.normal(1.0), (3,)) for i in range(2)]

        def __call__(self, x):
            return x * self.list[0] + self.list[1] + self.n.value

    return Net()


@program()
def setup_helper_method(nn: Any) -> Any:
    class Net(nn.Module):
        def make(self, width):
            return nn.Dense(width)

        def setup(self):
            self.a = self.make(4)
            self.b = [self.make(2)]

        def __call__(self, x):
            return self.b[0](self.a(x))

    return Net()
