"""The names of flax.linen that are no layers: all here with Linen's parameters, but for those with a reason."""

import dataclasses
import inspect
import types
from typing import Any

import flax.core
import flax.errors
import flax.linen
import jax
import jax.numpy as jnp
import pytest

from liftax import errors, nn

# Public names of submodules of flax.linen that liftax has not: parts of how Linen is made, or of its types.
INNER = {
    "module": {
        *("CompactNameScope", "Descriptor", "DescriptorWrapper", "FlaxId", "K", "M", "ModuleBase", "ParentDescriptor"),
        *("SetupState", "T", "TestScope", "ThreadLocalStack", "module_field"),
        *("create_descriptor_wrapper", "run_interceptors", "tuple_init", "tuple_reduce", "wrap_descriptor_once"),
        "wrap_method_once",
    },
    "transforms": {
        *("C", "FlaxId", "InstancePlaceholder", "ModuleT", "Target", "VariablePlaceholder", "clean_clone"),
        *("decorator_lift_transform", "decorator_lift_transform_cached", "fork_rngs", "get_module_scopes"),
        *("lift_transform_cached", "module_class_lift_transform"),
        *("module_class_lift_transform_cached", "set_module_scopes", "wrap_method_once"),
    },
    "spmd": set(),
    "summary": {"Table", "LogicalNames"},
}

# Parameters that liftax adds, all by keyword and with Linen's behavior by default.
ADDED = {
    "vjp": {"state_cotangents", "wrt"},
    "custom_vjp": {"state_cotangents", "wrt"},
    "jvp": {"has_aux", "wrt"},
    "grad": {"vjp_variables", "argnums", "holomorphic", "allow_int", "wrt"},
    "value_and_grad": {"vjp_variables", "argnums", "holomorphic", "allow_int", "wrt"},
    "remat_scan": {"metadata_params"},
    "checkpoint": {"budget", "recompute"},
    "remat": {"budget", "recompute"},
    "scan": {"checkpoints"},
    "while_loop": {"max_steps", "checkpoints"},
}
OPTIONAL = {("jvp", "variable_tangents")}  # what Linen demands, and may be left out here

# What Module of Linen inherits from its making, with an underscore, is its own; these are what programs use.
METHODS = [name for name in dir(flax.linen.Module) if not name.startswith("_")]


def public(namespace: Any) -> set[str]:
    return {name for name in dir(namespace) if not name.startswith("_")}


def test_every_name_of_linen():
    assert public(flax.linen) - public(nn) == set()


@pytest.mark.parametrize("submodule", INNER)
def test_every_name_of_a_submodule(submodule: str):
    """What the submodule defines itself."""
    theirs = getattr(flax.linen, submodule)
    own = {name for name in public(theirs) if getattr(getattr(theirs, name), "__module__", None) == theirs.__name__}
    assert own - public(getattr(nn, submodule)) <= INNER[submodule]


def functions() -> list[str]:
    homes = ("flax.linen.module", "flax.linen.transforms", "flax.linen.spmd", "flax.linen.summary", "flax.core")
    return [
        name
        for name in sorted(public(flax.linen))
        if isinstance(getattr(flax.linen, name), types.FunctionType)
        and getattr(flax.linen, name).__module__.startswith(homes)
    ]


def signature(function: Any) -> dict[str, Any]:
    return dict(inspect.signature(function).parameters)


def plain(default: Any) -> Any:
    """Return a default as what two libraries can have in common."""
    if isinstance(default, flax.core.DenyList | nn.DenyList):
        return "all but", default.deny
    if isinstance(default, flax.linen.spmd.RulesFallback | nn.RulesFallback):
        return default.name
    if default is None or (isinstance(default, dict | flax.core.FrozenDict | types.MappingProxyType) and not default):
        return "nothing"
    if type(default).__name__ in ("_Sentinel", "_Unspecified"):
        return "the module that runs now"
    return "a function" if callable(default) and default is not inspect.Parameter.empty else default


@pytest.mark.parametrize("name", functions())
def test_parameters_of_functions(name: str):
    compare(name, signature(getattr(nn, name)), signature(getattr(flax.linen, name)))


def compare(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    added = {p for p in ours if p not in theirs}
    assert added == ADDED.get(name, set())
    assert all(ours[p].default is not inspect.Parameter.empty for p in added)
    assert [p for p in ours if p in theirs] == list(theirs)
    for p, parameter in theirs.items():
        assert ours[p].kind == parameter.kind, p
        if (name, p) not in OPTIONAL:
            assert plain(ours[p].default) == plain(parameter.default), p


@pytest.mark.parametrize("name", METHODS)
def test_methods_of_module(name: str):
    assert hasattr(nn.Module, name)
    theirs = getattr(flax.linen.Module, name)
    # The options of tabulate stand once, in nn.tabulate.
    if isinstance(theirs, types.FunctionType) and name != "tabulate":
        compare(name, signature(getattr(nn.Module, name)), signature(theirs))


def test_every_error_of_linen():
    """Those that Linen raises; the others belong to other parts of Flax."""
    elsewhere = {
        *("AlreadyExistsError", "CursorFindError", "ImmutableVariableError", "InvalidCheckpointError"),
        *("MPACheckpointingRequiredError", "MPARestoreDataCorruptedError", "MPARestoreTargetRequiredError"),
        *("TraceContextError", "TraverseTreeError"),
    }
    theirs = {name for name, value in vars(flax.errors).items() if inspect.isclass(value)}
    assert theirs - public(errors) == elsewhere


def test_frozen_dict_has_flaxs_methods():
    data = {"a": {"b": 1, "c": "s"}, "z": {}}
    ours, theirs = nn.FrozenDict(data), flax.core.FrozenDict(data)
    assert ours.pretty_repr() == theirs.pretty_repr()
    assert ours.pop("a")[0].unfreeze() == theirs.pop("a")[0].unfreeze()
    assert ours.pop("a")[1] == theirs.pop("a")[1]
    assert ours.copy({"z": 2}).unfreeze() == theirs.copy({"z": 2}).unfreeze()
    assert ours.unfreeze() == data
    assert public(flax.core.FrozenDict) - public(nn.FrozenDict) <= {"tree_flatten", "tree_flatten_with_keys"}


def test_name_and_parent_stay():
    for name in ("name", "parent"):

        class Net(nn.Module):
            def setup(self, name=name):
                setattr(self, name, nn.Dense(1))

            def __call__(self, x):
                return x

        with pytest.raises(errors.SetAttributeInModuleSetupError, match=f"{name!r} is a dataclass field"):
            Net().apply({}, jnp.ones(1))


def test_properties_are_not_hidden():
    class Net(nn.Module):
        def setup(self):
            self.variables = {}

        def __call__(self, x):
            return x

    with pytest.raises(AttributeError, match="variables"):
        Net().apply({}, jnp.ones(1))


def test_hash_of_fields_says_what_to_do():
    class Net(nn.Module):
        options: dict

    with pytest.raises(TypeError, match=r"Net can't be hashed, .* 'dict'\. .* nn\.FrozenDict rather than dict"):
        hash(Net({"a": 1}))
    assert hash(Net(nn.FrozenDict(a=1))) == hash(Net(nn.FrozenDict(a=1)))


def test_class_of_modules_stays_small():
    """Module is what programs see: at most 400 lines."""
    lines, _ = inspect.getsourcelines(nn.Module)
    assert len(lines) <= 400
    assert {f.name for f in dataclasses.fields(nn.Dense)} >= {"parent", "name"}


def test_name_of_a_module_that_is_handed_along_is_taken():
    """A lifted function that gets `a` beside the module that it lies in makes no other `a` on its variables."""

    class Made(nn.Module):
        transform: object
        field: bool = False

        @nn.compact
        def __call__(self, x):
            a = nn.Dense(2, name="a")
            other = nn.Sequential([a]) if self.field else a

            def helper(mdl, x, other):
                return nn.Dense(2, name="a")(x) + other(x)

            return self.transform(helper)(self, x, other)

    x = jnp.ones((2, 3))
    for transform in (nn.jit, nn.remat):
        for field in (False, True):
            with pytest.raises(errors.NameInUseError):
                Made(transform, field).init(jax.random.key(0), x)

    def differentiated(helper):
        return lambda mdl, x, other: nn.vjp(lambda mdls, x: helper(mdls[0], x, mdls[1]), (mdl, other), x)[0]

    with pytest.raises(errors.NameInUseError):
        Made(differentiated).init(jax.random.key(0), x)


def test_name_that_the_function_makes_again_is_free():
    """A module made in `setup`, and one that the function is not handed, are made again inside."""

    class Again(nn.Module):
        def setup(self):
            self.a = nn.Dense(2)

        def __call__(self, x):
            return nn.jit(lambda mdl, x, a: mdl.a(x) + a(x))(self, x, self.a)

    class Shared(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.Dense(2, name="a")(x)
            return y + nn.jit(lambda mdl, x: nn.Dense(2, name="a")(x))(self, x)

    x = jnp.ones((2, 3))
    for model in (Again(), Shared()):
        y, variables = model.init_with_output(jax.random.key(0), x)
        assert set(variables["params"]) == {"a"}
        kernel = variables["params"]["a"]["kernel"]
        assert jnp.allclose(y, 2 * x @ kernel, atol=1e-6)


def test_name_of_a_variable_for_a_submodule_inside():
    class Made(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.param("a", nn.initializers.ones, ())
            return nn.jit(lambda mdl, x: nn.Dense(2, name="a")(x))(self, x)

    with pytest.raises(errors.NameInUseError):
        Made().init(jax.random.key(0), jnp.ones((2, 3)))
