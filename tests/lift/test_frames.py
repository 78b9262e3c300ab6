"""How little of liftax lies between a caller and the function that the caller hands to a transform."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import liftax
from liftax import core, lift, nn

HOME = str(Path(liftax.__file__).parent)
MOST = 5  # one of them sees whether there is a module at all
X = jnp.asarray([1.0, -2.0])
TRANSFORMS = ("vjp", "jvp", "grad", "value_and_grad", "custom_vjp")


def own_frames_up_to(caller) -> list[str]:
    """Return where the stack passes through liftax, from the function that calls this one up to `caller`."""
    frame, own = sys._getframe(1), []
    while frame.f_code is not caller.__code__:
        if frame.f_code.co_filename.startswith(HOME):
            own.append(f"{frame.f_code.co_filename.removeprefix(HOME)}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
        assert frame is not None, "the caller is not on the stack"
    return own


def call(transform, fn, mdl, x):
    """Call any of the transforms, the place from which frames are counted."""
    if transform == "custom_vjp":
        return nn.custom_vjp(fn, lambda mdl, x: nn.vjp(fn, mdl, x), lambda bwd, ct: bwd(ct))(mdl, x)
    if transform == "jvp":
        return nn.jvp(fn, mdl, (x,), (x,), variable_tangents={})
    return getattr(nn, transform)(fn, mdl, x)


def scopes(body):
    """Run `body(target)` on a scope, at init and apply."""
    f = lambda scope: body(scope)
    _, variables = core.init(f)(jax.random.key(0))
    core.apply(f)(variables)


def modules(body):
    """Run `body(target)` on a module, at init and apply."""

    class Holds(nn.Module):
        @nn.compact
        def __call__(self, x):
            return jnp.sum(x * self.param("w", nn.initializers.ones, (2,)))

    class Host(nn.Module):
        @nn.compact
        def __call__(self):
            body(Holds())
            return 0.0

    _, variables = Host().init_with_output(jax.random.key(0))
    Host().apply(variables)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("run", [scopes, modules], ids=["Scope", "Module"])
def test_frames_between_caller_and_fn(transform, run):
    counted = []

    def fn(target, x):
        counted.append(own_frames_up_to(call))
        if run is scopes:
            return jnp.sum(x * target.param("w", nn.initializers.ones, (2,)))
        return target(x)

    run(lambda target: call(transform, fn, target, X))
    assert len(counted) >= 2  # at init and at apply
    assert all(1 <= len(frames) <= MOST for frames in counted), counted


@pytest.mark.parametrize("run", [scopes, modules], ids=["Scope", "Module"])
def test_frames_between_caller_and_the_rules(run):
    """The same for `forward_fn` and `backward_fn`, which JAX calls."""
    counted = {"forward_fn": [], "backward_fn": []}

    def fn(target, x):
        return target(x) if run is modules else jnp.sum(x * target.param("w", nn.initializers.ones, (2,)))

    def forward(target, x):
        counted["forward_fn"].append(own_frames_up_to(differentiate))
        return nn.vjp(fn, target, x)

    def backward(bwd, ct):
        counted["backward_fn"].append(own_frames_up_to(differentiate))
        return bwd(ct)

    def differentiate(target):
        # raw JAX around a call that writes nothing
        return jax.grad(lambda x: nn.custom_vjp(fn, forward, backward)(target, x))(X)

    if run is scopes:
        core.apply(differentiate)({"params": {"w": jnp.ones(2)}})
    else:

        class Holds(nn.Module):
            @nn.compact
            def __call__(self, x):
                return jnp.sum(x * self.param("w", nn.initializers.ones, (2,)))

        differentiate(Holds().bind({"params": {"w": jnp.ones(2)}}))
    assert all(frames and all(len(f) <= MOST for f in frames) for frames in counted.values()), counted


@pytest.mark.parametrize("name", TRANSFORMS)
def test_one_function_for_every_target(name):
    """The namespace of modules re-exports the lifted transforms, it wraps none."""
    assert getattr(nn, name) is getattr(lift, name)


def test_frame_count_sees_frames():
    """The measure is no constant: a transform in a transform has about twice the frames."""
    counted = []

    def inner(scope, x):
        counted.append(len(own_frames_up_to(outer)))
        return jnp.sum(x * scope.param("w", nn.initializers.ones, (2,)))

    def outer(scope):
        call("vjp", lambda scope, x: call("vjp", inner, scope, x)[0], scope, X)
        call("vjp", inner, scope, X)

    core.apply(outer)({"params": {"w": jnp.ones(2)}})
    assert counted[0] == 2 * counted[1] > 0
