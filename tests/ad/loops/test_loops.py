"""The loops against plain scans: values, derivatives of both modes and of higher order, batches, and what is kept."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import liftax as lx
from liftax.errors import ArityError, MaxStepsError

W = 0.7 * jnp.eye(2) + 0.1
X = jnp.array([0.1, 0.4])


def step(w, x):
    return jnp.tanh(w @ x) + 0.1 * jnp.sin(x)


def reference(w, x, n, most=9):
    """Take `n` steps of at most `most`, by a loop that JAX can differentiate."""
    return jnp.sum(jax.lax.scan(lambda x, i: (jnp.where(i < n, step(w, x), x), None), x, jnp.arange(most))[0] ** 2)


def by_while(checkpoints, **options):
    def loop(w, x, n):
        out = lx.while_loop(
            lambda c: c[0] < n, lambda c: (c[0] + 1, step(w, c[1])), (0, x), checkpoints=checkpoints, **options
        )
        return jnp.sum(out[1] ** 2)

    return loop


def by_fori(checkpoints):
    return lambda w, x, n: jnp.sum(lx.fori_loop(0, n, lambda i, x: step(w, x), x, checkpoints=checkpoints) ** 2)


LOOPS = {
    "while, 1": by_while(1),
    "while, 3": by_while(3),
    "while, all": by_while(9, max_steps=9),
    "fori, 2": by_fori(2),
    "fori, 4": by_fori(4),
}


def close(got, want, rtol=1e-4):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("case", LOOPS)
def test_gradient_for_each_number_of_steps(case):
    """One program for all numbers of steps, none included."""
    gradient = jax.jit(jax.value_and_grad(LOOPS[case], (0, 1)))
    want = jax.jit(jax.value_and_grad(reference, (0, 1)))
    for n in (0, 1, 2, 5, 9):
        close(gradient(W, X, jnp.int32(n)), want(W, X, jnp.int32(n)))


def test_scan():
    """Outputs, slices and carries are differentiated, from either end."""
    xs = jnp.linspace(0.0, 1.0, 14).reshape(7, 2)

    def total(scan, w, x, xs, reverse):
        x, ys = scan(lambda x, s: (step(w, x) + s, jnp.sum(x * s)), x, xs, reverse=reverse)
        return jnp.sum(x**2) + jnp.sum(ys * jnp.arange(7.0))

    def gradient(scan, reverse):
        return jax.jit(lambda *args: jax.value_and_grad(total, (1, 2, 3))(scan, *args, reverse))(W, X, xs)

    for reverse, checkpoints in ((False, 3), (True, 7)):
        got = gradient(functools.partial(lx.scan, checkpoints=checkpoints), reverse)
        close(got, gradient(jax.lax.scan, reverse))


def test_forward_mode():
    n, dots = jnp.int32(5), (W * 0.3, X * 0.2)
    f = lambda w, x: by_while(3)(w, x, n)
    want = jax.jvp(lambda w, x: reference(w, x, n), (W, X), dots)
    close(jax.jit(lambda: jax.jvp(f, (W, X), dots))(), want)
    y, push = jax.linearize(f, W, X)
    close((y, push(*dots)), want)


MODES = {
    "forward over reverse": lambda f: jax.jacfwd(jax.grad(f)),
    "reverse over reverse": lambda f: jax.jacrev(jax.grad(f)),
    "reverse over forward": lambda f: jax.jacrev(jax.jacfwd(f)),
}


@pytest.mark.parametrize("mode", MODES)
def test_hessian(mode):
    x = X
    got = jax.jit(MODES[mode](lambda x: by_while(2)(W, x, 4)))(x)
    close(got, jax.hessian(lambda x: reference(W, x, 4))(x))


def test_members_of_a_batch_stop_one_by_one():
    ns, xs = jnp.array([0, 5, 2], jnp.int32), jnp.stack([X, X + 1, X - 1])
    for loop in (by_while(3), by_fori(4)):
        got = jax.jit(jax.vmap(jax.grad(loop, (0, 1)), (None, 0, 0)))(W, xs, ns)
        close(got, jax.vmap(jax.grad(reference, (0, 1)), (None, 0, 0))(W, xs, ns))
    summed = lambda loop: lambda w, xs: jnp.sum(jax.vmap(loop, (None, 0, 0))(w, xs, ns))
    close(jax.jit(jax.grad(summed(by_while(3)), (0, 1)))(W, xs), jax.grad(summed(reference), (0, 1))(W, xs))


def test_program_is_that_of_jax():
    """Where nothing is differentiated, there is neither a counter nor a buffer."""
    operations = lambda f: [
        line.split(" = ")[-1].split(" ")[0] for line in jax.jit(f).lower(3.0).as_text().splitlines()
    ]
    loop = lambda whiles: lambda x: whiles(lambda x: x < 100, lambda x: 2 * x, x)
    assert sorted(operations(loop(lx.while_loop))) == sorted(operations(loop(jax.lax.while_loop)))


def test_kept_bytes_do_not_grow_with_the_steps():
    """They are those of the carries, of the operands and the outputs; what a way back does not read is not kept."""
    x, k, buffer = jnp.ones(1000), 7, jnp.zeros(5000)

    def kept(steps):
        def loop(x):
            body = lambda c: (c[0] + 1, jnp.sin(c[1]), c[2].at[c[0]].set(c[1][0]))
            return lx.while_loop(lambda c: c[0] < steps, body, (0, x, buffer), checkpoints=k)[1:]

        pull = jax.vjp(loop, x)[1]
        return sum(a.nbytes for a in {id(a): a for a in jax.tree.leaves(pull)}.values())

    assert k * x.nbytes <= kept(50) <= (k + 2) * x.nbytes + 2 * buffer.nbytes + 12 * k + 100
    assert kept(500) == kept(50)


def test_integers_keys_and_nested_loops():
    def inner(x, n):
        return lx.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x), checkpoints=2)[1]

    def outer(x, loop):
        def body(c):
            i, key, on, x = c
            key, sub = jax.random.split(key)
            return i + 1, key, ~on, loop(x, i) + jnp.where(on, 0.1, 0.2) * jax.random.normal(sub)

        return lx.while_loop(lambda c: c[0] < 4, body, (0, jax.random.key(3), True, x), checkpoints=2)[3]

    def by_hand(x):
        key, on = jax.random.key(3), True
        for i in range(4):
            key, sub = jax.random.split(key)
            for _ in range(i):
                x = jnp.sin(x)
            x, on = x + jnp.where(on, 0.1, 0.2) * jax.random.normal(sub), not on
        return x

    close(jax.jit(jax.value_and_grad(lambda x: outer(x, inner)))(0.3), jax.value_and_grad(by_hand)(0.3))


def test_max_steps():
    never = lambda checked: lambda x: lx.while_loop(lambda x: x > 0, lambda x: 2 * x, x, max_steps=5, checked=checked)
    assert (never(False)(1.0), jax.grad(never(False))(1.0)) == (32.0, 32.0)
    with pytest.raises(MaxStepsError, match="max_steps=5"):
        never(True)(1.0)
    assert lx.while_loop(lambda x: x < 3, lambda x: 2 * x, 1.0, max_steps=5, checked=True) == 4.0


def test_types_of_the_carry():
    """A Python number takes the type that the body gives it, as in JAX; what does not fit is JAX's error."""
    out = lx.while_loop(lambda x: x < 9, lambda x: x * jnp.float32(2), 1)
    assert (out, out.dtype) == (16.0, jnp.float32)
    with pytest.raises(TypeError, match="must have equal types"):
        lx.while_loop(lambda x: x[0] < 9, lambda x: x[:1], jnp.ones(2))
    with pytest.raises(TypeError, match="boolean scalar"):
        lx.while_loop(lambda x: x, lambda x: x, jnp.ones(2))
    with pytest.raises(ArityError, match="checkpoints=int"):
        lx.scan(lambda c, _: (c, None), 0.0, length=3, checkpoints=0)


def test_recomputed_steps():
    """The formula against the recursion that it solves."""
    best = {(n, 1): n * (n - 1) // 2 for n in range(1, 20)} | {(1, c): 0 for c in range(1, 6)}
    for c in range(2, 6):
        for n in range(2, 20):
            best[n, c] = min(m + best[n - m, c - 1] + best[m, c] for m in range(1, n))
    assert all(lx.recomputed_steps(n, c) == cost for (n, c), cost in best.items())


@pytest.mark.parametrize(("steps", "checkpoints"), [(60, 4), (40, 10)])
def test_steps_taken(steps, checkpoints):
    """A scan takes hardly more steps than the optimal schedule, and a loop of unknown length a tenth more."""

    def body(x):
        jax.debug.callback(lambda: taken.append(1))
        return jnp.sin(x)

    def scan(x):
        return lx.scan(lambda x, _: (body(x), None), x, length=steps, checkpoints=checkpoints)[0]

    def loop(x):
        out = lx.while_loop(lambda c: c[0] < steps, lambda c: (c[0] + 1, body(c[1])), (0, x), checkpoints=checkpoints)
        return out[1]

    for f, slack in ((scan, 1.05), (loop, 1.1)):
        taken = []
        jax.block_until_ready(jax.jit(jax.grad(f))(0.3))
        jax.effects_barrier()
        forward = len(taken) - steps  # each step that is reversed runs once more
        assert lx.recomputed_steps(steps, checkpoints) <= forward
        assert forward <= slack * lx.recomputed_steps(steps, checkpoints) + checkpoints
