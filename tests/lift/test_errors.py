"""Every mistake has its class and a text that says where it is and what to do, and leaves the variables alone."""

import re

import jax
import jax.numpy as jnp
import pytest
from tests.support.cells import assert_trees_close

from liftax import core, errors, nn

X = jnp.asarray([[1.0, -2.0], [0.5, 3.0], [2.0, 0.25]])


class Block(nn.Module):
    """A dense layer and batch statistics, which every call changes."""

    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=False)(nn.Dense(2)(x))


class Plain(nn.Module):
    """A module without variables."""

    def __call__(self, x):
        return x * x


class Through(nn.Module):
    """Hands itself and what it is called with to `body`, in a compact method."""

    body: object

    @nn.compact
    def __call__(self, *args):
        return self.body(self, *args)


VARIABLES = Block().init(jax.random.key(0), X)


def out(mdl, x):
    return mdl(x)


def scalar(mdl, x):
    return jnp.sum(mdl(x) ** 2)


def nothing(mdl, x):
    raise AssertionError("fn must not be called")


def call(transform, fn, mdl, *primals, **kwargs):
    """Call any of the transforms with one convention; `custom_vjp` gets the rule that JAX would find."""
    if transform == "custom_vjp":
        return nn.custom_vjp(fn, lambda *a: nn.vjp(fn, *a), lambda bwd, ct: bwd(ct), **kwargs)(mdl, *primals)
    if transform == "jvp":
        return nn.jvp(fn, mdl, primals, primals, variable_tangents={}, **kwargs)
    return getattr(nn, transform)(fn, mdl, *primals, **kwargs)


ALL = ("vjp", "jvp", "grad", "value_and_grad", "custom_vjp")
GRADS = ("grad", "value_and_grad")


class Caught:
    """Runs `body(bound block)`, which must raise `error` with all of `texts`; the variables must stay as they were."""

    def __init__(self, error, *texts):
        self.error, self.texts = error, texts

    def by(self, body, variables=VARIABLES, mutable=("batch_stats",), model=None):
        mdl = (model or Block()).bind(variables, mutable=list(mutable))
        before = jax.tree.map(jnp.array, mdl.variables)
        with pytest.raises(self.error) as caught:
            body(mdl)
        assert type(caught.value) is self.error
        check_text(caught.value, *self.texts)
        assert_trees_close(jax.tree.map(jnp.array, mdl.variables), before, 0)
        if variables is VARIABLES and mutable:  # and it still works
            y, bwd = nn.vjp(out, mdl, X)
            want, _ = Block().apply(variables, X, mutable=["batch_stats"])
            assert_trees_close(y, want)
            assert set(bwd(y)[0]) == {"params"}


def check_text(error, *texts):
    """Assert that the text of an error says each of `texts`, and enough to act on."""
    for text in texts:
        assert re.search(text, str(error)), f"{text!r} is not in: {error}"
    assert len(str(error)) > 40, f"too little to act on: {error}"


# --- the target ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ALL)
def test_unbound_module(transform):
    with pytest.raises(errors.UnboundModuleError) as caught:
        call(transform, nothing, nn.Dense(2), X)
    check_text(caught.value, "Dense", r"apply|bind|init")


@pytest.mark.parametrize("transform", ALL)
@pytest.mark.parametrize(
    "target", [X, 3, None, "params", nn.Dense, {"params": {}}, {"a": X}], ids=lambda t: str(t)[:12]
)
def test_target_is_no_module(transform, target):
    with pytest.raises(errors.TransformTargetError) as caught:
        call(transform, nothing, target, X)
    check_text(caught.value, transform, "[Mm]odule")


@pytest.mark.parametrize("transform", ALL)
def test_wrong_arity(transform):
    Caught(errors.ArityError, "argument").by(lambda mdl: call(transform, lambda mdl: mdl, mdl, X))
    Caught(errors.ArityError, "argument").by(lambda mdl: call(transform, lambda mdl, x, y: x, mdl, X))


@pytest.mark.parametrize("transform", ALL)
def test_type_error_inside_fn_is_no_arity_error(transform):
    """A TypeError of the user's own code is handed through as it is."""

    def fn(mdl, x):
        return scalar(mdl) + x

    mdl = Block().bind(VARIABLES, mutable=["batch_stats"])
    with pytest.raises(TypeError) as caught:
        call(transform, fn, mdl, X)
    assert not isinstance(caught.value, errors.LiftaxError)


# --- cotangents and tangents -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ct", "texts"),
    [
        ({"a": jnp.ones((3, 2))}, [r"\bb\b"]),
        ({"a": jnp.ones((3, 2)), "b": (jnp.ones(()),), "c": jnp.ones(())}, [r"\bc\b"]),
        ({"a": jnp.ones((3, 2)), "b": jnp.ones(())}, [r"\bb\b"]),
        ({"a": jnp.ones((2, 3)), "b": (jnp.ones(()),)}, [r"\ba\b", r"2, ?3", r"3, ?2"]),
        ({"a": jnp.ones((3, 2)), "b": (jnp.ones(1),)}, [r"\bb\b", r"1"]),
        ({"a": jnp.ones((3, 2), jnp.int32), "b": (jnp.ones(()),)}, [r"\ba\b", "int32", "float32"]),
        ({"a": jnp.ones((3, 2), jnp.bfloat16), "b": (jnp.ones(()),)}, [r"\ba\b", "bfloat16", "float32"]),
        (jnp.ones((3, 2)), []),
    ],
    ids=["missing leaf", "leaf too many", "leaf for tuple", "shape", "rank", "integer", "dtype", "one array"],
)
def test_wrong_cotangent(ct, texts):
    def fn(mdl, x):
        y = mdl(x)
        return {"a": y, "b": (jnp.sum(y),)}

    mdl = Block().bind(VARIABLES, mutable=["batch_stats"])
    y, bwd = nn.vjp(fn, mdl, X)
    before = jax.tree.map(jnp.array, mdl.variables)
    with pytest.raises(errors.CotangentError) as caught:
        bwd(ct)
    check_text(caught.value, "cotangent", "[Gg]ot|[Ii]s", "[Ee]xpect", *texts)
    assert_trees_close(mdl.variables, before, 0)
    assert set(bwd(y)[0]) == {"params"}  # the backward map still works


def test_wrong_cotangent_inside_a_module_says_cotangent_and_not_tangent():
    def body(self, x):
        _, bwd = nn.vjp(out, nn.Dense(2), x)
        return bwd(jnp.ones(5))

    with pytest.raises(errors.CotangentError) as caught:
        Through(body).init(jax.random.key(0), X)
    check_text(caught.value, r"\b[Cc]otangent", r"\[5\]", r"3, ?2")
    assert not re.search(r"\b[Tt]angent", str(caught.value))


@pytest.mark.parametrize(
    ("primals", "tangents"),
    [((X,), (X[:2],)), ((X,), (X, X)), ((X,), ()), ((X,), ({"x": X},)), ((X,), (X.astype(jnp.bfloat16),))],
    ids=["shape", "too many", "none", "structure", "dtype"],
)
def test_wrong_input_tangent(primals, tangents):
    Caught(errors.TangentError, "tangent", "[Gg]ot", "[Ee]xpect").by(
        lambda mdl: nn.jvp(out, mdl, primals, tangents, variable_tangents={})
    )


def test_primals_of_jvp_are_a_sequence():
    """`nn.jvp(fn, mdl, x, x, …)` would otherwise differentiate the rows of `x` one by one."""
    Caught(errors.TangentError, "primals", "tuple").by(lambda mdl: nn.jvp(nothing, mdl, X, X, variable_tangents={}))


@pytest.mark.parametrize(
    ("tangents", "texts"),
    [
        ({"Dense_0": {"kernel": jnp.ones((2, 3))}}, ["kernel", r"2, ?3", r"2, ?2"]),
        ({"Dense_0": {"kernl": jnp.ones((2, 2))}}, ["kernl", "kernel"]),
        ({"Dense_1": {"kernel": jnp.ones((2, 2))}}, ["Dense_1", "Dense_0"]),
        ({"Dense_0": {"kernel": jnp.ones((2, 2), jnp.int32)}}, ["kernel", "int32", "float32"]),
        ({"Dense_0": jnp.ones((2, 2))}, ["Dense_0"]),
    ],
    ids=["shape", "unknown variable", "unknown module", "dtype", "structure"],
)
def test_wrong_variable_tangent(tangents, texts):
    Caught(errors.TangentError, "tangent", "params", *texts).by(
        lambda mdl: nn.jvp(out, mdl, (X,), (X,), variable_tangents={"params": tangents})
    )


def test_variable_tangent_for_an_unknown_collection():
    mdl = Block().bind(VARIABLES, mutable=["batch_stats"])
    with pytest.raises((errors.UnknownCollectionError, errors.TangentError)) as caught:
        nn.jvp(out, mdl, (X,), (X,), variable_tangents={"parms": VARIABLES["params"]})
    check_text(caught.value, "parms", "params", "batch_stats")


# --- what can be differentiated --------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", GRADS)
@pytest.mark.parametrize(
    ("output", "texts"),
    [
        (lambda y: y, [r"3, ?2"]),
        (lambda y: jnp.sum(y)[None], [r"\[1\]"]),
        (lambda y: jnp.sum(y).astype(jnp.int32), ["int32"]),
        (lambda y: jnp.sum(y) > 0, ["bool"]),
        (lambda y: jnp.sum(y) * 1j, ["complex64"]),
        (lambda y: (jnp.sum(y), y), ["tuple|has_aux"]),
        (lambda y: {"loss": jnp.sum(y)}, ["dict|loss"]),
        (lambda y: None, ["None"]),
        (lambda y: 3, ["int"]),
    ],
    ids=["matrix", "vector of one", "integer", "Boolean", "complex", "pair", "dict", "None", "Python int"],
)
def test_output_is_no_real_scalar(transform, output, texts):
    """The output is looked at before the backward pass is built, so no backward rule runs."""
    ran = []

    @jax.custom_vjp
    def watched(y):
        return y

    watched.defvjp(lambda y: (y, None), lambda _, ct: (ran.append("backward"), (ct,))[1])
    Caught(errors.NonDifferentiableOutputError, "scalar", *texts).by(
        lambda mdl: call(transform, lambda mdl, x: output(watched(mdl(x))), mdl, X)
    )
    assert ran == []


@pytest.mark.parametrize("transform", GRADS)
@pytest.mark.parametrize(
    ("primal", "texts"),
    [
        (jnp.arange(6).reshape(3, 2), ["int32"]),
        (X > 0, ["bool"]),
        ({"x": X, "steps": jnp.arange(3)}, ["steps", "int32"]),
        (3, ["int"]),
        ("x", ["str"]),
        (jax.random.key(0), ["key"]),
    ],
    ids=["integer", "Boolean", "in a dict", "Python int", "text", "key"],
)
def test_primal_is_not_differentiable(transform, primal, texts):
    Caught(errors.NonDifferentiablePrimalError, "float", *texts).by(lambda mdl: call(transform, nothing, mdl, primal))


@pytest.mark.parametrize("transform", ["vjp", *GRADS])
@pytest.mark.parametrize(
    "result",
    [
        lambda y: jnp.stack([jnp.sum(y), jnp.sum(y)]),
        lambda y: jnp.sum(y),
        lambda y: (jnp.sum(y), y, y),
        lambda y: (jnp.sum(y),),
        lambda y: {"loss": jnp.sum(y), "aux": y},
        lambda y: None,
    ],
    ids=["array of two", "scalar", "three", "one", "dict", "None"],
)
def test_aux_without_a_pair(transform, result):
    Caught(errors.AuxError, "has_aux", "pair|aux\\)").by(
        lambda mdl: call(transform, lambda mdl, x: result(mdl(x)), mdl, X, has_aux=True)
    )


# --- variables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ALL)
def test_missing_parameter(transform):
    """Below another module, the text gives the whole path."""

    def body(self, x):
        return call(transform, scalar, nn.Dense(2, name="inside"), x)

    model = Through(body)
    with pytest.raises(errors.ScopeParamNotFoundError) as caught:
        model.apply({"params": {"inside": {"bias": jnp.ones(2)}}}, X)
    check_text(caught.value, "kernel", "params", "/inside", "init")
    with pytest.raises(errors.ScopeParamNotFoundError) as caught:
        model.apply({"params": {"other": {"kernel": jnp.ones((2, 2))}}}, X)
    check_text(caught.value, "kernel", "params", "/inside", "init", "nothing for this module")
    assert "filter" not in str(caught.value)  # the user wrote none
    with pytest.raises(errors.ScopeCollectionNotFound) as caught:
        model.apply({"params": {}}, X)
    check_text(caught.value, "kernel", "params", "/inside", "init")


@pytest.mark.parametrize("transform", ALL)
def test_wrong_parameter_shape(transform):
    wrong = {"params": {"inside": {"kernel": jnp.ones((5, 2)), "bias": jnp.ones(2)}}}
    with pytest.raises(errors.ScopeParamShapeError) as caught:
        Through(lambda self, x: call(transform, scalar, nn.Dense(2, name="inside"), x)).apply(wrong, X)
    check_text(caught.value, "kernel", "/inside", r"5, ?2", r"2, ?2")


@pytest.mark.parametrize("transform", ALL)
def test_write_to_an_immutable_collection(transform):
    Caught(errors.ModifyScopeVariableError, "batch_stats", "mean", "/BatchNorm_0", "mutable").by(
        lambda mdl: call(transform, scalar, mdl, X), mutable=()
    )


@pytest.mark.parametrize("transform", ALL)
def test_failure_in_fn_writes_nothing(transform):
    """`fn` fails after it wrote: the outer variables do not see it."""

    class OwnError(Exception):
        """The user's own error, long enough to be told from ours."""

    def fn(mdl, x):
        mdl(x)
        raise OwnError("this is the user's own error, which passes through")

    Caught(OwnError).by(lambda mdl: call(transform, fn, mdl, X))


# --- filters ---------------------------------------------------------------------------------------------------------

FILTERS = [
    ("vjp", "vjp_variables"),
    ("vjp", "variables"),
    ("jvp", "variables"),
    ("grad", "variables"),
    ("value_and_grad", "variables"),
    ("custom_vjp", "grad_vars"),
]


@pytest.mark.parametrize(("transform", "argument"), FILTERS)
@pytest.mark.parametrize("filter_", ["parms", ["parms"], ["parms", "batch_stats"]], ids=str)
def test_misspelt_collection(transform, argument, filter_):
    """The text lists what there is and suggests the nearest."""
    Caught(
        errors.UnknownCollectionError, "'parms'", argument, "'params'", "batch_stats", "[Dd]id you mean 'params'"
    ).by(lambda mdl: call(transform, nothing, mdl, X, **{argument: filter_}))


@pytest.mark.parametrize(("transform", "argument"), FILTERS)
def test_filter_that_matches_nothing(transform, argument):
    Caught(errors.UnknownCollectionError, "'weights'", argument, "params", "batch_stats").by(
        lambda mdl: call(transform, nothing, mdl, X, **{argument: "weights"})
    )


@pytest.mark.parametrize(("transform", "argument"), FILTERS)
@pytest.mark.parametrize("filter_", [3, 1.5, [1], None], ids=str)
def test_value_that_is_no_filter(transform, argument, filter_):
    Caught(errors.InvalidFilterError, "filter", type(filter_).__name__).by(
        lambda mdl: call(transform, nothing, mdl, X, **{argument: filter_})
    )


def test_default_filter_on_a_module_without_parameters():
    """The default 'params' asks for nothing that a module without parameters lacks."""
    y, dot, slope = jnp.sum(X * X), jnp.sum(2 * X * X), 2 * X
    wanted = {"vjp": y, "jvp": (y, dot), "grad": (slope,), "value_and_grad": (y, (slope,)), "custom_vjp": y}

    def body(self, x, transform):
        nn.BatchNorm(use_running_average=True, use_scale=False, use_bias=False)(x)
        result = call(transform, lambda mdl, x: jnp.sum(mdl(x)), Plain(), x)
        return result[0] if transform == "vjp" else result

    variables = Through(body).init(jax.random.key(0), X, "grad")
    assert set(variables) == {"batch_stats"}
    for transform, want in wanted.items():
        assert_trees_close(Through(body).apply(variables, X, transform), want)


@pytest.mark.parametrize("transform", ["vjp", "custom_vjp"])
def test_default_filter_with_statistics_alone(transform):
    def body(self, x):
        norm = nn.BatchNorm(use_running_average=False, use_scale=False, use_bias=False)
        if transform == "vjp":
            y, bwd = nn.vjp(out, norm, x)
            return bwd(y)[0]
        return call(transform, out, norm, x)

    model = Through(body)
    made, variables = model.init_with_output(jax.random.key(0), X)
    got, _ = model.apply(variables, X, mutable=["batch_stats"])
    if transform == "vjp":
        assert got == made == {}
    else:
        assert_trees_close(jnp.mean(got, 0), jnp.zeros(2), 1e-5)


# --- custom_vjp ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "result",
    [lambda y: y, lambda y: (y, y, y), lambda y: jnp.stack([y, y]), lambda y: None],
    ids=["output alone", "three", "array of two", "None"],
)
def test_forward_fn_without_a_pair(result):
    rule = nn.custom_vjp(out, lambda mdl, x: result(mdl(x)), lambda res, ct: (ct, ct))
    Caught(errors.AuxError, "forward_fn", "residuals").by(lambda mdl: jax.grad(lambda x: jnp.sum(rule(mdl, x)))(X))


@pytest.mark.parametrize(
    ("cts", "texts"),
    [
        (lambda p, x: (p,), ["1", "2"]),
        (lambda p, x: (p, x, x), ["3", "2"]),
        (lambda p, x: x, ["2", r"float32\[3, ?2\]"]),
        (lambda p, x: (p, x[:2]), [r"2, ?2", r"3, ?2"]),
        (lambda p, x: ({"params": {"Dense_0": p["params"]["Dense_0"]}}, x), ["BatchNorm_0"]),
        (lambda p, x: (p["params"], x), ["params"]),
        (lambda p, x: (jax.tree.map(lambda v: v.astype(jnp.bfloat16), p), x), ["bfloat16", "float32"]),
    ],
    ids=["one", "three", "no tuple", "shape", "missing variable", "no collection", "dtype"],
)
def test_backward_fn_with_wrong_cotangents(cts, texts):
    rule = nn.custom_vjp(out, lambda mdl, x: nn.vjp(out, mdl, x), lambda bwd, ct: cts(*bwd(ct)))

    def loss(variables, x):
        y, _ = Through(lambda self, x: rule(Block(name="block"), x)).apply(variables, x, mutable=["batch_stats"])
        return jnp.sum(y * y)

    inside = {collection: {"block": tree} for collection, tree in VARIABLES.items()}
    for f in (loss, jax.jit(loss)):
        with pytest.raises(errors.CotangentError) as caught:
            jax.grad(f, argnums=1)(inside, X)
        check_text(caught.value, "backward_fn", "[Cc]otangent", *texts)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_cotangent_of_written_state(wrap):
    rule = nn.custom_vjp(out, lambda mdl, x: nn.vjp(out, mdl, x), lambda bwd, ct: bwd(ct))
    model = Through(lambda self, x: rule(Block(name="block"), x))
    inside = {collection: {"block": tree} for collection, tree in VARIABLES.items()}

    @wrap
    def loss(variables, x):
        y, state = model.apply(variables, x, mutable=["batch_stats"])
        return jnp.sum(y) + jnp.sum(state["batch_stats"]["block"]["BatchNorm_0"]["mean"])

    with pytest.raises(errors.StateCotangentError) as caught:
        jax.grad(loss)(inside, X)
    check_text(caught.value, "batch_stats", "BatchNorm_0", "mean", "state_cotangents", "stop_gradient")


def test_differentiated_array_in_a_keyword():
    """A keyword is a constant of the rule: a gradient through it would vanish without a word."""
    fn = lambda mdl, x, scale: mdl(x) * scale
    rule = nn.custom_vjp(
        fn, lambda mdl, x, scale: nn.vjp(lambda m, x: fn(m, x, scale), mdl, x), lambda bwd, ct: bwd(ct)
    )
    model = Through(lambda self, x, scale: rule(nn.Dense(2), x, scale=scale))
    variables = model.init(jax.random.key(0), X, 2.0)
    with pytest.raises(errors.DroppedGradientError) as caught:
        jax.grad(lambda scale: jnp.sum(model.apply(variables, X, scale)))(2.0)
    check_text(caught.value, "scale", "positional|nondiff_argnums|argument")
    with pytest.raises(errors.DroppedGradientError):
        jax.jvp(lambda scale: jnp.sum(model.apply(variables, X, scale)), (2.0,), (1.0,))


# --- scopes that outlive their transform -----------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ALL)
@pytest.mark.parametrize(
    "use",
    [
        lambda scope: scope.param("late", lambda key: jnp.ones(())),
        lambda scope: scope.put_variable("batch_stats", "late", jnp.ones(())),
        lambda scope: scope.make_rng("params"),
        lambda scope: scope.push("late"),
    ],
    ids=["param", "put_variable", "make_rng", "push"],
)
def test_scope_used_after_its_transform(transform, use):
    kept = []

    def fn(scope, x):
        kept.append(scope)
        return jnp.sum(scope.param("w", lambda key: jnp.ones(())) * x)

    def f(scope, x):
        call(transform, fn, scope, x)
        assert kept[-1] is not scope
        use(kept[-1])

    with pytest.raises(errors.InvalidScopeError) as caught:
        core.apply(f, mutable=["params", "batch_stats"])({"params": {"w": jnp.ones(())}}, X, rngs=jax.random.key(0))
    check_text(caught.value, transform)


@pytest.mark.parametrize("transform", ALL)
def test_module_made_in_a_transform_used_after_it(transform):
    kept = []

    class Maker(nn.Module):
        @nn.compact
        def __call__(self, x):
            kept.append(nn.Dense(2))
            return kept[-1](x)

    def body(self, x):
        call(transform, scalar, Maker(), x)
        return kept[-1](x)

    variables = {"params": {"Maker_0": {"Dense_0": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}}}
    with pytest.raises(errors.InvalidScopeError) as caught:
        Through(body).apply(variables, X)
    check_text(caught.value, "Dense_0", transform)


# --- raw JAX transforms inside a module ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("grad", lambda f, x: jax.grad(lambda x: jnp.sum(f(x)))(x)),
        ("vjp", lambda f, x: jax.vjp(f, x)[0]),
        ("jvp", lambda f, x: jax.jvp(f, (x,), (x,))[1]),
        ("vmap", lambda f, x: jax.vmap(f)(x[None])),
        ("scan", lambda f, x: jax.lax.scan(lambda c, x: (c, f(x)), 0.0, x[None])[1]),
        ("jit", lambda f, x: jax.jit(f)(x)),
        ("cond", lambda f, x: jax.lax.cond(True, f, lambda x: x, x)),
        ("checkpoint", lambda f, x: jax.checkpoint(f)(x)),
    ],
)
def test_outer_state_written_inside_a_raw_transform(name, raw):
    """A tracer must not leak into a module's state; the text names the lifted transform to use."""
    if name == "checkpoint":  # transparent unless something traces it
        raw = lambda f, x: jax.grad(lambda x: jnp.sum(jax.checkpoint(f)(x)))(x)

    def body(self, x):
        norm = nn.BatchNorm(use_running_average=False)
        return raw(lambda x: norm(x), x)

    variables = {
        "params": {"BatchNorm_0": {"scale": jnp.ones(2), "bias": jnp.ones(2)}},
        "batch_stats": {"BatchNorm_0": {"mean": jnp.ones(2), "var": jnp.ones(2)}},
    }
    with pytest.raises(errors.JaxTransformError) as caught:
        Through(body).apply(variables, X, mutable=["batch_stats"])
    check_text(caught.value, "nn\\.|lift", "BatchNorm_0")
    # While initializing, the statistics are made and not written: a tracer is in them only where all values are traced.
    if name in ("grad", "vjp", "jvp", "vmap"):
        assert set(Through(body).init(jax.random.key(0), X)) == {"params", "batch_stats"}
    else:
        with pytest.raises(errors.JaxTransformError):
            Through(body).init(jax.random.key(0), X)
