"""One bound module in several threads: one runs, the others wait. Modules of `apply` are made anew in each."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import nn
from liftax.core.calls import Guard

X = jnp.array([[1.0, -2.0], [0.5, 3.0]])
ENERGY = lambda mdl, x: jnp.sum(mdl(x) ** 2)


class Field(nn.Module):
    def setup(self):
        self.first, self.second = nn.Dense(3), nn.Dense(1)

    def energy(self, x):
        return self.second(nn.tanh(self.first(x))).sum()

    def __call__(self, x):
        energy, vjp_fn = nn.vjp(lambda mdl, x: mdl.energy(x), self, x)
        return vjp_fn(jnp.ones_like(energy))[1]


@pytest.fixture(scope="module")
def dense():
    model = nn.Dense(2)
    return model.bind(model.init(jax.random.key(0), X))


@pytest.mark.parametrize("use", [lambda b: b(X), lambda b: nn.grad(ENERGY, b, X)[0]], ids=["call", "grad"])
def test_other_threads_wait_while_a_derivative_is_taken(dense, use):
    found, waited = [], []
    want = use(dense)
    other = threading.Thread(target=lambda: found.append(use(dense)))

    def fn(mdl, x):
        other.start()
        other.join(timeout=0.2)
        waited.append(other.is_alive() and not found)
        return ENERGY(mdl, x)

    nn.grad(fn, dense, X)
    other.join()
    assert waited == [True]
    np.testing.assert_array_equal(found[0], want)
    np.testing.assert_array_equal(use(dense), want)


def test_the_same_answers_in_many_threads():
    model = Field()
    variables = model.init(jax.random.key(0), X)
    bound = model.bind(variables)
    xs = [X + i for i in range(12)]
    want = [model.apply(variables, x) for x in xs]
    with ThreadPoolExecutor(4) as threads:
        for use in (bound, lambda x: model.apply(variables, x)):
            for got, expected in zip(threads.map(use, xs), want, strict=True):
                np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_an_error_lets_the_others_in(dense):
    def bad(mdl, x):
        raise RuntimeError("of the user")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="of the user"):
            nn.grad(bad, dense, X)
    with ThreadPoolExecutor(1) as thread:
        np.testing.assert_array_equal(thread.submit(dense, X).result(timeout=30), dense(X))


def test_two_bound_modules_in_either_order(dense):
    other = nn.Dense(2).bind(dense.variables)
    loss = lambda mdls, x: sum(ENERGY(mdl, x) for mdl in mdls)
    want = nn.grad(loss, (dense, other), X)[0]
    with ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(nn.grad, loss, (dense, other)[:: (-1) ** i], X) for i in range(8)]
        for job in jobs:
            np.testing.assert_array_equal(job.result(timeout=60)[0], want)


def test_copies_have_a_guard_of_their_own():
    guard = Guard()
    for duplicate in (copy.deepcopy(guard), pickle.loads(pickle.dumps(guard))):
        assert isinstance(duplicate, Guard) and duplicate is not guard
