"""Recurrent layers: cells, and what runs them along a sequence."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from liftax import errors

from ..table import Mistake, Rounding, Row, numbers

LENGTHS = np.array([2, 4, 0], np.int32)
CUT_UP = Rounding(
    ("float16/", "bfloat16/"),
    "XLA keeps more than 16 bits between operations that it fuses, and it fuses the two programs differently",
    ulps=8,
)


def pair(dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Return a memory and a state."""
    return numbers(3, 4)(dtype) / 2, numbers(3, 4)(dtype)[::-1] / 3


def lines(dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Return a memory and a state for each of 6 positions on a line."""
    return numbers(3, 6, 4)(dtype) / 2, numbers(3, 6, 4)(dtype)[::-1] / 3


def cell(name: str, **fields: Any) -> Callable[..., Any]:
    return lambda lib, dtype: getattr(lib, name)(4, bias_init=lib.initializers.normal(), **fields)


def wide(dtype: Any) -> Any:
    """Return the dtype of parameters, which is that of the first carry too, for inputs of `dtype`."""
    return dtype if dtype == jnp.float64 else jnp.dtype("float32")


def rnn(name: str, **fields: Any) -> Callable[..., Any]:
    return lambda lib, dtype: lib.RNN(getattr(lib, name)(4, param_dtype=wide(dtype)), **fields)


def both_ways(lib: Any, dtype: Any) -> Any:
    one = lib.RNN(lib.GRUCell(4, param_dtype=wide(dtype)))
    return lib.Bidirectional(one, lib.RNN(lib.OptimizedLSTMCell(4, param_dtype=wide(dtype))))


def dense(p: Any, x: jax.Array) -> jax.Array:
    y = x @ p["kernel"]
    return y + jax.lax.broadcast_in_dim(p["bias"], y.shape, (y.ndim - 1,)) if "bias" in p else y


def simple_by_hand(variables: Any, h: jax.Array, x: jax.Array, _: Any) -> Any:
    p = variables["params"]
    h = jnp.tanh(dense(p["i"], x) + dense(p["h"], h))
    return h, h


def gru_by_hand(variables: Any, h: jax.Array, x: jax.Array, _: Any) -> Any:
    p = variables["params"]
    r = jax.nn.sigmoid(dense(p["ir"], x) + dense(p["hr"], h))
    z = jax.nn.sigmoid(dense(p["iz"], x) + dense(p["hz"], h))
    n = jnp.tanh(dense(p["in"], x) + r * dense(p["hn"], h))
    h = (1 - z) * n + z * h
    return h, h


def mgu_by_hand(variables: Any, h: jax.Array, x: jax.Array, _: Any) -> Any:
    p = variables["params"]
    f = jax.nn.sigmoid(dense(p["if"], x) + dense(p["hf"], h))
    n = jnp.tanh(dense(p["in"], x) + f * dense(p["hn"], h))
    h = (1 - f) * n + f * h
    return h, h


def lstm_by_hand(variables: Any, carry: Any, x: jax.Array, _: Any) -> Any:
    (c, h), p = carry, variables["params"]
    i, f, g, o = (dense(p[f"i{gate}"], x) + dense(p[f"h{gate}"], h) for gate in "ifgo")
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (c, h), h


def joined_lstm_by_hand(variables: Any, carry: Any, x: jax.Array, _: Any) -> Any:
    (c, h), p = carry, variables["params"]
    on_input = {"kernel": jnp.concatenate([p[f"i{gate}"]["kernel"] for gate in "ifgo"], 1)}
    on_state = {name: jnp.concatenate([p[f"h{gate}"][name] for gate in "ifgo"], -1) for name in ("kernel", "bias")}
    i, f, g, o = jnp.split(dense(on_state, h) + dense(on_input, x), 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (c, h), h


def conv_lstm_by_hand(variables: Any, carry: Any, x: jax.Array, _: Any) -> Any:
    def conv(p: Any, x: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(x, p["kernel"], (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC"))
        return y + p["bias"].reshape(1, 1, -1)

    (c, h), p = carry, variables["params"]
    i, g, f, o = jnp.split(conv(p["ih"], x) + conv(p["hh"], h), 4, -1)
    c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (c, h), h


def simple_rnn_by_hand(variables: Any, xs: jax.Array, _: Any) -> jax.Array:
    def step(h: jax.Array, x: jax.Array) -> Any:
        return simple_by_hand({"params": variables["params"]["cell"]}, h, x, None)

    return jax.lax.scan(step, jnp.zeros((3, 4)), xs.transpose(1, 0, 2))[1].transpose(1, 0, 2)


def both_ways_by_hand(variables: Any, xs: jax.Array, _: Any) -> jax.Array:
    def run(step: Any, way: str, carry: Any) -> jax.Array:
        p = {"params": variables["params"][f"{way}_rnn"]["cell"]}
        ys = jax.lax.scan(
            lambda carry, x: step(p, carry, x, None), carry, xs.transpose(1, 0, 2), reverse=way == "backward"
        )[1]
        return ys.transpose(1, 0, 2)

    forward = run(gru_by_hand, "forward", jnp.zeros((3, 4)))
    backward = run(joined_lstm_by_hand, "backward", (jnp.zeros((3, 4)), jnp.zeros((3, 4))))
    return jnp.concatenate([forward, backward], -1)


def wrong_carry(where: str, *carries: Any, expected: str) -> tuple[Mistake, ...]:
    """Return mistakes of a carry that does not fit."""
    return tuple(
        Mistake(f"carry-{i}", errors.CarryError, rf"/inner \({where}\) got a carry.*{expected}", inputs=(carry, X))
        for i, carry in enumerate(carries)
    )


X = numbers(3, 5)
STATE = numbers(3, 4)
XS = numbers(3, 4, 5)
NO_STATE = (numbers(2, 4), pair)
SCALAR = Mistake("scalar", ValueError, r"got an input of shape \(\)", inputs=(STATE, lambda dtype: jnp.ones(())))
SCALAR_PAIR = SCALAR._replace(inputs=(pair, lambda dtype: jnp.ones(())))
FILMS = numbers(3, 2, 4, 3, 2)
LINES = numbers(3, 6, 2)
NO_PAIR = (STATE, lambda dtype: (numbers(3, 4)(dtype), numbers(3, 5)(dtype)), numbers(2, 4))

ROWS = [
    Row(
        "SimpleCell",
        "default",
        cell("SimpleCell"),
        (STATE, X),
        by_hand=simple_by_hand,
        rounding=(CUT_UP,),
        mistakes=(SCALAR, *wrong_carry("SimpleCell", *NO_STATE, expected=r"shape \(3, 4\)")),
    ),
    Row("SimpleCell", "residual", cell("SimpleCell", residual=True), (STATE, X), rounding=(CUT_UP,)),
    Row(
        "GRUCell",
        "default",
        cell("GRUCell"),
        (STATE, X),
        by_hand=gru_by_hand,
        rounding=(CUT_UP,),
        mistakes=(SCALAR, *wrong_carry("GRUCell", *NO_STATE, expected=r"shape \(3, 4\)")),
    ),
    Row(
        "MGUCell",
        "default",
        lambda lib, dtype: lib.MGUCell(4),
        (STATE, X),
        by_hand=mgu_by_hand,
        rounding=(CUT_UP,),
        mistakes=(SCALAR, *wrong_carry("MGUCell", *NO_STATE, expected=r"shape \(3, 4\)")),
    ),
    Row("MGUCell", "no-reset", lambda lib, dtype: lib.MGUCell(4, reset_gate=False), (STATE, X), rounding=(CUT_UP,)),
    Row(
        "LSTMCell",
        "default",
        cell("LSTMCell"),
        (pair, X),
        by_hand=lstm_by_hand,
        rounding=(CUT_UP,),
        mistakes=(SCALAR_PAIR, *wrong_carry("LSTMCell", *NO_PAIR, expected=r"a pair \(c, h\).*\(3, 4\)")),
    ),
    Row("LSTMCell", "dtype", lambda lib, dtype: lib.LSTMCell(4, dtype=dtype), (pair, X), rounding=(CUT_UP,)),
    Row(
        "OptimizedLSTMCell",
        "default",
        cell("OptimizedLSTMCell"),
        (pair, X),
        by_hand=joined_lstm_by_hand,
        rounding=(CUT_UP,),
        mistakes=(SCALAR_PAIR, *wrong_carry("OptimizedLSTMCell", *NO_PAIR, expected=r"a pair \(c, h\).*\(3, 4\)")),
    ),
    Row("OptimizedLSTMCell", "gates", cell("OptimizedLSTMCell", gate_fn=jnp.sin), (pair, X), rounding=(CUT_UP,)),
    Row(
        "ConvLSTMCell",
        "default",
        lambda lib, dtype: lib.ConvLSTMCell(4, (3,)),
        (lines, LINES),
        by_hand=conv_lstm_by_hand,
        rounding=(CUT_UP,),
        mistakes=(
            Mistake(
                "rank",
                ValueError,
                r"\(ConvLSTMCell\) got an input of shape \(2,\), expected .*1 axes of space",
                inputs=(lines, numbers(2)),
            ),
            Mistake(
                "strides",
                errors.CarryError,
                r"/inner \(ConvLSTMCell\) got a carry .* strides=2 .* expected \(3, 6, 16\)",
                make=lambda lib, dtype: lib.ConvLSTMCell(4, (3,), strides=2),
            ),
            Mistake(
                "valid",
                errors.CarryError,
                r"/inner \(ConvLSTMCell\) got a carry .* padding='VALID' .* expected \(3, 6, 16\)",
                make=lambda lib, dtype: lib.ConvLSTMCell(4, (3,), padding="VALID"),
            ),
            Mistake(
                "space",
                errors.CarryError,
                r"/inner \(ConvLSTMCell\) got a carry .* inputs of shape \(3, 5, 2\)",
                inputs=(lines, numbers(3, 5, 2)),
            ),
        ),
    ),
    Row(
        "ConvLSTMCell",
        "films",
        lambda lib, dtype: lib.RNN(
            lib.ConvLSTMCell(3, (2, 2), use_bias=False, param_dtype=wide(dtype)), return_carry=True
        ),
        (FILMS,),
        rounding=(CUT_UP,),
    ),
    Row(
        "RNN",
        "default",
        rnn("SimpleCell"),
        (XS,),
        by_hand=simple_rnn_by_hand,
        rounding=(CUT_UP,),
        mistakes=(
            Mistake(
                "rank", ValueError, r"/inner \(RNN\) got an input of shape \(5,\).*axis of time", inputs=(numbers(5),)
            ),
            Mistake(
                "lengths",
                ValueError,
                r"\(RNN\) got seq_lengths of shape \(2,\), expected \(3,\)",
                call={"seq_lengths": np.array([1, 2])},
            ),
            Mistake(
                "float-lengths",
                ValueError,
                r"\(RNN\) got seq_lengths of dtype float32, expected integers",
                call={"seq_lengths": np.ones(3, np.float32)},
            ),
            Mistake(
                "carry",
                errors.CarryError,
                r"\(SimpleCell\) got a carry of shape \(2, 4\).*\(3, 4\)",
                call={"initial_carry": np.ones((2, 4), np.float32)},
            ),
            Mistake(
                "carry-alone",
                errors.CarryError,
                r"\(RNN\): SimpleCell gets a carry of type float32\[4\]",
                call={"initial_carry": np.ones(4, np.float32)},
            ),
        ),
    ),
    Row(
        "RNN", "time-major", rnn("GRUCell", time_major=True, reverse=True, return_carry=True), (XS,), rounding=(CUT_UP,)
    ),
    Row("RNN", "keep-order", rnn("OptimizedLSTMCell", reverse=True, keep_order=True), (XS,), rounding=(CUT_UP,)),
    Row(
        "RNN",
        "lengths",
        rnn("LSTMCell", return_carry=True, unroll=2),
        (XS,),
        {"seq_lengths": LENGTHS, "reverse": True, "keep_order": True},
        rounding=(CUT_UP,),
    ),
    Row(
        "Bidirectional",
        "default",
        both_ways,
        (XS,),
        by_hand=both_ways_by_hand,
        rounding=(CUT_UP,),
        mistakes=(
            Mistake(
                "carry",
                errors.CarryError,
                r"/inner \(Bidirectional\) got an initial_carry.*a pair",
                call={"initial_carry": np.ones((3, 4), np.float32)},
            ),
        ),
    ),
    Row(
        "Bidirectional", "lengths", both_ways, (XS,), {"seq_lengths": LENGTHS, "return_carry": True}, rounding=(CUT_UP,)
    ),
]
