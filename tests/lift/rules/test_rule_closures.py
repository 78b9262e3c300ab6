"""Values that the functions of a custom rule close over, used inside other transforms, and under others around them.

A value that is being differentiated has no derivative in the rule: an error, wherever the rule meets it. Any other
value is a constant, which `fn` may always close over; a rule may as long as the transform that the value is of runs.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liftax import errors, nn

X = jnp.asarray([1.0, -2.0])
P = {"w": jnp.asarray([[2.0, 0.5], [-1.0, 3.0]])}


class Weights(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x @ self.param("w", nn.initializers.ones, (2, 2))


class Through(nn.Module):
    body: object

    @nn.compact
    def __call__(self, *args):
        return self.body(self, *args)


INSIDE = {
    "plain": lambda w, y: w * y,
    "jit": lambda w, y: jax.jit(lambda y: w * y)(y),
    "scan": lambda w, y: jax.lax.scan(lambda c, _: (c, w * y), 0.0, None, length=1)[1][0],
    "carry": lambda w, y: jax.lax.scan(lambda c, y: (w, c * y), w, jnp.stack([y, y]))[1][1],
    "cond": lambda w, y: jax.lax.cond(w > -9, lambda y: w * y, lambda y: y, y),
    "checkpoint": lambda w, y: jax.checkpoint(lambda y: w * y)(y),
    "vmap": lambda w, y: jax.vmap(lambda y: w * y)(y),
    "grad": lambda w, y: jax.grad(lambda y: 0.5 * jnp.sum(w * y * y))(y),
    "custom_vjp": lambda w, y: scaled_by(w)(y),
}


def scaled_by(w):
    """A function with a rule of JAX itself that closes over `w`."""
    f = jax.custom_vjp(lambda y: w * y)
    f.defvjp(lambda y: (w * y, None), lambda _, ct: (w * ct,))
    return f


def over_scan(f):
    return lambda v, s: jax.lax.scan(lambda c, _: (c + f(v, s), None), 0.0, None, length=2)[0] / 2


AROUND = {
    "nothing": lambda f: f,
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "scan": over_scan,
    "cond": lambda f: lambda v, s: jax.lax.cond(s > -9, f, lambda v, s: 0.0, v, s),
    "vmap": lambda f: lambda v, s: jax.vmap(f, (None, 0))(v, jnp.stack([s, s])).mean(),
    "jit of vmap": lambda f: jax.jit(AROUND["vmap"](f)),
}
KINDS = ("custom_vjp", "custom_jvp", "custom_gradient")
WHERE = {"custom_vjp": ("fn", "forward", "backward", "residual"), "custom_jvp": ("fn", "rule", "tangent"),
         "custom_gradient": ("fn", "map")}  # fmt: skip
PLACES = [(kind, where) for kind in KINDS for where in WHERE[kind]]


def program(kind, where, inside):
    """A function `(params, s) -> scalar` with a rule, one part of which closes over `sin(s)`."""

    def body(self, s):
        w = jnp.sin(s)
        use = lambda place, y: INSIDE[inside](w, y) if place == where else y
        fn = lambda mdl, x: use("fn", mdl(x))
        plain = lambda mdl, x: mdl(x)
        if kind == "custom_vjp":

            def forward(mdl, x):
                y, vjp_fn = nn.vjp(plain, mdl, x)
                return use("forward", y), (vjp_fn, w if where == "residual" else 1.0)

            def backward(residuals, ct):
                vjp_fn, factor = residuals
                p_ct, x_ct = vjp_fn(use("backward", ct))
                return p_ct, factor * x_ct

            rule = nn.custom_vjp(fn, forward, backward)
        elif kind == "custom_jvp":

            def jvp_fn(mdl, *given):
                y, y_t = nn.jvp(plain, mdl, *given)
                return use("rule", y), use("tangent", y_t)

            rule = nn.custom_jvp(fn, jvp_fn)
        else:

            def with_map(mdl, x):
                y, vjp_fn = nn.vjp(fn, mdl, x)
                return y, lambda ct: vjp_fn(use("map", ct))

            rule = nn.custom_gradient(with_map)
        return rule(Weights(name="block"), X + 0 * s).sum()  # the argument has the batch of the closure

    return lambda p, s: Through(body).apply({"params": {"block": p}}, s)


def reference(kind, where):
    """Value of `program`, and gradient to its parameters, where `s` is a constant."""
    w = jnp.sin(0.7)
    value = jnp.sum(X @ P["w"]) * (w if where == "fn" else 1.0)
    scale = w if where in ("backward", "map", "tangent") or (kind, where) == ("custom_gradient", "fn") else 1.0
    return value, {"w": scale * jnp.stack([X, X], 1)}


CELLS = [
    pytest.param(*place, inside, around, number % 2 == 0, marks=[pytest.mark.long] * (number % 19 != 0))
    for number, (around, inside, place) in enumerate(itertools.product(AROUND, INSIDE, PLACES))
    if place[1] != "tangent" or inside not in ("cond", "custom_vjp")  # these JAX can't always transpose
]


@pytest.mark.parametrize(("kind", "where", "inside", "around", "jit"), CELLS)
def test_a_closure_is_right_or_an_error(kind, where, inside, around, jit):
    """An error where it is differentiated. A constant to `fn` is right; to a rule, right while its trace lasts."""
    loss, s, compiled = AROUND[around](program(kind, where, inside)), jnp.asarray(0.7), jax.jit if jit else lambda f: f
    with pytest.raises(errors.DroppedGradientError, match=f"{kind} at /block.*closes over a value"):
        compiled(jax.grad(loss, argnums=(0, 1)))(P, s)
    want, want_grad = reference(kind, where)
    np.testing.assert_allclose(compiled(loss)(P, s), want, rtol=1e-5)
    try:
        got = compiled(jax.grad(loss))(P, s)
    except errors.DroppedGradientError:
        assert around != "nothing"
        assert where != "fn" or kind == "custom_gradient"  # there the function is a rule, too
    else:
        np.testing.assert_allclose(got["w"], want_grad["w"], rtol=1e-5)


class Scaled(nn.Module):
    scales: object

    @nn.compact
    def __call__(self, x):
        return self.scales["s"] * (x @ self.param("w", nn.initializers.ones, (2, 2)))


def ruled(kind, mdl, x):
    """Call `mdl(x)` under a rule that doubles the gradient of the parameters."""
    call = lambda mdl, x: mdl(x)
    double = lambda p, *rest: (jax.tree.map(lambda p: 2 * p, p), *rest)
    if kind == "custom_vjp":
        return nn.custom_vjp(call, lambda mdl, x: nn.vjp(call, mdl, x), lambda vjp_fn, ct: double(*vjp_fn(ct)))(mdl, x)
    if kind == "custom_jvp":
        return nn.custom_jvp(call, lambda mdl, p, t, v: nn.jvp(call, mdl, p, t, *double(v)))(mdl, x)

    def with_map(mdl, x):
        y, vjp_fn = nn.vjp(call, mdl, x)
        return y, lambda ct: double(*vjp_fn(ct))

    return nn.custom_gradient(with_map)(mdl, x)


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("kind", KINDS)
def test_a_field_is_a_constant(kind, around):
    """An array that a module of the target holds in a field is an operand of the rule, like a keyword argument."""
    model = Through(lambda self, s: ruled(kind, Scaled({"s": s}, name="block"), X).sum())
    loss = AROUND[around](lambda p, s: model.apply({"params": {"block": p}}, s))
    s = jnp.asarray(3.0)
    for grad in (jax.grad(loss), jax.jit(jax.grad(loss))):
        np.testing.assert_allclose(grad(P, s)["w"], 2 * 3 * jnp.stack([X, X], 1), rtol=1e-6)
    with pytest.raises(errors.DroppedGradientError, match=f"{kind} at /block: the field 'scales' of a module.*'s'"):
        jax.grad(loss, argnums=1)(P, s)


class Counted(nn.Module):
    @nn.compact
    def __call__(self, x):
        count = self.variable("counts", "n", lambda: jnp.asarray(2.0))
        count.value += 1
        return count.value * (x @ self.param("w", nn.initializers.ones, (2, 2)))


@pytest.mark.parametrize("kind", KINDS)
def test_state_created_inside_a_rule_starts_a_scan(kind):
    """The state that a loop carries may begin inside the rule, in the first step."""
    step = lambda self, carry, x: (carry, ruled(kind, Counted(name="block"), x))
    model = nn.scan(Through, variable_broadcast="params", variable_carry="counts", split_rngs={"params": False})(step)

    def loss(p, xs):
        (_, ys), state = model.apply({"params": {"block": p}}, 0.0, xs, mutable=["counts"])
        return ys.sum(), (ys, state["counts"]["block"]["n"])

    xs = jnp.stack([X, 2 * X])
    grads, (ys, count) = jax.grad(loss, has_aux=True)(P, xs)
    factors = jnp.asarray([3.0, 4.0])[:, None]
    np.testing.assert_allclose(ys, factors * (xs @ P["w"]), rtol=1e-6)
    np.testing.assert_allclose(grads["w"], 2 * jnp.stack([(factors * xs).sum(0)] * 2, 1), rtol=1e-6)
    assert count == 4
