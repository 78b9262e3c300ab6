"""Implicit layers against unrolled ones, and variables held constant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.cells import fold

import liftax as lx
from liftax import errors, nn

X = jnp.asarray([0.5, -0.3, 0.8])
KEY = jax.random.key(4)


class Step(nn.Module):
    """A contraction that counts its runs and drops at random."""

    @nn.compact
    def __call__(self, z, x):
        runs = self.variable("count", "runs", lambda: 0)
        if not self.is_initializing():
            runs.value += 1
        z = nn.Dropout(0.5, deterministic=False)(z)
        return jnp.tanh(0.3 * nn.Dense(3)(z)) + x


class Layer(nn.Module):
    how: str

    @nn.compact
    def __call__(self, x):
        step = Step(name="step")
        if self.how == "root":
            return nn.root(lambda step, z, x: step(z, x) - z, step, jnp.zeros_like(x), x)[0]
        return nn.fixed_point(lambda step, z, x: step(z, x), step, jnp.zeros_like(x), x)[0]


def unrolled(params, x, key, path=("step",)):
    mask = jax.random.bernoulli(fold(key, *path, "Dropout_0", 1), 0.5, x.shape)
    p = params["step"]["Dense_0"]

    def step(z, _):
        return jnp.tanh(0.3 * (jnp.where(mask, z / 0.5, 0.0) @ p["kernel"] + p["bias"])) + x, None

    return jax.lax.scan(step, jnp.zeros_like(x), length=60)[0]


@pytest.mark.parametrize("how", ["fixed_point", pytest.param("root", marks=pytest.mark.long)])
def test_layer_equals_the_unrolled_one(how):
    z, variables = Layer(how).init_with_output({"params": KEY, "dropout": KEY}, X)
    params = variables["params"]
    assert variables["count"]["step"]["runs"] == 0
    np.testing.assert_allclose(z, unrolled(params, X, KEY), atol=1e-5)

    def layer(params, x):
        variables = {"params": params, "count": {"step": {"runs": 2}}}
        z, new = Layer(how).apply(variables, x, rngs={"dropout": KEY}, mutable="count")
        return z, new["count"]["step"]["runs"]

    reference = lambda params, x: unrolled(params, x, KEY)
    z, runs = layer(params, X)
    assert runs == 3  # once, at the solution
    rev = jax.jit(jax.jacrev(layer, argnums=(0, 1), has_aux=True))(params, X)[0]
    want = jax.jit(jax.jacrev(reference, argnums=(0, 1)))(params, X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), rev, want)
    if how == "root":
        return
    push = lambda f: jax.jit(lambda p, x: jax.jvp(f, (p, x), (p, jnp.cos(x)))[1])(params, X)
    fwd, want = push(lambda p, x: layer(p, x)[0]), push(reference)
    np.testing.assert_allclose(fwd, want, atol=1e-5)
    xs = jnp.stack([X, -X])
    batched = jax.jit(jax.vmap(jax.grad(lambda x: jnp.sum(layer(params, x)[0] ** 2))))(xs)
    want = jax.jit(jax.vmap(jax.grad(lambda x: jnp.sum(reference(params, x) ** 2))))(xs)
    np.testing.assert_allclose(batched, want, atol=1e-5)


def test_inside_another_lifted_transform():
    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.grad(
                lambda mdl, x: jnp.sum(mdl(x) ** 2), Layer("fixed_point", name="l"), x, vjp_variables="params"
            )

    variables = Outer().init({"params": KEY, "dropout": KEY}, X)
    run = jax.jit(lambda x: Outer().apply(variables, x, rngs={"dropout": KEY}, mutable="count")[0])
    got, x_grad = run(X)

    def reference(p, x):
        return jnp.sum(unrolled(p, x, KEY, ("l", "step")) ** 2)

    want = jax.jit(jax.grad(reference, argnums=(0, 1)))(variables["params"]["l"], X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), (got["params"], x_grad), want)


def test_memory_does_not_grow_with_steps():
    a = jnp.asarray([[0.6, 0.3], [-0.3, 0.6]])

    def kept(steps):
        f = lambda a: lx.fixed_point(lambda x: jnp.sin(a @ x) + 1, jnp.zeros(2), max_steps=steps)[0]
        return sum(x.nbytes for x in jax.tree.leaves(jax.vjp(f, a)[1]) if hasattr(x, "nbytes"))

    assert kept(3) == kept(300) > 0


def test_info_and_second_derivatives():
    def sqrt(a):
        return lx.root(lambda x: {"x": x["x"] ** 2 - a}, {"x": jnp.ones_like(a)})[0]["x"]

    assert abs(jax.grad(jax.grad(sqrt))(4.0) + 1 / 32) < 1e-5
    assert jax.grad(lambda x0: lx.root(lambda x: x**2 - 4.0, x0)[0])(1.0) == 0.0
    slow, info = lx.fixed_point(lambda x: 0.9 * x + 1.0, 0.0, max_steps=10, on_failure="return")
    assert info.steps == 10 and not info.converged
    np.testing.assert_allclose(info.error, abs(0.9 * slow + 1 - slow), rtol=1e-5)


@pytest.mark.parametrize("size", [40, 520])
def test_a_system_that_krylov_methods_stagnate_on(size):
    """Shifting by one place: GMRES gains nothing before its last step. Solved, or NaN: never a wrong derivative."""

    def solution(b):
        return lx.root(lambda x: jnp.roll(x, 1) - b, b, max_steps=2)[0]

    b = jnp.arange(float(size))
    weights = jnp.cos(b)
    found = jax.jit(jax.grad(lambda b: weights @ solution(b)))(b)
    if size == 40:
        np.testing.assert_allclose(solution(b), jnp.roll(b, -1), atol=1e-5)
        np.testing.assert_allclose(found, jnp.roll(weights, 1), atol=1e-5)
    else:
        assert jnp.isnan(found).all()


def test_many_unknowns_are_solved_by_products_alone():
    a = jnp.linspace(0.1, 0.5, 600)
    found = jax.jit(jax.grad(lambda a: lx.fixed_point(lambda x: a * jnp.roll(x, 1) + 1, a)[0].sum()))(a)
    exact = jax.grad(
        lambda a: jnp.linalg.solve(jnp.eye(600) - a[:, None] * jnp.roll(jnp.eye(600), 1, 0), a * 0 + 1).sum()
    )
    np.testing.assert_allclose(found, exact(a), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_dtypes(dtype):
    slope = jax.grad(lambda a: lx.fixed_point(lambda x: 0.5 * a * x + a, jnp.ones(3, dtype))[0].real.sum())
    found = slope(jnp.asarray(0.5, dtype))
    assert found.dtype == dtype
    np.testing.assert_allclose(found.real.astype(float), 16 / 3, rtol=max(1e-5, float(4 * jnp.finfo(dtype).eps)))


def test_error_texts():
    with pytest.raises(
        errors.NonDifferentiableOutputError, match=r"fixed_point.*expected float32\[3\], got float32\[\]"
    ):
        lx.fixed_point(jnp.sum, X)
    with pytest.raises(errors.NonDifferentiablePrimalError, match=r"root.*x0.*int32\[\]"):
        lx.root(lambda x: x, jnp.asarray(1))


class Stopped(nn.Module):
    stopped: object

    @nn.compact
    def __call__(self, x):
        y = self.param("scale", nn.initializers.ones, ()) * x
        f = lambda mdl, y: jnp.sum(jnp.sin(mdl(y, y)))
        return nn.stop_gradient(f, Step(name="step"), y, stopped=self.stopped)


def test_stop_gradient_holds_collections_constant():
    variables = Stopped(True).init({"params": KEY, "dropout": KEY}, X)

    def loss(stopped):
        def f(params, x):
            new = {"params": params, "count": {"step": {"runs": 5}}}
            return Stopped(stopped).apply(new, x, rngs={"dropout": KEY}, mutable="count")

        return jax.jit(jax.grad(f, argnums=(0, 1), has_aux=True))(variables["params"], X)

    (free, free_x), state = loss(False)
    (held, held_x), _ = loss("params")
    assert state["count"]["step"]["runs"] == 6
    assert all(jnp.any(g != 0) for g in jax.tree.leaves(free))
    assert not any(jnp.any(g != 0) for g in jax.tree.leaves(held["step"]))
    np.testing.assert_allclose((held["scale"], held_x[0]), (free["scale"], free_x[0]), rtol=1e-6)
    with pytest.raises(errors.UnknownCollectionError, match=r"stop_gradient.*stopped='counts'"):
        loss("counts")


@pytest.mark.parametrize("solver", ["fixed_point", "root"])
def test_aux_is_that_of_the_solution(solver):
    """In `init` and `apply`, lifted and not, and its derivative follows the solution."""
    f = lambda z, x: (0.5 * jnp.tanh(z) + x - (z if solver == "root" else 0.0), {"sum": jnp.sum(z) + 3.0})
    lifted = lambda mdl, z, x: (lambda out, aux: (out + 0.0 * jnp.sum(mdl(z)), aux))(*f(z, x))

    class Holds(nn.Module):
        @nn.compact
        def __call__(self, x):
            return getattr(nn, solver)(lifted, nn.Dense(2), jnp.zeros_like(x), x, has_aux=True)

    x = jnp.array([0.3, -0.7])
    z, info, aux = getattr(lx, solver)(f, jnp.zeros_like(x), x, has_aux=True)
    assert info.error < 1e-5
    np.testing.assert_allclose(aux["sum"], jnp.sum(z) + 3.0, rtol=1e-6)
    (z_init, _, aux_init), variables = Holds().init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(aux_init["sum"], aux["sum"], rtol=1e-5)
    slope = jax.jit(jax.grad(lambda x: Holds().apply(variables, x)[2]["sum"]))(x)
    np.testing.assert_allclose(slope, 1 / (1 - 0.5 / jnp.cosh(z_init) ** 2), rtol=1e-3)
    with pytest.raises(errors.AuxError, match=solver):
        getattr(lx, solver)(lambda z, x: z, x, x, has_aux=True)
