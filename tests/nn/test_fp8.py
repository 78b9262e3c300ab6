"""Scales and histories of products in 8 bits over steps of training, against flax.linen and against hand values."""

from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import nn

from .rows.fp8 import quietly

REPLACED = nn.fp8_ops.OVERWRITE_WITH_GRADIENT
STEPS = 4


def equal(ours: Any, theirs: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a, "float32"), np.asarray(b, "float32"))


def model(lib: Any, name: str, dtype: Any) -> Any:
    class Model(lib.Module):
        @lib.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = lib.Dense(6, dtype=dtype, dot_general_cls=quietly(lib, name))(x)
            x = lib.Dense(2, dtype=dtype, dot_general_cls=quietly(lib, name))(nn.tanh(x))
            w = self.param("w", lib.initializers.lecun_normal(), (2, 3), dtype)
            return lib.Fp8Einsum(amax_history_length=3)("...a,ab->...b", x, w)

    return Model()


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("Fp8DirectDotGeneralOp", "float32"), ("Fp8DotGeneralOp", "bfloat16"), ("NANOOFp8DotGeneralOp", "float32")],
)
def test_training_is_linens(name: str, dtype: str) -> None:
    def trained(lib: Any) -> Any:
        layer = model(lib, name, dtype)
        data = jnp.asarray(np.sin(np.arange(STEPS * 5 * 4)).reshape(STEPS, 5, 4) * 9, "float32")

        @jax.jit
        def run(key: jax.Array) -> Any:
            def step(variables: Any, x: jax.Array) -> Any:
                loss, grads = jax.value_and_grad(lambda v: (layer.apply(v, x).astype("float32") ** 2).sum())(variables)
                params = jax.tree.map(lambda p, g: p - 1e-2 * g, variables["params"], grads["params"])
                return {"params": params, REPLACED: grads[REPLACED]}, (loss, grads)

            return jax.lax.scan(step, layer.init(key, data[0]), data)

        return run(jax.random.key(0))

    ours = trained(nn)
    equal(ours, trained(flax.linen))
    last = ours[0][REPLACED]["Fp8Einsum_0"]
    assert all((history > 0).all() for name, history in last.items() if name.endswith("history"))


def test_a_scale_is_that_of_the_history_before() -> None:
    layer = nn.Dense(1, use_bias=False, dot_general_cls=quietly(nn, "Fp8DirectDotGeneralOp"))
    variables: Any = {"params": {"kernel": jnp.ones((1, 1))}}
    variables |= {k: v for k, v in layer.init(jax.random.key(0), jnp.ones((1, 1))).items() if k == REPLACED}

    def seen(x: float) -> Any:
        nonlocal variables
        grads = jax.grad(lambda v: layer.apply(v, jnp.full((1, 1), x)).sum())(variables)
        variables = {**variables, REPLACED: grads[REPLACED]}
        return {name: value.tolist() for name, value in grads[REPLACED]["Fp8DirectDotGeneralOp_0"].items()}

    assert seen(896.0)["input_scale"] == [1.0]  # nothing seen before, and cut off at 448
    assert seen(3.0)["input_scale"] == [2.0]
    third = seen(-5.0)
    assert third["input_scale"] == [2.0]
    assert third["input_amax_history"] == [5.0, 0.0, 896.0, 3.0]
    assert third["output_grad_amax_history"] == [1.0, 0.0, 1.0, 1.0]
    assert seen(7.0)["input_amax_history"] == [7.0, 896.0, 3.0, 5.0]


@pytest.mark.parametrize("compiled", [False, True])
def test_cotangents_of_fm32_meet_by_their_maximum(compiled: bool) -> None:
    def run(lib: Any) -> Any:
        ops = lib.fp8_ops

        def loss(scale: jax.Array, history: jax.Array, x: jax.Array) -> jax.Array:
            scale, history = (jax.lax.convert_element_type(v, ops.fm32) for v in (scale, history))

            def step(x: jax.Array, _: None) -> Any:
                return ops.in_qdq(jnp.float32, jnp.float8_e4m3fn, x * 2, scale, history), None

            return jax.lax.scan(step, x, length=3)[0].sum()

        gradient = jax.grad(loss, (0, 1, 2))
        gradient = jax.jit(gradient) if compiled else gradient
        return gradient(jnp.ones(1), jnp.array([4.0, 3.0, 896.0]), jnp.array([0.7, 5.0]))

    ours = run(nn)
    equal(ours, run(flax.linen))
    assert ours[0] == 2.0, "one scale, not the sum of three"
    assert ours[1][0] == 40.0, "the largest of the three calls"


def test_operands_and_cotangent_are_kept_in_8_bits() -> None:
    args = jnp.ones((4, 4), jnp.bfloat16), jnp.ones((4, 4), jnp.bfloat16)
    layer = nn.Fp8Einsum(amax_history_length=2)
    variables = layer.init(jax.random.key(0), "ab,bc->ac", *args)
    _, vjp = jax.vjp(lambda *args: layer.apply(variables, "ab,bc->ac", *args), *args)
    matrices = {leaf.dtype for leaf in jax.tree.leaves(vjp) if leaf.shape == (4, 4)}
    assert matrices == {jnp.dtype(jnp.float8_e4m3fn)}


@pytest.mark.parametrize("value", [np.inf, np.nan, 0.0])
def test_scale_of_a_history_without_a_size(value: float) -> None:
    compute = lambda lib: lib.fp8_ops.compute_scale(jnp.float32(value), jnp.full(1, 3.0), 448.0)
    equal(compute(nn), compute(flax.linen))
    np.testing.assert_allclose(compute(nn), 3.0, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"])
def test_rounding_is_linens(dtype: str) -> None:
    fp8 = getattr(jnp, dtype)
    x = jnp.asarray([0.0, 1e-9, 0.3, -7.7, 500.0, 1e9, np.inf, -np.inf, np.nan], "float32")
    for margin, scale in ((0, 1.0), (2, 0.37)):
        for name, args in (
            ("quantize", (x, fp8, jnp.full(1, scale), jnp.float32)),
            ("qdq", (x.astype("bfloat16"), fp8, jnp.full(1, scale), jnp.bfloat16)),
            ("compute_scale", (x[4], jnp.full(1, scale), 448.0, margin)),
            ("update_fp8_meta", (x, fp8, jnp.full(1, scale), jnp.array([2.0, 9.0, 1.0]))),
            ("compute_amax_history", (x[:4], jnp.array([2.0]))),
        ):
            equal(getattr(nn.fp8_ops, name)(*args), getattr(flax.linen.fp8_ops, name)(*args))


def test_a_dtype_of_more_bits() -> None:
    with pytest.raises(ValueError, match=r"bfloat16.*8 bits: float8_e4m3fn"):
        nn.fp8_ops.get_fp8_max(jnp.bfloat16, jnp.float32)


@pytest.mark.long
def test_scaled_product_is_linens() -> None:
    def run(lib: Any) -> Any:
        def product(a: jax.Array, b: jax.Array, metas: Any) -> jax.Array:
            numbers = (((2, 1), (1, 3)), ((0,), (2,)))
            return lib.fp8_ops.fp8_scaled_dot_general(a, b, numbers, preferred_element_type=jnp.float32, **metas)

        metas = {f"{side}_scale": jnp.full(1, 0.3) for side in ("lhs", "rhs", "grad")}
        metas |= {f"{side}_amax_history": jnp.array([1.0, 30.0, 2.0]) for side in ("lhs", "rhs", "grad")}
        a, b = jnp.sin(jnp.arange(48.0)).reshape(2, 3, 4, 2), jnp.cos(jnp.arange(120.0)).reshape(5, 4, 2, 3)
        out, vjp = jax.vjp(product, a, b, metas)
        return out, vjp(jnp.sin(out))

    equal(run(nn), run(flax.linen))


def test_precision_is_not_used_silently() -> None:
    one = {name: jnp.ones(1) for side in ("lhs", "rhs", "grad") for name in (f"{side}_scale", f"{side}_amax_history")}
    x, numbers = jnp.ones((1, 1)), (((1,), (0,)), ((), ()))
    with pytest.warns(UserWarning, match="precision=highest"):
        nn.fp8_ops.fp8_scaled_dot_general(x, x, numbers, "highest", **one)
    with pytest.warns(UserWarning, match="precision=high "):
        nn.fp8_ops.dot_general_with_precision(x, x, numbers, "high")
