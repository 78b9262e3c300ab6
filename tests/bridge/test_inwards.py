"""What the wrappers do besides calling: initial values, methods, keys, boxes, training, mistakes."""

import functools
import subprocess
import sys
from typing import Any

import equinox as eqx
import flax.errors
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from tests.bridge.table import same_program

from liftax import bridge, errors, nn
from liftax.core.rngs import fold

KEY, X = jax.random.key(0), jnp.linspace(-1.0, 1.0, 12).reshape(4, 3)


def equal(a: Any, b: Any) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), a, b))
    )


# --- Linen -----------------------------------------------------------------------------------------------------------


class Block(linen.Module):
    @linen.compact
    def __call__(self, x, train=True):
        dense = linen.Dense(3)
        x = linen.BatchNorm(use_running_average=not train)(dense(x))
        x = linen.Dropout(0.5, deterministic=not train)(x)
        self.sow("intermediates", "hidden", x)
        return dense(x)

    @linen.nowrap
    def double(self, x):
        return 2 * x


def stack(lib, block):
    class Stack(lib.Module):
        """The same block twice, and another one: state moves twice, draws go on."""

        def setup(self):
            self.block, self.other = block(), block()

        def __call__(self, x):
            return self.other(self.block(self.block(x)))

    return Stack()


def test_nested_linen_is_as_in_linen():
    """Initial values, moved state, intermediates and dropout masks at a path, a block being called twice."""
    ours, theirs = stack(nn, lambda: bridge.Linen(Block())), stack(linen, Block)
    rngs = {"params": KEY, "dropout": jax.random.key(1)}
    assert same_program(lambda x: ours.init(rngs, x), lambda x: theirs.init(rngs, x), X)
    variables = jax.eval_shape(lambda: ours.init(rngs, X))
    run = {"rngs": {"dropout": jax.random.key(2)}, "mutable": ["batch_stats", "intermediates"]}
    assert same_program(lambda v: ours.apply(v, X, **run), lambda v: theirs.apply(v, X, **run), variables)


@pytest.mark.long
def test_linen_under_scan_draws_as_the_same_layers_of_liftax():
    class Twin(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dropout(0.5, deterministic=False)(nn.Dense(3)(x))

    class Theirs(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dropout(0.5, deterministic=False)(linen.Dense(3)(x))

    def deep(mdl, x):
        split = {"params": True, "dropout": True}
        step = lambda mdl, x, _: (mdl(x), None)
        return nn.scan(step, variable_axes={"params": 0}, split_rngs=split, length=3)(mdl, x, None)[0]

    rngs = {"params": KEY, "dropout": jax.random.key(1)}
    assert equal(*(nn.init_with_output(deep, model)(rngs, X) for model in (bridge.Linen(Theirs()), Twin())))


def test_linen_captures_intermediates():
    model, wrapper = Block(), bridge.Linen(Block())
    variables = wrapper.init(KEY, X, train=False)
    ours, theirs = (m.apply(variables, X, train=False, capture_intermediates=True) for m in (wrapper, model))
    assert equal(ours, theirs)


def test_boxes_of_linen_pass():
    init = linen.with_partitioning(linen.initializers.ones, ("in", "out"))
    wrapper = bridge.Linen(linen.Dense(2, kernel_init=init))
    variables = wrapper.init(KEY, X)
    assert variables["params"]["kernel"].names == ("in", "out")
    assert equal(wrapper.apply(variables, X), X @ jnp.ones((3, 2)))


def test_error_of_linen_passes_with_a_note():
    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return bridge.Linen(linen.Dense(2), name="inner")(x)

    with pytest.raises(flax.errors.ScopeCollectionNotFound) as caught:
        Outer().apply({}, X)
    assert caught.value.__notes__ == ["liftax: in the Linen at /inner"]


# --- NNX -------------------------------------------------------------------------------------------------------------


class Net(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.scale = jnp.ones(3)

    def __call__(self, x):
        return self.dropout(self.linear(x)) * self.scale

    def encode(self, x):
        return self.linear(x)


def test_nnx_template_is_left_alone_and_later_changes_do_not_count():
    model = Net(nnx.Rngs(0))
    kernel = model.linear.kernel[...]
    wrapper = bridge.NNX(model)
    model.linear.kernel[...] = 2 * kernel
    variables = wrapper.init(KEY, X)
    assert equal(variables["params"]["linear"]["kernel"], kernel)
    wrapper.apply(variables, X, mutable=True)
    assert model.dropout.rngs.count[...] == 0
    assert variables["buffers"] == {"scale": model.scale}


def test_nnx_keys_come_from_a_stream_or_from_the_model():
    wrapper = bridge.NNX(Net(nnx.Rngs(0)))
    variables = wrapper.init(KEY, X)
    rngs = {"dropout": jax.random.key(3)}
    again = wrapper.apply(variables, X, rngs=rngs)
    assert equal(wrapper.apply(variables, X, rngs=rngs), again)
    assert not equal(wrapper.apply(variables, X, rngs={"dropout": KEY}), again)
    out, moved = wrapper.apply(variables, X, mutable=["RngCount"])
    assert equal(out, Net(nnx.Rngs(0))(X))
    assert jax.tree.leaves(moved) == [1]
    with pytest.raises(errors.ModifyScopeVariableError, match=r"rngs=\{'dropout': key\}"):
        wrapper.apply(variables, X)


class Drawn(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        return self.linear(x)


def test_nnx_of_a_function_draws_anew():
    wrapper = bridge.NNX(lambda rngs: Drawn(rngs))
    variables = wrapper.init(KEY, X)
    assert equal(variables["params"]["linear"]["kernel"], Drawn(nnx.Rngs(KEY)).linear.kernel[...])
    assert not equal(variables["params"], wrapper.init(jax.random.key(1), X)["params"])
    compiled = jax.jit(lambda key: wrapper.init(key, X))(KEY)["params"]["linear"]["kernel"]
    assert jnp.allclose(compiled, variables["params"]["linear"]["kernel"])
    with pytest.raises(errors.ForeignStateError, match="scale of Net is an array outside of a Variable"):
        bridge.NNX(lambda rngs: Net(rngs)).init(KEY, X)


def test_nnx_methods_functions_and_submodules():
    model = Net(nnx.Rngs(0))
    wrapper = bridge.NNX(model)
    variables = wrapper.init(KEY, X)
    expected = model.encode(X)
    assert equal(wrapper.apply(variables, X, method="encode"), expected)
    assert equal(bridge.NNX(model, method="encode").apply(variables, X), expected)
    assert equal(bridge.NNX(model, method=lambda m, x: m.linear(x)).apply(variables, X), expected)
    with pytest.raises(AttributeError, match="decode"):
        wrapper.apply(variables, X, method="decode")


def test_nnx_sharding_becomes_a_box():
    metadata = {"out_sharding": ("in", "out"), "eager_sharding": False}
    wrapper = bridge.NNX(nnx.Linear(3, 2, kernel_metadata=metadata, rngs=nnx.Rngs(0)))
    variables = wrapper.init(KEY, X)
    assert variables["params"]["kernel"].names == ("in", "out")
    assert wrapper.apply(variables, X).shape == (4, 2)

    def ensemble(mdl, x):
        return nn.vmap(
            lambda mdl, x: mdl(x), variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=2,
            metadata_params={nn.PARTITION_NAME: "member"},
        )(mdl, x)  # fmt: skip

    stacked = nn.init(ensemble, wrapper)(KEY, X)
    assert stacked["params"]["kernel"].names == ("member", "in", "out")


@pytest.mark.long
def test_nnx_cache_is_a_collection():
    model = nnx.MultiHeadAttention(1, 2, decode=True, rngs=nnx.Rngs(0))
    model.init_cache((1, 4, 2))
    wrapper = bridge.NNX(model)
    x = jnp.ones((1, 1, 2))
    variables = wrapper.init(KEY, x)
    _, moved = wrapper.apply(variables, x, mutable=["cache"])
    assert moved["cache"]["cache_index"] == 1
    assert variables["cache"]["cache_index"] == 0


class Sows(nnx.Module):
    def __call__(self, x):
        self.hidden = nnx.Intermediate((x,))
        return x


def test_nnx_intermediates_come_out_where_they_are_mutable():
    wrapper = bridge.NNX(Sows())
    assert wrapper.init(KEY, X) == {}
    assert equal(wrapper.apply({}, X), X)
    _, moved = wrapper.apply({}, X, mutable=["intermediates"])
    assert equal(moved, {"intermediates": {"hidden": (X,)}})
    assert equal(wrapper.apply(moved, 2 * X, mutable=["intermediates"])[1]["intermediates"]["hidden"], (2 * X,))


class Params(nnx.Variable):
    pass


class Counts(nnx.Module):
    def __init__(self):
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return x


def test_mistakes_with_nnx():
    with pytest.raises(errors.ForeignStateError, match="not a Variable"):
        bridge.NNX(Counts()).apply({}, X)

    class Two(nnx.Module):
        def __init__(self):
            self.a = nnx.Param(X)
            self.b = type("params", (nnx.Variable,), {})(X)

    with pytest.raises(errors.ForeignStateError, match="both have the name 'params'"):
        bridge.NNX(Two())
    model = Net(nnx.Rngs(0))
    leaked = []
    jax.jit(lambda x: leaked.append(x) or x)(X)
    model.scale = leaked[0]
    with pytest.raises(errors.ForeignModuleError, match="tracer of a JAX transform that has ended"):
        bridge.NNX(model)
    wrapper = bridge.NNX(Net(nnx.Rngs(0)))
    variables = wrapper.init(KEY, X)
    variables["params"]["linear"]["kernel"] = jnp.ones((2, 2))
    with pytest.raises(errors.ScopeParamShapeError, match=r"\(2, 2\).*\(3, 3\)"):
        wrapper.apply(variables, X)
    with pytest.raises(errors.ScopeCollectionNotFound):
        wrapper.apply({}, X)


# --- Equinox ---------------------------------------------------------------------------------------------------------


class Smooth(eqx.Module):
    linear: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    order: jax.Array
    name: str = eqx.field(static=True)

    def __init__(self, key):
        self.linear, self.dropout = eqx.nn.Linear(3, 3, key=key), eqx.nn.Dropout(0.5)
        self.order, self.name = jnp.arange(3), "smooth"

    def __call__(self, x, *, key=None):
        return self.dropout(self.linear(x)[self.order], key=key)

    def encode(self, x):
        return self.linear(x)


def test_equinox_collections_keys_and_methods():
    model = Smooth(KEY)
    wrapper = bridge.Equinox(model)
    variables = wrapper.init(KEY, X[0])
    assert equal(variables, {
        "params": {"linear": {"weight": model.linear.weight, "bias": model.linear.bias}},
        "buffers": {"order": model.order},
    })  # fmt: skip
    key = jax.random.key(3)
    assert equal(wrapper.apply(variables, X[0], rngs={"dropout": key}), model(X[0], key=fold(key, 1)))
    assert equal(wrapper.apply(variables, X[0], key=key), model(X[0], key=key))
    assert equal(wrapper.apply(variables, X[0], method="encode"), model.encode(X[0]))
    with pytest.raises(RuntimeError, match="Dropout requires a key") as caught:
        wrapper.apply(variables, X[0])
    assert caught.value.__notes__ == ["liftax: in the Equinox at /"]


def test_equinox_of_a_function_draws_anew():
    assert equal(bridge.Equinox(lambda key: Smooth(key)).init(KEY, X[0]), bridge.Equinox(Smooth(KEY)).init(KEY, X[0]))
    make = eqx.nn.make_with_state(lambda key: eqx.nn.BatchNorm(3, "batch", mode="batch"))
    variables = bridge.Equinox(make, method=batched).init(KEY, X)
    assert set(variables) == {"params", "state"}


def batched(model, x, state):
    return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)


def test_equinox_state_may_be_used_again():
    """Equinox marks a state as used when it is replaced; the wrapper's template, and the user's state, stay."""
    model, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode="batch")
    wrapper = bridge.Equinox(model, state, method=batched)
    variables = wrapper.init(KEY, X)
    moved = [wrapper.apply(variables, X, mutable=["state"])[1] for _ in range(2)]
    assert equal(*moved)
    assert not equal(moved[0]["state"], variables["state"])
    jax.tree.leaves(state)  # raises if it were used
    still = bridge.Equinox(eqx.nn.inference_mode(model), state, method=batched)
    assert still.apply({**variables, **moved[0]}, X).shape == (4, 3)


def test_mistakes_with_equinox():
    def closing(scale):
        return eqx.nn.MLP(3, 3, 4, 1, activation=lambda x: scale * x, key=KEY)

    with pytest.raises(errors.ForeignStateError, match=r"activation.*closes over the array 'scale'"):
        bridge.Equinox(closing(jnp.ones(())))
    bridge.Equinox(closing(np.ones(())))
    with pytest.raises(errors.ForeignStateError, match="argument 0"):
        bridge.Equinox(eqx.nn.Lambda(functools.partial(jnp.add, X)))
    model, _ = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode="batch")
    with pytest.raises(errors.ForeignModuleError, match="without its state"):
        bridge.Equinox(model)
    with pytest.raises(errors.ForeignModuleError, match=r"expected the eqx\.nn\.State"):
        bridge.Equinox(model, {})


# --- Haiku -----------------------------------------------------------------------------------------------------------


def test_haiku_variants():
    def fn(x):
        return hk.Linear(2)(x)

    plain = hk.transform(fn)
    params = plain.init(KEY, X)
    for transformed in (plain, hk.without_apply_rng(plain), hk.transform_with_state(fn)):
        wrapper = bridge.Haiku(transformed)
        assert equal(wrapper.init(KEY, X), {"params": params})
        assert equal(wrapper.apply({"params": params}, X), plain.apply(params, None, X))

    def coder():
        down, up = hk.Linear(2, name="down"), hk.Linear(3, name="up")
        return lambda x: up(down(x)), {"encode": down, "decode": up}

    wrapper = bridge.Haiku(hk.multi_transform(coder))
    variables = wrapper.init(KEY, X)
    assert wrapper.apply(variables, wrapper.apply(variables, X, method="encode"), method="decode").shape == (4, 3)
    with pytest.raises(errors.ApplyModuleInvalidMethodError, match="'decode', 'encode'"):
        wrapper.apply(variables, X)


def test_error_of_haiku_passes_with_a_note():
    wrapper = bridge.Haiku(hk.transform(lambda x: hk.dropout(hk.next_rng_key(), 0.5, hk.Linear(2)(x))))
    variables = wrapper.init(KEY, X)
    with pytest.raises(ValueError, match="non-None PRNGKey") as caught:
        wrapper.apply(variables, X)
    assert caught.value.__notes__ == ["liftax: in the Haiku at /"]


# --- all of them -----------------------------------------------------------------------------------------------------

WRAPPERS = {
    "Linen": lambda: bridge.Linen(linen.Dense(3)),
    "NNX": lambda: bridge.NNX(lambda rngs: nnx.Linear(3, 3, rngs=rngs)),
    "Equinox": lambda: bridge.Equinox(lambda key: eqx.nn.Linear(3, 3, key=key), method=lambda m, x: jax.vmap(m)(x)),
    "Haiku": lambda: bridge.Haiku(hk.transform(lambda x: hk.Linear(3)(x))),
}


def ensemble(mdl, x):
    axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}, "in_axes": None, "axis_size": 2}
    return nn.vmap(lambda mdl, x: mdl(x), **axes)(mdl, x)


@pytest.mark.parametrize("name", WRAPPERS)
def test_is_an_ordinary_module(name):
    """In a Sequential, shared, tabulated, in an ensemble, under `nn.jit`."""
    wrapper = WRAPPERS[name]()
    model = nn.Sequential([wrapper, nn.tanh, wrapper, WRAPPERS[name]()])
    variables = jax.eval_shape(lambda: model.init(KEY, X))
    assert set(variables["params"]) == {"layers_0", "layers_3"}  # the shared one once

    def by_hand(variables, x):
        first, last = ({"params": variables["params"][f"layers_{i}"]} for i in (0, 3))
        return wrapper.apply(last, wrapper.apply(first, jnp.tanh(wrapper.apply(first, x))))

    assert same_program(model.apply, by_hand, variables, X)
    compiled = nn.apply(nn.jit(lambda mdl, x: mdl(x)), model)
    assert jax.eval_shape(compiled, variables, X).shape == (4, 3)
    assert name in model.tabulate(KEY, X)
    stacked = jax.eval_shape(lambda: nn.init(ensemble, wrapper)(KEY, X))
    alone = jax.eval_shape(lambda: wrapper.init(KEY, X))
    assert jax.tree.map(lambda x: x.shape, stacked) == jax.tree.map(lambda x: (2, *x.shape), alone)
    mapped = lambda v, x: jax.vmap(lambda v: wrapper.apply(v, x))(v)
    assert same_program(nn.apply(ensemble, wrapper), mapped, stacked, X)


@pytest.mark.long
@pytest.mark.parametrize("name", WRAPPERS)
def test_is_drawn_by_path_and_by_member(name):
    wrapper = WRAPPERS[name]()
    params = nn.Sequential([wrapper, WRAPPERS[name]()]).init(KEY, X)["params"]
    assert not equal(params["layers_0"], params["layers_1"])
    stacked = nn.init(ensemble, wrapper)(KEY, X)
    assert not equal(*(jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(2)))


@pytest.mark.parametrize("name", WRAPPERS)
def test_init_equals_apply(name):
    """A derivative has its whole structure in `init`."""

    def slope(mdl, x):
        return nn.grad(lambda mdl, x: mdl(x).sum(), mdl, x, vjp_variables="params")

    wrapper = WRAPPERS[name]()
    grads, variables = jax.eval_shape(lambda: nn.init_with_output(slope, wrapper)(KEY, X))
    assert grads == jax.eval_shape(nn.apply(slope, wrapper), variables, X)
    assert grads[0] == variables


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize(
    "wrong",
    [linen.Dense, nnx.Linear, eqx.nn.Linear, hk.Linear, 3, None, jnp.tanh],
    ids=["Dense of Linen", "Linear of NNX", "Linear of Equinox", "Linear of Haiku", "3", "None", "tanh"],
)
def test_refuses_what_is_not_a_model(name, wrong):
    with pytest.raises(errors.ForeignModuleError, match=rf"bridge\.{name} got .*expected"):
        getattr(bridge, name)(wrong)


def test_refuses_a_bound_module_of_linen():
    model = linen.Dense(2)
    with pytest.raises(errors.ForeignModuleError, match="bound to variables already"):
        bridge.Linen(model.bind(model.init(KEY, X)))


def test_missing_library_says_how_to_install_it():
    program = """
import sys
import liftax
from liftax import bridge
assert not {'flax', 'equinox', 'haiku'} & set(sys.modules), 'imported before a bridge is used'
assert set(dir(bridge)) >= {'Linen', 'NNX', 'Equinox', 'Haiku'}
for name in ('flax', 'equinox', 'haiku'):
    sys.modules[name] = None
for wrapper, line in (('Linen', 'flax'), ('NNX', 'flax'), ('Equinox', 'equinox'), ('Haiku', 'dm-haiku')):
    try:
        getattr(bridge, wrapper)(None)
    except liftax.errors.MissingLibraryError as error:
        assert isinstance(error, ImportError) and f'pip install {line}.' in str(error), error
        assert 'liftax[bridges]' in str(error)
    else:
        raise AssertionError(wrapper)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_training_equals_training_in_equinox_and_nnx_and_haiku():
    """Three steps of Adam through the wrapper, and by each library's own means, from the same values."""
    y = jnp.sin(X).sum(1, keepdims=True)
    optimizer = optax.adam(1e-1)

    def train(loss, params):
        def step(carry, _):
            params, opt_state = carry
            updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state)
            return (optax.apply_updates(params, updates), opt_state), None

        return jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), None, length=3)[0][0])(params)

    model = eqx.nn.MLP(3, 1, 4, 1, jnp.tanh, key=KEY)
    arrays, static = eqx.partition(model, eqx.is_inexact_array)
    theirs = train(lambda p: jnp.mean((jax.vmap(eqx.combine(p, static))(X) - y) ** 2), arrays)
    wrapper = bridge.Equinox(model, method=lambda m, x: jax.vmap(m)(x))
    variables = wrapper.init(KEY, X)
    ours = train(lambda p: jnp.mean((wrapper.apply(p, X) - y) ** 2), variables)
    assert equal(ours["params"]["layers"]["1"]["weight"], theirs.layers[1].weight)
    assert not equal(ours, variables)

    model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    wrapper = bridge.NNX(model)
    ours = train(lambda p: jnp.mean((wrapper.apply(p, X) - y) ** 2), wrapper.init(KEY, X))
    state = nnx.Optimizer(model, optimizer, wrt=nnx.Param)
    for _ in range(3):
        state.update(model, nnx.grad(lambda m: jnp.mean((m(X) - y) ** 2))(model))
    assert jnp.allclose(ours["params"]["kernel"], model.kernel[...], atol=1e-6)

    transformed = hk.transform(lambda x: hk.nets.MLP([4, 1])(x))
    wrapper = bridge.Haiku(transformed)
    params = transformed.init(KEY, X)
    ours = train(lambda p: jnp.mean((wrapper.apply(p, X) - y) ** 2), {"params": params})
    theirs = train(lambda p: jnp.mean((transformed.apply(p, None, X) - y) ** 2), params)
    assert equal(ours["params"], theirs)
