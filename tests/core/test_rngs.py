"""Keys: the rule of folding, written out once more here, and what Flax draws."""

import hashlib

import flax.core
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liftax import core, errors, nn
from liftax.core import rngs

PARTS = st.one_of(st.text(max_size=8), st.integers(0, 2**40))


def folded(key, parts):
    """The rule: SHA-1 over the parts, strings as UTF-8, integers as their big-endian bytes; its first four bytes."""
    data = b"".join(p.encode() if isinstance(p, str) else p.to_bytes((p.bit_length() + 7) // 8, "big") for p in parts)
    return jax.random.fold_in(key, np.uint32(int(hashlib.sha1(data).hexdigest()[:8], 16)))


def same(a, b):
    return bool((jax.random.key_data(a) == jax.random.key_data(b)).all())


@given(st.lists(PARTS, min_size=1, max_size=4))
def test_fold_follows_the_rule(parts):
    key = jax.random.key(3)
    assert same(rngs.fold(key, *parts), folded(key, parts))


def test_fold_of_nothing_is_the_key():
    key = jax.random.key(3)
    assert rngs.fold(key) is key


def test_raw_keys_stay_raw():
    raw = jax.random.PRNGKey(3)
    assert (rngs.fold(raw, "a", 1) == jax.random.key_data(rngs.fold(jax.random.key(3), "a", 1))).all()


@given(st.lists(st.sampled_from(["a", "Dense_0", "é"]), max_size=3), st.lists(st.sampled_from("pq"), max_size=5))
def test_scopes_draw_what_flax_draws(path, streams):
    keys = {"p": jax.random.key(1), "q": jax.random.key(2)}

    def draws(scope):
        for name in path:
            scope = scope.push(name)
        return [jax.random.key_data(scope.make_rng(s)).tolist() for s in streams]

    assert core.apply(draws)({}, rngs=keys) == flax.core.apply(draws)({}, rngs=keys)


def test_dropout_masks_are_those_of_linen():
    x = jnp.ones((4, 8))

    def run(lib):
        class Net(lib.Module):
            @lib.compact
            def __call__(self, x):
                drop = lib.Dropout(0.5, deterministic=False)
                return drop(x), drop(x), lib.Dropout(0.5, deterministic=False, name="other")(x)

        return Net().apply({}, x, rngs={"dropout": jax.random.key(5)})

    for ours, theirs in zip(run(nn), run(flax.linen), strict=True):
        assert (ours == theirs).all()
        assert 0 < (ours == 0).sum() < ours.size


@pytest.mark.parametrize("good", [jax.random.key(0), jax.random.PRNGKey(0)])
def test_what_is_a_key(good):
    assert rngs.is_key(good)
    assert list(rngs.canonical(good, "init")) == ["params"]
    assert list(rngs.canonical({"a": good, "b": good}, "init")) == ["a", "b"]


@pytest.mark.parametrize("bad", [3, "key", jnp.ones(2), jax.random.split(jax.random.key(0), 2), None])
def test_what_is_no_key(bad):
    assert not rngs.is_key(bad)
    with pytest.raises(errors.InvalidRngError, match="'dropout' has a"):
        rngs.canonical({"dropout": bad}, "init")


def test_no_rngs_is_no_stream():
    assert rngs.canonical(None, "apply") == {}
    with pytest.raises(errors.InvalidRngError, match="a mapping from stream names to keys"):
        rngs.canonical(3.0, "apply")
    with pytest.raises(errors.InvalidRngError, match="3 has a"):
        rngs.canonical({3: jax.random.key(0)}, "apply")
