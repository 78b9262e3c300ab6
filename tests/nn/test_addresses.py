"""Addresses: what programs import from `flax.linen` and `flax.core` is found under the same names here."""

import importlib
import types

import flax.core
import flax.linen.partitioning
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax import random

from liftax import core, errors, nn
from liftax.core.scope import LazyRng, Scope

# The names that twenty packages built on Linen import or reach, by address. A survey of apax, brax, clu, deepxde,
# dopamine-rl, e3x, evosax, flaxmodels, jax-md, jraph, kauldron, netket, numpyro, ott-jax, paxml, penzai, praxis,
# sbx-rl, scvi-tools and transformers.
SURVEYED = {
    "core": "FrozenDict Scope copy freeze pop unfreeze",
    "core.frozen_dict": "FrozenDict freeze unfreeze",
    "core.meta": "AxisMetadata TAxisMetadata add_axis remove_axis replace_boxed",
    "core.scope": "CollectionFilter DenyList LazyRng Scope group_collections",
    "nn": "BatchNorm Conv Dense DenseGeneral Dropout Embed LayerNorm Module MultiHeadDotProductAttention RMSNorm "
    "Sequential add_metadata_axis apply avg_pool combine_masks compact dot_product_attention_weights elu gelu glu "
    "intercept_methods leaky_relu log_softmax make_causal_mask map_variables max_pool merge_param nowrap relu remat "
    "scan share_scope sigmoid silu softmax softplus swish switch tanh vmap while_loop",
    "nn.activation": "celu compact elu gelu glu hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu log_sigmoid "
    "log_softmax logsumexp normalize one_hot relu relu6 selu sigmoid silu soft_sign softmax softplus standardize swish "
    "tanh",
    "nn.attention": "dot_product_attention_weights",
    "nn.dtypes": "promote_dtype",
    "nn.fp8_ops": "dot_general_with_precision in_qdq out_qdq",
    "nn.initializers": "Initializer constant he_normal lecun_normal lecun_uniform normal ones orthogonal "
    "variance_scaling xavier_uniform zeros zeros_init",
    "nn.kw_only_dataclasses": "dataclass field",
    "nn.linear": "Dense DenseGeneral _conv_dimension_numbers",
    "nn.module": "Module _context compact merge_param",
    "nn.normalization": "_canonicalize_axes _compute_stats _normalize",
    "nn.partitioning": "axis_rules get_axis_names logical_to_mesh_axes param_with_axes remat",
}
# What others of the public programs and of Linen's documentation use.
DOCUMENTED = {
    "core": "AxisMetadata DenyList apply bind broadcast check_trace_level current_trace custom_vjp init jit jvp "
    "lazy_init lift map_axis_meta meta pretty_repr remat remat_scan scan scope spmd tracers unbox vjp vmap while_loop",
    "core.lift": "checkpoint cond custom_vjp fold_rngs jit jvp map_variables pack remat remat_scan scan "
    "swap_collection switch tree_map_rngs value_and_grad vjp vmap while_loop",
    "core.scope": "FrozenVariableDict PRNGSequenceFilter Variable VariableDict in_filter intersect_filters "
    "is_filter_empty subtract_filters union_filters",
    "nn.fp8_ops": "fp32_max_grad fm32",
    "nn.linear": "canonicalize_padding default_embed_init default_kernel_init",
    "nn.module": "capture_call_intermediates current_module",
    "nn.transforms": "lift_direct_transform lift_transform",
}
WHOLE = "linen linen.activation linen.attention linen.combinators linen.initializers linen.linear linen.normalization "
WHOLE += "linen.partitioning linen.pooling linen.spmd linen.stochastic"


@pytest.mark.parametrize("address", sorted({*SURVEYED, *DOCUMENTED}))
def test_names_resolve(address: str):
    module = importlib.import_module(f"liftax.{address}")
    names = (SURVEYED.get(address, "") + " " + DOCUMENTED.get(address, "")).split()
    assert [name for name in names if not hasattr(module, name)] == []


@pytest.mark.parametrize("address", WHOLE.split())
def test_every_name_of_linen_resolves(address: str):
    theirs = importlib.import_module(f"flax.{address}")
    ours = importlib.import_module(f"liftax.{address.replace('linen', 'nn', 1)}")
    own = [
        name
        for name, x in vars(theirs).items()
        if not name.startswith("_") and not isinstance(x, types.ModuleType) and hasattr(x, "__module__")
        and str(x.__module__).startswith("flax")
    ]  # fmt: skip
    typing_names = {"Array", "Dtype", "Initializer"}
    missing = {name for name in own if not hasattr(ours, name)} - typing_names
    assert {name for name in missing if getattr(theirs, name).__module__ == theirs.__name__} == set()


def test_one_object_under_all_addresses():
    assert nn.module.Module is nn.Module and nn.transforms.vmap is nn.vmap and core.lift.vmap is nn.vmap
    assert core.vmap is nn.vmap and nn.linear.Dense is nn.Dense and nn.summary.tabulate is nn.tabulate
    assert nn.meta is core.meta and core.FrozenDict is nn.FrozenDict and core.scope.Scope is core.Scope
    with pytest.raises(AttributeError, match="nothing"):
        core.nothing  # noqa: B018


def sown_axes(lib):
    P = lib.partitioning

    class Dense(lib.Module):
        features: int = 3

        @lib.compact
        def __call__(self, x):
            init = lib.initializers.normal()
            w = P.param_with_axes("w", init, (x.shape[-1], self.features), axes=("embed", "mlp"))
            mean = P.variable_with_axes("stats", "mean", jnp.zeros, (self.features,), axes=("mlp",))
            y = jnp.tanh(x @ w)
            if mean.is_mutable():
                mean.value += y.mean(0)
            return y

    class Step(lib.Module):
        @lib.compact
        def __call__(self, x, _):
            return Dense()(x), None

    class Block(lib.Module):
        @lib.compact
        def __call__(self, x, scale, train):
            x = x * scale if train else x
            return lib.Dropout(0.5)(lib.Dense(3)(x), deterministic=not train)

    class Net(lib.Module):
        @lib.compact
        def __call__(self, x):
            steps = P.scan_with_axes(
                Step, variable_axes={"params": 0, "stats": 1}, split_rngs={"params": True}, length=2,
                axes_collections=("params", "stats"),
            )  # fmt: skip
            copies = P.vmap_with_axes(
                Dense, {"params": 0, "stats": 1}, {"params": True}, in_axes=None, axis_size=2,
                partitioning_axis_names={"params": "experts", "stats": "experts"},
            )  # fmt: skip
            x, _ = steps()(x, None)
            return copies(2)(P.remat(Block, static_argnums=(1, 2))()(x, 2.0, True))

    return Net()


@pytest.mark.parametrize("evaluate", [jax.eval_shape, pytest.param(jax.jit, marks=pytest.mark.long)])
def test_partitioning_is_that_of_linen(evaluate):
    x = jnp.arange(6.0).reshape(2, 3) / 3
    keys = {"params": random.key(0), "dropout": random.key(1)}

    def results(lib):
        model, mutable = sown_axes(lib), ["stats", "stats_axes", "params_axes"]

        def run(keys, x):
            variables = model.init(keys, x)
            return variables, model.apply(variables, x, rngs=keys, mutable=mutable)

        variables, (out, state) = jax.jit(run)(keys, x) if evaluate is jax.jit else jax.eval_shape(run, keys, x)
        axes = [
            jax.tree.map(tuple, core.unfreeze(lib.partitioning.get_axis_names(tree)), is_leaf=_is_spec)
            for tree in (variables["params_axes"], variables["stats_axes"], state["params_axes"], state["stats_axes"])
        ]
        return axes, (variables["params"], variables["stats"], state["stats"], out)

    (their_axes, theirs), (our_axes, ours) = results(linen), results(nn)
    assert their_axes == our_axes
    assert "Core_remat_staticBlock_0" in ours[0]
    assert our_axes[1]["Map_variablesMap_variablesVmapDense_0"] == {"mean": ("mlp", "experts")}
    jax.tree.map(np.testing.assert_array_equal if evaluate is jax.jit else _check_type, theirs, ours)


def _check_type(a, b):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)


def _is_spec(x):
    return isinstance(x, jax.sharding.PartitionSpec)


def test_axes_counted_from_the_end():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.partitioning.param_with_axes("w", nn.initializers.ones, (3, 4), axes=("embed", "mlp")).sum() * x

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.partitioning.vmap_with_axes(
                Layer, {"params": -1}, {"params": True}, in_axes=None, axis_size=2,
                partitioning_axis_names={"params": "experts"},
            )  # fmt: skip
            return layer()(x)

    variables = Net().init(random.key(0), jnp.ones(()))
    (names,) = jax.tree.leaves(variables["params_axes"], is_leaf=lambda x: isinstance(x, nn.partitioning.AxisMetadata))
    assert names.names == ("embed", "mlp", "experts")
    assert Net().apply(variables, jnp.ones(())).shape == (2,)


def test_partitioning_mistakes():
    with pytest.raises(errors.UnboundModuleError, match="module=…"):
        nn.partitioning.param_with_axes("w", nn.initializers.ones, (1,), axes=("a",))
    with pytest.raises(errors.PartitioningUnspecifiedError, match=r"\('b',\).*\('a',\)"):
        nn.partitioning._same(nn.partitioning.AxisMetadata(("a",)), nn.partitioning.AxisMetadata(("b",)))


def norm_of_others(lib):
    norm = lib.normalization

    class Renorm(lib.Module):
        fast: bool

        @lib.compact
        def __call__(self, x):
            mean, var = norm._compute_stats(x, norm._canonicalize_axes(x.ndim, (0,)), None, use_fast_variance=self.fast)
            y = norm._normalize(
                self, x, mean, var, (0,), -1, None, jnp.float32, 1e-5, True, self.fast, lib.initializers.ones,
                lib.initializers.ones,
            )  # fmt: skip
            return y, mean, var, norm._compute_stats(x, (1,), jnp.float16, use_mean=False, mask=x > 0)

    return Renorm


def test_layers_of_others_normalize_as_with_linen():
    x = random.normal(random.key(0), (4, 3))
    for fast in (True, False):
        theirs, ours = (norm_of_others(lib)(fast).init_with_output(random.key(1), x) for lib in (linen, nn))
        # liftax compiles the arithmetic of a layer as one function, Linen runs it one operation after the other
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), theirs, ours)


def test_scope_of_variables_keys_and_mutable():
    for cls in (flax.core.Scope, core.Scope):
        scope = cls({"params": {"w": 2.0}}, {"params": random.key(0)}, mutable=["state"])
        assert scope.get_variable("params", "w") == 2.0
        scope.child(lambda s: s.variable("state", "n", lambda: 1), "a")()
        assert scope.variables()["state"]["a"]["n"] == 1
        assert scope.push("a", reuse=True).path == ("a",)
        with pytest.raises(Exception, match="params"):
            scope.put_variable("params", "w", 1.0)
    given = {"state": {"n": 0}}
    scope = Scope(given, mutable=True)
    scope.put_variable("state", "n", 1)
    assert given == {"state": {"n": 0}} and scope.variables() == {"state": {"n": 1}}


def test_keys_of_linens_scopes_are_taken():
    def draw(scope):
        return jax.random.key_data(scope.make_rng("noise"))

    key = random.key(3)
    theirs = flax.core.apply(draw)({}, rngs={"noise": flax.core.scope.LazyRng.create(key)})
    np.testing.assert_array_equal(core.apply(draw)({}, rngs={"noise": LazyRng.create(key)}), theirs)
    with pytest.raises(errors.InvalidRngError, match="as_jax_rng"):
        core.apply(draw)({}, rngs={"noise": LazyRng.create(key, "a")})
    lazy, ours = flax.core.scope.LazyRng.create(key, "a", 2), LazyRng.create(LazyRng.create(key, "a"), 2)
    assert ours.as_jax_rng() == lazy.as_jax_rng() and jax.tree.leaves(ours) == [key]


@pytest.mark.parametrize("lib", [linen, nn], ids=["linen", "liftax"])
def test_code_that_reads_the_stack_of_modules(lib):
    """Helpers find their module, and libraries make modules that belong to none, as they do with Linen."""
    context = lib.module._context

    class Net(lib.Module):
        @lib.compact
        def __call__(self):
            found = context.module_stack[-1]
            before = list(context.module_stack)
            context.module_stack[:] = [None]
            free = lib.Dense(1)
            context.module_stack[:] = before
            return found is self, free.parent, context.module_stack[-1] is self, lib.Dense(1).parent is self

    assert Net().apply({}) == (True, None, True, True)
    assert context.module_stack[-1] is None


def test_the_stack_has_no_more_than_the_current_module():
    with pytest.raises(IndexError, match=r"module_stack\[-1\]"):
        nn.module._context.module_stack[0]
    with pytest.raises(IndexError, match="whole stack"):
        nn.module._context.module_stack[-1] = None


def test_map_variables_and_swap_of_core():
    def read(scope):
        return scope.get_variable("a", "x"), scope.get_variable("b", "x")

    for lib in (flax.core, core):
        given = {"a": {"x": 1}, "b": {"x": 2}}
        assert lib.apply(lib.lift.swap_collection(read, "a", "b"), mutable=True)(given)[0] == (2, 1)
        doubled = lib.lift.map_variables(read, "a", map_in_fn=lambda tree: jax.tree.map(lambda x: 2 * x, tree))
        assert lib.apply(doubled)(given) == (2, 2)


def test_frozen_dicts():
    for lib in (flax.core, core):
        frozen = lib.freeze({"a": {"b": 1}})
        assert lib.freeze(frozen) == frozen and lib.unfreeze(frozen) == {"a": {"b": 1}}
        assert isinstance(lib.copy(frozen, {"c": 2}), lib.FrozenDict)
        assert lib.copy({"a": 1}, {"c": 2}) == {"a": 1, "c": 2}
        rest, value = lib.pop(frozen, "a")
        assert dict(rest) == {} and value == lib.freeze({"b": 1})
        assert lib.pop({"a": 1}, "a") == ({}, 1) and lib.pretty_repr(1) == "1"
        assert lib.pretty_repr({"a": {"b": 1}}, 2) == "{\n  a: {\n    b: 1,\n  },\n}"


def test_completion_shows_what_is_for_users():
    """Modules of the namespace are those that Linen has; attributes of a module are those of Linen's."""
    rooms = {name for name in dir(nn) if isinstance(getattr(nn, name), types.ModuleType)}
    assert rooms <= {name for name in dir(linen) if isinstance(getattr(linen, name), types.ModuleType)}
    ours, theirs = ({n for n in dir(lib.Dense(2)) if not n.startswith("_")} for lib in (nn, linen))
    assert ours == theirs
