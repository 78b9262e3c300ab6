"""What error texts name: the class, the value, the branch and the line that are meant."""

import re

import jax
import jax.numpy as jnp
import pytest
from flax import linen

import liftax as lx
from liftax import errors, nn

KEY, X = jax.random.key(0), jnp.ones((3, 2))
DENSE = nn.Dense(2)
VARIABLES = DENSE.init(KEY, X)
BOUND = DENSE.bind(VARIABLES)


class Odd(nn.Module):
    @property
    def wrong(self):
        return self.missing

    @nn.compact
    def __call__(self, x):
        return nn.cond(x.sum() > 0, lambda m, x: nn.Dense(2, name="a")(x), lambda m, x: x, self, x)


def call(mdl, x):
    return mdl(x)


class Run(nn.Module):
    body: object

    @nn.compact
    def __call__(self, x):
        return self.body(self, x)


def init(body):
    return Run(body).init(KEY, X)


def dropped(body, keys):
    return Run(lambda self, x: body(nn.Dropout(0.5, deterministic=False), x)).apply({}, X, rngs=keys)


def loop(mdl, x, **options):
    step = lambda m, c: (c[0] + 1, m(c[1]))
    return nn.while_loop(lambda m, c: c[0] < 3, step, mdl, (0, x), **options)


NORM = nn.BatchNorm(use_running_average=False)
BOUND_NORM = NORM.bind(NORM.init(KEY, X), mutable=["batch_stats"])


def beside(transform):
    """Return a program in which `transform` has a target beside a norm that its function writes to."""
    return lambda: transform(lambda m, x: BOUND_NORM(m(x)), BOUND, X)


def ruled(backward, **options):
    return nn.custom_vjp(call, lambda m, x: nn.vjp(call, m, x), backward, **options)


def vmapped(fn, *args, **options):
    return nn.vmap(fn, variable_axes={"params": None}, split_rngs={}, **options)(BOUND, *args)


COUNTER = DENSE.bind({**VARIABLES, "s": {"n": jnp.array(3)}})
ERRORS = {
    "class": (
        errors.InvalidInstanceModuleError,
        r"Dense\.init was called on the class Dense, with PRNGKeyArray .* Dense\(…\)\.init",
        lambda: nn.Dense.init(KEY, X),
    ),
    "variables": (errors.TransformTargetError, r"keys \['params'\].*module\.bind", lambda: nn.vjp(call, VARIABLES, X)),
    "a class for a module": (
        errors.TransformTargetError,
        r"grad: got the class Dense where .* Dense\(…\), that is bound",
        lambda: nn.grad(call, nn.Dense, X),
    ),
    "the condition behind the module": (
        errors.TransformTargetError,
        r"cond: got the module Dense where a Boolean is .*cond\(pred, true_fun, false_fun, module",
        lambda: nn.cond(BOUND, True, call, call, X),
    ),
    "the module before the branches": (
        errors.TransformTargetError,
        r"cond: each branch is .*got a function, a Dense\..*cond\(pred, true_fun, false_fun, module",
        lambda: nn.cond(True, BOUND, call, call, X),
    ),
    "the module before the index": (
        errors.TransformTargetError,
        r"switch: got the module Dense where an integer is .*switch\(index, branches, module",
        lambda: nn.switch(BOUND, [call, call], 0, X),
    ),
    "one branch": (
        errors.TransformTargetError,
        r"switch: got a function where a sequence .*switch\(index, branches, module",
        lambda: nn.switch(0, call, BOUND, X),
    ),
    "Linen's module": (
        errors.TransformTargetError,
        r"vjp: got a module flax\.linen\.linear\.Dense, which is of flax,.*`from liftax import nn`",
        lambda: nn.vjp(call, linen.Dense(2).bind(VARIABLES), X),
    ),
    "Linen's class": (
        errors.TransformTargetError,
        r"vmap: got the class flax\.linen\.linear\.Dense to transform.*`from liftax import nn`",
        lambda: nn.vmap(linen.Dense, variable_axes={"params": 0})(2),
    ),
    "sizes": (
        errors.MappedAxisError,
        r"3 for axis 0 of argument 0 of shape \(3, 2\); 4 for axis 0 of argument 1\['a'\]",
        lambda: vmapped(lambda m, x, y: x, X, {"a": jnp.ones((4, 2))}),
    ),
    "size of a variable": (
        errors.MappedAxisError,
        r"2 for axis 0 of the variable params/bias of shape \(2,\); 3 for axis 0 of argument 0",
        lambda: nn.vmap(call, variable_axes={"params": 0}, split_rngs={})(BOUND, X),
    ),
    "size in a scan": (
        errors.MappedAxisError,
        r"3 for axis 0 of argument 1 .*; 5 for length|3 for axis 0 of argument 1 .*; length",
        lambda: nn.scan(lambda m, c, x: (c, x), variable_broadcast="params", length=5)(BOUND, 0.0, X),
    ),
    "axes in": (
        errors.MappedAxisError,
        r"in_axes=\(0, 0\) has 2 entries, and the call has 1 argument after the module\.",
        lambda: vmapped(call, X, in_axes=(0, 0)),
    ),
    "axes in for a tree": (
        errors.MappedAxisError,
        r"in_axes has \{'a': 0\} for argument 1, a dict with keys \['b'\], whose structure does not match",
        lambda: vmapped(lambda m, x, y: x, X, {"b": X}, in_axes=(0, {"a": 0})),
    ),
    "axis in that is no number": (
        errors.MappedAxisError,
        "in_axes has 'a' for argument 0. An axis is an integer, or None",
        lambda: vmapped(call, X, in_axes="a"),
    ),
    "axes out": (
        errors.MappedAxisError,
        r"the structure of out_axes=\(0, 0\) does not match the output of the function, float32\[2\]",
        lambda: vmapped(call, X, out_axes=(0, 0)),
    ),
    "axes into a scan": (
        errors.MappedAxisError,
        r"in_axes=\(0, 0\) has 2 entries, and the call has 1 argument after the module and the carry\.",
        lambda: nn.scan(lambda m, c, x: (c, x), in_axes=(0, 0))(BOUND, 0.0, X),
    ),
    "axes out of a scan": (
        errors.MappedAxisError,
        r"out_axes=\(0, 0\) does not match y in the output",
        lambda: nn.scan(lambda m, c, x: (c, x), out_axes=(0, 0))(BOUND, 0.0, X),
    ),
    "no axis": (errors.MappedAxisError, r"argument 1 of shape \(\) has", lambda: vmapped(lambda m, x, y: x, X, 1.0)),
    "filter": (errors.InvalidFilterError, "^vjp at /: got 1", lambda: nn.vjp(call, BOUND, X, vjp_variables=1)),
    "streams": (errors.InvalidFilterError, "^vjp at /: rngs: got 1.5", lambda: nn.vjp(call, BOUND, X, rngs=1.5)),
    "lambda": (
        errors.ArityError,
        r"the lambda in line \d+ of test_texts\.py, \(m, x, y\) with 2",
        lambda: nn.vjp(lambda m, x, y: x, BOUND, X),
    ),
    "signature": (
        errors.ArityError,
        r"calls Dense\.__call__\(self, inputs\) with 3",
        lambda: nn.vjp(nn.Dense.__call__, BOUND, X, X),
    ),
    "branch": (errors.ControlFlowError, r"false_fun \(<lambda>\) does not write params/a", lambda: Odd().init(KEY, X)),
    "method": (
        AttributeError,
        r"Dense has no method '__cal__'\. Did you mean '__call__'",
        lambda: DENSE.apply(VARIABLES, X, method="__cal__"),
    ),
    "output of a Hessian": (
        errors.NonDifferentiableOutputError,
        r"hessian needs floating-point outputs that are real, and the function returned int32\[\]",
        lambda: nn.hessian(lambda m, x: jnp.argmax(m(x)), BOUND, X),
    ),
    "complex Jacobian": (
        errors.NonDifferentiableOutputError,
        r"jacrev .* complex64\[3,2\] at \['a'\].*holomorphic=True",
        lambda: nn.jacrev(lambda m, x: {"a": 1j * m(x)}, BOUND, X),
    ),
    "complex point": (
        errors.NonDifferentiablePrimalError,
        "laplacian differentiates with respect to real numbers, and got complex64",
        lambda: nn.laplacian(lambda m, x: jnp.abs(x).sum(), BOUND, 1j * X),
    ),
    "Laplacian of an integer": (
        errors.NonDifferentiableOutputError,
        "laplacian needs floating-point outputs, and the function returned int32",
        lambda: nn.laplacian(lambda m, x: jnp.argmax(m(x)), BOUND, X),
    ),
    "no option that is not there": (
        errors.NonDifferentiablePrimalError,
        r"give it to the function by a closure\. If it is meant as a number, convert it with `\.astype\(float\)`\.$",
        lambda: nn.fixed_point(lambda m, x: x, BOUND, jnp.arange(3)),
    ),
    "an index": (
        errors.NonDifferentiablePrimalError,
        r"argument 1: .*got int32\[\]\. Name the arguments .* in argnums.*`\.astype\(float\)`, or pass allow_int=True",
        lambda: nn.grad(lambda m, x, i: m(x)[i].sum(), BOUND, X, jnp.array(0)),
    ),
    "a counter among the variables": (
        errors.NonDifferentiablePrimalError,
        r"grad can't .* variables\['s'\]\['n'\]: .*got int32\[\]\. Keep it in a collection",
        lambda: nn.grad(lambda m, x: x.sum(), COUNTER, X, vjp_variables=True),
    ),
    "an index of a Jacobian": (
        errors.NonDifferentiablePrimalError,
        r"argument 1: .*got int32\[\]\. Name the arguments .* in argnums.*`\.astype\(float\)`\.$",
        lambda: nn.jacrev(lambda m, x, i: m(x)[i], BOUND, X, jnp.array(0), argnums=(0, 1)),
    ),
    "an index in a dict": (
        errors.NonDifferentiablePrimalError,
        r"argument 0\['i'\]: .*Give it apart, as an argument that argnums leaves out, or .* by a closure",
        lambda: nn.grad(lambda m, b: m(b["x"])[b["i"]].sum(), BOUND, {"x": X, "i": jnp.array(0)}),
    ),
    "a key": (
        errors.NonDifferentiablePrimalError,
        r"argument 1: .*got key<fry>\[\]\. Name the arguments .* in argnums, or give this one by a closure\.$",
        lambda: nn.grad(lambda m, x, key: m(x).sum(), BOUND, X, KEY),
    ),
    "tokens in liftax itself": (
        errors.NonDifferentiablePrimalError,
        r"argument 0: .*got int32\[2\]\. Name the arguments .* in argnums",
        lambda: lx.grad(lambda tokens, x: x[tokens].sum())(jnp.arange(2), X),
    ),
    "no samples": (
        errors.ArityError,
        "laplacian got samples=0, expected",
        lambda: nn.laplacian(lambda m, x: x.sum(), BOUND, X, samples=0),
    ),
    "no steps": (
        errors.ArityError,
        "fixed_point got max_steps=0, expected a number of steps",
        lambda: nn.fixed_point(call, BOUND, X, max_steps=0),
    ),
    "half a step": (errors.ArityError, "root got max_steps=3.5", lambda: lx.root(jnp.sin, X, max_steps=3.5)),
    "no holomorphic Laplacian": (
        errors.NonDifferentiablePrimalError,
        r"Split real and imaginary parts\.$",
        lambda: nn.laplacian(lambda m, x: jnp.abs(x).sum(), BOUND, 1j * X),
    ),
    "state in a loop": (
        errors.ModifyScopeVariableError,
        "immutable in this while_loop.*carry_variables='batch_stats'",
        lambda: loop(BOUND_NORM, X),
    ),
    "state in the condition of a loop": (
        errors.ModifyScopeVariableError,
        "immutable in this while_loop.*The condition may only read; write in body_fn",
        lambda: nn.while_loop(lambda m, x: m(x).sum() < 3, call, BOUND_NORM, X, carry_variables="batch_stats"),
    ),
    "state outside of the loop": (
        errors.ModifyScopeVariableError,
        "immutable in this bind.*mutable=",
        lambda: loop(NORM.bind(NORM.init(KEY, X)), X, carry_variables="batch_stats"),
    ),
    "first call in a loop": (
        errors.ControlFlowError,
        "a step creates params/kernel at /Dense_0.*before the loop",
        lambda: init(lambda self, x: loop(nn.Dense(2), x)),
    ),
    "first call in a loop that carries": (
        errors.ControlFlowError,
        "a step creates params/kernel at /Dense_0",
        lambda: init(lambda self, x: loop(nn.Dense(2), x, carry_variables="params")),
    ),
    "filters of a scan": (
        errors.ScopeCollectionNotFound,
        "filters of this scan name 'parms' .*Did you mean 'params'.*variable_broadcast",
        lambda: nn.scan(nn.SimpleCell, variable_broadcast="parms")(2).init(KEY, X[0], X),
    ),
    "filters of a vjp": (
        errors.ScopeCollectionNotFound,
        "filters of this vjp name 'batchstats', 'params' .*Did you mean 'batch_stats'",
        lambda: init(lambda self, x: nn.vjp(call, nn.BatchNorm(True), x, variables="batchstats")[0]),
    ),
    "a stream that vmap keeps out": (
        errors.InvalidRngError,
        "'params', which was given, and which this vmap does not.*Add split_rngs={'params': True}.*along the axis",
        lambda: nn.vmap(nn.Dense, variable_axes={"params": 0})(2).init(KEY, X),
    ),
    "a stream that scan keeps out": (
        errors.InvalidRngError,
        "'params', which was given, and which this scan does not.*Add split_rngs={'params': True}.*along the steps",
        lambda: nn.scan(nn.SimpleCell, variable_broadcast="params")(2).init(KEY, X[0], X),
    ),
    "a stream that vjp keeps out": (
        errors.InvalidRngError,
        "/Dropout_0 needs .*'dropout', which was given, and which this vjp does not let in: its filter rngs.*rngs=True",
        lambda: dropped(lambda mdl, x: nn.vjp(call, mdl, x, rngs="params")[0], {"dropout": KEY}),
    ),
    "a stream that the outer one of two keeps out": (
        errors.InvalidRngError,
        "which this vmap does not let in",
        lambda: dropped(lambda mdl, x: nn.vmap(lambda m, x: nn.vjp(call, m, x)[0])(mdl, x), {"dropout": KEY}),
    ),
    "a stream that was not given": (
        errors.InvalidRngError,
        r"streams given are: none\. Pass rngs=\{'dropout': jax\.random\.key\(seed\)\}\.",
        lambda: dropped(lambda mdl, x: nn.vjp(call, mdl, x)[0], {}),
    ),
    "a stream that was not given to a vmap": (
        errors.InvalidRngError,
        r"Pass rngs=\{'dropout': jax\.random\.key\(seed\)\}, and let it into the vmap: split_rngs=\{'dropout': True\}",
        lambda: dropped(lambda mdl, x: nn.vmap(call)(mdl, x), {}),
    ),
    "beside a vjp": (
        errors.JaxTransformError,
        "inside nn.vjp, whose target, /, does not include it.*jax.grad, jax.vjp",
        beside(nn.vjp),
    ),
    "beside a root": (errors.JaxTransformError, "inside nn.root, whose target, ", beside(nn.root)),
    "beside a jit": (errors.JaxTransformError, "inside nn.jit.*tree of modules", beside(lambda f, *a: nn.jit(f)(*a))),
    "beside a vjp in JAX's transform": (
        errors.JaxTransformError,
        "inside a JAX transform that started after this vjp did, with a tracer of jax.vmap",
        lambda: nn.vjp(lambda m, x: jax.vmap(m)(x), BOUND_NORM, X),
    ),
    "second tangent": (
        errors.TangentError,
        r"do not fit the primals at \[1\]: expected float32\[3,2\], got float32\[2\]",
        lambda: nn.jvp(lambda m, x, y: x, BOUND, (X, X), (X, X[0]), {}),
    ),
    "no tangent of an integer": (
        errors.TangentError,
        r"at \[0\]: expected float0\[2\], got None.*np\.zeros\(\(2,\), jax\.dtypes\.float0\)",
        lambda: nn.jvp(lambda m, i: m(X)[i], BOUND, (jnp.arange(2),), (None,), {}),
    ),
    "integer tangent of an integer": (
        errors.TangentError,
        r"at \[0\]: expected float0\[\], got int32\[\].*np\.zeros\(\(\), jax\.dtypes\.float0\)",
        lambda: nn.jvp(lambda m, i: m(X)[i], BOUND, (1,), (jnp.array(1),), {}),
    ),
    "the gradient of liftax itself": (
        errors.ArityError,
        r"^grad got argnums=float32\[3,2\], .*lx\.grad\(f\)\(x\)",
        lambda: lx.grad(jnp.sum, X),
    ),
    "nothing to differentiate": (
        errors.ArityError,
        "grad has nothing to differentiate with respect to",
        lambda: nn.grad(lambda m: jnp.sum(m(X)), BOUND),
    ),
    "a value to stop": (
        errors.TransformTargetError,
        r"stop_gradient: got float32\[3,2\] .*jax\.lax\.stop_gradient",
        lambda: nn.stop_gradient(X),
    ),
    "a mode in a vjp": (
        errors.NonDifferentiablePrimalError,
        "vjp: argument 1 holds a str.*by a closure",
        lambda: nn.vjp(lambda m, x, mode: m(x), BOUND, X, "train"),
    ),
    "a mode in a linearize": (
        errors.NonDifferentiablePrimalError,
        "linearize: argument 1 holds a str",
        lambda: nn.linearize(lambda m, x, mode: m(x), BOUND, X, "train"),
    ),
    "a module from a vjp": (
        errors.TransformedMethodReturnValueError,
        "vjp at /: <lambda> returned a Dense, which ends",
        lambda: nn.vjp(lambda m, x: m, BOUND, X),
    ),
    "a module from a rule": (
        errors.TransformedMethodReturnValueError,
        "custom_vjp at /: <lambda> returned a Dense, which ends",
        lambda: nn.custom_vjp(lambda m, x: m, call, call)(BOUND, X),
    ),
    "a string from a jit": (
        errors.TransformedMethodReturnValueError,
        "jit at /: <lambda> returned a str, which JAX",
        lambda: nn.jit(lambda m, x: "a")(BOUND, X),
    ),
    "parameters of backward_fn": (
        errors.ArityError,
        r"custom_vjp calls the lambda .*\(r, c\) with 3 .*called as backward_fn\(residuals, out_ct, state_ct\)",
        lambda: jax.grad(lambda x: ruled(lambda r, c: r(c), state_cotangents=True)(BOUND, x).sum())(X),
    ),
    "parameters of jvp_fn": (
        errors.ArityError,
        r"\(m, p, t\) with 4 .*called as jvp_fn\(mdl, primals, tangents, variable_tangents\)",
        lambda: jax.grad(lambda x: nn.custom_jvp(call, lambda m, p, t: p)(BOUND, x).sum())(X),
    ),
    "a module in liftax itself": (
        errors.NonDifferentiablePrimalError,
        r"^vjp .*argument 0: .* got a Dense\. .*use nn\.vjp",
        lambda: lx.vjp(call, BOUND, X),
    ),
    "a module in the gradient of liftax itself": (
        errors.NonDifferentiablePrimalError,
        r"^grad can't .* argument 0: .*got a Dense.*use nn\.grad",
        lambda: lx.grad(lambda m, x: m(x).sum())(BOUND, X),
    ),
    "a module in liftax's own jvp": (
        errors.NonDifferentiablePrimalError,
        r"^jvp .*argument 0: .* got a Dense\. .*use nn\.jvp",
        lambda: lx.jvp(call, (BOUND, X), (BOUND, X)),
    ),
    "JAX's jit of a module": (TypeError, r"nn\.jit.* in place of jax\.jit", lambda: jax.jit(BOUND)(X)),
    "property": (
        errors.DescriptorAttributeError,
        "An unbound Odd has no attribute 'missing'.*mend what",
        lambda: Odd().wrong,
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_text(case):
    error, text, program = ERRORS[case]
    with pytest.raises(error, match=text):
        program()


FORWARDS, BACKWARDS = "vhp instead.*rule with custom_jvp", "use liftax.while_loop, or nn.while_loop"
RULED = ruled(lambda r, c: r(c))
TWICE = nn.custom_vjp(call, lambda m, x: (m(x), x), lambda x, c: (None, c * RULED(BOUND, x)), grad_vars=False)


def doubled(mdl, x):
    return jax.lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, 2 * s[1]), (0, mdl(x)))[1].sum()


NOTES = {
    "jvp": (TypeError, FORWARDS, lambda: nn.jvp(RULED, BOUND, (X,), (X,), {})),
    "jacfwd": (TypeError, FORWARDS, lambda: nn.jacfwd(RULED, BOUND, X)),
    "divergence": (TypeError, FORWARDS, lambda: nn.divergence(RULED, BOUND, X)),
    "linearize": (TypeError, FORWARDS, lambda: nn.linearize(RULED, BOUND, X)[1](X)),
    "hvp": (TypeError, FORWARDS, lambda: nn.hvp(lambda m, x: TWICE(m, x).sum(), BOUND, (X,), (X,))),
    "grad": (ValueError, BACKWARDS, lambda: nn.grad(doubled, BOUND, X)),
    "jacrev": (ValueError, BACKWARDS, lambda: nn.jacrev(doubled, BOUND, X)),
    "linear_transpose": (
        NotImplementedError,
        "not linear in what varies",
        lambda: nn.linear_transpose(lambda m, x: jnp.sin(m(x)), BOUND, X)(X),
    ),
}


@pytest.mark.parametrize("case", NOTES)
def test_note(case):
    """What JAX says of a mode of differentiation gets a note: what to use instead."""
    error, note, program = NOTES[case]
    with pytest.raises(error) as raised:
        program()
    assert [x for x in raised.value.__notes__ if re.search(note, x)]
