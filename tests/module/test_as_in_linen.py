"""What programs rely on in the classes of Linen besides their methods: bases of errors, `dir`, fields, subscripts."""

import dataclasses

import flax.linen as linen
import jax
import jax.numpy as jnp
import pytest

from liftax import errors, nn

LIBRARIES = pytest.mark.parametrize("lib", [linen, nn], ids=["linen", "liftax"])
X = jnp.ones(3)
KEY = jax.random.key(0)


@LIBRARIES
def test_classes_of_errors_that_callers_catch(lib):
    class Outside(lib.Module):
        def __call__(self, x):
            return self.param("w", lib.initializers.ones, (1,))

    class OutsideVariable(lib.Module):
        def __call__(self, x):
            return self.variable("state", "n", lambda: 0)

    class Perturbed(lib.Module):
        @lib.compact
        def __call__(self, x):
            return self.perturb("h", x)

    class Nothing(lib.Module):
        pass

    for cls in (Outside, OutsideVariable):
        with pytest.raises(ValueError, match="compact"):
            cls().init(KEY, X)
    with pytest.raises(AttributeError, match="__call__"):
        Nothing().init(KEY, X)
    with pytest.raises(ValueError, match="perturb"):
        Perturbed().apply({"perturbations": {}}, X)


@LIBRARIES
def test_dir_shows_what_setup_makes(lib):
    class Net(lib.Module):
        width: int = 2

        def setup(self):
            self.layer = lib.Dense(self.width)

        def __call__(self, x):
            return self.layer(x)

    variables = Net().init(KEY, X)
    bound = Net().bind(variables)
    assert {"layer", "width", "apply"} <= set(dir(bound)) and "layer" not in dir(Net())
    assert bound(X).shape == (2,)


def test_dir_survives_a_setup_that_fails():
    class Net(nn.Module):
        def setup(self):
            self.w = self.param("w", nn.initializers.ones, (1,))

        def __call__(self):
            return self.w

    bound = Net().bind({"params": {}})
    assert "apply" in dir(bound)
    with pytest.raises(errors.ScopeCollectionNotFound):
        bound()


@LIBRARIES
def test_order_of_fields(lib):
    class Base(lib.Module):
        a: int
        b: int = 2

    class Derived(Base):
        c: int = 3

    assert [f.name for f in dataclasses.fields(Derived)] == ["a", "b", "c", "parent", "name"]
    assert Derived(1, 2, 4).c == 4 and Derived(1, c=4, name="n").name == "n"


@LIBRARIES
def test_boxes_take_the_type_of_their_value(lib):
    assert lib.meta.AxisMetadata[jax.Array] and lib.Partitioned[jax.Array]
    box = lib.Partitioned[jax.Array](X, ("a",))
    assert isinstance(box, lib.Partitioned) and box.names == ("a",)
    assert len(jax.tree.leaves(box)) == 1
