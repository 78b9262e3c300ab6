"""Mistakes: functions of the namespace that raise an error."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from .programs.methods import auto_encoder
from .programs.sharing import compact_name_scopes
from .programs.variables import counter
from .table import KEYS, X

MISTAKES: dict[str, Callable[[Any], Any]] = {}


def mistake(run: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Add a program that raises to the table."""
    assert run.__name__ not in MISTAKES
    MISTAKES[run.__name__] = run
    return run


def compact_net(nn: Any, body: Callable[..., Any], **kwargs: Any) -> Any:
    """Return a module whose compact `__call__(self, x)` is `body(self, x)`."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return body(self, x)

    return Net(**kwargs)


def setup_net(nn: Any, body: Callable[..., Any]) -> Any:
    """Return a module whose `setup` is `body`."""

    class Net(nn.Module):
        def setup(self):
            body(self)

        def __call__(self, x):
            return x

    return Net()


@mistake
def two_submodules_of_one_name(nn: Any) -> Any:
    compact_net(nn, lambda m, x: nn.Dense(3, name="a")(nn.Dense(3, name="a")(x))).init(KEYS, X)


@mistake
def param_named_like_a_submodule(nn: Any) -> Any:
    def body(m, x):
        m.param("a", nn.initializers.zeros, ())
        return nn.Dense(3, name="a")(x)

    compact_net(nn, body).init(KEYS, X)


@mistake
def two_params_of_one_name(nn: Any) -> Any:
    def body(m, x):
        return m.param("a", nn.initializers.zeros, ()) + m.param("a", nn.initializers.zeros, ())

    compact_net(nn, body).init(KEYS, X)


@mistake
def two_variables_of_one_name(nn: Any) -> Any:
    compact_net(nn, lambda m, x: [m.variable("s", "a", lambda: 0) for _ in range(2)]).init(KEYS, X)


@mistake
def submodule_named_like_a_param_of_setup(nn: Any) -> Any:
    def body(m):
        m.a = m.param("b", nn.initializers.zeros, ())
        m.b = nn.Dense(3)

    setup_net(nn, body).init(KEYS, X)


@mistake
def field_named_like_a_submodule(nn: Any) -> Any:
    class Net(nn.Module):
        a: Any

        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="a")(self.a(x))

    Net(nn.Dense(3)).init(KEYS, X)


@mistake
def compact_method_of_an_unbound_module(nn: Any) -> Any:
    nn.Dense(3)(X)


@mistake
def setup_method_of_an_unbound_module(nn: Any) -> Any:
    auto_encoder(nn)(X)


@mistake
def setup_called_by_hand(nn: Any) -> Any:
    setup_net(nn, lambda m: None).setup()


@mistake
def attribute_set_in_call(nn: Any) -> Any:
    def body(m, x):
        m.y = x

    compact_net(nn, body).init(KEYS, X)


@mistake
def attribute_set_on_a_bound_module(nn: Any) -> Any:
    nn.Dense(3).bind({}).features = 4


@mistake
def field_set_in_setup(nn: Any) -> Any:
    class Net(nn.Module):
        width: int = 3

        def setup(self):
            self.width = 4

        def __call__(self, x):
            return x

    Net().init(KEYS, X)


@mistake
def submodule_made_in_a_plain_method(nn: Any) -> Any:
    class Net(nn.Module):
        def __call__(self, x):
            return nn.Dense(3)(x)

    Net().init(KEYS, X)


@mistake
def param_made_in_a_plain_method(nn: Any) -> Any:
    class Net(nn.Module):
        def __call__(self, x):
            return self.param("w", nn.initializers.zeros, ())

    Net().init(KEYS, X)


@mistake
def parent_annotated(nn: Any) -> Any:
    class Net(nn.Module):
        parent: int

    Net()


@mistake
def name_annotated(nn: Any) -> Any:
    class Net(nn.Module):
        name: int

    Net()


@mistake
def init_on_the_class(nn: Any) -> Any:
    nn.Dense.init(KEYS, X)


@mistake
def apply_on_the_class(nn: Any) -> Any:
    nn.Dense.apply({}, X)


@mistake
def bind_on_the_class(nn: Any) -> Any:
    nn.Dense.bind({}, X)


@mistake
def post_init_without_super(nn: Any) -> Any:
    class Net(nn.Module):
        def __post_init__(self):
            pass

        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x)

    Net().init(KEYS, X)


@mistake
def params_missing(nn: Any) -> Any:
    nn.Dense(3).apply({}, X)


@mistake
def param_missing(nn: Any) -> Any:
    nn.Dense(3).apply({"params": {"bias": jnp.ones(3)}}, X)


@mistake
def param_of_another_shape(nn: Any) -> Any:
    nn.Dense(3).apply(nn.Dense(4).init(KEYS, X), X)


@mistake
def variable_missing(nn: Any) -> Any:
    model = counter(nn)
    variables = model.init(KEYS, X)
    model.apply({**variables, "state": {"m": 1}}, X)


@mistake
def collection_missing(nn: Any) -> Any:
    model = counter(nn)
    model.apply({"params": model.init(KEYS, X)["params"]}, X)


@mistake
def immutable_collection_written(nn: Any) -> Any:
    model = counter(nn)
    model.apply(model.init(KEYS, X), X)


@mistake
def params_wrapped_twice(nn: Any) -> Any:
    nn.Dense(3).apply({"params": nn.Dense(3).init(KEYS, X)}, X)


@mistake
def variables_of_a_wrong_type(nn: Any) -> Any:
    nn.Dense(3).apply([1, 2], X)


@mistake
def no_rng(nn: Any) -> Any:
    nn.Dropout(0.5).apply({}, X, deterministic=False)


@mistake
def rng_of_a_wrong_type(nn: Any) -> Any:
    nn.Dense(3).init({"params": "a key"}, X)


@mistake
def rngs_of_a_wrong_type(nn: Any) -> Any:
    nn.Dense(3).init(3.0, X)


@mistake
def no_params_rng(nn: Any) -> Any:
    nn.Dense(3).init({"dropout": KEYS["dropout"]}, X)


@mistake
def method_that_is_no_function(nn: Any) -> Any:
    nn.Dense(3).init(KEYS, X, method=3)


@mistake
def method_without_arguments(nn: Any) -> Any:
    nn.Dense(3).init(KEYS, method=lambda: 0)


@mistake
def method_that_does_not_exist(nn: Any) -> Any:
    nn.Dense(3).init(KEYS, X, method="absent")


@mistake
def method_that_is_a_field(nn: Any) -> Any:
    nn.Dense(3).init(KEYS, X, method="features")


@mistake
def attribute_of_setup_from_outside(nn: Any) -> Any:
    auto_encoder(nn).down  # noqa: B018


@mistake
def attribute_that_does_not_exist(nn: Any) -> Any:
    compact_net(nn, lambda m, x: m.absent).init(KEYS, X)


@mistake
def property_with_a_bug(nn: Any) -> Any:
    class Net(nn.Module):
        @property
        def width(self):
            return self.absent

        def __call__(self, x):
            return self.width

    Net().init(KEYS, X)


@mistake
def unbind_of_an_unbound_module(nn: Any) -> Any:
    nn.Dense(3).unbind()


@mistake
def variables_of_an_unbound_module(nn: Any) -> Any:
    nn.Dense(3).variables  # noqa: B018


@mistake
def param_of_an_unbound_module(nn: Any) -> Any:
    nn.Dense(3).param("w", nn.initializers.zeros, ())


@mistake
def hash_of_a_bound_module(nn: Any) -> Any:
    hash(nn.Dense(3).bind({}))


@mistake
def module_that_escaped(nn: Any) -> Any:
    module = compact_net(nn, lambda m, x: nn.Dense(3)).apply({}, X)
    module(X)


@mistake
def name_that_is_no_string(nn: Any) -> Any:
    compact_net(nn, lambda m, x: m.param(3, nn.initializers.zeros, ())).init(KEYS, X)


@mistake
def mutable_that_is_no_filter(nn: Any) -> Any:
    nn.Dense(3).init(KEYS, X, mutable=3)


@mistake
def parent_that_is_no_module(nn: Any) -> Any:
    nn.Dense(3, parent=3)


@mistake
def argument_missing(nn: Any) -> Any:
    nn.Dense(3).init(KEYS)


@mistake
def merge_param_twice(nn: Any) -> Any:
    nn.merge_param("a", 1, 1)


@mistake
def merge_param_never(nn: Any) -> Any:
    nn.merge_param("a", None, None)


@mistake
def share_scope_of_unbound_modules(nn: Any) -> Any:
    nn.share_scope(nn.Dense(3), nn.Dense(3))


@mistake
def compact_name_scope_of_an_unbound_module(nn: Any) -> Any:
    compact_name_scopes(nn).up(X)


@mistake
def no_call(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.layer = nn.Dense(3)

    Net().init(KEYS, X)


@mistake
def name_set_in_setup(nn: Any) -> Any:
    def body(m):
        m.name = "mine"

    setup_net(nn, body).init(KEYS, X)


@mistake
def property_set_in_setup(nn: Any) -> Any:
    def body(m):
        m.variables = {}

    setup_net(nn, body).init(KEYS, X)
