"""What parity with Linen does not say: composition, state that only some branches write, boxes, errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import core, errors, lift, nn

X = jnp.linspace(-1.0, 1.0, 12).reshape(3, 4)
KEY = jax.random.key(0)


class Counter(nn.Module):
    @nn.compact
    def __call__(self, x):
        n = self.variable("state", "n", lambda: jnp.zeros(()))
        n.value = n.value + 1
        return nn.Dense(4)(x) * n.value


class Host(nn.Module):
    body: object

    @nn.compact
    def __call__(self, *args):
        return self.body(self, *args)


def close(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6)


WRAPPED = {
    "remat": nn.remat,
    "jit": nn.jit,
    "map_variables": lambda target: nn.map_variables(target, "params", mutable=True),
    "named_call": nn.named_call,
    "scan": lambda f: (
        lambda mdl, x: nn.scan(
            lambda m, c, _: (f(m, c), None), variable_carry="state", variable_broadcast="params", length=1
        )(mdl, x, None)[0]
    ),
    "cond": lambda f: lambda mdl, x: nn.cond(x.sum() < 99, f, lambda m, x: f(m, 2 * x), mdl, x),
    "while_loop": lambda f: (
        lambda mdl, x: nn.while_loop(
            lambda m, c: c[0] < 1, lambda m, c: (c[0] + 1, f(m, c[1])), mdl, (0, x), carry_variables="state"
        )[1]
    ),
    "vmap": lambda f: lambda mdl, x: nn.vmap(f, {"params": None, "state": None}, in_axes=0)(mdl, x),
}


@pytest.mark.parametrize("inner", WRAPPED)
@pytest.mark.parametrize("outer", ["plain", "remat", "jit", "scan", "vjp", "jax.jit", "jax.grad"])
def test_composes(inner, outer):
    """Each transform, inside others, is the plain call: the same output, the same state, the same gradient."""

    def f(mdl, x):
        return mdl(x)

    lifted = WRAPPED[inner](f)

    def program(fn):
        def body(self, x):
            mdl = Counter(name="counter")
            if outer == "vjp":
                y, pull = nn.vjp(fn, mdl, x)
                return y, pull(y)
            return WRAPPED.get(outer, lambda fn: fn)(fn)(mdl, x)

        apply = lambda v, x: Host(body).apply(v, x, mutable="state")
        if outer == "jax.jit":
            return jax.jit(apply)
        if outer == "jax.grad":
            return jax.grad(lambda v, x: apply(v, x)[0].sum() + apply(v, x)[1]["state"]["counter"]["n"])
        return apply

    variables = Counter().init(KEY, X)
    variables = {col: {"counter": tree} for col, tree in variables.items()}
    close(program(lifted)(variables, X), program(f)(variables, X))


def test_branches_that_write_different_variables_keep_the_others():
    def body(self, x):
        a = self.variable("state", "a", lambda: jnp.zeros(()))
        b = self.variable("state", "b", lambda: jnp.ones(()))

        def first(mdl, x):
            a.value = a.value + x
            return x

        def second(mdl, x):
            b.value = b.value + x
            return 2 * x

        return nn.cond(x > 0, first, second, self, x)

    variables = Host(body).init(KEY, 0.0)
    for x, a, b, y in [(3.0, 3.0, 1.0, 3.0), (-1.0, 0.0, 0.0, -2.0)]:
        got, state = Host(body).apply({"state": {"a": 0.0, "b": 1.0}}, jnp.array(x), mutable="state")
        assert (got, state["state"]["a"], state["state"]["b"]) == (y, a, b)
    assert variables["state"] == {"a": 0.0, "b": 1.0}  # at init the second branch runs, on zero


def test_scan_creates_the_state_that_it_carries():
    Scanned = nn.scan(lambda mdl, c, x: (mdl(c), x), variable_carry="state", variable_broadcast="params", split_rngs={"params": False})  # noqa: E501  # fmt: skip
    host = Host(lambda self, x: Scanned(Counter(name="counter"), x[0], x))
    (y, _), variables = host.init_with_output(KEY, X)
    assert variables["state"]["counter"]["n"] == 3
    kernel = variables["params"]["counter"]["Dense_0"]["kernel"]
    np.testing.assert_allclose(y, X[0] @ kernel @ kernel @ kernel * 6, rtol=1e-5)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Named(core.AxisMetadata):
    value: jax.Array
    names: tuple = dataclasses.field(metadata={"static": True})

    def unbox(self):
        return self.value

    def replace_boxed(self, value):
        return Named(value, self.names)

    def add_axis(self, index, params):
        return Named(self.value, (*self.names[:index], params["name"], *self.names[index:]))

    def remove_axis(self, index, params):
        assert self.names[index] == params["name"]
        return Named(self.value, (*self.names[:index], *self.names[index + 1 :]))


class Boxed(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        w = self.param("w", lambda key: Named(jax.random.normal(key, (4, 4)), ("in", "out")))
        assert self.get_variable("params", "w").names == ("in", "out")
        return x @ w, None


@pytest.mark.parametrize(
    ("lifted", "names"),
    [
        (nn.vmap(Boxed, {"params": 1}, {"params": True}, metadata_params={"name": "m"}), ("in", "m", "out")),
        (nn.scan(Boxed, {"params": 0}, split_rngs={"params": True}, length=3, metadata_params={"name": "m"}), ("m", "in", "out")),  # noqa: E501
        (nn.add_metadata_axis(Boxed, {"params": 2}, {"name": "m"}), ("in", "out", "m")),
    ],
    ids=["vmap", "scan", "add_metadata_axis"],
)  # fmt: skip
def test_boxes_tell_of_the_axis(lifted, names):
    variables = lifted().init(KEY, X, None) if "Scan" in lifted.__name__ else lifted().init(KEY, X)
    assert variables["params"]["w"].names == names
    assert lifted().apply(variables, X, None)[0].shape == X.shape if "Scan" in lifted.__name__ else True


def test_in_and_out_axes():
    def body(self, x):
        def fn(mdl, x):
            out = mdl.variable("out", "y", lambda: x)
            out.value = x * mdl.get_variable("in", "scale")
            return out.value

        return nn.vmap(fn, {"in": lift.In(0), "out": lift.Out(1)})(self, x)

    given = {"in": {"scale": jnp.arange(3.0)}}
    y, state = Host(body).apply(given, X, mutable=["in", "out"])
    np.testing.assert_allclose(state["out"]["y"], y.T)
    assert set(state["in"]) == {"scale"} and y.shape == X.shape


@pytest.mark.parametrize("lifted", [nn.vmap, lambda f: nn.scan(lambda mdl, c, x: (c, f(mdl, x)))])
def test_functions_that_need_no_variables_need_no_axes(lifted):
    class Doubled(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.param("w", nn.initializers.ones, (3,))
            args = (x,) if lifted is nn.vmap else (0.0, x)
            return lifted(lambda mdl, x: 2 * x)(self, *args)

    x = jnp.arange(4.0).reshape(2, 2)
    y, variables = Doubled().init_with_output(jax.random.key(0), x)
    for out in (y, Doubled().apply(variables, x)):
        np.testing.assert_array_equal(jax.tree.leaves(out)[-1], 2 * x)


def test_scopes_are_targets_too():
    def dense(scope, x):
        return x @ scope.param("w", jax.nn.initializers.normal(), (4, 4))

    def stack(scope, x):
        step = lift.scan(
            lambda scope, c, _: (dense(scope, c), None), {"params": 0}, split_rngs={"params": True}, length=3
        )
        return lift.remat(step)(scope.push("layers"), x, None)[0]

    y, variables = core.init(stack)(KEY, X)
    w = variables["params"]["layers"]["w"]
    np.testing.assert_allclose(y, X @ w[0] @ w[1] @ w[2], rtol=1e-5)


def test_the_inside_of_a_transformed_class_is_plain():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(x) + type(self).__name__.count("Vmap")

        def outer(self, x):
            return self(x)

    Mapped = nn.vmap(Two, {"params": 0}, {"params": True}, methods=["__call__", "outer"])
    variables = Mapped().init(KEY, X, method="outer")
    assert variables["params"]["Dense_0"]["kernel"].shape == (3, 4, 2)
    np.testing.assert_array_equal(Mapped().apply(variables, X, method="outer"), Mapped().apply(variables, X))


def raised(error, body, *args, **kwargs):
    with pytest.raises(error) as info:
        Host(body).init(KEY, *args, **kwargs)
    return str(info.value)


def test_errors_of_axes():
    assert "sizes: 3 for axis 0 of argument 0 of shape (3, 4); 4 for axis 0 of argument 1" in raised(
        errors.MappedAxisError, lambda self, x, y: nn.vmap(lambda m, x, y: x)(self, x, y), X, X.T
    )
    assert "Pass axis_size" in raised(
        errors.MappedAxisError, lambda self, x: nn.vmap(lambda m, x: x, in_axes=None)(self, x), X
    )
    assert "no axis 2" in raised(errors.MappedAxisError, lambda self, x: nn.vmap(lambda m, x: x, in_axes=2)(self, x), X)
    assert "an axis is an integer" in raised(
        errors.MappedAxisError, lambda self, x: nn.scan(lambda m, c, x: (c, x), {"params": None})(self, x, x), X
    )
    with pytest.raises(errors.MappedAxisError, match="is not a mapping"):
        nn.vmap(Counter, variable_axes="params")

    def varies(self, x):
        return nn.vmap(lambda m, x: m.put_variable("state", "x", x), {"state": None})(self, x)

    assert "state/x" in raised(errors.MappedAxisError, varies, X)


def test_errors_of_loops_and_branches():
    grows = lambda m, c: m.variable("state", "new", lambda: c).value + c
    assert "state/new" in raised(
        errors.ControlFlowError,
        lambda self, x: nn.while_loop(lambda m, c: c < 1, grows, self, x, carry_variables="state"),
        0.0,
    )
    differs = lambda m, c, x: (c, m.variable("stats", "x", lambda: x).value)
    assert "depends on the step" in raised(
        errors.ControlFlowError, lambda self, x: nn.scan(differs, variable_broadcast="stats")(self, 0.0, x), X
    )
    assert "rules out" in raised(
        errors.ControlFlowError,
        lambda self, x: nn.scan(lambda m, c, x: (c, 1), out_axes=nn.broadcast, check_constancy_invariants=False)(
            self, 0.0, x
        ),
        X,
    )
    one = lambda m, x: nn.Dense(4)(x)
    text = raised(errors.ControlFlowError, lambda self, x: nn.cond(True, one, lambda m, x: x, self, x), X)
    assert "params/Dense_0" in text and "is_initializing" in text
    assert "(carry, y)" in raised(errors.AuxError, lambda self, x: nn.scan(lambda m, c, x: c)(self, x[0], x), X)
    with pytest.raises(errors.MappedAxisError, match="lengths is empty"):
        nn.remat_scan(lambda mdl, x: x)


def test_errors_of_targets():
    with pytest.raises(errors.TransformTargetError, match="Give it a Module class"):
        nn.remat(Counter())
    with pytest.raises(errors.TransformTargetError, match="'__call__'"):
        nn.remat(Counter, methods=["__cal__"])
    with pytest.raises(errors.TransformTargetError, match="neither a sequence"):
        nn.jit(Counter, methods="__call__")
    with pytest.raises(errors.ArityError, match="position 0 is the module"):
        nn.remat(Counter, static_argnums=0)
    with pytest.raises(NotImplementedError, match="static_argnums"):
        nn.remat(lambda mdl: 0, concrete=True)
    with pytest.raises(errors.UnboundModuleError, match="not bound"):
        nn.remat(Counter)()(X)
    assert "its .value" in raised(
        errors.TransformedMethodReturnValueError, lambda self, x: nn.remat(lambda mdl, x: mdl)(self, x), X
    )


def test_errors_of_what_stays_out_of_reach():
    class Draws(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x + self.make_rng("noise").size

    x = jnp.ones((2, 4))
    variables = nn.vmap(nn.Dense, {"params": 0}, {"params": True})(4).init(KEY, x)
    with pytest.raises(errors.ScopeCollectionNotFound, match="filters of this vmap leave it out of reach"):
        nn.vmap(nn.Dense)(4).apply(variables, x)
    host = Host(lambda self, x: nn.vmap(Draws)(name="draws")(x))
    with pytest.raises(errors.InvalidRngError, match=r"this vmap .* split_rngs=\{'noise': True\}"):
        host.apply({}, x, rngs={"noise": KEY})
