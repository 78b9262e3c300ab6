"""Scripts and mistakes on flax.linen and on liftax: the same results, and the same errors."""

from typing import Any

import flax.errors
import flax.linen
import pytest

from liftax import errors, nn

from .mistakes import MISTAKES
from .scripts import SCRIPTS
from .table import difference, plain


@pytest.mark.parametrize("name", SCRIPTS)
def test_script(name: str):
    assert difference(plain(SCRIPTS[name](nn)), plain(SCRIPTS[name](flax.linen))) == ""


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
