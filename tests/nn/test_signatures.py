"""Layers and functions have the names of flax.linen's, and parameters of the same names, order, kinds and defaults."""

import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen
import pytest

from liftax import nn

# Parts of rules of differentiation and of dtypes, which no program calls.
INTERNAL = {
    *("in_qdq_fwd", "in_qdq_bwd", "out_qdq_fwd", "out_qdq_bwd", "in_q", "in_q_fwd", "in_q_bwd", "out_dq", "out_dq_fwd"),
    *("out_dq_bwd", "quantized_dot", "quantized_dot_fwd", "quantized_dot_bwd", "quantize_dequantize_update"),
    *("dot_general_transpose_lhs", "dot_general_transpose_rhs", "dot_general_with_precision_jvp", "fp32_max_grad"),
    *("Fp8MetaTyRules", "fp8_meta_dtype", "fp8_meta_dtype_wrapper"),
}

# Homes of what is no layer.
ELSEWHERE = {f"flax.linen.{name}" for name in ("module", "transforms", "spmd", "partitioning", "summary")}


def public(namespace: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name, ours and Linen's, of the layers and functions in a namespace, those taken from JAX among them."""
    ours, theirs = (getattr(lib, namespace) if namespace else lib for lib in (nn, flax.linen))
    for name, value in vars(theirs).items():
        home = getattr(value, "__module__", None) or ""
        if namespace:
            own = home == theirs.__name__ or (home.startswith("jax.") and namespace != "fp8_ops")
        else:
            own = home.startswith(("flax.linen.", "jax.")) and home not in ELSEWHERE
        if own and callable(value) and not name.startswith("_") and name not in INTERNAL:
            yield name, getattr(ours, name, None), value


def signature(f: Callable[..., Any]) -> list[tuple[Any, ...]]:
    """Return names, kinds and defaults; `parent` and `name` are left to the tests of Module."""
    parameters = inspect.signature(f).parameters.values()
    return [(p.name, p.kind, comparable(p.default)) for p in parameters if p.name not in ("parent", "name")]


def comparable(default: Any) -> Any:
    """Return what two equal defaults have in common; a function made by a factory is another object each time."""
    return default.__qualname__.strip("_") if isinstance(default, types.FunctionType) else default


@pytest.mark.parametrize("namespace", ["", "activation", "initializers", "fp8_ops"])
def test_names_and_signatures(namespace: str) -> None:
    found = list(public(namespace))
    assert len(found) > 10
    for name, ours, theirs in found:
        assert ours is not None, name
        if ours is theirs:
            continue
        if name == "fp8_scaled_dot_general":  # whose scales are None in Linen, which fails without them
            assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)
            continue
        assert signature(ours) == signature(theirs), name
        for method in ("__call__", "attend", "initialize_carry"):
            if isinstance(theirs, type) and hasattr(theirs, method):
                assert signature(getattr(ours, method)) == signature(getattr(theirs, method)), f"{name}.{method}"
