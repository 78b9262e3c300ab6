"""An LSTM along a sequence: its own loop, and when it is the scan of the cell instead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import errors, nn

X = jnp.sin(jnp.arange(3 * 5 * 2.0)).reshape(3, 5, 2)
LENGTHS = jnp.array([5, 2, 0])
KEY = jax.random.key(0)


class Own(nn.LSTMCell):
    """A class of a user's, that does what its base does: RNN can't know."""


class OwnJoined(nn.OptimizedLSTMCell):
    """The same with joined kernels."""


CELLS = [(nn.LSTMCell, Own), (nn.OptimizedLSTMCell, OwnJoined)]


@pytest.mark.parametrize(("cell", "scanned"), CELLS)
@pytest.mark.parametrize(
    ("fields", "call"),
    [
        ({}, {}),
        ({"return_carry": True, "unroll": 2, "time_major": True}, {}),
        ({"reverse": True, "return_carry": True}, {"seq_lengths": LENGTHS}),
        ({"reverse": True, "keep_order": True}, {}),
    ],
    ids=["default", "carry", "lengths", "order"],
)
def test_loop_and_scan_agree(cell, scanned, fields, call):
    layer, other = nn.RNN(cell(4), **fields), nn.RNN(scanned(4), **fields)
    variables = layer.init(KEY, X, **call)
    jax.tree.map(np.testing.assert_array_equal, variables, other.init(KEY, X, **call))

    def sloped(layer):
        def loss(variables, x):
            return sum(jnp.sum(y * jnp.cos(y + 1)) for y in jax.tree.leaves(layer.apply(variables, x, **call)))

        return jax.jit(jax.value_and_grad(loss, (0, 1)))(variables, X)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), sloped(layer), sloped(other))


@pytest.mark.long
@pytest.mark.parametrize(("cell", "scanned"), CELLS)
def test_low_precision_sums_gradients_in_the_dtype_of_the_parameters(cell, scanned):
    layer, other = (nn.RNN(c(4, dtype=jnp.bfloat16)) for c in (cell, scanned))
    x = jnp.tile(X, (1, 60, 1))
    variables = layer.init(KEY, x)

    def slope(layer):
        return jax.jit(jax.grad(lambda v: layer.apply(v, x).astype(jnp.float32).mean()))(variables)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 0.02, 2e-4), slope(layer), slope(other))


@pytest.mark.parametrize(("cell", "sums"), [(nn.LSTMCell, 12), (nn.OptimizedLSTMCell, 3)])
def test_gradients_are_summed_over_the_steps_as_the_kernels_are_kept(cell, sums):
    layer = nn.RNN(cell(4))
    variables = layer.init(KEY, X)
    jaxpr = jax.make_jaxpr(jax.grad(lambda v: layer.apply(v, X).sum()))(variables)
    _, backwards = loops_in(jaxpr)
    assert len(backwards.outvars) == 2 + sums  # the cotangents of c and h are carried too


def test_program_of_separate_kernels_is_that_by_hand():
    layer = nn.RNN(nn.LSTMCell(4))
    variables = layer.init(KEY, X)

    def by_hand(variables, x):
        p = variables["params"]["cell"]

        def step(carry, x):
            c, h = carry
            on_state = [h @ p[f"h{gate}"]["kernel"] + p[f"h{gate}"]["bias"] for gate in "ifgo"]
            i, f, g, o = (x @ p[f"i{gate}"]["kernel"] + on for gate, on in zip("ifgo", on_state, strict=True))
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (c, h), h

        _, y = jax.lax.scan(step, (jnp.zeros((3, 4)), jnp.zeros((3, 4))), x.swapaxes(0, 1))
        return y.swapaxes(0, 1)

    def cost(apply):
        slope = jax.jit(jax.grad(lambda v, x: jnp.square(apply(v, x)).sum()))
        found = slope.lower(variables, X).compile().cost_analysis()
        return found["flops"], found["bytes accessed"]

    assert cost(layer.apply) == cost(by_hand)


def loops_in(jaxpr):
    """Return the equations that are loops, those inside calls among them."""
    found = []
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        inner = equation.params.get("jaxpr")
        found += [equation] if equation.primitive.name == "scan" else loops_in(inner) if inner is not None else []
    return found


def test_calls_of_the_cell_are_seen():
    layer, seen = nn.RNN(nn.LSTMCell(4)), []
    variables = layer.init(KEY, X)

    def look(call, args, kwargs, context):
        seen.append((type(context.module).__name__, context.method_name))
        return call(*args, **kwargs)

    with nn.intercept_methods(look):
        y = layer.apply(variables, X)
    assert ("LSTMCell", "__call__") in seen
    assert ("LSTMCell", "along") not in seen
    np.testing.assert_allclose(y, layer.apply(variables, X), 1e-6)
    assert "ii" in layer.tabulate(KEY, X)


def test_captured_outputs_are_those_of_linen():
    from flax import linen

    found = [
        lib.RNN(lib.OptimizedLSTMCell(4)).apply(
            nn.RNN(nn.OptimizedLSTMCell(4)).init(KEY, X),
            X,
            capture_intermediates=lambda mdl, method: True,
            mutable=["intermediates"],
        )[1]
        for lib in (nn, linen)
    ]
    ours, theirs = (jax.tree.map(jnp.shape, dict(state)) for state in found)
    assert ours == theirs


def test_overridden_step_is_taken():
    class Loud(nn.OptimizedLSTMCell):
        @nn.compact
        def __call__(self, carry, inputs):
            carry, y = super().__call__(carry, inputs)
            return carry, 2 * y

    variables = nn.RNN(nn.OptimizedLSTMCell(4)).init(KEY, X)
    loud = nn.RNN(Loud(4)).apply(variables, X)
    np.testing.assert_allclose(loud, 2 * nn.RNN(nn.OptimizedLSTMCell(4)).apply(variables, X), 1e-6)


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.OptimizedLSTMCell])
def test_gates_that_are_modules_have_their_variables(cell):
    layer = nn.RNN(cell(4, gate_fn=nn.PReLU()))
    y, variables = layer.init_with_output(KEY, X)
    slope = variables["params"]["cell"]["gate_fn"]
    assert jax.tree.map(float, slope) == {"negative_slope": pytest.approx(0.01)}
    np.testing.assert_allclose(layer.apply(variables, X), y, 1e-6)


def test_parameters_of_each_step():
    layer = nn.RNN(
        nn.OptimizedLSTMCell(4),
        variable_axes={"params": 0},
        variable_broadcast=False,
        split_rngs={"params": True},
    )
    variables = layer.init(KEY, X)
    assert variables["params"]["cell"]["hi"]["kernel"].shape == (5, 4, 4)
    assert layer.apply(variables, X).shape == (3, 5, 4)


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.OptimizedLSTMCell])
@pytest.mark.parametrize(
    ("carry", "words"),
    [
        ([jnp.zeros((3, 4))] * 2, r"/ \(RNN\): \w+ gets a carry of type \["),
        ((jnp.zeros((3, 4), jnp.bfloat16),) * 2, r"/ \(RNN\): \w+ gets a carry of type .*bfloat16.* expected the same"),
        ((jnp.zeros(4),) * 2, r"/ \(RNN\): \w+ gets a carry of type .*float32\[4\]"),
        ((jnp.zeros((3, 4)), jnp.zeros((3, 5))), r"/cell \(\w+\) got a carry of shape \(\(3, 4\), \(3, 5\)\)"),
    ],
    ids=["list", "dtype", "no-batch", "features"],
)
def test_carries_that_do_not_fit(cell, carry, words):
    layer = nn.RNN(cell(4))
    variables = layer.init(KEY, X)
    with pytest.raises(errors.CarryError, match=words):
        layer.apply(variables, X, initial_carry=carry)


def test_parameters_of_another_size():
    variables = nn.RNN(nn.OptimizedLSTMCell(4)).init(KEY, X)
    with pytest.raises(errors.ScopeParamShapeError, match=r"'kernel' at /cell/ii has shape \(2, 4\)"):
        nn.RNN(nn.OptimizedLSTMCell(4)).apply(variables, jnp.ones((3, 5, 7)))


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.OptimizedLSTMCell])
def test_equal_layers_are_compiled_once(cell, caplog):
    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.RNN(cell(7))(nn.RNN(cell(7))(x))

    x = jnp.ones((2, 3, 7))

    def loops():
        caplog.clear()
        with jax.log_compiles():
            Deep().init(KEY, x)
        return [r.message for r in caplog.records if r.message.startswith("Compiling") and "_loop" in r.message]

    assert len(loops()) == 1
    assert loops() == []
    assert caplog.records == []  # nor is anything else
