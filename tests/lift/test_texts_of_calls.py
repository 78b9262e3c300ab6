"""What error texts name where a call is wrong: the order of its arguments, the lambda, the branch, the carry."""

import re

import jax.numpy as jnp
import pytest

from liftax import errors, nn

from .test_texts import BOUND, DENSE, KEY, VARIABLES, Run, X, call, init, vmapped

STATEFUL = DENSE.bind({**VARIABLES, "s": {"n": jnp.ones(2)}}, mutable="s")


def widen(mdl, c, *_):
    mdl.put_variable("s", "n", jnp.ones(3))
    return c, *_


FLOW = {
    "outputs of branches": (
        errors.ControlFlowError,
        r"output differs .* at \['a'\]: float32\[3,2\] in true_fun \(<lambda>\), float32\[2\] in false_fun",
        lambda: nn.cond(True, lambda m, x: {"a": m(x)}, lambda m, x: {"a": m(x)[0]}, BOUND, X),
    ),
    "structures of branches": (
        errors.ControlFlowError,
        r"output differs .* branches: float32\[3,2\] in branch 0 \(call\), a dict .* in branch 2 \(<lambda>\)",
        lambda: nn.switch(0, [call, call, lambda m, x: {"a": m(x)}], BOUND, X),
    ),
    "a variable of two types": (
        errors.ControlFlowError,
        r"the variable s/n differs .*float32\[3\] in true_fun \(widen\), float32\[2\] in false_fun",
        lambda: nn.cond(True, widen, lambda m, x: (x,), STATEFUL, X),
    ),
    "carry of a scan": (
        errors.ControlFlowError,
        r"scan at /: .*carry at \['a'\]: it goes in as float32\[3,2\], and comes out as float32\[2\]",
        lambda: nn.scan(lambda m, c, x: ({"a": c["a"][0]}, x), variable_broadcast="params")(BOUND, {"a": X}, X),
    ),
    "dtype of the carry of a scan": (
        errors.ControlFlowError,
        r"carry: it goes in as int32\[\], and comes out as float32\[\]",
        lambda: nn.scan(lambda m, c, x: (c + 0.5, x))(BOUND, jnp.int32(0), X),
    ),
    "carry of a loop": (
        TypeError,  # as JAX and Linen raise
        r"while_loop at /: .* carry: it goes in as float32\[3,2\], and comes out as float32\[2\]",
        lambda: nn.while_loop(lambda m, x: x.sum() < 3, lambda m, x: x[0], BOUND, X),
    ),
    "variable that a scan carries": (
        errors.ControlFlowError,
        r"variable s/n at /: it goes in as float32\[2\], and comes out as float32\[3\]",
        lambda: nn.scan(widen, variable_carry="s")(STATEFUL, 0.0, X),
    ),
    "a mistake in a step": (TypeError, "^unsupported", lambda: nn.scan(lambda m, c, x: (c + None, x))(BOUND, 0.0, X)),
    "a mistake in a branch": (TypeError, "^unsupported", lambda: nn.cond(True, call, lambda m, x: x + None, BOUND, X)),
}


@pytest.mark.parametrize("case", FLOW)
def test_flow(case):
    """A branch or a step that changes types is found in the words of its user."""
    error, text, program = FLOW[case]
    with pytest.raises(error, match=text):
        program()


THREE = lambda m, x, y: x
LAMBDAS = {
    "vmap": lambda: vmapped(THREE, X),
    "scan": lambda: nn.scan(lambda m, c: (c, c), variable_broadcast="params")(BOUND, X, X),
    "remat": lambda: nn.remat(THREE)(BOUND, X),
    "jit": lambda: nn.jit(THREE)(BOUND, X),
    "cond": lambda: nn.cond(True, THREE, call, BOUND, X),
    "while_loop": lambda: nn.while_loop(lambda m: True, call, BOUND, X),
    "map_variables": lambda: nn.map_variables(THREE)(BOUND, X),
    "custom_vjp": lambda: nn.custom_vjp(THREE, call, call)(BOUND, X),
    "grad": lambda: nn.grad(THREE, BOUND, X),
    "hessian": lambda: nn.hessian(THREE, BOUND, X),
    "fixed_point": lambda: nn.fixed_point(THREE, BOUND, X),
}


@pytest.mark.parametrize("case", LAMBDAS)
def test_place_of_a_lambda(case):
    """A lambda that does not take its arguments is found where the user wrote it."""
    with pytest.raises(errors.ArityError, match=r"calls the lambda in line \d+ of test_texts_of_calls\.py, \(m"):
        LAMBDAS[case]()


CALLS = {
    "vmap": ("vmap(fn, …)(module, *args)", lambda: nn.vmap(call)(X)),
    "scan": ("scan(fn, …)(module, carry, *xs)", lambda: nn.scan(call)(X, X)),
    "remat": ("checkpoint(fn, …)(module, *args)", lambda: nn.remat(call)(X)),
    "jit": ("jit(fn, …)(module, *args)", lambda: nn.jit(call)(X)),
    "map_variables": ("map_variables(fn, …)(module, *args)", lambda: nn.map_variables(call)(X)),
    "custom_vjp": (
        "custom_vjp(fn, forward_fn, backward_fn)(module, *args)",
        lambda: nn.custom_vjp(call, call, call)(X),
    ),
    "custom_jvp": ("custom_jvp(fn, jvp_fn)(module, *args)", lambda: nn.custom_jvp(call, call)(X)),
    "custom_gradient": ("custom_gradient(fn)(module, *args)", lambda: nn.custom_gradient(call)(X)),
    "while_loop": ("while_loop(cond_fn, body_fn, module, init)", lambda: nn.while_loop(BOUND, call, call, X)),
    "switch": ("switch(index, branches, module, *operands)", lambda: nn.switch(0, [call], X)),
    "jvp": ("jvp(fn, module, primals, tangents, variable_tangents)", lambda: nn.jvp(call, X, (X,), (X,), {})),
    "root": ("root(fn, module, x0, *args)", lambda: nn.root(call, X, X)),
    "vjp": ("vjp(fn, module, *primals)", lambda: nn.vjp(call, X)),
}


@pytest.mark.parametrize("case", CALLS)
def test_call(case):
    """Without a module, each transform says how it is called."""
    text, program = CALLS[case]
    with pytest.raises(errors.TransformTargetError, match=re.escape(f"The call is {text}.")):
        program()


@pytest.mark.parametrize("key", ["kernel", "parms", "other"])
@pytest.mark.parametrize("initializing", [False, True])
def test_tangent_without_a_collection(key, initializing):
    """The names of variables stand below those of collections; the text is the same while variables are made."""
    tangents = {key: jnp.ones((2, 2))}
    remedies = {"kernel": r"Write \{'params': \{'kernel': …\}\}", "parms": "Did you mean 'params'", "other": "left out"}
    body = lambda self, x: nn.jvp(call, nn.Dense(2), (x,), (x,), tangents)
    text = f"tangent for {key} at /.*which does not exist as a collection.*there are: 'params'.*{remedies[key]}"
    with pytest.raises(errors.TangentError, match=text):
        init(body) if initializing else nn.jvp(call, BOUND, (X,), (X,), tangents)


def test_tangent_for_a_collection_that_is_made_in_the_run():
    """While variables are made, their collections are known from the run alone."""

    def body(self, x):
        return nn.jvp(call, nn.Dense(2), (x,), (x,), {"params": {"kernel": jnp.ones((2, 2))}})[1]

    made, variables = Run(body).init_with_output(KEY, X)
    assert (made == Run(body).apply(variables, X)).all()


def test_tangents_for_a_dict_of_modules():
    """The keys of a target are no collections."""
    tangents = {"params": {"kernel": jnp.ones((2, 2))}}
    target, given = {"a": DENSE.bind(VARIABLES), "b": DENSE.bind(VARIABLES)}, {"a": tangents, "b": {}}
    got = nn.jvp(lambda m, x: m["a"](x) + 2 * m["b"](x), target, (X,), (X,), given)
    want = nn.jvp(call, BOUND, (X,), (3 * X,), tangents)
    assert jnp.allclose(got[1], want[1])
