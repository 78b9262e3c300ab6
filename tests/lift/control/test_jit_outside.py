"""What a lifted jit looks at outside of its target: right values, right gradients, and traces that are found again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import nn

X = jnp.array([1.0, 2.0])
TRACES = []


class Scale(nn.Module):
    @nn.compact
    def __call__(self, x):
        return self.param("s", lambda key: jnp.float32(1)) * x


GLOBAL = Scale().bind({"params": {"s": jnp.float32(1)}})


def by_the_field(self):
    return self.parent.gain


def by_the_field_of_the_module_around_that(self):
    return self.parent.parent.gain


def by_the_name(self):
    return len(self.name)


def by_the_name_of_the_parent(self):
    return len(self.parent.name)


def by_the_path(self):
    return len("".join(self.path)) - 3


def by_a_key(self):
    return jax.random.uniform(self.parent.make_rng("noise"))


# How the target gets hold of s: all of these give s.
READS = {
    "a submodule of the parent": lambda self: self.parent.head(jnp.float32(1)),
    "a variable of the parent": lambda self: self.parent.get_variable("params", "s"),
    "all variables of the parent": lambda self: self.parent.variables["params"]["s"],
    "what setup of the parent made": lambda self: self.parent.s,
    "a handle that the parent holds": lambda self: self.parent.held.value,
    "a method of the parent": lambda self: self.parent.value(),
    "another lifted transform": lambda self: nn.vjp(lambda m, x: m(x), self.parent.head, jnp.float32(1))[0],
}


class Child(nn.Module):
    read: object

    @nn.jit
    def __call__(self, x):
        TRACES.append(self.read)
        return self.read(self) * x


class Net(nn.Module):
    read: object
    gain: float = 0.0
    child_name: str = "child"
    keeps: bool = False

    def setup(self):
        self.head = Scale()
        s = self.param("s", lambda key: jnp.float32(1))
        if self.keeps:
            self.s = s
        self.held = self.variable("params", "held", lambda: jnp.float32(1))
        setattr(self, self.child_name, Child(self.read))

    def value(self):
        return self.head(jnp.float32(1))

    def __call__(self, x):
        self.head(x)
        return getattr(self, self.child_name)(x)


class Outer(nn.Module):
    read: object
    gain: float = 0.0
    child_name: str = "child"
    net_name: str = "net"
    keeps: bool = False

    @nn.compact
    def __call__(self, x):
        return Net(self.read, self.gain, self.child_name, self.keeps, name=self.net_name)(x)


def variables(s):
    return {"params": {"net": {"head": {"s": jnp.float32(s)}, "s": jnp.float32(s), "held": jnp.float32(s)}}}


@pytest.mark.parametrize("how", READS)
def test_variables_around_are_arguments_of_the_program(how):
    model = Outer(READS[how], keeps=how == "what setup of the parent made")
    loss = lambda v: model.apply(v, X).sum()
    TRACES.clear()
    for s in (1.0, 3.0, 5.0, 7.0):
        np.testing.assert_array_equal(model.apply(variables(s), X), s * X)
    # What setup made is a new array in each call, which says nothing about where it comes from: traced each time.
    assert len(TRACES) == (4 if model.keeps else 2)
    (value, slope) = jax.value_and_grad(loss)(variables(3.0))
    assert value == 9.0
    assert sum(jax.tree.leaves(slope["params"])) == 3.0
    assert jax.jit(jax.grad(loss))(variables(3.0)) == slope
    np.testing.assert_array_equal(jax.jit(model.apply)(variables(4.0), X), 4 * X)
    _, tangent = jax.jvp(lambda s: model.apply(variables(s), X), (3.0,), (1.0,))
    np.testing.assert_array_equal(tangent, X)
    np.testing.assert_array_equal(model.apply(variables(2.0), X), 2 * X)


def test_a_module_that_a_global_variable_holds():
    global GLOBAL
    model = Outer(lambda self: GLOBAL(jnp.float32(1)))
    for s in (1.0, 3.0):
        GLOBAL = Scale().bind({"params": {"s": jnp.float32(s)}})
        np.testing.assert_array_equal(model.apply(variables(0), X), s * X)


@pytest.mark.parametrize(
    "read, field, values",
    [
        (by_the_field, "gain", (1.0, 3.0)),
        (by_the_field_of_the_module_around_that, "gain", (1.0, 3.0)),
        (by_the_name, "child_name", ("c", "ccc")),
        (by_the_path, "child_name", ("c", "ccc")),
    ],
)
def test_fields_and_names_count(read, field, values):
    for value in values:
        want = value if isinstance(value, float) else len(value)
        for _ in range(2):
            np.testing.assert_array_equal(Outer(read, **{field: value}).apply(variables(1), X), want * X)
    TRACES.clear()
    for value in values:
        Outer(read, **{field: value}).apply(variables(1), X)
    assert not TRACES


def test_the_name_of_a_module_around_counts():
    for name in ("n", "nnn"):
        given = {"params": {name: variables(1)["params"]["net"]}}
        got = Outer(by_the_name_of_the_parent, net_name=name).apply(given, X)
        np.testing.assert_array_equal(got, len(name) * X)


def test_keys_drawn_outside_are_drawn_in_each_call():
    def plain(seed):
        class Plain(Net):
            def __call__(self, x):
                self.head(x)
                return jax.random.uniform(self.make_rng("noise")) * x

        return Plain(None).apply({"params": variables(1)["params"]["net"]}, X, rngs={"noise": jax.random.key(seed)})

    model = Net(by_a_key)
    for seed in (0, 1, 0):
        given = {"params": variables(1)["params"]["net"]}
        np.testing.assert_array_equal(model.apply(given, X, rngs={"noise": jax.random.key(seed)}), plain(seed))


def test_a_value_written_outside_is_written_in_each_call():
    def write(self):
        self.parent.put_variable("state", "n", np.float32(7))
        return 1.0

    for _ in range(3):
        _, state = Outer(write).apply(variables(1), X, mutable="state")
        assert state["state"]["net"]["n"] == 7


def test_equal_layers_that_read_their_own_parents_share_a_trace():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Net(READS["a submodule of the parent"], name="net")(x), Net(
                READS["a submodule of the parent"], name="other"
            )(x)

    given = lambda a, b: {"params": {"net": variables(a)["params"]["net"], "other": variables(b)["params"]["net"]}}
    for _ in range(2):  # the first trace finds out what is read around, the next one has it as an argument
        Two().apply(given(2.0, 3.0), X)
    TRACES.clear()
    first, second = Two().apply(given(4.0, 5.0), X)
    np.testing.assert_array_equal(first, 4 * X)
    np.testing.assert_array_equal(second, 5 * X)
    assert not TRACES


@pytest.mark.parametrize(
    "outer", [nn.jit, nn.remat, lambda f: nn.vmap(f, variable_axes={"params": None}, in_axes=None, axis_size=2)]
)
def test_inside_other_lifted_transforms(outer):
    """The parent is part of the outer target, and outside of the inner one."""

    class Around(nn.Module):
        @nn.compact
        def __call__(self, x):
            return outer(lambda net, x: net(x))(Net(READS["a submodule of the parent"], name="net"), x)

    for s in (1.0, 3.0, 4.0):
        np.testing.assert_array_equal(jnp.ravel(Around().apply(variables(s), X))[:2], s * X)
    slope = jax.grad(lambda v: Around().apply(v, X).sum())(variables(3.0))["params"]["net"]["head"]["s"]
    assert slope % 3.0 == 0 and slope > 0


def test_the_outer_of_two_traces_is_found_by_what_the_inner_one_saw():
    class Middle(nn.Module):
        read: object

        @nn.jit
        @nn.compact
        def __call__(self, x):
            return Child(self.read, name="child")(x)

    class Top(nn.Module):
        read: object
        gain: float = 0.0
        middle_name: str = "m"

        def setup(self):
            self.head = Scale()
            setattr(self, self.middle_name, Middle(self.read))

        def __call__(self, x):
            self.head(x)
            return getattr(self, self.middle_name)(x)

    deep = lambda self: self.parent.parent.head(jnp.float32(1))
    for s in (1.0, 3.0, 4.0):
        np.testing.assert_array_equal(Top(deep).apply({"params": {"head": {"s": jnp.float32(s)}}}, X), s * X)
    for gain in (1.0, 3.0, 1.0):
        got = Top(lambda self: self.parent.parent.gain, gain).apply({"params": {"head": {"s": 1.0}}}, X)
        np.testing.assert_array_equal(got, gain * X)
    read = lambda self: len(self.parent.name)
    for name in ("m", "mmm", "m"):
        got = Top(read, middle_name=name).apply({"params": {"head": {"s": 1.0}}}, X)
        np.testing.assert_array_equal(got, len(name) * X)


def test_logical_axis_rules_count():
    seen = []

    class Layer(nn.Module):
        @nn.jit
        def __call__(self, x):
            seen.append(tuple(nn.logical_to_mesh_axes(("batch",))))
            return x

    for rules in ([("batch", "data")], [("batch", "model")], [("batch", "data")]):
        with nn.logical_axis_rules(rules):
            Layer().apply({}, X)
    assert seen == [("data",), ("model",)]


@pytest.mark.parametrize(
    ("read", "lengths"), [(lambda m: m.scope.path, (1, 2)), (lambda m: m.path, (1, 2)), (lambda m: m.name, (1, 4))]
)
def test_where_a_module_is_belongs_to_what_its_program_is_found_by(read, lengths):
    class Leaf(nn.Module):
        def __call__(self, x):
            return x * len(read(self))

    class Deeper(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.jit(Leaf)(name="leaf")(x)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.jit(Leaf)(name="l")(x), Deeper(name="deeper")(x)

    assert Net().apply({}, 1.0) == lengths
