"""`nn.vjp(state_cotangents=True)`: what `fn` wrote is an output of the backward map, too."""

import jax
import jax.numpy as jnp
import pytest
from tests.support.cells import assert_trees_close

from liftax import errors, nn

from .test_custom_vjp import KEY, Normed, Through, X, out

plain = Through(lambda self, x: Normed(name="block")(x))
VARIABLES = plain.init(KEY, X)


def run(give):
    """Apply a model that pulls back what `give(y, state)` says."""

    def body(self, x):
        mdl = Normed(name="block")
        y, bwd = nn.vjp(out, mdl, x, state_cotangents=True)
        return bwd(*give(y, mdl.variables["batch_stats"]))

    return Through(body)


def reference(p, x):
    y, state = plain.apply({**VARIABLES, "params": p}, x, mutable=["batch_stats"])
    return y, state["batch_stats"]["block"]


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("which", ["all", "mean", "none"])
def test_against_jax(which, wrap):
    def give(y, stats):
        if which == "none":
            return (jnp.cos(y),)
        leaves = {k: jnp.sin(v) for k, v in stats["BatchNorm_0"].items() if which in ("all", k)}
        return jnp.cos(y), {"batch_stats": {"BatchNorm_0": leaves}}

    def want(p, x):
        (y, stats), bwd = jax.vjp(reference, p, x)
        factors = {"mean": which in ("all", "mean"), "var": which == "all"}
        p_ct, x_ct = bwd(
            (jnp.cos(y), {"BatchNorm_0": {k: f * jnp.sin(stats["BatchNorm_0"][k]) for k, f in factors.items()}})
        )
        return {"params": p_ct["block"]}, x_ct

    got = wrap(lambda v, x: run(give).apply(v, x, mutable=["batch_stats"])[0])(VARIABLES, X)
    assert_trees_close(got, want(VARIABLES["params"], X), 1e-5)


def test_the_map_is_a_pytree_and_may_be_vmapped():
    """Without another run of `fn`: one backward map, many cotangents of the state."""
    calls = []

    def fn(mdl, x):
        calls.append(1)
        return mdl(x)

    def body(self, x, cts):
        y, bwd = nn.vjp(fn, Normed(name="block"), x, state_cotangents=True)
        pull = lambda ct: bwd(jnp.zeros_like(y), {"batch_stats": {"BatchNorm_0": {"mean": ct}}})[1]
        before = len(calls)
        return jax.vmap(pull)(cts), len(calls) - before

    (got, runs), _ = Through(body).apply(VARIABLES, X, jnp.eye(2), mutable=["batch_stats"])
    want = jax.jacrev(lambda x: reference(VARIABLES["params"], x)[1]["BatchNorm_0"]["mean"])(X)
    assert_trees_close(got, want, 1e-5)
    assert runs == 0


@pytest.mark.parametrize(
    ("state_ct", "text"),
    [
        (
            {"batch_stats": {"BatchNorm_0": {"mean": jnp.ones(3)}}},
            r"batch_stats/BatchNorm_0/mean.*float32\[2\].*float32\[3\]",
        ),
        (
            {"batch_stat": {"BatchNorm_0": {"mean": jnp.ones(2)}}},
            "batch_stat at the target, which does not exist.*batch_stats",
        ),
        (3.0, "expected a mapping"),
    ],
)
def test_errors(state_ct, text):
    with pytest.raises(errors.CotangentError, match=text):
        run(lambda y, _: (y, state_ct)).apply(VARIABLES, X, mutable=["batch_stats"])


@pytest.mark.parametrize("called_before", [False, True])
@pytest.mark.parametrize("wrt", ["params", "batch_stats", ["params", "batch_stats"]], ids=str)
def test_structure_in_init(wrt, called_before):
    """A norm writes no statistics in `init`; their cotangents are taken all the same."""

    def body(self, x):
        norm = nn.BatchNorm(use_running_average=False, name="norm")
        if called_before:
            norm(x)
        y, bwd = nn.vjp(out, norm, x, vjp_variables=wrt, state_cotangents=True)
        return bwd(y, {"batch_stats": {"mean": jnp.ones(2)}})

    made, variables = Through(body).init_with_output(KEY, X)
    got, _ = Through(body).apply(variables, X, mutable=["batch_stats"])
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, got)
    with pytest.raises(errors.CotangentError, match="batch_stat at the target"):
        run(lambda y, _: (y, {"batch_stat": {"mean": jnp.ones(2)}})).init(KEY, X)
