"""What plans for the backward pass (`liftax.ad.memory`) need of JAX: a primitive, and parts of equations."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core

from liftax._compat import _private


@functools.cache
def differentiated_by_plan(name: str) -> Any:
    """Make a primitive `p(*args, jaxpr=…, plan=…)` that runs a jaxpr, and has the derivative that `plan` makes for it.

    `plan.derivative(jaxpr, nonzero)` returns an object with `run(primals) -> (outputs, kept)`, `forward(kept, tangents)
    -> tangents`, `backward(kept, cotangents) -> cotangents`, where None is zero, `nonzero`, for each output whether it
    has a tangent, and `types`, the types of these. A public `jax.custom_vjp` has no forward mode, and a public
    `jax.custom_jvp` no backward pass of its own. Uses
    `jax.interpreters.{ad, batching, mlir}`.
    """
    primitive = _private("jax._src.core", "Primitive")
    zero = _private("jax.interpreters.ad", "Zero")
    instantiated = _private("jax.interpreters.ad", "instantiate_zeros")
    is_unknown = _private("jax.interpreters.ad", "is_undefined_primal")
    batchers = _private("jax.interpreters.batching", "fancy_primitive_batchers")
    jvps = _private("jax.interpreters.ad", "primitive_jvps")
    transposes = _private("jax.interpreters.ad", "primitive_transposes")
    lower_fun = _private("jax.interpreters.mlir", "lower_fun")
    register_lowering = _private("jax.interpreters.mlir", "register_lowering")
    prim, linear = primitive(name), primitive(f"{name}_linear")
    prim.multiple_results = linear.multiple_results = True

    def run(*args: Any, jaxpr: Any, plan: Any) -> Any:
        return jax.core.eval_jaxpr(jaxpr, (), *args)

    def jvp(primals: Sequence[Any], tangents: Sequence[Any], *, jaxpr: Any, plan: Any) -> tuple[Any, Any]:
        nonzero = tuple(type(t) is not zero for t in tangents)
        made = plan.derivative(jaxpr, nonzero)
        out, kept = made.run(primals)
        moving = [t for t, nz in zip(tangents, nonzero, strict=True) if nz]
        found = iter(linear.bind(*kept, *moving, made=made, count=len(kept)) if any(made.nonzero) else ())
        types = [jax.typeof(x).to_tangent_aval() for x in out]
        return out, [next(found) if nz else zero(t) for t, nz in zip(types, made.nonzero, strict=True)]

    def vectorized(axis: Any, fun: Callable[..., Any], dims: Any, out: Any = 0) -> Callable[..., Any]:
        named = axis.name if isinstance(axis.name, str) else None
        return jax.vmap(
            fun, dims, out, axis_size=axis.size, axis_name=named, spmd_axis_name=getattr(axis, "spmd_name", None)
        )

    def batched(axis: Any, args: Any, dims: Any, *, jaxpr: Any, plan: Any) -> tuple[Any, Any]:
        dims = tuple(dims)
        pure = vectorized(axis, lambda *xs: jax.core.eval_jaxpr(jaxpr, (), *xs), dims)
        made = jax.make_jaxpr(pure)(*args)
        consts = list(made.consts)
        inner = made.jaxpr.replace(
            constvars=[],
            invars=[*made.jaxpr.constvars, *made.jaxpr.invars],
            debug_info=made.jaxpr.debug_info.with_unknown_names(),
        )
        out = prim.bind(*consts, *args, jaxpr=inner, plan=plan)
        return out, [0] * len(out)

    def transposed(cts: Any, *args: Any, jaxpr: Any, plan: Any) -> list[Any]:
        unknown = [is_unknown(x) for x in args]
        cts = [instantiated(ct) for ct in cts]

        def of_unknown(*xs: Any) -> Any:
            rest = iter(xs)
            return jax.core.eval_jaxpr(jaxpr, (), *[next(rest) if u else x for x, u in zip(args, unknown, strict=True)])

        types = [x.aval for x, u in zip(args, unknown, strict=True) if u]
        found = iter(jax.linear_transpose(of_unknown, *types)(cts))
        return [next(found) if u else None for u in unknown]

    def linear_run(*args: Any, made: Any, count: int) -> Any:
        return made.forward(args[:count], args[count:])

    def linear_jvp(primals: Any, tangents: Any, *, made: Any, count: int) -> tuple[Any, Any]:
        kept_move = any(type(t) is not zero for t in tangents[:count])
        if not kept_move:
            moving = [instantiated(t) for t in tangents[count:]]
            bind = lambda xs: linear.bind(*primals[:count], *xs, made=made, count=count)  # noqa: E731
            return bind(primals[count:]), bind(moving)
        moves = [type(t) is not zero for t in tangents]

        def of_moving(*xs: Any) -> Any:
            rest = iter(xs)
            values = [next(rest) if m else x for x, m in zip(primals, moves, strict=True)]
            return made.forward(values[:count], values[count:])

        chosen = lambda xs: [x for x, m in zip(xs, moves, strict=True) if m]  # noqa: E731
        return jax.jvp(of_moving, chosen(primals), chosen(tangents))

    def linear_transposed(cts: Any, *args: Any, made: Any, count: int) -> list[Any]:
        found = made.backward(args[:count], [None if type(ct) is zero else ct for ct in cts])
        return [*[None] * count, *found]

    def linear_batched(axis: Any, args: Any, dims: Any, *, made: Any, count: int) -> tuple[Any, Any]:
        dims = list(dims)
        tangents = [
            jax.numpy.broadcast_to(x, (axis.size, *x.shape)) if d is None else jax.numpy.moveaxis(x, d, 0)
            for x, d in zip(args[count:], dims[count:], strict=True)
        ]
        inner = _Batched(made, functools.partial(vectorized, axis), tuple(dims[:count]))
        out = linear.bind(*args[:count], *tangents, made=inner, count=count)
        return out, [0] * len(out)

    prim.def_impl(run)
    prim.def_effectful_abstract_eval(
        lambda *_, jaxpr, plan: ([v.aval for v in jaxpr.outvars], jaxpr.effects)  # inputs' types are the jaxpr's own
    )
    jvps[prim] = jvp
    transposes[prim] = transposed
    batchers[prim] = batched
    register_lowering(prim, lower_fun(run, multiple_results=True))
    linear.def_impl(linear_run)
    linear.def_abstract_eval(lambda *_, made, count: made.types)
    jvps[linear] = linear_jvp
    transposes[linear] = linear_transposed
    batchers[linear] = linear_batched
    register_lowering(linear, lower_fun(linear_run, multiple_results=True))
    return prim


class _Batched:
    """A derivative (see `differentiated_by_plan`) of many examples, the first axis of all but what is kept."""

    def __init__(self, one: Any, vectorized: Callable[..., Any], kept: tuple[int | None, ...]):
        self.forward = vectorized(one.forward, (list(kept), 0))
        self.nonzero, self._one, self._vectorized, self._kept = one.nonzero, one, vectorized, list(kept)
        self.types = list(map(self._type, one.types))

    def _type(self, aval: Any) -> Any:
        batch = self._vectorized(lambda x: x, None)
        return jax.make_jaxpr(batch)(aval).out_avals[0]

    def backward(self, kept: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        here = [ct is not None for ct in cotangents]
        reached: list[bool] = []

        def one(kept: Any, cts: Any) -> list[Any]:
            rest = iter(cts)
            found = self._one.backward(kept, [next(rest) if h else None for h in here])
            reached[:] = [ct is not None for ct in found]
            return [ct for ct in found if ct is not None]

        out = iter(self._vectorized(one, (self._kept, 0))(list(kept), [ct for ct in cotangents if ct is not None]))
        return [next(out) if r else None for r in reached]


def is_sharded_call(eqn: Any) -> bool:
    """Tell whether an equation of `jax.jit` says how its operands or results are laid out. JAX 0.10 to 0.12."""
    shardings = [s for name in ("in_shardings", "out_shardings") for s in eqn.params.get(name, ())]
    return any(type(s).__name__ != "UnspecifiedValue" for s in shardings)


def scan_counts(eqn: Any) -> tuple[int, int]:
    """Return how many operands of a `scan` are constants, and how many are carried. JAX 0.10 to 0.12."""
    if "num_consts" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carry, _ = eqn.params["ft_in"].unpack()
    return len(consts), len(carry)


def fresh_variable(like: Any) -> Any:
    """Return a variable of a jaxpr with the type of another one. JAX 0.10 to 0.12."""
    return type(like)(like.aval)


def manual_axes(x: Any) -> Any:
    """Return over which manual mesh axes `x` varies, hashable. JAX 0.10 to 0.12 (`vma`, `mat` of types)."""
    aval = jax.typeof(x)
    return str(getattr(aval, "vma", "")) + str(getattr(aval, "mat", ""))


def source_line(eqn: Any) -> str:
    """Return the line of the user's program that an equation is from, as `file:line`, or the empty string.

    JAX 0.10 to 0.12 (`jax._src.source_info_util.user_frame`).
    """
    user_frame = _private("jax._src.source_info_util", "user_frame", None)
    try:
        frame = user_frame and user_frame(eqn.source_info.traceback)
    except (AttributeError, TypeError):
        frame = None
    return f"{frame.file_name}:{frame.start_line}" if frame else ""


def located(eqn: Any) -> Any:
    """Return a context in which new equations carry the names and the source line of `eqn` after the names around it.

    Uses `source_info` of equations.
    """
    current = _private("jax._src.source_info_util", "current_name_stack", None)
    context = _private("jax._src.source_info_util", "user_context", None)
    if current is None or context is None:
        return contextlib.nullcontext()
    return context(eqn.source_info.traceback, name_stack=current() + eqn.source_info.name_stack)
