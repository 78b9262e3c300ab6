"""A module of Linen in one of liftax, and the other way: the error says that they are of two libraries."""

from typing import Any

import flax.errors
import jax
import jax.numpy as jnp
import pytest
from flax import linen

from liftax import errors, nn

KEY, X = jax.random.key(0), jnp.ones((3, 2))


class Inside(nn.Module):
    @nn.compact
    def __call__(self, x):
        return linen.Dense(2)(x)


class Field(nn.Module):
    inner: Any

    @nn.compact
    def __call__(self, x):
        return self.inner(x)


class Outside(linen.Module):
    @linen.compact
    def __call__(self, x):
        return nn.Dense(2)(x)


@pytest.mark.parametrize("model", [Inside(), Field(Inside()), Field(linen.Dense(2))], ids=["made", "deeper", "field"])
def test_module_of_linen_in_a_module_of_liftax(model):
    """Flax's own error passes, with one note that names the innermost module of liftax."""
    with pytest.raises(flax.errors.CallCompactUnboundModuleError) as caught:
        model.init(KEY, X)
    notes = [note for note in caught.value.__notes__ if note.startswith("liftax: ")]
    assert len(notes) == 1
    name = "Field" if model == Field(linen.Dense(2)) else "Inside"
    assert notes[0].startswith(f"liftax: {name} is a module of liftax, and calls a module of Flax")
    assert "from liftax import nn" in notes[0]


def test_module_of_liftax_in_a_module_of_linen():
    with pytest.raises(errors.CallCompactUnboundModuleError, match=r"flax\.linen can't bind it.*from liftax import nn"):
        Outside().init(KEY, X)


def test_other_errors_of_flax_pass_without_a_note():
    """A module of Linen may be applied inside: what is wrong with it then is its own matter."""
    model = Field(lambda x: linen.Dense(2).apply({"params": {}}, x))
    with pytest.raises(flax.errors.ScopeCollectionNotFound) as caught:
        model.init(KEY, X)
    assert not [note for note in getattr(caught.value, "__notes__", ()) if note.startswith("liftax: ")]
