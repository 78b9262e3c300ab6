"""Scripts: functions of the namespace that return whatever can be compared to the bit."""

import copy
import dataclasses
import functools
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .programs.methods import auto_encoder
from .programs.variables import counter, draws, perturb, sow
from .table import KEYS, X

SCRIPTS: dict[str, Callable[[Any], Any]] = {}


def script(run: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Add a script to the table."""
    assert run.__name__ not in SCRIPTS
    SCRIPTS[run.__name__] = run
    return run


def _net(nn: Any) -> Any:
    class Net(nn.Module):
        width: int = 3
        inner: Any = None

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.width)(x if self.inner is None else self.inner(x))

    return Net


@script
def bind_and_use(nn: Any) -> Any:
    model = auto_encoder(nn)
    variables = model.init(KEYS["params"], X)
    bound = model.bind(variables)
    z = bound.encode(X)
    return z, bound.decode(z), bound.variables, bound.down.variables, bound.down(X)


@script
def bind_mutable(nn: Any) -> Any:
    model = counter(nn)
    variables = model.init(KEYS["params"], X)
    bound = model.bind(variables, mutable=["state", "batch_stats"])
    outs = bound(X), bound(X)
    return outs, bound.variables, variables


@script
def bind_with_rngs(nn: Any) -> Any:
    bound = draws(nn).bind({}, rngs=KEYS)
    return bound(X), bound(X)


@script
def unbind(nn: Any) -> Any:
    model = auto_encoder(nn)
    variables = model.init(KEYS["params"], X)
    down, own = model.bind(variables).down.unbind()
    return own, down.apply(own, X), down.name, down.features


@script
def clone_with_updates(nn: Any) -> Any:
    model = nn.Dense(3).clone(features=4, use_bias=False)
    return model.init(KEYS["params"], X), model.features, model.name, nn.Dense(3, name="x").clone().name


@script
def copy_outside(nn: Any) -> Any:
    model = nn.Dense(3, name="a")
    return model.copy().name, model.copy(name="b").name, model.copy(features=7).features


@script
def copies_by_python(nn: Any) -> Any:
    model = _net(nn)(2, nn.Dense(3))
    variables = model.init(KEYS["params"], X)
    return [m.apply(variables, X) for m in (copy.copy(model), copy.deepcopy(model), dataclasses.replace(model))]


@script
def pickled_layer(nn: Any) -> Any:
    before = nn.Sequential([nn.Dropout(0.5, name="d")], name="s")
    model = pickle.loads(pickle.dumps(before))
    return model == before, model.name, model.layers[0].rate, model.layers[0].name


@script
def cloudpickled(nn: Any) -> Any:
    import cloudpickle

    model = _net(nn)(2, nn.Dense(3))
    variables = model.init(KEYS["params"], X)
    return cloudpickle.loads(cloudpickle.dumps(model)).apply(variables, X)


@script
def equality_and_hash(nn: Any) -> Any:
    a, b, c = nn.Dense(3), nn.Dense(3), nn.Dense(4)
    named = nn.Dense(3, name="n")
    net = _net(nn)
    return [
        a == b, a == c, hash(a) == hash(b), a == named, len({a, b, c}), a != b, a == 3,
        net(2, nn.Dense(3)) == net(2, nn.Dense(3)), hash(net(2, nn.Dense(3))) == hash(net(2, nn.Dense(3))),
    ]  # fmt: skip


@script
def static_argument_of_jit(nn: Any) -> Any:
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def run(model, variables, x):
        traces.append(model.features)
        return model.apply(variables, x)

    variables = nn.Dense(3).init(KEYS["params"], X)
    return run(nn.Dense(3), variables, X), run(nn.Dense(3), variables, X), traces


@script
def repr_unbound(nn: Any) -> Any:
    return repr(nn.Dense(3)), repr(_net(nn)(2, nn.Dense(3, name="d"))), str(nn.Dropout(0.5))


@script
def repr_bound(nn: Any) -> Any:
    class Net(nn.Module):
        width: int

        def setup(self):
            self.dense = nn.Dense(self.width)

        def __call__(self, x):
            return self.dense(x)

    model = Net(3)
    bound = model.bind(model.init(KEYS["params"], X))
    bound(X)
    return repr(bound)


@script
def init_in_several_ways(nn: Any) -> Any:
    model = auto_encoder(nn)
    k = KEYS["params"]
    return (
        model.init(k, X), model.init({"params": k}, X), model.init({"params": k, "other": k}, X),
        model.init_with_output(k, X), model.init(k, X, method="encode"), model.init(k, X, method=model.encode),
        model.init(k, X, method=type(model).encode), model.init(k, X, mutable=["params"]),
        model.init(k, X, mutable=True), model.init(k, x=X),
    )  # fmt: skip


@script
def lazy_init(nn: Any) -> Any:
    struct = jax.ShapeDtypeStruct((1, 3), jnp.float32)
    return auto_encoder(nn).lazy_init(KEYS["params"], struct), auto_encoder(nn).lazy_init(KEYS["params"], x=X)


@script
def init_under_jit(nn: Any) -> Any:
    return jax.jit(counter(nn).init)(KEYS, X), jax.eval_shape(counter(nn).init, KEYS, X)


@script
def apply_under_vmap(nn: Any) -> Any:
    variables = jax.vmap(lambda k: nn.Dense(3).init(k, X))(jax.random.split(jax.random.key(0), 2))
    return variables, jax.vmap(nn.Dense(3).apply, (0, None))(variables, X)


@script
def init_sows_on_request(nn: Any) -> Any:
    k = KEYS["params"]
    return (
        sow(nn).init(k, X), sow(nn).init(k, X, mutable=True), sow(nn).init(k, X, capture_intermediates=True),
        sow(nn).init_with_output(k, X, mutable=["params", "intermediates"]),
    )  # fmt: skip


@script
def mutable_deny_list(nn: Any) -> Any:
    model = counter(nn)
    variables = model.init(KEYS["params"], X)
    init = model.init(KEYS["params"], X, mutable=nn.DenyList(["absent"]))
    return init, model.apply(variables, X, mutable=nn.DenyList(["params"]))


@script
def perturb_gives_gradients_of_intermediates(nn: Any) -> Any:
    model = perturb(nn)
    variables = model.init(KEYS["params"], X)
    params, eps = {"params": variables["params"]}, {"perturbations": variables["perturbations"]}
    grads = jax.grad(lambda eps: (model.apply({**params, **eps}, X) ** 2).sum())(eps)
    return variables, grads, model.apply(params, X)


@script
def input_is_not_changed(nn: Any) -> Any:
    model = counter(nn)
    variables = model.init(KEYS["params"], X)
    before = copy.deepcopy(variables)
    model.apply(variables, X, mutable=True)
    return variables, before


@script
def apply_with_extra_and_foreign_variables(nn: Any) -> Any:
    variables = nn.Dense(3).init(KEYS["params"], X)
    more = {"params": {**variables["params"], "extra": {"w": np.ones(2)}}, "other": {"a": 1}}
    return nn.Dense(3).apply(more, X), nn.Dense(3).apply(more, X, mutable=True)


@script
def boxed_params(nn: Any) -> Any:
    import flax.linen

    boxed = lambda init: lambda *a: flax.linen.Partitioned(init(*a), ("in", "out"))
    model = nn.Dense(2, kernel_init=boxed(nn.initializers.lecun_normal()))
    variables = model.init(KEYS["params"], X)
    grads = jax.grad(lambda v: model.apply(v, X).sum())(variables)
    return variables, model.apply(variables, X), grads, variables["params"]["kernel"].names


@script
def param_without_unboxing(nn: Any) -> Any:
    import flax.linen

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            make = lambda *a: flax.linen.Partitioned(jnp.ones(3), ("a",))
            p = self.param("p", make, unbox=False)
            v = self.variable("state", "v", make)
            w = self.variable("state", "w", make, unbox=False)
            v.value = v.value * 2
            return type(p).__name__, p.value, v.value, type(w.value).__name__

    (out, variables) = Net().init_with_output(KEYS["params"], X)
    return out, variables


@script
def merge_param(nn: Any) -> Any:
    return nn.merge_param("a", None, 1), nn.merge_param("a", False, None)


@script
def methods_of_an_unbound_module(nn: Any) -> Any:
    class Net(nn.Module):
        width: int = 3

        def double(self):
            return 2 * self.width

        @nn.nowrap
        def triple(self):
            return 3 * self.width

        @property
        def quadruple(self):
            return 4 * self.width

    return Net().double(), Net().triple(), Net().quadruple, Net(4).width


@script
def fields_of_a_module(nn: Any) -> Any:
    class Net(nn.Module):
        a: int
        b: Any = dataclasses.field(default_factory=dict)

    names = [f.name for f in dataclasses.fields(Net)]
    return names, Net.__name__, Net(1).__dict__["a"]


@script
def attributes_are_frozen_containers(nn: Any) -> Any:
    seen = []

    class Net(nn.Module):
        options: Any

        def setup(self):
            self.made = [1, {"b": [2]}]

        def __call__(self, x):
            seen.extend([type(self.options).__name__, type(self.options["l"]).__name__, type(self.made).__name__])
            return x + self.options["l"][0]

    model = Net({"l": [1, 2]})
    return model.apply({}, X), seen, type(model.options).__name__


@script
def named_tuple_field(nn: Any) -> Any:
    import collections

    pair = collections.namedtuple("pair", ["a", "b"])

    class Net(nn.Module):
        layers: Any

        def __call__(self, x):
            return self.layers.b(self.layers.a(x))

    return Net(pair(nn.Dense(3), nn.Dense(2))).init(KEYS["params"], X)


def recorder(log: list[Any]) -> Callable[..., Any]:
    """Return an interceptor that logs calls and doubles the outputs of Dense."""

    def interceptor(next_fun, args, kwargs, context):
        log.append((type(context.module).__name__, context.method_name, len(args), sorted(kwargs)))
        out = next_fun(*args, **kwargs)
        return out * 2 if type(context.module).__name__ == "Dense" and context.method_name == "__call__" else out

    return interceptor


@script
def interceptors(nn: Any) -> Any:
    log: list[Any] = []
    model = auto_encoder(nn)
    with nn.intercept_methods(recorder(log)):
        variables = model.init(KEYS["params"], X)
        y = model.apply(variables, X)
    return log, variables, y, model.apply(variables, X)


@script
def interceptors_in_order(nn: Any) -> Any:
    order: list[Any] = []

    def named(name, skip=False):
        def interceptor(next_fun, args, kwargs, context):
            order.append(name)
            return context.orig_method(*args, **kwargs) if skip else next_fun(*args, **kwargs)

        return interceptor

    model = nn.Dropout(0.5, deterministic=True)
    with nn.intercept_methods(named("a")), nn.intercept_methods(named("b")):
        model.apply({}, X)
    with nn.intercept_methods(named("c", skip=True)), nn.intercept_methods(named("d")):
        model.apply({}, X)
    return order


@script
def interceptors_of_unbound_modules_and_nowrap(nn: Any) -> Any:
    log: list[Any] = []

    class Net(nn.Module):
        def double(self, x):
            return 2 * x

        @nn.nowrap
        def triple(self, x):
            return 3 * x

    with nn.intercept_methods(recorder(log)):
        return Net().double(1), Net().triple(x=1), log


@script
def interceptors_inside_vjp_of_grad(nn: Any) -> Any:
    log: list[Any] = []

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            dense = nn.Dense(1)
            y, vjp_fn = nn.vjp(lambda m, x: m(x).sum(), dense, x)
            return y, vjp_fn(jnp.ones(()))

    model = Net()
    variables = model.init(KEYS["params"], X)
    with nn.intercept_methods(recorder(log)):
        return model.apply(variables, X), sorted({entry[0] for entry in log})


@script
def capture_everything(nn: Any) -> Any:
    model = auto_encoder(nn)
    variables = model.init(KEYS["params"], X)
    return model.apply(variables, X, mutable=["intermediates"], capture_intermediates=lambda m, n: True)


@script
def free_functions(nn: Any) -> Any:
    model = auto_encoder(nn)
    fn = lambda m, x, scale=1.0: m.decode(m.encode(x)) * scale
    variables = nn.init(fn, model)(KEYS["params"], X)
    out = nn.init_with_output(fn, model, mutable=["params"])(KEYS["params"], X, scale=2.0)
    captured = nn.apply(fn, model, capture_intermediates=True)(variables, X)
    return variables, out, captured, nn.apply(fn, model, mutable=["params"])(variables, X, scale=3.0)
