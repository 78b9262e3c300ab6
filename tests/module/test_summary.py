"""Tables of models: what Linen's hold, with and without rich."""

import enum
import importlib.util
import re
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import pytest

from liftax import core, nn
from liftax.module.summary import rows

KEY, X = jax.random.key(0), jnp.ones((16, 9))


def mlp(lib: Any) -> Any:
    class Block(lib.Module):
        @lib.compact
        def __call__(self, x, scale=1.0):
            n = self.variable("state", "n", lambda: jnp.zeros((), jnp.int32))
            del n
            return lib.Dense(4)(x) * scale

    class Net(lib.Module):
        @lib.compact
        def __call__(self, x):
            dense = lib.Dense(4)
            return dense(dense(Block()(x, scale=2.0)))

    return Net()


def words(text: str) -> list[str]:
    """Return what a table says, without its lines and colors."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return sorted(re.findall(r"[\w./\[\],:()-]*\w[\w./\[\],:()-]*", text))


WIDE = {"width": 400}


@pytest.mark.parametrize(
    "options",
    [{}, {"depth": 1}, {"depth": 0}, {"show_repeated": True}, {"compute_flops": True}],
    ids=lambda o: ",".join(o) or "plain",
)
def test_table_says_what_linens_does(options: dict[str, Any]):
    ours, theirs = (words(mlp(lib).tabulate(KEY, X, console_kwargs=WIDE, **options)) for lib in (nn, flax.linen))
    assert ours == theirs


def test_function_form():
    assert words(nn.tabulate(mlp(nn), KEY, console_kwargs=WIDE)(X)) == words(
        mlp(nn).tabulate(KEY, X, console_kwargs=WIDE)
    )


def test_vjp_costs_more():
    """A backward pass through two matrix products costs twice theirs, up to the small change."""
    text = nn.tabulate(nn.Dense(8), KEY, console_kwargs=WIDE, compute_flops=True, compute_vjp_flops=True)(X)
    flops, vjp_flops = [int(w) for w in words(text) if re.fullmatch(r"\d{4,}", w)]
    assert 2 * 16 * 9 * 8 <= flops < vjp_flops < 4 * flops


def test_vjp_of_integers():
    """Integers among variables, inputs and outputs have no derivative, and the others count as usual."""

    def net(lib: Any) -> Any:
        class Net(lib.Module):
            @lib.compact
            def __call__(self, x, i):
                n = self.variable("state", "n", lambda: jnp.zeros((), jnp.int32))
                n.value += 1
                return lib.Embed(2000, 3)(i) + lib.Dense(3)(x), i

        return Net()

    options = {"console_kwargs": WIDE, "compute_vjp_flops": True}
    i = jnp.zeros(16, jnp.int32)
    assert words(net(nn).tabulate(KEY, X, i, **options)) == words(net(flax.linen).tabulate(KEY, X, i, **options))


def test_plain_text_without_rich(monkeypatch: pytest.MonkeyPatch):
    rich = words(mlp(nn).tabulate(KEY, X, console_kwargs=WIDE))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "rich" else find(name, *a))
    text = mlp(nn).tabulate(KEY, X)
    assert "\x1b" not in text
    assert words(text) == rich
    assert text.splitlines()[1] == "Net Summary"


def test_shapes_are_enough():
    assert "float32[16,4]" in nn.Dense(4).tabulate(KEY, jax.ShapeDtypeStruct((16, 9), jnp.float32))


def test_module_paths_are_linens():
    ours, theirs = mlp(nn).module_paths(KEY, X), mlp(flax.linen).module_paths(KEY, X)
    assert {k: type(m).__name__ for k, m in ours.items()} == {k: type(m).__name__ for k, m in theirs.items()}
    assert ours["Dense_0"] == nn.Dense(4)
    assert ours["Dense_0"].scope is None


class Keys(enum.StrEnum):
    ENERGY = "energy"
    FORCES = "forces"


def boxed(lib: Any) -> Any:
    ones = lib.initializers.ones

    class Net(lib.Module):
        @lib.compact
        def __call__(self, x):
            kernel = lib.with_partitioning(ones, ("data", None))
            bias = lib.with_logical_partitioning(ones, ("model",))
            y = lib.Dense(3, kernel_init=kernel, bias_init=bias)(x[Keys.ENERGY])
            return {Keys.FORCES: y, "rest": (1.5, None, [y])}

    return Net()


def test_axis_names_and_keys_of_an_enumeration():
    ours, theirs = (words(boxed(lib).tabulate(KEY, {Keys.ENERGY: X}, console_kwargs=WIDE)) for lib in (nn, flax.linen))
    assert ours == theirs
    assert "P(data," in ours


def lifted_function(lib: Any) -> Any:
    class Net(lib.Module):
        @lib.compact
        def __call__(self, x):
            dense = lib.Dense(9)
            x = lib.remat(lambda m, x: m(x))(dense, x)
            step = lambda m, c, _: (m(c), None)
            return lib.scan(step, variable_broadcast="params", split_rngs={"params": False}, length=2)(dense, x, None)

    return Net()


@pytest.mark.parametrize(
    "model",
    [
        nn.WeightNorm(nn.Dense(9)),
        nn.RNN(nn.LSTMCell(9)),
        nn.Conv(9, (3,)),
        lifted_function(nn),
    ],
    ids=lambda m: type(m).__name__,
)
def test_operations_are_counted_in_every_row(model: Any):
    """Linen stops where a row is a function of a module, and not a method: it looks for the latter by its name."""
    x = X if isinstance(model, nn.WeightNorm) else X[None]
    text = model.tabulate(
        KEY, x, compute_flops=True, compute_vjp_flops=True, show_repeated=True, console_kwargs={"width": 400}
    )
    assert "lambda" not in text
    for row in rows(model, KEY, (x,), {}, None, True, core.DenyList("intermediates")):
        assert row.method == "__call__"
        assert jax.tree.leaves(row.inputs)
    counts = [re.findall(r"[│┃] +(\d+) +(?=[│┃])", line) for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]
    assert any(counts)
    assert all(0 < int(flops) < int(vjp) for flops, vjp in filter(None, counts))


def test_helper_that_can_not_run_by_itself():
    """Its cells stay empty: no operations are counted for a method that declares what its caller's @compact allows."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return self.scaled(x) + self.twice(x)

        def scaled(self, x):
            return x * self.param("scale", nn.initializers.ones, ())

        def twice(self, x):
            return 2 * x

    found = nn.tabulate(Net(), KEY, compute_flops=True, show_repeated=True, console_kwargs=WIDE)(X)
    assert "(scaled)" in found
    assert "144" in found
