"""Linear maps, argument choice and the error texts of the wider family."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import liftax as lx
from liftax import core, errors, nn

X = jnp.asarray([1.0, -2.0])


class Linear(nn.Module):
    """`A x`, with a count of its runs where `counted`."""

    counted: bool = False

    @nn.compact
    def __call__(self, x):
        if self.counted:
            runs = self.variable("count", "runs", lambda: 0)
            runs.value += 1
        return self.param("kernel", nn.initializers.normal(1.0), (3, 2)) @ x


def run(body, counted=False, mutable=False, init=False):
    """Return `body(mdl)`, run in a module, and the kernel."""

    class Host(nn.Module):
        @nn.compact
        def __call__(self):
            return body(Linear(counted, name="linear"))

    if init:
        out, variables = Host().init_with_output(jax.random.key(0))
        return out, variables["params"]["linear"]["kernel"]
    kernel = jnp.arange(6.0).reshape(3, 2)
    state = {"count": {"linear": {"runs": 1}}} if counted else {}
    return Host().apply({"params": {"linear": {"kernel": kernel}}, **state}, mutable=mutable), kernel


@pytest.mark.parametrize("init", [False, True])
def test_linear_transpose(init):
    def body(mdl):
        in_x = nn.linear_transpose(lambda mdl, x: mdl(x), mdl, X, argnums=0)
        in_kernel = nn.linear_transpose(lambda mdl, x: mdl(x), mdl, X, wrt="params", argnums=())
        return in_x(jnp.arange(3.0)), in_kernel(jnp.arange(3.0))

    (x_ct, (variables_ct,)), kernel = run(body, init=init)
    np.testing.assert_allclose(x_ct, jnp.arange(3.0) @ kernel, rtol=1e-6)
    np.testing.assert_allclose(variables_ct["params"]["kernel"], jnp.outer(jnp.arange(3.0), X), rtol=1e-6)


def test_linear_transpose_refuses_state():
    with pytest.raises(errors.ModifyScopeVariableError, match="count/runs at /linear is written"):
        run(lambda mdl: nn.linear_transpose(lambda mdl, x: mdl(x), mdl, X), counted=True, mutable="count")


def test_linear_transpose_checks_the_cotangent():
    with pytest.raises(errors.CotangentError, match=r"linear_transpose.*float32\[3\].*float32\[2\]"):
        run(lambda mdl: nn.linear_transpose(lambda mdl, x: mdl(x), mdl, X)(X))


def test_jvp_fn_is_a_pytree():
    @jax.jit
    def made(scope_variables, x):
        return core.apply(
            lambda scope: nn.linearize(lambda s, x: s.param("w", lambda key: 1.0) * x**2, scope, x, wrt="params")
        )(scope_variables)

    y, jvp_fn = made({"params": {"w": 3.0}}, 2.0)
    along = jax.vmap(lambda t: jvp_fn({}, t))(jnp.asarray([1.0, 2.0]))
    assert (y, along.tolist(), jvp_fn({"params": {"w": 1.0}}, 0.0)) == (12.0, [12.0, 24.0], 4.0)


@pytest.mark.parametrize(
    ("argnums", "wrt", "shape"),
    [
        (0, False, "*"),
        (-1, None, "*"),
        ((1,), (), "(*,)"),
        (None, False, "(*, *)"),
        ((), "params", "({'params': {'kernel': *}},)"),
        (1, "params", "({'params': {'kernel': *}}, *)"),
    ],
)
def test_structures(argnums, wrt, shape):
    def fn(mdl, x, y):
        return jnp.sum(mdl(x) ** 2 * y)

    got, _ = run(lambda mdl: nn.jacrev(fn, mdl, X, 2.0, argnums=argnums, wrt=wrt))
    assert str(jax.tree.structure(got)) == f"PyTreeDef({shape})"
    if argnums is not None and wrt is not None:
        grads, _ = run(lambda mdl: nn.grad(fn, mdl, X, 2.0, argnums=argnums, vjp_variables=wrt))
        assert jax.tree.structure(grads) == jax.tree.structure(got)
        jax.tree.map(np.testing.assert_allclose, grads, got)


def test_holomorphic_and_integers():
    grads, kernel = run(
        lambda mdl: nn.grad(lambda mdl, x: jnp.sum(mdl(x) ** 2), mdl, X + 1j, holomorphic=True, argnums=0)
    )
    np.testing.assert_allclose(grads, 2 * kernel.T @ (kernel @ (X + 1j)), rtol=1e-5)
    (in_n,), _ = run(lambda mdl: nn.grad(lambda mdl, n: jnp.sum(mdl(n * X)), mdl, 2, allow_int=True))
    assert in_n.dtype == jax.dtypes.float0


@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        (
            lambda m: nn.jacfwd(lambda m, x: m(x), m, X, argnums=1),
            errors.ArityError,
            "jacfwd.*argument 1 .*1 positional",
        ),
        (lambda m: nn.jacrev(lambda m, x: m(x), m, X, argnums=()), errors.ArityError, "nothing to differentiate"),
        (
            lambda m: nn.hessian(lambda m, x: m(x), m, jnp.arange(2)),
            errors.NonDifferentiablePrimalError,
            r"hessian.*argument 0.*int32\[2\]",
        ),
        (lambda m: nn.jacrev(lambda m, x: m(x), m, X, wrt="parms"), errors.UnknownCollectionError, "wrt='parms'"),
        (lambda m: nn.linearize(lambda m, x: m(x), m, X)[1](X, X), errors.TangentError, "takes 1 tangents.*got 2"),
        (lambda m: nn.linearize(lambda m, x: m(x), m, X)[1](1.0), errors.TangentError, r"float32\[2\], got float"),
        (lambda m: nn.hvp(lambda m, x: m(x), m, (X,), (X,)), errors.NonDifferentiableOutputError, r"hvp.*float32\[3\]"),
        (lambda m: nn.vhp(lambda m, x: jnp.sum(m(x)), m, (X,), (1.0,)), errors.TangentError, r"vhp.*float32\[2\]"),
        (lambda m: nn.hvp(lambda m, x: m(x), m, X, X), errors.TangentError, "hvp expected primals as a tuple"),
        (
            lambda m: nn.hvp(lambda m, x: jnp.sum(m(x)), m, (X,), (X,), {"params": {}}),
            errors.TangentError,
            "wrt='params'",
        ),
    ],
)
def test_error_texts(body, error, text):
    with pytest.raises(error, match=text):
        run(body)


def test_products_of_functions():
    hessian = jnp.asarray([[2.0, 1.0], [1.0, 4.0]])
    f = lambda x, y: 0.5 * x @ hessian @ x + y * x[0]
    for product in (lx.hvp, lx.vhp):
        grads, products, aux = product(lambda x, y: (f(x, y), y), (X, 3.0), (X, 1.0), has_aux=True)
        np.testing.assert_allclose(grads[0], hessian @ X + jnp.asarray([3.0, 0.0]))
        np.testing.assert_allclose(products[0], hessian @ X + jnp.asarray([1.0, 0.0]))
        assert (grads[1], products[1], aux) == (1.0, 1.0, 3.0)


def test_vhp_where_forward_mode_is_missing():
    @jax.custom_vjp
    def square(x):
        return x**2

    @jax.custom_vjp
    def double(x, ct):
        return 2 * x * ct

    double.defvjp(lambda x, ct: (2 * x * ct, (x, ct)), lambda r, g: (2 * r[1] * g, 2 * r[0] * g))
    square.defvjp(lambda x: (x**2, x), lambda x, ct: (double(x, ct),))
    _, (product,) = lx.vhp(square, (3.0,), (1.0,))
    assert product == 2.0
    with pytest.raises(TypeError, match="custom_vjp"):
        lx.hvp(square, (3.0,), (1.0,))


FUNCTIONS = {
    "vjp": nn.vjp,
    "jvp": lambda f, mdl, x, **o: nn.jvp(f, mdl, (x,), (x,), {}, **o),
    "grad": nn.grad,
    "linearize": nn.linearize,
    "jacfwd": nn.jacfwd,
    "jacrev": nn.jacrev,
    "hessian": nn.hessian,
    "hvp": lambda f, mdl, x, **o: nn.hvp(f, mdl, (x,), (x,), **o),
    "laplacian": nn.laplacian,
    "fixed_point": nn.fixed_point,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_function_and_aux_of_no_arrays(name):
    mdl = nn.Dense(2).bind({"params": {"kernel": 0.3 * jnp.eye(2), "bias": jnp.ones(2)}})
    with pytest.raises(errors.ArityError, match=f"^{name} expected a function and got a str"):
        FUNCTIONS[name]("f", mdl, X)
    scalar = name in ("grad", "hessian", "hvp")
    aux = ("note", 3, [1.5])
    *_, found = FUNCTIONS[name](lambda mdl, x: (mdl(x).sum() if scalar else mdl(x), aux), mdl, X, has_aux=True)
    assert found == aux
    if name in ("jacrev", "hessian"):
        with pytest.raises(errors.NonDifferentiableOutputError, match=f"{name} .* returned None, which has none"):
            FUNCTIONS[name](lambda mdl, x: None, mdl, X)


RULES = {
    "custom_vjp": lambda fn, rule=lambda *_: None, **o: nn.custom_vjp(fn, lambda mdl, x: (fn(mdl, x), None), rule, **o),
    "custom_jvp": lambda fn, rule=lambda *_: None, **o: nn.custom_jvp(fn, rule, **o),
    "custom_gradient": nn.custom_gradient,
}


@pytest.mark.parametrize("name", RULES)
def test_rules_of_what_is_none(name):
    call = lambda mdl, x: mdl(x)
    with pytest.raises(errors.ArityError, match=f"{name} got a str for fn, expected a function"):
        RULES[name]("f")
    with pytest.raises(errors.ArityError, match=f"{name} got nondiff_argnums='x', expected an integer or several"):
        RULES[name](call, nondiff_argnums="x")
    if name != "custom_gradient":
        with pytest.raises(errors.ArityError, match=f"{name} got int .* for (backward_fn|jvp_fn), expected a function"):
            RULES[name](call, 3)
    mdl = nn.Dense(2).bind({"params": {"kernel": jnp.eye(2), "bias": jnp.ones(2)}})
    with pytest.raises(errors.NonDifferentiablePrimalError, match=f"{name}: argument 0 holds a str.*nondiff_argnums"):
        RULES[name](call)(mdl, "x")


@pytest.mark.parametrize("init", [False, True])
@pytest.mark.parametrize("transform", [nn.jacfwd, nn.hessian])
def test_complex_variables_forwards(transform, init):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            fn = lambda mdl, x: jnp.sum(jnp.abs(mdl(x)) ** 2)
            return transform(fn, nn.Dense(2, param_dtype=jnp.complex64), x, wrt="params")

    words = rf"{transform.__name__} differentiates with respect to real numbers, and got complex64\[2\]"
    variables = {"params": {"Dense_0": {"bias": jnp.ones(2, complex), "kernel": jnp.ones((2, 2), complex)}}}
    with pytest.raises(errors.NonDifferentiablePrimalError, match=words):
        Model().init(jax.random.key(0), X) if init else Model().apply(variables, X)


def test_real_variables_where_complex_ones_are_promised():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.jacrev(lambda mdl, x: mdl(x), nn.Dense(2), x, wrt="params", holomorphic=True)

    variables = {"params": {"Dense_0": {"bias": jnp.ones(2), "kernel": jnp.ones((2, 2))}}}
    with pytest.raises(errors.NonDifferentiablePrimalError, match=r"variables.*expected complex, got float32"):
        Model().apply(variables, X.astype(complex))
