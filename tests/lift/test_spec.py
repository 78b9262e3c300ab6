"""The examples of the documents that fix `vjp`, `jvp`, `grad`, `value_and_grad` and `custom_vjp`, executed and checked.

Every number is compared with plain JAX on explicit parameters, and every structure at init with the one at apply.
"""

import jax
import jax.numpy as jnp
import pytest
from flax import linen
from tests.support.cells import assert_trees_close

import liftax as lx
from liftax import core, lift, nn

X, Y = jnp.asarray(2.0), jnp.asarray(-3.0)
SCALE = {"params": {"LearnScale_0": {"scale": jnp.asarray(5.0)}}}


class LearnScale(nn.Module):
    @nn.compact
    def __call__(self, x, y):
        p = self.param("scale", nn.initializers.zeros_init(), ())
        return p * x * y


class Through(nn.Module):
    """Hands itself and what it is called with to `body`, in a compact method."""

    body: object

    @nn.compact
    def __call__(self, *args):
        return self.body(self, *args)


def at_init_and_apply(model, variables, *args, **kwargs):
    """Return `(out at init, variables at init, out at apply)`, the two outputs having been checked to look the same."""
    out_init, made = model.init_with_output(jax.random.key(0), *args, **kwargs)
    out = model.apply(variables, *args, **kwargs)
    assert jax.tree.structure(made) == jax.tree.structure(variables)
    assert jax.tree.structure(out_init) == jax.tree.structure(out)
    shapes = [jax.tree.map(lambda a: (jnp.shape(a), jnp.result_type(a)), tree) for tree in (out_init, out)]
    assert shapes[0] == shapes[1]
    return out_init, made, out


# --- vjp -------------------------------------------------------------------------------------------------------------


class VjpFoo(nn.Module):
    @nn.compact
    def __call__(self, x, y):
        z, bwd = nn.vjp(lambda mdl, x, y: mdl(x, y), LearnScale(), x, y)
        params_grad, x_grad, y_grad = bwd(jnp.ones(z.shape))
        return z, params_grad, x_grad, y_grad


def test_vjp_example():
    out_init, made, out = at_init_and_apply(VjpFoo(), SCALE, X, Y)
    p = SCALE["params"]["LearnScale_0"]["scale"]
    z, bwd = jax.vjp(lambda p, x, y: p * x * y, p, X, Y)
    p_ct, x_ct, y_ct = bwd(jnp.ones(()))
    assert_trees_close(out, (z, {"params": {"scale": p_ct}}, x_ct, y_ct))
    assert_trees_close(out, tuple(map(jnp.asarray, (-30.0,))) + ({"params": {"scale": -6.0}}, -15.0, 10.0))
    assert_trees_close(made, jax.tree.map(jnp.zeros_like, SCALE))
    assert_trees_close(out_init, (0.0, {"params": {"scale": -6.0}}, 0.0, 0.0))


def test_vjp_has_aux_returns_aux_last():
    def body(self, x, y):
        z, bwd, aux = nn.vjp(lambda mdl, x, y: (mdl(x, y), {"sum": x + y}), LearnScale(), x, y, has_aux=True)
        return z, bwd(jnp.ones(())), aux

    _, _, out = at_init_and_apply(Through(body), SCALE, X, Y)
    assert_trees_close(out, (-30.0, ({"params": {"scale": -6.0}}, -15.0, 10.0), {"sum": -1.0}))


def test_vjp_of_a_module_without_parameters_gives_the_empty_tree():
    class Square(nn.Module):
        def __call__(self, x):
            return x * x

    def body(self, x):
        y, bwd = nn.vjp(lambda mdl, x: mdl(x), Square(), x)
        return y, bwd(jnp.ones(()))

    _, _, out = at_init_and_apply(Through(body), {}, X)
    assert_trees_close(out, (4.0, ({}, 4.0)))


NESTED = {
    "grad": lambda fn: lambda mdl, x, y: nn.grad(fn, mdl, x, y)[0],
    "value_and_grad": lambda fn: lambda mdl, x, y: nn.value_and_grad(fn, mdl, x, y)[1][0],
    "jvp": lambda fn: lambda mdl, x, y: nn.jvp(fn, mdl, (x, y), (jnp.ones(()), jnp.zeros(())), variable_tangents={})[1],
    "vjp": lambda fn: lambda mdl, x, y: (lambda z, bwd: bwd(jnp.ones(()))[1])(*nn.vjp(fn, mdl, x, y)),
    "custom_vjp": lambda fn: NESTED["grad"](
        nn.custom_vjp(fn, lambda mdl, x, y: nn.vjp(fn, mdl, x, y), lambda bwd, ct: bwd(ct))
    ),
}


@pytest.mark.parametrize("inner", NESTED)
def test_vjp_around_another_transform_has_one_structure_at_init_and_apply(inner):
    """Parameters that the inner transform creates get a cotangent from the outer one."""

    def body(self, x, y):
        z, bwd = nn.vjp(NESTED[inner](lambda mdl, x, y: mdl(x, y)), LearnScale(), x, y)
        return z, bwd(jnp.ones(()))

    out_init, _, out = at_init_and_apply(Through(body), SCALE, X, Y)
    assert_trees_close(out, (-15.0, ({"params": {"scale": -3.0}}, 0.0, 5.0)))
    assert_trees_close(out_init, (0.0, ({"params": {"scale": -3.0}}, 0.0, 0.0)))


def test_vjp_variables_selects_collections():
    class Stat(nn.Module):
        @nn.compact
        def __call__(self, x):
            p = self.param("p", nn.initializers.ones, ())
            s = self.variable("stats", "s", lambda: jnp.ones(()))
            c = self.variable("consts", "c", lambda: jnp.ones(()))
            return p * s.value * c.value * x

    variables = {
        "params": {"Stat_0": {"p": jnp.asarray(2.0)}},
        "stats": {"Stat_0": {"s": jnp.asarray(3.0)}},
        "consts": {"Stat_0": {"c": jnp.asarray(5.0)}},
    }
    wanted = {"params": {"p": 15.0 * 7}, "stats": {"s": 10.0 * 7}, "consts": {"c": 6.0 * 7}}
    for filter_, names in [
        ("params", ["params"]),
        ("stats", ["stats"]),
        (["params", "stats"], ["params", "stats"]),
        (nn.DenyList("params"), ["stats", "consts"]),
        (True, ["params", "stats", "consts"]),
        (False, []),
    ]:

        def body(self, x, filter_=filter_):
            _, bwd = nn.vjp(lambda mdl, x: mdl(x), Stat(), x, vjp_variables=filter_)
            return bwd(jnp.ones(()))

        _, _, out = at_init_and_apply(Through(body), variables, jnp.asarray(7.0))
        assert_trees_close(out, ({name: wanted[name] for name in names}, 30.0))


def test_vjp_of_variables_returned_by_fn():
    """A cotangent for variables: return them from `fn`."""

    def body(self, x, y):
        def fn(mdl, x, y):
            return mdl(x, y), mdl.variables["params"]

        (z, _), bwd = nn.vjp(fn, LearnScale(), x, y)
        return bwd((jnp.ones_like(z), {"scale": jnp.asarray(100.0)}))

    _, _, out = at_init_and_apply(Through(body), SCALE, X, Y)
    assert_trees_close(out, ({"params": {"scale": 94.0}}, -15.0, 10.0))


@pytest.mark.parametrize("transform", [nn.vjp, nn.grad], ids=["vjp", "grad"])
def test_reduce_axes_sums_what_is_broadcast(transform):
    """What is not mapped over the named axis is summed over it; what is mapped keeps one gradient an example."""

    def body(self, x, y, axes):
        if transform is nn.grad:
            return nn.grad(lambda mdl, x, y: mdl(x, y), LearnScale(), x, y, reduce_axes=axes)
        z, bwd = nn.vjp(lambda mdl, x, y: mdl(x, y), LearnScale(), x, y, reduce_axes=axes)
        params_ct, *cts = bwd(jnp.ones_like(z))
        return *cts, params_ct

    xs = jnp.asarray([1.0, 2.0, 4.0])

    def mapped(axes):
        return jax.vmap(lambda x: Through(body).apply(SCALE, x, Y, axes), axis_name="batch")(xs)

    x_ct, y_ct, *params_ct = mapped(("batch",))
    assert_trees_close((x_ct, y_ct), (jnp.full(3, -15.0), jnp.full(3, 35.0)))
    assert_trees_close(params_ct, [{"params": {"scale": jnp.full(3, -21.0)}}] if transform is nn.vjp else [])
    x_ct, y_ct, *params_ct = mapped(())
    assert_trees_close((x_ct, y_ct), (jnp.full(3, -15.0), 5.0 * xs))
    assert_trees_close(params_ct, [{"params": {"scale": -3.0 * xs}}] if transform is nn.vjp else [])


# --- grad and value_and_grad -----------------------------------------------------------------------------------------


class GradFoo(nn.Module):
    @nn.compact
    def __call__(self, x, y):
        x_grad, y_grad = nn.grad(lambda mdl, x, y: mdl(x, y), LearnScale(), x, y)
        return x_grad, y_grad


def test_grad_example():
    out_init, made, out = at_init_and_apply(GradFoo(), SCALE, X, Y)
    assert_trees_close(out, jax.grad(lambda x, y: 5.0 * x * y, argnums=(0, 1))(X, Y))
    assert_trees_close(out_init, (0.0, 0.0))
    assert_trees_close(made, jax.tree.map(jnp.zeros_like, SCALE))


def test_grad_has_aux_returns_grads_and_aux():
    def body(self, x, y):
        return nn.grad(lambda mdl, x, y: (mdl(x, y), [x, y]), LearnScale(), x, y, has_aux=True)

    _, _, out = at_init_and_apply(Through(body), SCALE, X, Y)
    assert_trees_close(out, ((-15.0, 10.0), [X, Y]))


def test_grad_of_a_pytree_primal():
    def body(self, primal):
        return nn.grad(lambda mdl, d: mdl(d["x"], d["y"][0]), LearnScale(), primal)

    _, _, out = at_init_and_apply(Through(body), SCALE, {"x": X, "y": [Y]})
    assert_trees_close(out, ({"x": -15.0, "y": [10.0]},))


def test_value_and_grad_example():
    def body(self, x, y):
        z, (x_grad, y_grad) = nn.value_and_grad(lambda mdl, x, y: mdl(x, y), LearnScale(), x, y)
        return z, x_grad, y_grad

    out_init, _, out = at_init_and_apply(Through(body), SCALE, X, Y)
    assert_trees_close(out, (-30.0, -15.0, 10.0))
    assert_trees_close(out_init, (0.0, 0.0, 0.0))


@pytest.mark.parametrize("has_aux", [False, True])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("transform", ["grad", "value_and_grad"])
def test_structure_of_results_is_that_of_linen(transform, count, has_aux):
    """A tuple of gradients even for one primal, and with `has_aux` the auxiliary data where Linen has it."""
    made = []
    for m in (nn, linen):

        class Host(m.Module):
            @m.compact
            def __call__(self, *primals, m=m):
                def fn(mdl, *primals):
                    y = jnp.sum(mdl(jnp.stack(primals)))
                    return (y, {"aux": primals[0]}) if has_aux else y

                return getattr(m, transform)(fn, m.Dense(1), *primals, has_aux=has_aux)

        primals = (X, Y)[:count]
        variables = Host().init(jax.random.key(0), *primals)
        made.append((Host().apply(variables, *primals), Host().init_with_output(jax.random.key(0), *primals)[0]))
    assert_trees_close(made[0], made[1])


# --- jvp -------------------------------------------------------------------------------------------------------------


class LearnScaleOfOne(nn.Module):
    @nn.compact
    def __call__(self, x):
        p = self.param("test", nn.initializers.zeros_init(), ())
        return p * x


class JvpFoo(nn.Module):
    @nn.compact
    def __call__(self, x):
        scale = LearnScaleOfOne()
        vars_t = jax.tree_util.tree_map(jnp.ones_like, scale.variables.get("params", {}))
        _, out_t = nn.jvp(
            lambda mdl, x: mdl(x), scale, (x,), (jnp.zeros_like(x),), variable_tangents={"params": vars_t}
        )
        return out_t


def test_jvp_example():
    variables = {"params": {"LearnScaleOfOne_0": {"test": jnp.asarray(5.0)}}}
    out_init, made, out = at_init_and_apply(JvpFoo(), variables, X)
    _, want = jax.jvp(lambda p, x: p * x, (jnp.asarray(5.0), X), (jnp.ones(()), jnp.zeros(())))
    assert_trees_close(out, want)
    assert_trees_close(made, jax.tree.map(jnp.zeros_like, variables))
    assert_trees_close(out_init, 0.0)  # no variable exists yet, so none was given a tangent


def test_jvp_example_on_a_scope():
    def learn_scale(scope, x):
        p = scope.param("scale", nn.initializers.zeros_init(), ())
        return p * x

    def f(scope, x):
        vars_t = jax.tree_util.tree_map(jnp.ones_like, scope.variables().get("params", {}))
        x, out_t = lift.jvp(learn_scale, scope, (x,), (jnp.zeros_like(x),), variable_tangents={"params": vars_t})
        return out_t

    out_init, made = core.init(f)(jax.random.key(0), X)
    assert_trees_close((out_init, made), (0.0, {"params": {"scale": 0.0}}))
    assert_trees_close(core.apply(f)({"params": {"scale": jnp.asarray(5.0)}}, X), X)


def test_variable_tangents_of_variables_that_do_not_exist_yet():
    """Tangents may be given by name at init, too: the variables are created first, then differentiated."""

    def body(self, x):
        return nn.jvp(
            lambda mdl, x: mdl(x),
            LearnScaleOfOne(),
            (x,),
            (x,),
            variable_tangents={"params": {"test": jnp.asarray(3.0)}},
        )

    variables = {"params": {"LearnScaleOfOne_0": {"test": jnp.asarray(5.0)}}}
    out_init, _, out = at_init_and_apply(Through(body), variables, X)
    assert_trees_close(out, (10.0, 16.0))
    assert_trees_close(out_init, (0.0, 6.0))


def test_jvp_zero_tangents_for_what_is_not_named():
    def body(self, x):
        return nn.jvp(lambda mdl, x: mdl(x), LearnScaleOfOne(), (x,), (jnp.asarray(1.0),), variable_tangents={})

    variables = {"params": {"LearnScaleOfOne_0": {"test": jnp.asarray(5.0)}}}
    out_init, _, out = at_init_and_apply(Through(body), variables, X)
    assert_trees_close(out, (10.0, 5.0))
    assert_trees_close(out_init, (0.0, 0.0))


@pytest.mark.parametrize("sequence", [tuple, list])
def test_jvp_takes_tuples_and_lists(sequence):
    def body(self, x):
        return nn.jvp(
            lambda mdl, x, y: mdl(x) + y, LearnScaleOfOne(), sequence([x, x]), sequence([x, x]), variable_tangents={}
        )

    variables = {"params": {"LearnScaleOfOne_0": {"test": jnp.asarray(5.0)}}}
    _, _, out = at_init_and_apply(Through(body), variables, X)
    assert_trees_close(out, (12.0, 12.0))


# --- custom_vjp ------------------------------------------------------------------------------------------------------


class SignFoo(nn.Module):
    @nn.compact
    def __call__(self, x):
        def f(mdl, x):
            return mdl(x)

        def fwd(mdl, x):
            return nn.vjp(f, mdl, x)

        def bwd(vjp_fn, y_t):
            params_t, *inputs_t = vjp_fn(y_t)
            params_t = jax.tree_util.tree_map(jnp.sign, params_t)
            return (params_t, *inputs_t)

        sign_grad = nn.custom_vjp(f, forward_fn=fwd, backward_fn=bwd)
        return sign_grad(nn.Dense(1), x).reshape(())


@pytest.mark.parametrize("x", [jnp.ones((2,)), jnp.asarray([0.25, -3.0])], ids=str)
def test_custom_vjp_example(x):
    variables = SignFoo().init(jax.random.key(0), x)
    grads, x_grad = jax.grad(SignFoo().apply, argnums=(0, 1))(variables, x)
    kernel = variables["params"]["Dense_0"]["kernel"]
    assert_trees_close(grads, {"params": {"Dense_0": {"kernel": jnp.sign(x)[:, None], "bias": jnp.ones(1)}}})
    assert_trees_close(x_grad, kernel[:, 0])
    out_init, _, out = at_init_and_apply(SignFoo(), variables, x)
    assert_trees_close(out, x @ kernel[:, 0])
    assert_trees_close(out_init, out)


def test_custom_vjp_example_differentiated_at_init():
    x = jnp.asarray([0.25, -3.0])
    variables = SignFoo().init(jax.random.key(0), x)
    x_grad, made = jax.grad(lambda x: SignFoo().init_with_output(jax.random.key(0), x), has_aux=True)(x)
    assert_trees_close(made, variables)
    assert_trees_close(x_grad, variables["params"]["Dense_0"]["kernel"][:, 0])


# --- the plain function that the lifted one stands on ----------------------------------------------------------------


def test_jax_vjp_example():
    def f(x, y):
        return jax.numpy.sin(x), jax.numpy.cos(y)

    primals, f_vjp = lx.vjp(f, 0.5, 1.0)
    xbar, ybar = f_vjp((-0.7, 0.3))
    assert_trees_close(primals, (jnp.sin(0.5), jnp.cos(1.0)))
    assert (str(xbar), str(ybar)) == ("-0.61430776", "-0.2524413")
