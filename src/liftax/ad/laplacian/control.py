"""Rules of loops and branches: the pass runs inside of them.

What a loop carries must have the same pattern after a step as before, and what branches return the same in each. So
patterns are joined until they stay, before the loop is written.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from liftax.ad.laplacian.jacobian import Jacobian
from liftax.ad.laplacian.pattern import Pattern
from liftax.ad.laplacian.trace import Rule, Step
from liftax.ad.laplacian.varying import Varying, value_of

_MOST_JOINS = 4
"""After so many tries a pattern that a loop carries is taken to be dense."""


class Form(NamedTuple):
    """What a value carries: the pattern of its derivatives (None for a constant), and whether it has a Laplacian."""

    pattern: Pattern | None
    curved: bool


def form_of(x: Any) -> Form:
    """Return the form of a value."""
    return Form(x.pattern, x.second is not None) if isinstance(x, Varying) else Form(None, False)


def pack(x: Any, form: Form) -> list[Any]:
    """Return a value as arrays, in a form that has room for what it carries."""
    value = jnp.asarray(value_of(x))
    if form.pattern is None:
        return [value]
    if isinstance(x, Varying):
        data, second = x.jacobian.to(form.pattern), x.second
    else:
        data, second = jnp.zeros((form.pattern.slots, *value.shape), value.dtype), None
    parts = [value, data]
    return [*parts, jnp.zeros_like(value) if second is None else second] if form.curved else parts


def unpack(parts: Sequence[Any], form: Form) -> Any:
    """Return the value that was packed in the form."""
    if form.pattern is None:
        return parts[0]
    return Varying(parts[0], Jacobian(parts[1], form.pattern), parts[2] if form.curved else None)


def _join(step: Step, a: Form, b: Form) -> Form:
    patterns = [f.pattern for f in (a, b) if f.pattern is not None]
    return Form(step.union(*patterns) if patterns else None, a.curved or b.curved)


def _forms(run: Callable[[Any], Sequence[Any]], packed: Any) -> list[Form]:
    """Return the forms of the results of a function of arrays, of which only types are used."""
    found: list[Form] = []

    def record(packed: Any) -> Any:
        results = run(packed)
        found[:] = [form_of(x) for x in results]
        return [value_of(x) for x in results]

    jax.eval_shape(record, packed)
    return found


def _settled(
    step: Step, run: Callable[[Any, Sequence[Form]], Sequence[Any]], carry: Sequence[Any], rest: Any
) -> list[Form]:
    """Return forms in which a loop can carry values: those that a step, `run(packed, forms)`, leaves as they are."""
    forms = [form_of(x) for x in carry]
    for tries in range(_MOST_JOINS + len(forms)):
        packed = [pack(x, f) for x, f in zip(carry, forms, strict=True)]
        after = _forms(lambda p, forms=forms: run(p, forms)[: len(forms)], (packed, rest))
        joined = [_join(step, a, b) for a, b in zip(forms, after, strict=True)]
        if joined == forms:
            break
        if tries >= _MOST_JOINS:
            dense = step.within.directions.dense
            joined = [f if f.pattern is None else Form(dense(f.pattern.ndim), True) for f in joined]
        forms = joined
    return forms


def _scan(step: Step) -> list[Any]:
    p, closed = step.params, step.params["jaxpr"]
    carried = _unchanged(step.eqn.outvars, closed.jaxpr.outvars)
    consts, carry, xs = _parts(step.operands, _unchanged(step.eqn.invars, closed.jaxpr.invars) - carried, carried)
    xs = [Varying(x.value, x.jacobian.over([0]), x.second) if isinstance(x, Varying) else x for x in xs]
    slices = [Form(f.pattern and f.pattern.without([0]), f.curved) for f in map(form_of, xs)]
    scanned = []
    for x, f in zip(xs, map(form_of, xs), strict=True):
        parts = pack(x, f)
        scanned.append([parts[0], *(jnp.moveaxis(v, 1, 0) for v in parts[1:2]), *parts[2:]])

    def run(packed: Any, forms: Sequence[Form]) -> list[Any]:
        carried, sliced = packed
        inner = [unpack(v, f) for v, f in zip(carried, forms, strict=True)]
        inner += [unpack(v, f) for v, f in zip(sliced, slices, strict=True)]
        return step.within.run(closed.jaxpr, closed.consts, [*consts, *inner])

    first = jax.tree.map(lambda v: v[0], scanned) if p["length"] else jax.tree.map(_empty_slice, scanned)
    forms = _settled(step, run, carry, first)
    packed = [pack(x, f) for x, f in zip(carry, forms, strict=True)]
    stacked = _forms(lambda v: run(v, forms)[len(forms) :], (packed, first))

    def body(carried: Any, sliced: Any) -> Any:
        found = run((carried, sliced), forms)
        out = [pack(x, f) for x, f in zip(found[: len(forms)], forms, strict=True)]
        return out, [pack(x, f) for x, f in zip(found[len(forms) :], stacked, strict=True)]

    extra = {k: p[k] for k in ("reverse", "unroll") if k in p}
    last, ys = jax.lax.scan(body, packed, scanned, length=p["length"], **extra)
    out = [unpack(v, f) for v, f in zip(last, forms, strict=True)]
    for v, f in zip(ys, stacked, strict=True):
        if f.pattern is not None:
            whole = step.pattern(np.expand_dims(f.pattern.index, 1))
            v, f = [v[0], jnp.moveaxis(v[1], 0, 1), *v[2:]], Form(whole, f.curved)
        out.append(unpack(v, f))
    return out


def _unchanged(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    """Return of how many values of a scan the body sees all, and not a slice: JAX 0.12 counts them otherwise."""
    return sum(len(v.aval.shape) == len(w.aval.shape) for v, w in zip(outside, inside, strict=True))


def _empty_slice(v: Any) -> Any:
    return jnp.zeros(v.shape[1:], v.dtype)


def _while(step: Step) -> list[Any]:
    p = step.params
    tests, consts, carry = _parts(step.operands, p["cond_nconsts"], p["body_nconsts"])
    test, closed = p["cond_jaxpr"], p["body_jaxpr"]
    tests = [value_of(x) for x in tests]

    def run(packed: Any, forms: Sequence[Form]) -> list[Any]:
        inner = [unpack(v, f) for v, f in zip(packed[0], forms, strict=True)]
        return step.within.run(closed.jaxpr, closed.consts, [*consts, *inner])

    forms = _settled(step, run, carry, None)

    def body(packed: Any) -> Any:
        return [pack(x, f) for x, f in zip(run((packed, None), forms), forms, strict=True)]

    def goes_on(packed: Any) -> Any:
        return step.within.run(test.jaxpr, test.consts, [*tests, *(v[0] for v in packed)])[0]

    packed = [pack(x, f) for x, f in zip(carry, forms, strict=True)]
    last = jax.lax.while_loop(goes_on, body, packed)
    return [unpack(v, f) for v, f in zip(last, forms, strict=True)]


def _cond(step: Step) -> list[Any]:
    which, operands = step.values[0], step.operands[1:]
    branches, platforms = step.params["branches"], step.params.get("branches_platforms")
    known = step.within.concrete(which) if platforms is None else None
    if known is not None:
        branch = branches[int(np.clip(known, 0, len(branches) - 1))]
        return step.within.run(branch.jaxpr, branch.consts, operands)
    if platforms is not None and platforms[-1] is None:  # the same function, written for one platform or for any
        return step.within.run(branches[-1].jaxpr, branches[-1].consts, operands)
    given = [form_of(x) for x in operands]
    packed = [pack(x, f) for x, f in zip(operands, given, strict=True)]

    def run(branch: Any, packed: Any) -> list[Any]:
        inner = [unpack(v, f) for v, f in zip(packed, given, strict=True)]
        return step.within.run(branch.jaxpr, branch.consts, inner)

    found = [_forms(lambda v, b=b: run(b, v), packed) for b in branches]
    forms = found[0]
    for other in found[1:]:
        forms = [_join(step, a, b) for a, b in zip(forms, other, strict=True)]
    alike = [lambda v, b=b: [pack(x, f) for x, f in zip(run(b, v), forms, strict=True)] for b in branches]
    return [unpack(v, f) for v, f in zip(jax.lax.switch(which, alike, packed), forms, strict=True)]


def _parts(operands: Sequence[Any], first: int, second: int) -> tuple[list[Any], list[Any], list[Any]]:
    operands = list(operands)
    return operands[:first], operands[first : first + second], operands[first + second :]


RULES: dict[str, Rule] = {"scan": _scan, "while": _while, "cond": _cond}
