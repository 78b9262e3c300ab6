"""`shard_map` lifted: against the plain module on the whole batch, against `vmap`, against JAX, and its errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from liftax import core, errors, lift, nn

X = jnp.linspace(-1.0, 1.0, 24).reshape(8, 3)
KEYS = {"params": jax.random.key(0), "noise": jax.random.key(1)}


def mesh_of(*sizes, names=("data", "model"), kind=AxisType.Auto):
    return jax.make_mesh(sizes, names[: len(sizes)], axis_types=(kind,) * len(sizes))


MESH = mesh_of(4)
over_data = functools.partial(nn.shard_map, mesh=MESH, in_specs=P("data"), out_specs=P("data"))


def close(got, want, **kwargs):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, **{"rtol": 1e-5, "atol": 1e-6, **kwargs})


class Block(nn.Module):
    """Parameters, running statistics over the whole batch, and a count."""

    axis: str | None = None

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=False, axis_name=self.axis)(nn.Dense(3)(x))
        count = self.variable("state", "count", lambda: jnp.zeros(()))
        count.value += 1
        return jnp.tanh(x)


@pytest.mark.parametrize("check_vma", [True, False])
def test_the_shards_together_are_the_whole(check_vma):
    """With replicated variables: the same variables, outputs, state and gradients as without."""
    Sharded = over_data(Block, check_vma=check_vma)
    variables = jax.jit(Block().init)(KEYS, X)
    close(jax.jit(Sharded("data").init)(KEYS, X), variables, rtol=0, atol=0)
    run = lambda module: lambda v, x: module.apply(v, x, mutable=["state", "batch_stats"])
    close(jax.jit(run(Sharded("data")))(variables, X), run(Block())(variables, X))

    def loss(module):
        def loss(v, x):
            y, state = run(module)(v, x)
            return (y**2).sum() + state["batch_stats"]["BatchNorm_0"]["mean"].sum()

        return jax.grad(loss, (0, 1))

    close(jax.jit(loss(Sharded("data")))(variables, X), jax.jit(loss(Block()))(variables, X), rtol=1e-4, atol=1e-5)


def test_split_streams_draw_what_vmap_draws():
    class Noisy(nn.Module):
        @nn.compact
        def __call__(self, x):
            w = self.param("w", nn.initializers.normal(), (1, 3))
            return x * w + jax.random.normal(self.make_rng("noise"), x.shape)

    split = {"params": True, "noise": "data"}
    Sharded = over_data(Noisy, variable_specs={"params": P("data")}, split_rngs=split)
    Mapped = nn.vmap(Noisy, {"params": 0}, {"params": True, "noise": True})
    y, variables = jax.jit(Sharded(name="it").init_with_output)(KEYS, X)
    want, mapped = jax.jit(Mapped(name="it").init_with_output)(KEYS, X.reshape(4, 2, 3))
    np.testing.assert_array_equal(variables["params"]["w"], mapped["params"]["w"].reshape(4, 3))
    np.testing.assert_array_equal(y, want.reshape(8, 3))
    raw = {k: jax.random.key_data(key) for k, key in KEYS.items()}
    np.testing.assert_array_equal(jax.jit(Sharded().init)(raw, X)["params"]["w"], variables["params"]["w"])
    noise = jax.jit(over_data(Noisy)().init_with_output)(KEYS, 0 * X)[0]  # the same stream on all devices
    assert all(np.array_equal(noise[:2], noise[i : i + 2]) for i in (2, 4, 6))


def test_streams_split_along_one_axis_of_two():
    mesh = mesh_of(2, 2)

    class Draw(nn.Module):
        def __call__(self):
            return jax.random.normal(self.make_rng("noise"), (1, 1))

    def draws(split, **kwargs):
        Sharded = nn.shard_map(
            Draw, mesh=mesh, in_specs=(), out_specs=P("data", "model"), split_rngs={"noise": split}, **kwargs
        )
        return jax.jit(lambda: Sharded().apply({}, rngs=KEYS))()

    both, pair, one = draws(True), draws(("data", "model")), draws("model")
    np.testing.assert_array_equal(both, pair)
    assert np.unique(both).size == 4
    assert np.unique(one).size == 2 and np.array_equal(one[0], one[1])
    assert np.unique(draws(False)).size == 1


class TensorParallel(nn.Module):
    """Two layers, the hidden features split over 'model'; boxes say so."""

    @nn.compact
    def __call__(self, x):
        init, hidden = nn.initializers.normal(), 4 // jax.lax.axis_size("model")
        up = self.param("up", nn.with_partitioning(init, (None, "model")), (3, hidden))
        down = self.param("down", nn.with_partitioning(init, ("model", None)), (hidden, 3))
        return jax.lax.psum(jnp.tanh(x @ up) @ down, "model")


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_specs_from_boxes(kind):
    mesh = mesh_of(2, 2, kind=kind)
    Sharded = nn.shard_map(
        TensorParallel, in_specs=P("data"), out_specs=P("data"),
        variable_specs={"params": nn.get_partition_spec}, split_rngs={"params": "model"},
    )  # fmt: skip
    with jax.set_mesh(mesh):
        x = jax.device_put(X, P("data"))
        variables = jax.jit(Sharded().init)(KEYS, x)
        got = jax.jit(Sharded().apply)(variables, x)
        # values that are laid out otherwise are laid out by their specs
        again = jax.jit(Sharded().apply)(jax.tree.map(jnp.asarray, jax.device_get(variables)), x)
    boxes = jax.device_get(variables)["params"]
    assert boxes["up"].names == (None, "model") and boxes["down"].names == ("model", None)
    up, down = boxes["up"].value, boxes["down"].value
    assert up.shape == (3, 4) and not np.array_equal(up[:, :2], up[:, 2:])
    np.testing.assert_allclose(got, jnp.tanh(X @ up) @ down, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got, again)


def test_specs_by_name_and_by_function():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.sow("intermediates", "mean", x.mean(0, keepdims=True))
            w = self.param("w", nn.initializers.normal(), (3, 3))
            return x @ w + nn.Dense(3, name="inner")(x)

    by_name = {"params": {"w": P("data"), "inner": P()}, "intermediates": {"mean": P("data")}}
    by_function = {
        "params": lambda tree: {name: P("data") if name == "w" else P() for name in tree},
        "intermediates": P("data"),
    }
    runs = []
    for specs in (by_name, by_function):
        Sharded = over_data(Two, variable_specs=specs)
        variables = jax.jit(Sharded().init)(KEYS, X)
        assert jax.tree.map(jnp.shape, variables)["params"] == {
            "w": (12, 3), "inner": {"kernel": (3, 3), "bias": (3,)}
        }  # fmt: skip
        y, state = jax.jit(lambda v, S=Sharded: S().apply(v, X, mutable="intermediates"))(variables)
        (means,) = state["intermediates"]["mean"]
        np.testing.assert_allclose(means, X.reshape(4, 2, 3).mean(1), rtol=1e-5, atol=1e-6)
        runs.append((y, variables, means))
    close(runs[0], runs[1], rtol=0, atol=0)


def test_axes_that_are_not_mapped_over_constrain_layouts():
    """Partly manual: 'data' is mapped over, and the compiler lays out 'model', as the boxes say."""

    class Gathered(nn.Module):
        @nn.compact
        def __call__(self, x):
            init = nn.with_partitioning(nn.initializers.normal(), ("data", "model"))
            return x @ jax.lax.all_gather(self.param("w", init, (3, 4)), "data", tiled=True)

    mesh = mesh_of(2, 2)
    Sharded = nn.shard_map(
        Gathered, mesh=mesh, in_specs=P("data"), out_specs=P("data"), axis_names={"data"},
        variable_specs={"params": P("data")}, split_rngs={"params": True},
    )  # fmt: skip
    x = jnp.linspace(-1, 1, 24).reshape(4, 6)
    variables = jax.jit(Sharded().init)(KEYS, x)
    np.testing.assert_allclose(
        jax.jit(Sharded().apply)(variables, x), x @ variables["params"]["w"].value, rtol=1e-5, atol=1e-5
    )


# --- derivatives inside ----------------------------------------------------------------------------------------------


class Loss(nn.Module):
    @nn.compact
    def __call__(self, x):
        return (jnp.tanh(nn.Dense(2)(x)) ** 2).sum()


def gradients(check_vma, reduce_axes, local):
    """Return the gradients of a lifted vjp inside, of the parameters and of the batch."""

    class Inside(nn.Module):
        @functools.partial(
            nn.shard_map, mesh=MESH, in_specs=P("data"), out_specs=(P("data") if local else P(), P("data")),
            check_vma=check_vma,
        )  # fmt: skip
        @nn.compact
        def __call__(self, x):
            loss, pull = nn.vjp(lambda mdl, x: mdl(x), Loss(name="loss"), x, reduce_axes=reduce_axes)
            variables_ct, x_ct = pull(jnp.ones_like(loss))
            return jax.tree.map(lambda g: g[None], variables_ct) if local else variables_ct, x_ct

    variables = {"params": {"loss": Loss().init(KEYS, X)["params"]}}
    return jax.jit(Inside().apply)(variables, X), variables["params"]["loss"]


def of_whole_batch(params, x):
    params_ct, x_ct = jax.grad(lambda p, x: Loss().apply({"params": p}, x), (0, 1))(params, x)
    return {"params": params_ct}, x_ct


@pytest.mark.parametrize("reduce_axes", [(), ("data",)])
def test_gradients_inside_are_summed_where_types_are_checked(reduce_axes):
    """As JAX does: the gradient of what is the same everywhere is the same everywhere."""
    got, params = gradients(True, reduce_axes, local=False)
    close(got, of_whole_batch(params, X))


def test_gradients_inside_are_those_of_each_device_where_types_are_not_checked():
    got, params = gradients(False, (), local=True)
    per_device = jax.vmap(lambda x: of_whole_batch(params, x))(X.reshape(4, 2, 3))
    close(got, (per_device[0], per_device[1].reshape(8, 3)))


def test_reduce_axes_where_types_are_not_checked_is_an_error():
    with pytest.raises(errors.ReduceAxesError, match="check_vma=False"):
        gradients(False, "data", local=False)


def test_reduce_axes_of_a_mesh_and_of_vmap_at_once():
    def body(self, x):
        grad = lambda mdl, x: nn.grad(
            lambda mdl, x, y: mdl(x * y), mdl, jnp.ones(3), x, reduce_axes=("data", "example")
        )  # fmt: skip
        mapped = nn.vmap(grad, {"params": None}, {"params": False}, out_axes=(None, 0), axis_name="example")
        return mapped(Loss(name="loss"), x)

    Inside = nn.shard_map(
        type("Inside", (nn.Module,), {"__call__": nn.compact(body)}),
        mesh=MESH, in_specs=P("data"), out_specs=(P(), P("data")),
    )  # fmt: skip
    variables = {"params": {"loss": Loss().init(KEYS, X)["params"]}}
    got = jax.jit(Inside().apply)(variables, X)
    loss = lambda s, x: Loss().apply({"params": variables["params"]["loss"]}, s * x)
    close(got, jax.grad(loss, (0, 1))(jnp.ones(3), X))


# --- forms, and other transforms around and inside -------------------------------------------------------------------


class Host(nn.Module):
    body: object

    @nn.compact
    def __call__(self, *args, **kwargs):
        return self.body(self, *args, **kwargs)


def test_forms():
    """A class, a function, a method, a function of a scope; arguments by keyword; modules among the arguments."""
    dense = nn.Dense(3)
    variables = dense.init(KEYS, X)
    want = dense.apply(variables, X)
    inner = {"params": {"it": variables["params"]}}
    near = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
    near(jax.jit(over_data(nn.Dense)(3).apply)(variables, X), want)

    def as_function(self, x):
        return over_data(lambda mdl, x: mdl(x))(nn.Dense(3, name="it"), x)

    near(jax.jit(Host(as_function).apply)(inner, X), want)

    def as_argument(self, x, scale):
        add = lambda mdl, x, layer, *, scale, twice: layer(x) * scale * (2 if twice else 1)
        specs = {"in_specs": (P("data"), P()), "out_specs": P("data")}
        return nn.shard_map(add, mesh=MESH, **specs)(self, x, nn.Dense(3, name="it"), scale=scale, twice=True)

    near(jax.jit(Host(as_argument).apply)(inner, X, jnp.array(3.0)), 6 * want)

    class Methods(nn.Module):
        def setup(self):
            self.it = nn.Dense(3)

        def shifted(self, x):
            return self.it(x) + jax.lax.psum(1, "data")

    Sharded = over_data(Methods, methods=["shifted"])
    near(jax.jit(functools.partial(Sharded().apply, method="shifted"))(inner, X), want + 4)

    def of_scope(scope, x):
        f = lambda scope, x: x @ scope.param("w", nn.initializers.ones, (3, 3))
        return lift.shard_map(f, mesh=MESH, in_specs=P("data"), out_specs=P("data"))(scope, x)

    y, made = jax.jit(core.init(of_scope))(KEYS, X)
    near(y, X @ made["params"]["w"])


@pytest.mark.parametrize("wrap", ["remat", "scan", "vmap", "jit", "grad_of_grad"])
def test_composes(wrap):
    """Under other lifted transforms, and with them inside, as the plain module."""

    def program(sharded):
        def body(self, x):
            mdl = Block("data" if sharded else None, name="block")
            call = over_data(lambda mdl, x: mdl(x)) if sharded else lambda mdl, x: mdl(x)
            if wrap == "remat":
                inside = over_data(nn.remat(lambda mdl, x: mdl(x))) if sharded else call
                return nn.remat(call)(mdl, x) + inside(mdl, x)
            if wrap == "jit":
                return nn.jit(call)(mdl, x)
            if wrap == "scan":
                step = lambda mdl, c, _: (call(mdl, c), None)
                carry = {"variable_broadcast": "params", "variable_carry": ["state", "batch_stats"]}
                return nn.scan(step, **carry, length=2)(mdl, x, None)[0]
            if wrap == "vmap":
                axes = {"params": None, "state": None, "batch_stats": 0}
                return nn.vmap(call, axes, {"params": False}, in_axes=0)(mdl, jnp.stack([x, 2 * x]))
            square = lambda mdl, x: (call(mdl, x) ** 2).sum()
            return nn.grad(lambda mdl, x: (nn.grad(square, mdl, x)[0] ** 2).sum(), mdl, x)

        return lambda v, x: Host(body).apply(v, x, mutable=["state", "batch_stats"])

    variables = {col: {"block": tree} for col, tree in Block().init(KEYS, X).items()}
    if wrap == "vmap":
        variables["batch_stats"] = jax.tree.map(lambda s: jnp.stack([s, s]), variables["batch_stats"])
    close(jax.jit(program(True))(variables, X), jax.jit(program(False))(variables, X), rtol=1e-4, atol=1e-5)


# --- errors ----------------------------------------------------------------------------------------------------------


class Local(nn.Module):
    """Writes what differs from device to device."""

    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.normal(), (3,))
        self.variable("state", "mean", lambda: jnp.zeros(())).value = x.mean()
        return x * w


def failing(text, target=Local, x=X, variables=None, **options):
    options = {"mesh": MESH, "in_specs": P("data"), "out_specs": P("data"), **options}
    module = nn.shard_map(target, **options)()
    with pytest.raises(errors.ShardingError, match=text):
        if variables is None:
            jax.eval_shape(module.init, KEYS, x)
        else:
            jax.eval_shape(lambda v, x: module.apply(v, x, mutable=["state"]), variables, x)


def test_errors():
    failing(r"variable state/mean differs from device to device along 'data'.*reduce what is written")
    failing(r"params/w differs.*split the rng stream", split_rngs={"params": True})
    failing(r"the output .* differs .* jax\.lax\.pmean\(y, 'data'\)", Block, out_specs=P())
    failing(r"params/w has shape \(3,\), and its spec .* splits dimension 0 into 4", variables={"params": {"w": jnp.ones(3)}}, variable_specs={"params": P("data")})  # noqa: E501  # fmt: skip
    failing(r"state/mean has shape \(\), and its spec .* has 1 entries", variable_specs={"state": P("data")})
    failing(r"argument 0 has shape \(7, 3\)", x=jnp.ones((7, 3)))
    failing(r"names the axis 'dta'.*Did you mean 'data'", in_specs=P("dta"))
    failing(r"split_rngs, for the stream 'params', names the axis 'rows'", split_rngs={"params": "rows"})
    failing("variable_specs has a spec for params/v, which does not exist", variable_specs={"params": {"v": P()}})
    failing("in_specs=.* does not have the structure", in_specs=(P(), P()))
    failing("out_specs has 0, which is not a PartitionSpec", Block, out_specs=0)
    failing("Expected a PartitionSpec, a nested mapping", variable_specs={"params": 3})
    failing("there is no mesh to run over", mesh=None)
    with pytest.raises(errors.ShardingError, match="is not a mapping from collections"):
        over_data(Local, variable_specs=P("data"))
    with pytest.raises(errors.ModifyScopeVariableError, match=r"immutable in this apply\. Pass mutable"):
        jax.eval_shape(over_data(Block)("data").apply, Block().init(KEYS, X), X)
