"""A planned function has the values and derivatives of the function, under every transform and whatever is in it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import liftax as lx

KEY = jax.random.key(0)
W = jax.random.normal(jax.random.fold_in(KEY, 1), (3, 4, 4)) / 2
X = jax.random.normal(jax.random.fold_in(KEY, 2), (2, 4))


def deep(w, x):
    for one in w:
        x = x + jax.nn.gelu(x @ one) @ one.T
    return jnp.sum(jnp.tanh(x) ** 2)


def looped(w, x):
    def step(x, one):
        h = jax.nn.silu(x @ one)
        return x + jnp.sin(h), jnp.sum(h**2)

    x, ys = jax.lax.scan(step, x, w)
    return jnp.sum(x**2) + jnp.sum(ys)


def nested(w, x):
    def inner(x, one):
        return jnp.tanh(x @ one), x.sum()

    def outer(x, i):
        x, ys = jax.lax.scan(inner, x * (1 + 0.1 * i), w, reverse=True)
        return x + ys.sum(), jnp.cos(x)

    x, ys = jax.lax.scan(outer, x, jnp.arange(2.0))
    return jnp.sum(x * ys)


def branches(w, x):
    y = jax.lax.cond(x.sum() > 0, lambda x: jnp.tanh(x @ w[0]), lambda x: jnp.sin(x @ w[1]) * x, x)
    return jnp.sum(jax.lax.switch(2, [lambda y: y, jnp.cos, lambda y: jnp.exp(y) @ w[2]], y))


def while_of_constants(w, x):
    count = jax.lax.while_loop(lambda n: n < 3, lambda n: n + 1, 0)
    return jnp.sum(jnp.tanh(x @ w[0]) ** count)


@jax.custom_vjp
def clipped(x):
    return jnp.tanh(x)


clipped.defvjp(lambda x: (jnp.tanh(x), jnp.cos(x)), lambda c, ct: (jnp.clip(ct * c, -0.5, 0.5),))


@jax.custom_jvp
def bent(x):
    return jnp.sin(x)


bent.defjvp(lambda primals, tangents: (jnp.sin(primals[0]), 2 * jnp.cos(primals[0]) * tangents[0]))


def with_rules(w, x):
    return jnp.sum(clipped(x @ w[0]) * bent(x @ w[1]))


def with_checkpoints(w, x):
    block = jax.checkpoint(lambda x, one: jnp.sin(jnp.tanh(x @ one)) @ one)
    return jnp.sum(lx.checkpoint(block, recompute=0.5)(block(jnp.exp(x / 4), w[0]), w[1]))


def forces(w, x):
    def energy(x):
        return jnp.sum(jax.nn.silu(jnp.sin(x @ w[0]) @ w[1]))

    return jnp.sum(jax.grad(energy)(x) ** 2) + jnp.sum(lx.grad(energy)(x)) ** 2


def spectral(w, x):
    z = jnp.fft.fft(x) * (w[0, 0] + 1j * w[0, 1])
    return jnp.sum(jnp.abs(jnp.fft.ifft(z) * z) ** 2)


def halved(w, x):
    w, x = w.astype(jnp.bfloat16), x.astype(jnp.bfloat16)
    return jnp.sum(jax.nn.softmax((jnp.tanh(x @ w[0]) @ w[1]).astype(jnp.float32)) ** 2)


def drawn(w, x):
    keys = jax.random.split(KEY)
    mask = jax.random.bernoulli(keys[0], 0.5, x.shape)
    return jnp.sum(jnp.tanh(jnp.where(mask, x @ w[0], 0.0)) * jax.random.normal(keys[1], x.shape))


def solved(w, x):
    a = w[0] @ w[0].T + 4 * jnp.eye(4)
    return jnp.sum(jnp.linalg.solve(a, x.T) ** 2) + jnp.linalg.slogdet(a)[1] + jnp.sum(jnp.sort(x, -1) ** 3)


FUNCTIONS = {
    f.__name__: f
    for f in (
        deep, looped, nested, branches, while_of_constants, with_rules, with_checkpoints, forces, spectral, halved,
        drawn, solved,
    )
}  # fmt: skip
PLANS = {
    "free": {},
    "half": {"budget": "50%"},
    "none": {"budget": 0},
    "flops": {"recompute": 0.2},
}


def nearly(got, want, tolerance=2e-4):
    jax.tree.map(
        lambda g, w: np.testing.assert_allclose(
            np.asarray(g, np.float32), np.asarray(w, np.float32), tolerance, tolerance * (1 + float(np.max(np.abs(w))))
        ),
        got,
        want,
    )


@functools.cache
def reference(name):
    return jax.jit(jax.value_and_grad(FUNCTIONS[name], argnums=(0, 1)))(W, X)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("plan", [p if p == "none" else pytest.param(p, marks=pytest.mark.long) for p in PLANS])
def test_value_and_gradient(name, plan):
    planned = lx.checkpoint(FUNCTIONS[name], **PLANS[plan])
    got = jax.jit(jax.value_and_grad(planned, argnums=(0, 1)))(W, X)
    nearly(got, reference(name), 2e-2 if name == "halved" else 2e-4)


TRANSFORMS = {
    "jvp": lambda f: lambda w, x: jax.jvp(f, (w, x), (w, x)),
    "linearize": lambda f: lambda w, x: jax.linearize(f, w, x)[1](w, x),
    "vmap of grad": lambda f: lambda w, x: jax.vmap(jax.grad(f), (None, 0))(w, jnp.stack([x, 2 * x])),
    "grad of vmap": lambda f: jax.grad(lambda w, x: jax.vmap(f, (None, 0))(w, jnp.stack([x, 2 * x])).sum()),
    "grad of grad": lambda f: jax.grad(lambda w, x: jnp.sum(jax.grad(f, 1)(w, x) ** 2)),
    "hessian": lambda f: lambda w, x: jax.hessian(lambda v: f(w, x.at[0, :2].set(v)))(x[0, :2]),
    "jacrev of jacfwd": lambda f: lambda w, x: jax.jacrev(jax.jacfwd(lambda v: f(w, x.at[0, :2].set(v))))(x[0, :2]),
    "grad of jvp": lambda f: jax.grad(lambda w, x: jax.jvp(lambda x: f(w, x), (x,), (jnp.ones_like(x),))[1]),
    "checkpoint": lambda f: jax.grad(jax.checkpoint(f), (0, 1)),
    "itself": lambda f: jax.grad(lx.checkpoint(f, budget="30%"), (0, 1)),
    "scan": lambda f: jax.grad(lambda w, x: jax.lax.scan(lambda c, t: (c + f(w, t * c), None), 1.0, x[None] / 8)[0]),
    "cond": lambda f: jax.grad(lambda w, x: jax.lax.cond(x.sum() < 99, f, lambda w, x: 0.0, w, x), (0, 1)),
    "custom_vjp": lambda f: jax.grad(_in_rule(f), (0, 1)),
    "vjp of lx": lambda f: lambda w, x: lx.vjp(f, w, x)[1](jnp.float32(2)),
    "hvp": lambda f: lambda w, x: lx.hvp(lambda x: f(w, x), (x,), (x,)),
    "laplacian": lambda f: lambda w, x: lx.laplacian(lambda x: f(w, x), x),
}


def _in_rule(f):
    @jax.custom_vjp
    def g(w, x):
        return f(w, x)

    g.defvjp(lambda w, x: jax.vjp(f, w, x), lambda backward, ct: backward(2 * ct))
    return g


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", [n if n == "looped" else pytest.param(n, marks=pytest.mark.long) for n in FUNCTIONS])
def test_transforms(name, transform):
    f = FUNCTIONS[name]
    forward = transform in ("jvp", "linearize", "jacrev of jacfwd", "grad of jvp", "hvp", "laplacian", "hessian")
    if forward and name == "with_rules":  # a custom_vjp has no forward mode, planned or not
        with pytest.raises(TypeError, match="custom_vjp"):
            TRANSFORMS["jvp"](lx.checkpoint(f, budget=0))(W, X)
        return
    want = jax.jit(TRANSFORMS[transform](f))(W, X)
    got = jax.jit(TRANSFORMS[transform](lx.checkpoint(f, budget=0)))(W, X)
    nearly(got, want, 5e-2 if name == "halved" else 2e-3)


def test_without_jit():
    nearly(jax.value_and_grad(lx.checkpoint(deep, budget="30%"), argnums=(0, 1))(W, X), reference("deep"))


def test_integers_keys_and_outputs_of_other_types():
    def f(x, n, key, flags):
        y = jnp.sin(x) * n + jax.random.normal(key, x.shape)
        return {"y": y * flags, "n": n + 1, "key": jax.random.split(key), "pair": (y, jnp.argmax(y))}

    args = (X[0], jnp.arange(4), KEY, jnp.array([True, False, True, True]))
    planned = lx.checkpoint(f, budget=0)
    want, got = f(*args), planned(*args)
    assert jnp.all(want["key"] == got["key"])
    loss = lambda f, x: (lambda out: (jnp.sum(out["y"] ** 2 + out["pair"][0]), out["n"]))(f(x, *args[1:]))
    (value, n), slope = jax.value_and_grad(functools.partial(loss, planned), has_aux=True)(args[0])
    nearly((value, n, slope), (*loss(f, args[0]), jax.grad(lambda x: loss(f, x)[0])(args[0])))


def test_aux_outputs_cost_no_backward_pass():
    def f(w, x):
        y = jnp.tanh(x @ w[0])
        return jnp.sum(jnp.sin(y)), jnp.cos(y @ w[1]) @ w[2]

    planned = lx.checkpoint(f, budget=0)
    program = jax.make_jaxpr(jax.grad(lambda w, x: planned(w, x)[0], argnums=(0, 1)))(W, X)
    assert str(program).count("dot_general") <= 2 + 3 + 1  # forward, the aux output with its two, backward, again


def test_closed_over_and_static_arguments():
    @functools.partial(lx.checkpoint, budget=0, static_argnums=(1, -1))
    def f(x, power, w, name):
        assert name == "it"
        return jnp.sum(jnp.sin(x @ W[0]) ** power * w)

    def through(w):
        inner = lx.checkpoint(lambda x: jnp.sum(jnp.sin(x @ w) ** 2), budget=0)
        return jax.grad(inner)(X).sum() + inner(X)

    plain = lambda w: jax.grad(lambda x: jnp.sum(jnp.sin(x @ w) ** 2))(X).sum() + jnp.sum(jnp.sin(X @ w) ** 2)
    nearly(jax.grad(f)(X, 3, W[1, 0], "it"), jax.grad(lambda x: jnp.sum(jnp.sin(x @ W[0]) ** 3 * W[1, 0]))(X))
    nearly(jax.grad(through)(W[0]), jax.grad(plain)(W[0]))


def test_donated_arguments():
    step = jax.jit(lambda w, x: w - 0.1 * jax.grad(lx.checkpoint(deep, budget=0))(w, x), donate_argnums=0)
    nearly(step(W.copy(), X), W - 0.1 * reference("deep")[1][0])


def test_prints_once_and_in_order(capsys):
    def f(x):
        jax.debug.print("first {}", x[0, 0], ordered=True)
        y = jnp.sin(x)
        jax.debug.print("second", ordered=True)
        return jnp.sum(jnp.exp(y))

    jax.block_until_ready(jax.jit(jax.grad(lx.checkpoint(f, budget=0)))(X))
    jax.effects_barrier()
    printed = capsys.readouterr().out.split("\n")
    assert [line.split()[0] for line in printed if line] == ["first", "second"]


@pytest.mark.parametrize("explicit", [False, True])
def test_sharded(explicit):
    kind = jax.sharding.AxisType.Explicit if explicit else jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((2,), ("i",), axis_types=(kind,))
    spec = jax.sharding.PartitionSpec("i")
    with jax.set_mesh(mesh):
        x = jax.device_put(X, jax.sharding.NamedSharding(mesh, spec))
        f = lambda w, x: jnp.sum(jnp.tanh(jnp.sin(x @ w[0])) ** 2)
        got = jax.jit(jax.grad(lx.checkpoint(f, budget=0), argnums=(0, 1)))(W, x)
    nearly(jax.device_get(got), jax.grad(f, argnums=(0, 1))(W, X))


@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map(check_vma):
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("i")

    def f(w, x):
        y = jnp.tanh(jnp.sin(x @ w[0]))
        return y + jax.lax.psum(jnp.exp(y), "i")

    def total(f):
        def mapped(w, x):
            out = jax.shard_map(
                f, mesh=mesh, in_specs=(jax.sharding.PartitionSpec(), spec), out_specs=spec, check_vma=check_vma
            )(w, x)
            return jnp.sum(out**2)

        return jax.jit(jax.grad(mapped, argnums=(0, 1)))

    nearly(total(lx.checkpoint(f, recompute=1))(W, X), total(f)(W, X))
    outside = lx.checkpoint(lambda w, x: jnp.sum(jax.shard_map(
        f, mesh=mesh, in_specs=(jax.sharding.PartitionSpec(), spec), out_specs=spec, check_vma=check_vma)(w, x) ** 2),
        recompute=1)  # fmt: skip
    nearly(jax.jit(jax.grad(outside, argnums=(0, 1)))(W, X), total(f)(W, X))


def test_named_axis():
    f = lambda x: jnp.sum(jnp.sin(x) * jax.lax.psum(jnp.exp(x), "b"))
    run = lambda f: jax.vmap(jax.grad(f), axis_name="b")(X)
    nearly(run(lx.checkpoint(f, recompute=1)), run(f))
    total = lambda f: jax.grad(lambda x: jax.vmap(f, axis_name="b")(x).sum())(X)
    nearly(total(lx.checkpoint(f, recompute=1)), total(f))


def test_under_the_coming_remat():
    with jax.enable_checks(False):
        before = jax.config.jax_remat3
        jax.config.update("jax_remat3", True)
        try:
            f = lx.checkpoint(looped, budget=0)
            nearly(jax.grad(jax.checkpoint(f), (0, 1))(W, X), reference("looped")[1])
            nearly(jax.grad(lx.checkpoint(with_checkpoints, budget=0), (0, 1))(W, X), reference("with_checkpoints")[1])
        finally:
            jax.config.update("jax_remat3", before)
