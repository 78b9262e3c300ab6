"""Attention beside Linen's, to the bit; decoding; the back end of `jax.nn`; and what errors say."""

import functools
from collections.abc import Iterable
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import errors, nn

X = np.sin(np.arange(60) * 1.7).reshape(2, 5, 6).astype(np.float32)
Y = np.cos(np.arange(56) * 0.9).reshape(2, 7, 4).astype(np.float32)
MASK = np.tril(np.ones((5, 5), bool))[None, None]
KEYS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
MHA = nn.MultiHeadDotProductAttention

# What the table of layers does not hold.
CASES: dict[str, tuple[dict[str, Any], tuple[Any, ...], dict[str, Any]]] = {
    "self": ({}, (X,), {}),
    "mask": ({}, (X,), {"mask": MASK}),
    "mask-of-numbers": ({}, (X,), {"mask": MASK.astype(np.float32)}),
    "dropout-each": ({"dropout_rate": 0.4, "broadcast_dropout": False}, (X, Y), {"deterministic": False}),
    "dropout-key": ({"dropout_rate": 0.4, "deterministic": False}, (X,), {"dropout_rng": jax.random.key(5)}),
    "deterministic": ({"dropout_rate": 0.4, "deterministic": True}, (X,), {}),
    "no-batch": ({}, (X[0],), {}),
    "two-batches": ({}, (X[None],), {}),
    "sown": ({}, (X,), {"sow_weights": True}),
    "einsums": (
        {"qk_attn_weights_einsum_cls": lambda: jnp.einsum, "attn_weights_value_einsum_cls": lambda: jnp.einsum},
        (X,),
        {},
    ),
    "dot-general": (
        {"qkv_dot_general": jax.lax.dot_general, "out_dot_general_cls": lambda: jax.lax.dot_general},
        (X,),
        {},
    ),
}


def results(lib: Any, fields: dict[str, Any], inputs: Any, call: dict[str, Any]) -> Any:
    layer = lib.MultiHeadDotProductAttention(num_heads=2, bias_init=jax.nn.initializers.normal(), **fields)

    @jax.jit
    def run(inputs: Any, keys: Any) -> Any:
        variables = layer.init(keys, *inputs, **call)
        apply = lambda p, a: layer.apply(p, *a, rngs=keys, mutable=["intermediates"], **call)
        out, vjp, state = jax.vjp(apply, variables, inputs, has_aux=True)
        return variables, out, state, vjp(jnp.cos(jnp.arange(out.size)).reshape(out.shape).astype(out.dtype))

    return run(inputs, KEYS)


def assert_same_bits(ours: Any, theirs: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, a), b in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), path
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), path


def each(cases: Iterable[str], *, short: tuple[str, ...]) -> Any:
    """Return the mark for one test for each case, those that are not `short` in the long run only."""
    marks = {case: [] if case in short else [pytest.mark.long] for case in cases}
    return pytest.mark.parametrize("case", [pytest.param(case, marks=mark) for case, mark in marks.items()])


@each(CASES, short=("mask-of-numbers", "dropout-each", "sown"))
def test_equals_linen(case: str) -> None:
    assert_same_bits(results(nn, *CASES[case]), results(flax.linen, *CASES[case]))


def test_other_names_equal_linen() -> None:
    for name in ("MultiHeadAttention", "SelfAttention"):
        ours, theirs = (getattr(lib, name)(2).init_with_output(KEYS, X) for lib in (nn, flax.linen))
        assert_same_bits(ours, theirs)


def test_masks_equal_linen() -> None:
    x = jnp.array([[1, 2, 0], [3, 0, 0]])
    for extra in (0, 2):
        for make in (
            lambda lib, extra=extra: lib.make_causal_mask(x, extra, bool),
            lambda lib, extra=extra: lib.make_attention_mask(x > 0, x[:, :2], jnp.greater_equal, extra),
            lambda lib: lib.combine_masks(lib.make_causal_mask(x), None, lib.make_attention_mask(x > 0, x > 0)),
        ):
            assert_same_bits(make(nn), make(flax.linen))
    assert nn.combine_masks(None) is None


@pytest.mark.long
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_decoding_equals_linen_and_the_whole_text(dtype: Any) -> None:
    texts = []
    for lib in (nn, flax.linen):
        layer = lib.MultiHeadDotProductAttention(num_heads=2, decode=True, dtype=dtype)
        variables = layer.init(jax.random.key(0), X)
        step = jax.jit(functools.partial(layer.apply, mutable=["cache"]))
        cache, outs = variables["cache"], []
        for i in range(5):
            out, updates = step({**variables, "cache": cache}, X[:, i : i + 1])
            cache = updates["cache"]
            outs.append(out)
        texts.append((outs, dict(cache)))
    assert_same_bits(*texts)
    whole = MHA(num_heads=2, dtype=dtype).apply({"params": variables["params"]}, X, mask=MASK)
    np.testing.assert_allclose(
        np.concatenate(texts[0][0], 1).astype(float), np.asarray(whole, float), atol=4 * float(jnp.finfo(dtype).eps)
    )


def test_beyond_the_end_of_the_cache() -> None:
    layer = MHA(num_heads=2, decode=True)
    variables = layer.init(jax.random.key(0), X[:, :1])
    _, updates = layer.apply(variables, X[:, :1], mutable=["cache"])
    with pytest.raises(ValueError, match=r"position 1, .*positions 0 to 0"):
        layer.apply({**variables, **updates}, X[:, :1], mutable=["cache"])
    out, _ = jax.jit(functools.partial(layer.apply, mutable=["cache"]))({**variables, **updates}, X[:, :1])
    assert np.isnan(out).all()


@pytest.mark.long
@each(
    ("self", "mask", "mask-of-numbers", "deterministic", "no-batch", "two-batches"),
    short=("mask-of-numbers", "no-batch"),
)
def test_back_end_of_jax(case: str) -> None:
    fields, inputs, call = CASES[case]
    ours = results(nn, fields, inputs, call)
    for fn in (jax.nn.dot_product_attention, functools.partial(jax.nn.dot_product_attention, implementation="xla")):
        theirs = results(nn, {**fields, "attention_fn": fn}, inputs, call)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6, rtol=1e-5), ours, theirs)


def test_own_attention_fn_gets_what_it_has_parameters_for() -> None:
    def fn(query: Any, key: Any, value: Any, mask: Any = None) -> Any:
        assert mask.shape == MASK.shape
        return nn.dot_product_attention(query, key, value, mask=mask)

    assert_same_bits(results(nn, {"attention_fn": fn}, *CASES["mask"][1:]), results(nn, *CASES["mask"]))


MISTAKES: dict[str, tuple[dict[str, Any], tuple[Any, ...], dict[str, Any], type[Exception], str]] = {
    "heads": ({"num_heads": 4}, (X,), {}, ValueError, r"/ \(Multi.*num_heads=4.*features of inputs_q, 6"),
    "qkv": ({"qkv_features": 7}, (X,), {}, ValueError, r"num_heads=2.*qkv_features, 7"),
    "rank": ({}, (X[0, 0],), {}, ValueError, r"inputs_q \(6,\).*two axes"),
    "batch": ({}, (X, Y[:1]), {}, ValueError, r"inputs_k \(1, 7, 4\).*same axes of the batch"),
    "length": ({}, (X, Y, Y[:, :3]), {}, ValueError, "a value for each key"),
    "mask-third": ({}, (X, X, MASK), {}, ValueError, "mask=…"),
    "mask": ({}, (X,), {"mask": MASK[..., :4]}, ValueError, r"mask of shape \(1, 1, 5, 4\).*\(2, 2, 5, 5\)"),
    "value-alone": ({}, (X, None, X), {}, ValueError, "inputs_v without inputs_k"),
    "kv": ({}, (X, X), {"inputs_kv": X}, ValueError, "inputs_kv together"),
    "mode": ({"dropout_rate": 0.1}, (X,), {}, ValueError, "deterministic"),
    "rate": ({"dropout_rate": 1.0}, (X,), {"deterministic": True}, ValueError, r"dropout_rate=1\.0.*below 1"),
    "fused-dropout": (
        {"attention_fn": jax.nn.dot_product_attention, "dropout_rate": 0.1},
        (X,),
        {"deterministic": False},
        ValueError,
        r"dropout_rate=0\.1, which jax\.nn\.dot_product_attention",
    ),
    "fused-sow": (
        {"attention_fn": jax.nn.dot_product_attention},
        (X,),
        {"sow_weights": True},
        ValueError,
        "sow_weights=True",
    ),
    "dropped-mask": (
        {"attention_fn": lambda q, k, v: v},
        (X,),
        {"mask": MASK},
        errors.ArityError,
        "no parameter 'mask'",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str) -> None:
    fields, inputs, call, error, words = MISTAKES[name]
    with pytest.raises(error, match=words):
        MHA(**{"num_heads": 2, **fields}).init(KEYS, *inputs, **call)


def test_mistakes_of_rngs() -> None:
    layer = MHA(num_heads=2, dropout_rate=0.1, deterministic=False)
    variables = layer.init(KEYS, X)
    with pytest.raises(errors.InvalidRngError, match="'dropout'"):
        layer.apply(variables, X)
    q = jnp.ones((2, 1, 4))
    with pytest.raises(errors.InvalidRngError, match="dropout_rng=jax"):
        nn.dot_product_attention(q, q, q, dropout_rate=0.1)


def test_mistakes_in_decoding() -> None:
    layer = MHA(num_heads=2, decode=True)
    variables = layer.init(KEYS, X)
    params = {"params": variables["params"]}
    with pytest.raises(errors.ScopeCollectionNotFound, match="no cache"):
        layer.apply(params, X[:, :1])
    with pytest.raises(errors.ModifyScopeVariableError, match=r"mutable=\['cache'\]"):
        layer.apply(variables, X[:, :1])
    with pytest.raises(ValueError, match="one position in a call, and got 5"):
        layer.apply(variables, X, mutable=["cache"])
    with pytest.raises(errors.ScopeParamShapeError, match=r"a batch of \(2,\), 5 positions.*a batch of \(1,\)"):
        layer.apply(variables, X[:1, :1], mutable=["cache"])
    with pytest.raises(errors.ScopeParamShapeError, match="holds float32"):
        layer.clone(dtype=jnp.float16).apply(variables, X[:, :1], mutable=["cache"])


def test_mistakes_in_plain_functions() -> None:
    q = jnp.ones((3, 2, 4))
    for key, value, words in (
        (q[0], q, "three axes"),
        (q[None], q, "one rank"),
        (q[:, :1], q, "one number of heads"),
        (q[..., :2], q, "of one size"),
        (q, q[:2], "a value for each key"),
    ):
        with pytest.raises(ValueError, match=words):
            nn.dot_product_attention(q, key, value)
    with pytest.raises(ValueError, match="both or neither"):
        nn.dot_product_attention(q, q, q, qk_attn_weights_einsum=jnp.einsum)
    with pytest.raises(ValueError, match="one rank"):
        nn.combine_masks(jnp.ones(2), jnp.ones((1, 2)))
    with pytest.raises(ValueError, match="scalar"):
        nn.make_causal_mask(1.0)


def test_decodes_with_wide_types() -> None:
    def decoded(lib: Any) -> Any:
        attend = lib.MultiHeadDotProductAttention(2, decode=True)
        x = jnp.linspace(0, 1, 12).reshape(1, 3, 4)
        variables, outputs = attend.init(jax.random.key(0), x), []
        for i in range(3):
            y, cache = attend.apply(variables, x[:, i : i + 1], mutable=["cache"])
            variables = {**variables, **cache}
            outputs.append(y)
        return outputs, variables

    with jax.enable_x64(True):
        for a, b in zip(jax.tree.leaves(decoded(nn)), jax.tree.leaves(decoded(flax.linen)), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
