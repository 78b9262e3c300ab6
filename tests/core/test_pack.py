"""The lift: unbind, bind, collect, commit, over scopes, modules, trees of them, and targets that overlap."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from liftax import core, errors, nn
from liftax.core.calls import calls

KEY = jax.random.key(0)


def identity_lift(target: Any, fn: Any, groups: Any = (True,), rngs: Any = True) -> Any:
    """Run `fn(inner target)` as a transform would, under jit."""
    packed = core.unbind(target, groups, rngs, "test")

    @jax.jit
    def pure(groups, keys):
        with packed.bind(groups, keys) as inner:
            return fn(inner.target), inner.collect()

    out, run = pure(packed.groups, packed.keys)
    packed.commit(run)
    return out


def scope(variables=None, mutable=True, rngs=None):
    return core.bind(variables or {}, mutable=mutable, rngs=rngs)


# --- scopes ----------------------------------------------------------------------------------------------------------


def test_groups_follow_the_filters():
    s = scope({"params": {"w": 1.0}, "state": {"n": 2.0}, "cache": {"c": 3.0}})
    packed = core.unbind(s, ("params", core.DenyList("cache")), False, "test")
    assert packed.groups == (({"params": {"w": 1.0}},), ({"state": {"n": 2.0}},))
    assert packed.keys == ({},)


def test_state_comes_out_and_is_committed():
    s = scope({"state": {"n": jnp.ones(()), "other": jnp.ones(())}})

    def fn(inner):
        inner.put_variable("state", "n", inner.get_variable("state", "n") + 1)
        inner.push("child").put_variable("state", "m", 5.0)
        return inner.get_variable("state", "n")

    assert identity_lift(s, fn) == 2
    assert s.variables() == {"state": {"n": 2, "other": 1, "child": {"m": 5}}}
    assert not isinstance(s.get_variable("state", "n"), jax.core.Tracer)


def test_nothing_is_written_before_commit():
    s = scope({"state": {"n": 1.0}})
    packed = core.unbind(s, (True,), True, "test")
    with packed.bind(packed.groups, packed.keys) as inner:
        inner.target.put_variable("state", "n", 2.0)
        run = inner.collect()
    assert s.get_variable("state", "n") == 1.0
    assert run.state.written == ({("state", "n"): 2.0},)
    assert run.state.created == ({},)
    packed.commit(run)
    assert s.get_variable("state", "n") == 2.0


def test_only_what_is_in_reach_is_there_and_mutable():
    s = scope({"params": {"w": 1.0}, "state": {"n": 2.0}}, mutable=["state", "params"])

    def fn(inner):
        assert inner.has_variable("params", "w")
        assert not inner.has_variable("state", "n")
        assert [inner.is_mutable_collection(c) for c in ("params", "state", "cache")] == [True, False, False]
        return 0

    identity_lift(s, fn, groups=("params",))


def test_inner_scope_ends_with_the_block():
    kept = []
    identity_lift(scope(), lambda inner: kept.append(inner) or 0)
    with pytest.raises(errors.InvalidScopeError, match="used after its test had ended"):
        kept[0].get_variable("state", "n")


def test_keys_go_on_where_the_outer_scope_stopped():
    """A transform draws what a direct call draws, and the outer scope goes on after it."""

    def draws(lifted):
        s = scope(rngs={"a": KEY, "b": KEY}).push("x")
        draw = lambda s: jax.random.key_data(s.make_rng("a"))
        first = draw(s)
        second = identity_lift(s, draw) if lifted else draw(s)
        child = lambda s: draw(s.at(("y",)))
        return [x.tolist() for x in (first, second, identity_lift(s, child) if lifted else child(s), draw(s))]

    assert draws(True) == draws(False)
    packed = core.unbind(scope(rngs={"a": KEY, "b": KEY}), (True,), "b", "test")
    assert [set(k) for k in packed.keys] == [{"b"}]


# --- targets that overlap --------------------------------------------------------------------------------------------


def test_parent_and_child_at_once():
    s = scope({"state": {"a": {"n": 1.0}, "m": 2.0}})
    child = s.push("a")

    def fn(inner):
        top, below = inner
        below.put_variable("state", "n", below.get_variable("state", "n") + 10)
        assert top.get_variable("state", "a")["n"] is below.get_variable("state", "n")
        top.put_variable("state", "m", 3.0)
        return below.get_variable("state", "n")

    packed = core.unbind((s, child), (True,), True, "test")
    assert packed.roots == (s,)
    assert identity_lift((s, child), fn) == 11
    assert identity_lift((child, s), lambda inner: fn(inner[::-1])) == 21
    assert s.variables() == {"state": {"a": {"n": 21}, "m": 3}}


def test_the_same_scope_twice():
    s = scope({"state": {"n": 1.0}})
    packed = core.unbind({"a": s, "b": s}, (True,), True, "test")
    assert len(packed.roots) == 1
    assert packed.view.assemble(packed.groups[0]) == {"a": {"state": {"n": 1.0}}, "b": {"state": {"n": 1.0}}}


def test_scopes_of_two_stores():
    a, b = scope({"state": {"n": 1.0}}), scope({"state": {"n": 2.0}})

    def fn(inner):
        for s in inner:
            s.put_variable("state", "n", s.get_variable("state", "n") * 10)
        return 0

    identity_lift([a, b], fn)
    assert (a.get_variable("state", "n"), b.get_variable("state", "n")) == (10, 20)


def test_view_takes_apart_what_it_assembles():
    s = scope({"params": {"a": {"w": 1.0}, "b": {"w": 2.0}}})
    a, b = s.push("a"), s.push("b")
    packed = core.unbind({"x": a, "y": [b]}, (True,), True, "test")
    tree = packed.view.assemble(packed.groups[0])
    assert tree == {"x": {"params": {"w": 1.0}}, "y": [{"params": {"w": 2.0}}]}
    assert packed.view.disassemble(tree, "test", errors.TangentError) == packed.groups[0]
    with pytest.raises(errors.TangentError, match="shaped like the target"):
        packed.view.disassemble({"x": {}}, "test", errors.TangentError)
    with pytest.raises(errors.TangentError, match=r"a mapping \{collection: tree\}"):
        packed.view.disassemble({"x": 3.0, "y": [{}]}, "test", errors.TangentError)


# --- modules ---------------------------------------------------------------------------------------------------------


class Counter(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        n = self.variable("state", "n", lambda: jnp.zeros(()))
        n.value += 1
        return x * self.param("w", nn.initializers.ones, ())


class Pair(nn.Module):
    a: Any
    b: Any = None

    def __call__(self, x: Any) -> Any:
        return self.a(x) if self.b is None else self.b(self.a(x))


def in_module(fn: Any, x: Any = 2.0) -> Any:
    """Run `fn(self, x)` in a compact method, at init and at apply; return both results and the states."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return fn(self, x)

    out, variables = Net().init_with_output(KEY, x)
    again, state = Net().apply(variables, x, mutable=["state"])
    return out, variables, again, state


def call(x: Any) -> Any:
    return lambda inner: inner(x)


def test_module_is_rebound_in_place_and_put_back():
    def fn(m, x):
        counter = Counter()
        before = counter.scope
        inside = []

        def run(inner):
            assert inner is counter
            inside.append(inner.scope)
            return counter(x)

        y = identity_lift(counter, run)
        assert counter.scope is before
        assert inside[0].store is not before.store
        return y

    out, variables, again, state = in_module(fn)
    assert (out, again) == (2, 2)
    assert variables == {"params": {"Counter_0": {"w": 1}}, "state": {"Counter_0": {"n": 1}}}
    assert state == {"state": {"Counter_0": {"n": 2}}}


def test_the_same_module_twice():
    def fn(m, x):
        counter = Counter()
        return identity_lift([counter, {"again": counter}], lambda inner: inner[0](x) + inner[1]["again"](x))

    out, variables, again, state = in_module(fn)
    assert (out, again) == (4, 4)
    assert variables["state"] == {"Counter_0": {"n": 2}}
    assert state == {"state": {"Counter_0": {"n": 4}}}


def test_module_and_its_submodule_at_once():
    def fn(m, x):
        counter = Counter()
        return identity_lift((m, counter), lambda inner: inner[1](x))

    out, variables, _, state = in_module(fn)
    assert out == 2
    assert variables == {"params": {"Counter_0": {"w": 1}}, "state": {"Counter_0": {"n": 1}}}
    assert state == {"state": {"Counter_0": {"n": 2}}}


def test_tree_of_modules():
    def fn(m, x):
        tree = {"one": Counter(), "more": [Counter(name="mine"), Counter()]}
        run = lambda t: t["one"](x) + t["more"][0](x) + t["more"][1](x)
        return identity_lift(tree, run)

    out, variables, again, state = in_module(fn)
    assert (out, again) == (6, 6)
    assert set(variables["params"]) == {"Counter_0", "mine", "Counter_1"}
    assert {k: v["n"] for k, v in state["state"].items()} == {"Counter_0": 2, "mine": 2, "Counter_1": 2}


def test_fields_from_elsewhere_go_along():
    """A module that is held as a field and lives next to its holder is packed under the name of the field."""

    def fn(m, x):
        counter = Counter()
        counter(x)
        pair = Pair(counter)
        packed = core.unbind(pair, (True,), True, "test")
        assert [set(tree) for tree in [packed.view.assemble(packed.groups[0])["state"]]] == [{"a"}]
        return identity_lift(pair, call(x))

    out, variables, _, state = in_module(fn)
    assert out == 2
    assert variables == {"params": {"Counter_0": {"w": 1}}, "state": {"Counter_0": {"n": 2}}}
    assert state == {"state": {"Counter_0": {"n": 4}}}


def test_one_field_shared_by_two_targets():
    def fn(m, x):
        counter = Counter()
        return identity_lift((Pair(counter), Pair(counter, Counter())), lambda t: t[0](x) + t[1](x))

    out, variables, _, state = in_module(fn)
    assert out == 4
    assert {k: v["n"] for k, v in variables["state"].items()} == {"Counter_0": 2, "Counter_1": 1}
    assert {k: v["n"] for k, v in state["state"].items()} == {"Counter_0": 4, "Counter_1": 2}


def test_automatic_names_go_on_after_a_transform():
    def fn(m, x):
        y = identity_lift(m, lambda inner: Counter()(x))
        return Counter()(y)

    assert set(in_module(fn)[1]["params"]) == {"Counter_0", "Counter_1"}


def test_lift_in_a_lift():
    def fn(m, x):
        counter = Counter()
        return identity_lift(m, lambda outer: identity_lift(counter, call(x)))

    out, _, again, state = in_module(fn)
    assert (out, again) == (2, 2)
    assert state == {"state": {"Counter_0": {"n": 2}}}


def test_module_is_put_back_when_the_function_raises():
    frame = calls.top

    def fn(m, x):
        counter = Counter()
        before = dict(counter.__dict__)

        def fail(inner):
            inner(x)
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            identity_lift(counter, fail)
        assert {k: v for k, v in counter.__dict__.items() if k != "_state"} == {
            k: v for k, v in before.items() if k != "_state"
        }
        return counter(x)

    _, variables, _, _ = in_module(fn)
    assert variables == {"params": {"Counter_0": {"w": 1}}, "state": {"Counter_0": {"n": 1}}}
    assert calls.top is frame


def test_include_makes_created_variables_arguments():
    def fn(m, x):
        packed = core.unbind(m, ("params", True), True, "test")

        def run(packed):
            with packed.bind(packed.groups, packed.keys) as inner:
                return Counter()(x), inner.collect()

        _, first = run(packed)
        assert first.state.created == ({("params", "Counter_0", "w"): 1, ("state", "Counter_0", "n"): 0},)
        whole = packed.include(first, "params")
        assert packed.groups[0] == ({},)
        assert whole.groups[0] == ({"params": {"Counter_0": {"w": 1}}},)
        out, second = run(whole)
        assert whole.include(second, "params").groups == whole.groups
        assert set(second.state.created[0]) == {("state", "Counter_0", "n")}
        whole.commit(second)
        return out

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return fn(self, x)

    _, variables = Net().init_with_output(KEY, 2.0)
    assert variables == {"params": {"Counter_0": {"w": 1}}, "state": {"Counter_0": {"n": 1}}}


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "got"),
    [(3, "got int"), ([], "empty list"), ({"a": "text"}, r"a dict with the keys \['a'\]"), ((), "empty")],
)
def test_what_is_no_target(target, got):
    with pytest.raises(errors.TransformTargetError, match=got):
        core.unbind(target, (True,), True, "test")


def test_unbound_module():
    with pytest.raises(errors.UnboundModuleError, match="test: the module Counter is not bound"):
        core.unbind(Counter(), (True,), True, "test")


def test_target_that_has_ended():
    kept = []
    in_module(lambda m, x: kept.append(m) or x)
    with pytest.raises(errors.InvalidScopeError, match="had ended"):
        core.unbind(kept[0], (True,), True, "test")
