"""The transforms of the table: each as liftax runs it on a wrapped model, and as JAX runs it on the library's own call.

ROWS : name -> (ours, theirs)        each (case) -> function of (variables, x)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from tests.bridge.case import Case

import liftax as lx
from liftax import nn
from liftax.core.rngs import fold

Program = Callable[[Any, Any], Any]


def apply(case: Case) -> Program:
    return lambda v, x: case.wrapper.apply(v, x, rngs=case.rngs, mutable=list(case.moved))


def lifted(fn: Callable[[Any, Any], Any]) -> Callable[[Case], Program]:
    """`fn(module, x)`, run on the wrapped model."""

    def program(case: Case) -> Program:
        run = nn.apply(fn, case.wrapper, mutable=list(case.moved))
        return lambda v, x: run(v, x, rngs=case.rngs)

    return program


def around(transform: Callable[[Program], Program]) -> tuple[Any, Any]:
    return lambda case: transform(named(apply(case))), lambda case: transform(named(case.own))


def named(fn: Program) -> Program:
    """Return `fn` under one name, which shows in the text of a program."""

    def run(v: Any, x: Any) -> Any:
        return fn(v, x)

    return run


def carried(run: Program, v: Any, x: Any) -> Any:
    def step(v: Any, _: Any) -> Any:
        out, moved = run(v, x)
        return {**v, **moved}, out

    return jax.lax.scan(step, v, None, length=2)


def total(out: Any) -> Any:
    return jnp.sum(jnp.sin(out))


def scalar(mdl: Any, x: Any) -> Any:
    return total(mdl(x))


def of_params(case: Case, v: Any) -> Callable[[Any, Any], Any]:
    """The library's call as a function of the parameters and the argument."""
    return lambda params, x: case.own({**v, **params}, x)


def params_of(v: Any) -> Any:
    return {"params": v["params"]}


def _vjp(mdl: Any, x: Any) -> Any:
    out, vjp_fn = nn.vjp(lambda mdl, x: mdl(x), mdl, x)
    return out, vjp_fn(out)


def _own_vjp(case: Case) -> Program:
    def program(v: Any, x: Any) -> Any:
        out, vjp_fn, moved = jax.vjp(of_params(case, v), params_of(v), x, has_aux=True)
        return (out, vjp_fn(out)), moved

    return program


def _jvp(mdl: Any, x: Any) -> Any:
    params = {"params": mdl.variables["params"]}
    return nn.jvp(lambda mdl, x: mdl(x), mdl, (x,), (x,), params)


def _own_jvp(case: Case) -> Program:
    def program(v: Any, x: Any) -> Any:
        point = params_of(v), x
        out, tangent, moved = jax.jvp(of_params(case, v), point, point, has_aux=True)
        return (out, tangent), moved

    return program


def _own_scalar(case: Case, v: Any) -> Callable[[Any, Any], Any]:
    def fn(params: Any, x: Any) -> Any:
        out, moved = case.own({**v, **params}, x)
        return total(out), moved

    return fn


def _own_grad(case: Case) -> Program:
    def program(v: Any, x: Any) -> Any:
        return jax.grad(_own_scalar(case, v), argnums=(0, 1), has_aux=True)(params_of(v), x)

    return program


def _own_value_and_grad(case: Case) -> Program:
    def program(v: Any, x: Any) -> Any:
        (value, moved), grads = jax.value_and_grad(_own_scalar(case, v), argnums=1, has_aux=True)(params_of(v), x)
        return (value, (grads,)), moved

    return program


def _own_hessian(case: Case) -> Program:
    def program(v: Any, x: Any) -> Any:
        def fn(x: Any) -> Any:
            return _own_scalar(case, v)(params_of(v), x)

        return jax.hessian(fn, has_aux=True)(x)

    return program


def _own_laplacian(case: Case) -> Program:
    def program(v: Any, x: Any) -> Any:
        out, laplacian, moved = lx.laplacian(lambda x: _own_scalar(case, v)(params_of(v), x), x, has_aux=True)
        return (out, laplacian), moved

    return program


def _custom_vjp(mdl: Any, x: Any) -> Any:
    """A rule that doubles the derivative of the call: `fwd` and `bwd` by `nn.vjp`."""

    def fwd(mdl: Any, x: Any) -> Any:
        return nn.vjp(lambda mdl, x: mdl(x), mdl, x)

    def bwd(vjp_fn: Any, out_ct: Any) -> Any:
        return jax.tree.map(lambda ct: 2 * ct, vjp_fn(out_ct))

    doubled = nn.custom_vjp(lambda mdl, x: mdl(x), fwd, bwd)
    return nn.grad(lambda mdl, x: total(doubled(mdl, x)), mdl, x, vjp_variables="params")


def _own_custom_vjp(case: Case) -> Program:
    def program(v: Any, x: Any) -> Any:
        grads, moved = _own_grad(case)(v, x)
        return jax.tree.map(lambda g: 2 * g, grads), moved

    return program


def _linearize(mdl: Any, x: Any) -> Any:
    out, jvp_fn = nn.linearize(lambda mdl, x: mdl(x), mdl, x)
    return out, jvp_fn(x)


def _own_linearize(case: Case) -> Program:
    def program(v: Any, x: Any) -> Any:
        out, jvp_fn, moved = jax.linearize(lambda x: case.own(v, x), x, has_aux=True)
        return (out, jvp_fn(x)), moved

    return program


def _lifted_scan(case: Case) -> Program:
    def fn(mdl: Any, x: Any) -> Any:
        def step(mdl: Any, carry: Any, _: Any) -> Any:
            return carry, mdl(x)

        rest = nn.DenyList(list(case.moved)) if case.moved else True
        moving = {"variable_carry": list(case.moved)} if case.moved else {}
        return nn.scan(step, variable_broadcast=rest, split_rngs=dict.fromkeys(case.rngs, False), length=2, **moving)(
            mdl, 0.0, None
        )[1]

    return lifted(fn)(case)


def _own_jit(case: Case) -> Program:
    """`nn.jit` draws inside from one key a stream, drawn at the call."""
    rngs = {stream: fold(key, 1) for stream, key in case.rngs.items()}
    return jax.jit(lambda v, x: case.own(v, x, rngs=rngs))


def _own_scan(case: Case) -> Program:
    def program(v: Any, x: Any) -> Any:
        v, outs = carried(case.own, v, x)
        return outs, {col: v[col] for col in case.moved}

    return program


ROWS: dict[str, tuple[Callable[[Case], Program], Callable[[Case], Program]]] = {
    "call": (apply, lambda case: case.own),
    "jit": around(jax.jit),
    "vmap": around(lambda run: lambda v, x: jax.vmap(run, in_axes=(None, 0))(v, jnp.stack([x, -x]))),
    "scan": around(lambda run: lambda v, x: carried(run, v, x)),
    "remat": around(jax.checkpoint),
    "nn.jit": (lifted(nn.jit(lambda mdl, x: mdl(x))), _own_jit),
    "nn.scan": (_lifted_scan, _own_scan),
    "nn.remat": (lifted(nn.remat(lambda mdl, x: mdl(x))), lambda case: jax.checkpoint(case.own)),
    "nn.vjp": (lifted(_vjp), _own_vjp),
    "nn.jvp": (lifted(_jvp), _own_jvp),
    "nn.grad": (lifted(lambda mdl, x: nn.grad(scalar, mdl, x, vjp_variables="params")), _own_grad),
    "nn.value_and_grad": (lifted(lambda mdl, x: nn.value_and_grad(scalar, mdl, x)), _own_value_and_grad),
    "nn.hessian": (lifted(lambda mdl, x: nn.hessian(scalar, mdl, x)), _own_hessian),
    "nn.laplacian": (lifted(lambda mdl, x: nn.laplacian(scalar, mdl, x)), _own_laplacian),
    "nn.custom_vjp": (lifted(_custom_vjp), _own_custom_vjp),
    "nn.linearize": (lifted(_linearize), _own_linearize),
}
