"""Boxes that say how variables are laid out: like Linen's, and on a mesh of four devices."""

import functools

import flax.linen
import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from liftax import errors, nn

NAMES = st.sampled_from(["batch", "embed", "heads", "mlp", None])
MESH_AXES = st.sampled_from(["x", "y", None, ("x", "y"), ("z",)])
RULES = st.lists(st.tuples(NAMES.filter(bool), MESH_AXES), max_size=6)


def mesh(kind: AxisType = AxisType.Auto) -> jax.sharding.Mesh:
    return jax.make_mesh((2, 2), ("x", "y"), axis_types=(kind, kind))


@given(st.lists(NAMES, max_size=4), RULES)
def test_logical_axes_map_as_in_linen(names: list, rules: list):
    def run(lib):
        try:
            return lib.logical_to_mesh_axes(tuple(names), rules)
        except ValueError:
            return "twice"

    assert run(nn) == run(flax.linen)


def dense(lib, **kwargs):
    init = lib.initializers.lecun_normal()
    return lib.Dense(4, kernel_init=lib.with_partitioning(init, ("x", None)), **kwargs)


def logical(lib):
    init = lib.initializers.lecun_normal()
    bias = lib.with_logical_partitioning(lib.initializers.ones, ("mlp",))
    return lib.Dense(4, kernel_init=lib.with_logical_partitioning(init, ("embed", "mlp")), bias_init=bias)


@pytest.mark.parametrize("make", [dense, logical])
def test_specs_and_layouts_as_in_linen(make):
    x = jnp.ones((2, 6))

    def run(lib):
        variables = jax.eval_shape(make(lib).init, jax.random.key(0), x)
        specs = lib.get_partition_spec(variables)
        rules = [("embed", "x"), ("mlp", "y"), ("x", "x")]
        return (
            specs,
            lib.get_sharding(variables, mesh()) if make is dense else None,
            lib.logical_to_mesh(specs, rules),
            lib.logical_to_mesh_sharding(specs, mesh(), rules),
        )

    assert run(nn) == run(flax.linen)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_variables_are_laid_out_over_the_mesh(kind: AxisType):
    """Reading a boxed parameter constrains its layout; values are those without a mesh."""
    model, x = dense(nn), jnp.ones((2, 6))
    plain = model.init(jax.random.key(0), x)
    with jax.set_mesh(mesh(kind)):
        variables = jax.jit(model.init)(jax.random.key(0), x)
        kernel = jax.jit(lambda v: nn.unbox(v["params"]["kernel"]))(variables)
    assert kernel.sharding.spec[0] == "x"
    assert jnp.allclose(kernel, plain["params"]["kernel"].value)


def test_logical_constraint_lays_activations_out():
    rules = (("batch", "x"), ("embed", "y"))
    constrain = lambda x: nn.with_logical_constraint({"a": x}, {"a": ("batch", "embed")})["a"] * 1
    x = jnp.ones((4, 2))
    with jax.set_mesh(mesh()), nn.logical_axis_rules(rules):
        laid_out = jax.jit(constrain)(x)
    assert laid_out.sharding == NamedSharding(laid_out.sharding.mesh, PartitionSpec("x", "y"))
    assert nn.get_logical_axis_rules() == ()
    assert constrain(x).sharding == x.sharding  # no rules, no mesh


@pytest.mark.parametrize("fallback", nn.RulesFallback)
def test_axis_without_a_rule(fallback):
    x = jnp.ones((4, 2))
    run = lambda: nn.with_logical_constraint(x, ("batch", "other"), [("batch", "x")], mesh(), fallback)
    if fallback is nn.RulesFallback.RAISE_ERROR:
        with pytest.raises(ValueError, match="no rule applies to some of the axes"):
            run()
    elif fallback is nn.RulesFallback.NO_CONSTRAINT:
        assert run() is x
    else:
        assert run().sharding.spec[0] == "x"


def test_rules_can_be_set():
    nn.set_logical_axis_rules([("a", "x")])
    try:
        assert nn.logical_to_mesh_axes(("a", "b")) == PartitionSpec("x", None)
    finally:
        nn.set_logical_axis_rules(())


@pytest.mark.parametrize("rules", [{"a": "x"}, "ax"])
def test_rules_of_a_wrong_type(rules):
    with pytest.raises(ValueError, match="Expected a sequence of pairs"):
        nn.logical_to_mesh_axes(("a",), rules)


def test_axes_of_transforms_get_names():
    """vmap over parameters names the axis that it adds, as in Linen."""

    def run(lib):
        cls = lib.vmap(
            lib.Dense,
            variable_axes={"params": 1},
            split_rngs={"params": True},
            in_axes=None,
            axis_size=3,
            metadata_params={lib.meta.PARTITION_NAME: "layers"},
        )
        model = cls(4, kernel_init=lib.with_partitioning(lib.initializers.lecun_normal(), ("x", None)))
        variables = model.init(jax.random.key(0), jnp.ones((2, 6)))
        return variables["params"]["kernel"].names, model.apply(variables, jnp.ones((2, 6))).tolist()

    assert run(nn) == run(flax.linen)


def test_axis_without_a_name():
    box = nn.Partitioned(jnp.ones(2), ("x",))
    with pytest.raises(errors.PartitioningUnspecifiedError, match="partition_name"):
        box.add_axis(0, {})
    with pytest.raises(ValueError, match="takes axis 0, named 'y', away"):
        box.remove_axis(0, {nn.meta.PARTITION_NAME: "y"})
    assert box.add_axis(2, {nn.meta.PARTITION_NAME: "y"}).names == ("x", None, "y")


def test_boxes_are_like_linens():
    ours, theirs = nn.Partitioned(jnp.ones(2), ("x",)), flax.linen.Partitioned(jnp.ones(2), ("x",))
    assert jax.tree_util.tree_flatten_with_path(ours)[0][0][0] == jax.tree_util.tree_flatten_with_path(theirs)[0][0][0]
    assert ours.replace(names=("y",)).names == ("y",)
    assert ours.replace_boxed(3).value == 3
    assert nn.meta.unbox({"a": ours})["a"] is ours.value
    assert nn.meta.map_axis_meta(lambda box: box.names, {"a": ours, "b": 1}) == {"a": ("x",), "b": 1}
    assert not nn.meta.global_mesh_defined()
    assert nn.meta.is_axis_metadata(theirs)


def test_axes_counted_from_the_end():
    """Linen names the wrong axis, and then fails."""
    init = nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out"))
    dense = functools.partial(nn.Dense, kernel_init=init, use_bias=False)
    model = nn.vmap(dense, {"params": -1}, {"params": True}, metadata_params={nn.PARTITION_NAME: "layers"})(4)
    x = jnp.ones((2, 3))
    y, variables = model.init_with_output(jax.random.key(0), x)
    box = variables["params"]["kernel"]
    assert (box.names, box.value.shape) == (("in", "out", "layers"), (3, 4, 2))
    assert (model.apply(variables, x) == y).all()
