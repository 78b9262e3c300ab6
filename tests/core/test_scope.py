"""Scopes: children, names, variables, keys, and what may not be done with them."""

import copy

import jax
import jax.numpy as jnp
import pytest

from liftax import core, errors

ones, zeros = jax.nn.initializers.ones, jax.nn.initializers.zeros


def bound(variables=None, mutable=True, **kwargs):
    return core.bind(variables or {}, mutable=mutable, **kwargs)


def test_push_names_children_and_paths():
    scope = bound()
    a = scope.push("a")
    assert (a.name, a.path, a.push("b").path, a.parent, a.root) == ("a", ("a",), ("a", "b"), scope, scope)
    assert [scope.push(prefix="x").name for _ in range(3)] == ["x0", "x1", "x2"]
    assert a.path_text == "/a"
    assert repr(a) == "Scope(/a)"


def test_push_twice_is_an_error_unless_reused():
    scope = bound()
    scope.push("a")
    with pytest.raises(errors.NameInUseError, match="'a' is in use at /"):
        scope.push("a")
    assert scope.push("a", reuse=True).path == ("a",)


def test_reservations():
    scope = bound()
    scope.reserve("w", "params")
    scope.reserve("w", "state")
    assert scope.name_reserved("w")
    assert scope.name_reserved("w", "state")
    assert not scope.name_reserved("w", "cache")
    assert not scope.name_reserved("v")
    for col in ("params", None):
        with pytest.raises(errors.NameInUseError):
            scope.reserve("w", col)
    with pytest.raises(TypeError, match="A name is a string"):
        scope.reserve(3)


def test_child_uses_one_set_of_variables():
    def dense(scope, x, features):
        return x @ scope.param("kernel", ones, (x.shape[-1], features))

    def net(scope, x):
        layer = scope.child(dense, "layer", features=3)
        return layer(layer(x)), scope.child(dense)(x, features=2)

    (y, z), variables = core.init(net)(jax.random.key(0), jnp.ones(3))
    assert jax.tree.map(jnp.shape, variables["params"]) == {"layer": {"kernel": (3, 3)}, "dense_0": {"kernel": (3, 2)}}
    assert (y == 9).all()
    assert z.shape == (2,)


def test_rewound_frees_names_and_rngs():
    scope = bound(rngs={"a": jax.random.key(0)})
    scope.push("x")
    draw = lambda s: jax.random.key_data(s.make_rng("a")).tolist()
    first, second = draw(scope), draw(scope)
    child = draw(scope.at(("x",)))
    assert first != second
    again = scope.rewound(rewind_rngs=True)
    assert [draw(again), draw(again), draw(again.push("x"))] == [first, second, child]
    assert draw(scope.rewound()) not in (first, second)


def test_scopes_of_one_place_are_equal():
    scope = bound()
    a = scope.push("a")
    assert scope.at(("a",)) == a
    assert hash(scope.at(("a",))) == hash(a)
    assert scope != a
    assert scope != bound()
    assert a != "a"


def test_variables_are_copies():
    scope = bound({"state": {"a": {"n": 1}}})
    tree = scope.variables()
    tree["state"]["a"]["n"] = 2
    assert scope.at(("a",)).get_variable("state", "n") == 1


def test_put_and_get():
    scope = bound({"state": {"n": 1}}, mutable="state")
    assert scope.has_variable("state", "n")
    assert scope.get_variable("state", "m") is None
    assert scope.get_variable("state", "m", 5) == 5
    scope.push("a").put_variable("state", "m", {"x": {"y": 1}})
    assert scope.variables() == {"state": {"n": 1, "a": {"m": {"x": {"y": 1}}}}}
    with pytest.raises(errors.ModifyScopeVariableError, match=r"cache/n at / can't be written.*mutable=\['cache'\]"):
        scope.put_variable("cache", "n", 1)
    assert [scope.is_mutable_collection(c) for c in ("state", "cache")] == [True, False]
    assert [scope.is_collection_empty(c) for c in ("state", "cache")] == [False, True]


def test_put_merges_into_nested_mappings_that_children_hold():
    scope = bound({"state": {"a": {"n": 1}}}, mutable="state")
    child = scope.push("a")
    assert child.get_variable("state", "n") == 1
    scope.put_variable("state", "a", {"m": 2})
    assert child.get_variable("state", "m") == 2
    assert child.get_variable("state", "n") == 1


def test_variable_handle():
    scope = bound(mutable=["state"])
    handle = scope.variable("state", "n", lambda a, b: a + b, 1, b=2)
    assert (handle.value, handle.is_mutable(), repr(handle)) == (3, True, "Variable(state/n at /)")
    handle.value = 7
    assert scope.get_variable("state", "n") == 7


def test_missing_variables():
    scope = bound({"params": {"w": 1}, "state": {"kernel": 1}, "none": {}}, mutable=False)
    with pytest.raises(errors.ScopeParamNotFoundError, match=r"params/b at / .*this module has 'w' there"):
        scope.param("b", ones, ())
    with pytest.raises(errors.ScopeVariableNotFoundError, match="Did you mean 'kernel'"):
        scope.variable("state", "kernl")
    with pytest.raises(errors.ScopeCollectionNotFound, match="'none' is empty"):
        scope.variable("none", "a", lambda: 1)
    with pytest.raises(errors.ScopeCollectionNotFound, match=r"'absent' is missing \(given: 'params', 'state', 'none'"):
        scope.variable("absent", "a", lambda: 1)
    with pytest.raises(errors.ScopeParamNotFoundError, match="has nothing for this module"):
        scope.push("child").param("w", ones, ())


def test_param_of_another_shape():
    with pytest.raises(errors.ScopeParamShapeError, match=r"'w' at /a has shape \(2,\), and its initializer expects"):
        bound({"params": {"a": {"w": jnp.ones(2)}}}).push("a").param("w", ones, (3,))


def test_param_is_drawn_from_params():
    scope = bound(rngs=jax.random.key(0))
    normal = jax.nn.initializers.normal(1.0)
    w = scope.push("a").param("w", normal, (3,))
    expected = normal(core.rngs.fold(jax.random.key(0), "a", 1), (3,))
    assert (w == expected).all()
    with pytest.raises(errors.InvalidRngError, match="of the rng stream 'params', and the streams given are: none"):
        bound().param("w", normal, (3,))


def test_flags():
    scope = bound(flags={"initializing": True})
    assert scope.push("a").get_flag("initializing")
    assert scope.has_flag("initializing")
    assert not scope.has_flag("other")
    assert scope.get_flag("other", 3) == 3


@pytest.mark.parametrize(
    "use",
    [
        lambda s: s.param("w", zeros, ()),
        lambda s: s.variables(),
        lambda s: s.get_variable("state", "n"),
        lambda s: s.put_variable("state", "n", 1),
        lambda s: s.push("a"),
        lambda s: s.rewound(),
        lambda s: s.make_rng("params"),
    ],
)
def test_scope_that_has_ended(use):
    kept = []
    core.apply(lambda s: kept.append(s), mutable=True)({}, rngs=jax.random.key(0))
    assert kept[0].invalid
    assert repr(kept[0]) == "Scope(/, ended)"
    with pytest.raises(errors.InvalidScopeError, match="used after its apply had ended"):
        use(kept[0])


@pytest.mark.parametrize("transform", [jax.jit, jax.grad, jax.vmap])
def test_write_inside_a_transform_of_jax(transform):
    def fn(scope, x):
        n = scope.variable("state", "n", lambda: jnp.zeros(()))

        def write(x):
            n.value = n.value + x
            return x

        return transform(write)(x)

    with pytest.raises(errors.JaxTransformError, match="state/n at / is written inside a JAX transform"):
        core.init(fn)(jax.random.key(0), jnp.ones(2) if transform is jax.vmap else 1.0)


def test_read_inside_a_transform_of_jax():
    def fn(scope, x):
        w = scope.variable("state", "w", lambda: jnp.full((), 3.0))
        return jax.grad(lambda x: w.value * x)(x)

    assert core.init(fn)(jax.random.key(0), 2.0)[0] == 3.0


def test_variables_given_are_not_changed():
    variables = {"state": {"a": {"n": 1}}, "params": {"w": 1.0}}
    before = copy.deepcopy(variables)

    def fn(scope):
        scope.push("a").put_variable("state", "n", 2)
        scope.put_variable("params", "v", 2)

    _, state = core.apply(fn, mutable=True)(variables)
    assert variables == before
    assert state == {"state": {"a": {"n": 2}}, "params": {"w": 1.0, "v": 2}}


@pytest.mark.parametrize("variables", [{}, {"params": {"w": jnp.ones(2)}}], ids=["init", "apply"])
def test_value_for_an_initializer(variables):
    make = core.apply(lambda scope: scope.param("w", jnp.ones(2)), mutable=True)
    with pytest.raises(TypeError, match=r"params/w at /: got a .*param\('w', lambda key: value\)"):
        make(variables, rngs=jax.random.key(0))
    make = core.apply(lambda scope: scope.variable("s", "w", jnp.ones(2)), mutable=True)
    with pytest.raises(TypeError, match=r"s/w at /: got a .*variable\('s', 'w', lambda: value\)"):
        make({})
