"""Equal blocks under `remat` are one program to JAX, and blocks that differ in anything are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import nn
from liftax.lift.machinery import equal_programs as programs

X = jnp.linspace(-1.0, 2.0, 3)


class Block(nn.Module):
    scale: float = 1.0

    @nn.remat
    @nn.compact
    def __call__(self, x):
        return x + nn.tanh(nn.Dense(3)(x)) * self.scale


class Net(nn.Module):
    scales: tuple = (1.0, 1.0, 1.0)

    @nn.compact
    def __call__(self, x):
        for scale in self.scales:
            x = Block(scale)(x)
        return x


def bodies(fun, *args):
    """The jaxprs under the checkpoints of a trace, each once."""
    found = [e.params["jaxpr"] for e in equations(jax.make_jaxpr(fun)(*args)) if "prevent_cse" in e.params]
    assert len(found) > 1
    return {id(body) for body in found}


def equations(jaxpr):
    """The equations of a jaxpr, and of those that it calls: JAX 0.12 keeps calls that are to be inlined as calls."""
    for e in jaxpr.eqns:
        yield e
        if e.primitive.name in ("jit", "pjit"):
            yield from equations(e.params["jaxpr"])


def test_equal_blocks_are_one_program():
    variables = Net().init(jax.random.key(0), X)
    assert len(bodies(Net().apply, variables, X)) == 1
    assert len(bodies(Net((1.0, 2.0, 1.0)).apply, variables, X)) == 2
    assert len(bodies(Net((0.0, -0.0)).apply, variables, X)) == 2


def test_equal_blocks_have_their_own_gradients():
    variables = Net().init(jax.random.key(0), X)

    def by_hand(params, x):
        for i in range(3):
            p = params[f"Block_{i}"]["Dense_0"]
            x = x + jnp.tanh(x @ p["kernel"] + p["bias"])
        return jnp.sum(x**2)

    got = jax.grad(lambda params: jnp.sum(Net().apply({"params": params}, X) ** 2))(variables["params"])
    expected = jax.grad(by_hand)(variables["params"], X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, expected)


def chain(body, n=3):
    """Run `body(block, x)` under `remat`, once made, for `n` blocks without variables."""

    class Part(nn.Module):
        def __call__(self, x):
            return x

    class Chain(nn.Module):
        @nn.compact
        def __call__(self, x):
            again = nn.remat(body)
            for i in range(n):
                x = again(Part(name=f"part_{i + 1}"), x)
            return x

    return lambda x: Chain().apply({}, x)


def test_a_block_may_depend_on_its_name():
    run = chain(lambda part, x: x * float(part.name[-1]))
    np.testing.assert_allclose(run(X), X * 6)
    np.testing.assert_allclose(jax.grad(lambda x: run(x).sum())(X), [6.0] * 3)
    assert len(bodies(run, X)) == 3


def test_a_block_may_depend_on_what_changes_between_calls():
    factors = iter(range(2, 8))
    run = chain(lambda part, x: x * next(factors))
    np.testing.assert_allclose(run(X), X * 2 * 3 * 4)
    np.testing.assert_allclose(run(X), X * 5 * 6 * 7)


def test_blocks_that_close_over_arrays_of_one_shape_are_one_program():
    arrays = iter([jnp.array([1.0, 2.0, 3.0]), jnp.array([4.0, 5.0, 6.0]), np.array([7.0, 8.0, 9.0], np.float32)] * 2)
    run = chain(lambda part, x: x * next(arrays))
    np.testing.assert_allclose(run(X), X * jnp.array([28.0, 80.0, 162.0]), rtol=1e-6)
    assert len(bodies(run, X)) == 1


def test_a_block_may_close_over_what_is_differentiated():
    def run(scale):
        return chain(lambda part, x: x * scale)(X).sum()

    np.testing.assert_allclose(jax.grad(run)(2.0), 3 * 2.0**2 * X.sum())
    np.testing.assert_allclose(jax.grad(jax.grad(run))(2.0), 6 * 2.0 * X.sum())
    np.testing.assert_allclose(jax.vmap(run)(jnp.array([1.0, 2.0])), jnp.array([1.0, 8.0]) * X.sum())


def test_a_rule_that_is_made_for_each_block_is_its_own():
    rates = iter([2.0, 3.0, 5.0])

    def body(part, x):
        rate = next(rates)

        @jax.custom_jvp
        def identity(x):
            return x * 1.0

        identity.defjvp(lambda primals, tangents: (identity(*primals), rate * tangents[0]))
        return identity(x)

    np.testing.assert_allclose(jax.grad(lambda x: chain(body)(x).sum())(X), [30.0] * 3)


class Incomparable:
    """A parameter of an equation whose comparison fails, as that of an object with arrays in it does."""

    def __eq__(self, other):
        raise ValueError("ambiguous")

    def __hash__(self):
        return id(self)


def test_blocks_with_what_cannot_be_compared_are_their_own():
    def body(part, x):
        options = Incomparable()  # static, and a parameter of the equation of the callback
        return jax.pure_callback(lambda x, options=options: np.asarray(x) * 2.0, x, x, vmap_method="sequential")

    np.testing.assert_allclose(chain(body)(X), X * 8)
    one, other = ({"a": Incomparable()} for _ in range(2))
    assert not programs._same_value(one, other)
    assert programs._same_value(one, one)


def test_effects_of_each_block_happen():
    seen = []

    def body(part, x):
        jax.debug.callback(lambda x: seen.append(float(x[0])), x)
        return x * 2.0

    jax.block_until_ready(jax.jit(chain(body))(X))
    jax.effects_barrier()
    assert sorted(seen) == [-4.0, -2.0, -1.0]


def test_dropout_of_each_block_is_its_own():
    class Dropping(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(2):
                x = nn.remat(nn.Dropout)(0.5, deterministic=False)(x)
            return x

    key = jax.random.key(0)
    y = jax.jit(lambda key: Dropping().apply({}, jnp.ones(64), rngs={"dropout": key}))(key)
    assert set(np.unique(y)) == {0.0, 4.0}
    assert 0.1 < np.mean(y == 4.0) < 0.45  # a quarter, not the half that one mask leaves


def test_static_arguments_stay_python_values():
    class Switch(nn.Module):
        @nn.compact
        def __call__(self, x):
            def body(part, x, times, *, power):
                return x**power if times == 2 else x * times

            again = nn.remat(body, static_argnums=(2,))
            return again(self, again(self, x, 2, power=2.0), 3, power=jnp.float32(2.0))

    np.testing.assert_allclose(jax.jit(lambda x: Switch().apply({}, x))(X), 3 * X**2, rtol=1e-6)


def test_an_argument_that_should_be_static_is_explained_by_jax():
    with pytest.raises(jax.errors.ConcretizationTypeError, match="static_argnums"):
        chain(lambda part, x: x if x[0] > 0 else -x)(X)


def test_few_programs_are_kept():
    for n in range(programs.KEPT + 8):
        chain(lambda part, x: x * n, n=2)(X)  # noqa: B023
    assert sum(map(len, programs._found.values())) <= programs.KEPT


def scanned(body):
    """Scan `body(block, x)` over the rows of `x`, in three blocks with a parameter each."""

    class Part(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x * self.param("w", nn.initializers.ones, ())

    class Chain(nn.Module):
        @nn.compact
        def __call__(self, x):
            over = nn.scan(lambda part, carry, row: (carry, body(part, row)), variable_broadcast="params")
            for i in range(3):
                _, x = over(Part(name=f"part_{i + 1}"), 0.0, x)
            return x

    params = {f"part_{i}": {"w": jnp.float32(i)} for i in (1, 2, 3)}
    return lambda x: Chain().apply({"params": params}, x).sum()


def scans(fun, *args):
    """The bodies of the loops of a trace, each once."""
    found = [e.params["jaxpr"] for e in equations(jax.make_jaxpr(fun)(*args)) if e.primitive.name == "scan"]
    assert len(found) == 6
    return {id(body.jaxpr) for body in found}


def test_loops_that_are_differentiated_are_one_program():
    assert len(scans(jax.grad(scanned(lambda part, x: part(x) ** 2)), X)) < 6
    assert len(scans(jax.grad(scanned(lambda part, x: part(x) ** (1 + int(part.name[-1])))), X)) == 6


@pytest.mark.parametrize("around", [jax.jit, lambda f: f])
def test_loops_have_their_own_derivatives(around):
    np.testing.assert_allclose(around(jax.grad(scanned(lambda part, x: part(x))))(X), [6.0] * 3)
    squares = scanned(lambda part, x: part(x) ** 2)
    np.testing.assert_allclose(around(jax.hessian(squares))(X), np.diag(8064 * X**6), rtol=1e-5, atol=1e-5)
    powers = scanned(lambda part, x: part(x) ** int(part.name[-1]))
    np.testing.assert_allclose(around(jax.grad(powers))(X), 10368 * X**5, rtol=1e-5)


def test_a_loop_may_close_over_what_is_differentiated():
    def run(scale):
        return scanned(lambda part, x: part(x) * scale)(X)

    for f in (run, jax.jit(run)):
        np.testing.assert_allclose(jax.jit(jax.grad(f))(2.0), 3 * 2.0**2 * 6 * X.sum(), rtol=1e-6)
        np.testing.assert_allclose(jax.jit(jax.grad(jax.grad(f)))(2.0), 6 * 2.0 * 6 * X.sum(), rtol=1e-6)


def test_blocks_under_several_policies_are_several_programs():
    policies = jax.checkpoint_policies

    class Mixed(nn.Module):
        @nn.compact
        def __call__(self, x):
            for policy in (policies.everything_saveable, policies.nothing_saveable, None, policies.nothing_saveable):
                x = nn.remat(lambda mdl, x: jnp.sin(jnp.sin(x)), policy=policy)(self, x)
            return x

    run = lambda x: Mixed().apply({}, x)
    found = [e.params["policy"] for e in equations(jax.make_jaxpr(run)(X)) if "prevent_cse" in e.params]
    assert found == [policies.everything_saveable, policies.nothing_saveable, None, policies.nothing_saveable]
    assert len(bodies(run, X)) <= 3


@pytest.mark.parametrize("n", [2, 5])
def test_a_named_axis_may_have_another_size(n):
    run = jax.vmap(jax.grad(chain(lambda part, x: x * jax.lax.psum(x, "i"), n=2)), axis_name="i")
    xs = jnp.arange(1.0, n + 1.0)
    total = jnp.sum(xs)
    # y_j = x_j T and z_j = y_j sum(y) = x_j T^3; the gradient of every z_j comes together in psum's transpose
    np.testing.assert_allclose(jax.jit(run)(xs), total**3 + 3 * total**2 * total * jnp.ones(n), rtol=1e-5)
    np.testing.assert_allclose(run(xs), jax.jit(run)(xs), rtol=1e-6)
