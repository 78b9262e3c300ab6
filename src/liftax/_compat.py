"""The only file that touches `jax.extend`, `jax.interpreters` or anything private of JAX.

JAX promises nothing about these names: each one below says which versions of JAX it is known to serve, so that an
upgrade means running the tests and reading this file. Everything else in liftax uses public JAX.
"""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax._src.core  # `jax.extend.core` has the same, and imports Pallas: as much time as liftax in all
import jax._src.dtypes
import jax.core
import jax.interpreters.ad
import jax.interpreters.batching
import jax.interpreters.mlir
import jax.interpreters.partial_eval

from liftax.errors import LazyInitError

__all__ = ["Primitive", "bound_axis_names", "is_tracer", "linear_in_first", "trace_state", "vjp_outputs"]

Primitive = jax._src.core.Primitive
"""What JAX traces, transforms and compiles. `jax.extend.core.Primitive` in JAX 0.10 to 0.12."""

trace_state: Callable[[], Any] = jax._src.core.get_opaque_trace_state
"""Return an object that equals another one if and only if both were made under the same trace.

`jax.extend.core.get_opaque_trace_state` in JAX 0.10 to 0.12.
"""


def is_tracer(x: Any) -> bool:
    """Say whether `x` is a tracer of JAX. Public in JAX 0.10 to 0.12 (`jax.core.Tracer`), kept here with its kin."""
    return isinstance(x, jax.core.Tracer)


def is_staged(x: Any) -> bool:
    """Tell whether `x` stands for a value in a jaxpr that is being written. JAX 0.10 to 0.12 (`_trace` and `frame`)."""
    return is_tracer(x) and hasattr(x._trace, "frame")


def bound_axis_names() -> tuple[Hashable, ...]:
    """Return the named axes in whose scope the caller runs, for error texts alone. JAX 0.10 to 0.12."""
    import jax.extend.core  # on demand: see the head of this file

    names = jax.extend.core.unsafe_get_axis_names_DO_NOT_USE()  # type: ignore[attr-defined]
    return tuple(names)


def vjp_outputs(vjp: Any) -> tuple[Any] | None:
    """Return `(outputs,)`, the outputs that a VJP object of JAX belongs to as a tree of `jax.ShapeDtypeStruct`.

    For texts alone: `None` where the object is laid out otherwise. JAX 0.10 to 0.12 keep the outputs' types as
    the fourth bound argument of the object's function.
    """
    try:
        structs = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in vjp.fun.args[3]]
        return (jax.tree.unflatten(vjp.out_tree, structs),)
    except (AttributeError, IndexError, TypeError, ValueError):
        return None


def linear_in_first(
    name: str,
    *,
    run: Callable[..., Any],
    primal: Callable[..., Any] | None,
    transpose: Callable[..., Any],
    batch: Callable[[int, Hashable, Sequence[Any], Sequence[int | None], dict[str, Any]], tuple[Any, int | None]],
    lower: Callable[..., Any] | None = None,
) -> Primitive:
    """Make a primitive `p(x, like, **params)` whose result has the type of `x` and that is linear in `x`.

    `like` carries no derivative: rules only look at it. JAX 0.10 to 0.12 (`jax.interpreters.{ad, batching, mlir}`).

    Args:
        name: What the primitive is called in a jaxpr.
        run: What it computes once nothing is left to transform, written with JAX operations.
        primal: What differentiation puts in the place of the primal output; the primitive itself if `None`.
        transpose: `(ct, like, **params) -> ct of x`.
        batch: `(axis_size, axis_name, (x, like), their batch dimensions, params) -> (out, batch dimension of out)`.
        lower: What it computes in a compiled program; `run` if `None`.

    Returns:
        The primitive; use its `bind`.
    """
    prim = Primitive(name)
    zero = jax.interpreters.ad.Zero

    def jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> tuple[Any, Any]:
        x, like = primals
        dx = tangents[0]
        out = prim.bind(x, like, **params) if primal is None else primal(x, like, **params)
        return out, dx if type(dx) is zero else prim.bind(dx, like, **params)

    def transposed(ct: Any, x: Any, like: Any, **params: Any) -> list[Any]:
        return [ct if type(ct) is zero else transpose(ct, like, **params), None]

    def batched(axis: Any, vals: Sequence[Any], dims: Sequence[int | None], **params: Any) -> tuple[Any, int | None]:
        return batch(axis.size, axis.name, vals, dims, params)

    prim.def_impl(run)
    prim.def_abstract_eval(lambda x, like, **params: x)
    jax.interpreters.ad.primitive_jvps[prim] = jvp
    jax.interpreters.ad.primitive_transposes[prim] = transposed
    jax.interpreters.batching.fancy_primitive_batchers[prim] = batched
    lowering = jax.interpreters.mlir.lower_fun(lower or run, multiple_results=False)
    jax.interpreters.mlir.register_lowering(prim, lowering)
    return prim


def known_zero(x: Any) -> bool | None:
    """Tell whether `x` is zero everywhere: True, False, or None where only running the program would tell.

    A tracer that some equation of the program at hand computes counts as not zero, unless that equation spells out
    zeros; a tracer that is an input of the program may be either. JAX 0.10 to 0.12 (`val`, `primal` and `parent` of
    tracers).
    """
    if not is_tracer(x):
        return not bool(jax.numpy.any(x != 0))
    for inner in ("val", "primal"):  # what vmap, and what jvp and linearize, wrap
        wrapped = getattr(x, inner, None)
        if isinstance(wrapped, jax.Array):
            return known_zero(wrapped)
    equation = getattr(x, "parent", None)
    if equation is None:
        return None
    operands = getattr(equation, "in_tracers", ())
    literal = [getattr(o, "val", o) for o in operands]
    spelled = str(getattr(equation, "primitive", None)) == "broadcast_in_dim"
    return bool(spelled and len(literal) == 1 and getattr(literal[0], "val", None) == 0)


def partial_eval(fun: Callable[..., Any], known: Any, unknown: Any) -> Any:
    """Return `fun(known, unknown)` where nothing of the result depends on the value of `unknown`.

    `fun` is traced with types alone; what the result does not need of the program is cut away (`dce_jaxpr`), and the
    rest is run. JAX 0.10 to 0.12 (`jax.interpreters.partial_eval.dce_jaxpr`).

    Args:
        fun: a function of two trees of arrays.
        known: arrays.
        unknown: arrays or `jax.ShapeDtypeStruct`s.

    Raises:
        LazyInitError: the result depends on a value in `unknown`.
    """
    closed, shape = jax.make_jaxpr(fun, return_shape=True)(known, unknown)
    jaxpr, used = jax.interpreters.partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    leaves = jax.tree.leaves(known)
    if any(used[len(leaves) :]):
        types = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in jax.tree.leaves(unknown)]
        at_fault = [str(t) for t, u in zip(types, used[len(leaves) :], strict=True) if u]
        raise LazyInitError(
            f"lazy_init: a variable's initial value depends on the value of an argument ({', '.join(at_fault)}), and "
            "only its shape is known. Use init with real arrays, or initialize the variable from shapes alone."
        )
    inputs = [x for x, u in zip(leaves, used, strict=False) if u]
    out = jax.core.eval_jaxpr(jaxpr, closed.consts, *inputs)
    return jax.tree.unflatten(jax.tree.structure(shape), out)


class _Refusal(jax._src.core.Trace):
    """The trace of what must not be used: JAX asks each tracer that it works with whether its trace is valid."""

    __slots__ = ("error",)

    def __init__(self, error: Exception):
        super().__init__()
        self.error = error

    def is_valid(self) -> bool:
        raise self.error


class _Refused(jax.core.Tracer):
    __slots__ = ()

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise self._trace.error

    @property
    def _debug_info(self) -> Any:  # what JAX asks for when it is about to raise an error of its own
        raise self._trace.error

    def __repr__(self) -> str:
        return f"<{self.aval.str_short()}: {self._trace.error}>"

    __array__ = __bool__ = __complex__ = __float__ = __format__ = __index__ = __int__ = __iter__ = _refuse
    __str__ = __repr__


def refused(like: Any, error: Exception) -> Any:
    """Return what has the type of the array `like`, may be passed on and dropped, and raises `error` where it is used.

    JAX 0.10 to 0.12 (`Trace.is_valid`, which `Primitive.bind` calls for tracers among its operands).
    """
    return _Refused(_Refusal(error), jax.typeof(like))


def foreign(tree: Any) -> bool:
    """Tell whether `tree` has a tracer that the trace that runs now, and those around it, know nothing of.

    A function that is traced late gets hold of one by closing over it: a value of a transform that has ended, or of
    one that differentiates the function from outside. What `vmap` wraps counts where that goes on, under a new trace
    with the same tag. JAX 0.10 to 0.12 (`_trace` and `val` of tracers, `tag` of traces; see `traces`).
    """
    now = traces()
    for x in jax.tree.leaves(tree):
        while isinstance(x, jax.core.Tracer) and x._trace not in now:
            tag = getattr(x._trace, "tag", None)
            if not any(tag is getattr(trace, "tag", trace) for trace in now):
                return True
            x = x.val
    return False


def unknown(tree: Any, state: Any) -> Any:
    """Return the first tracer in `tree` that the trace `state`, and those around it, know nothing of, or None.

    Such a value can't be kept by what belongs to that trace: it would leak. What another trace computed from constants
    is no tracer of it, and is known everywhere. JAX 0.10 to 0.12 (`_trace` of tracers, `tag` of traces, and the weak
    reference in what `trace_state` returns).
    """
    known = _chain(state._trace_ref())
    tags = [getattr(trace, "tag", trace) for trace in known]  # tags are all equal, but not the same
    for x in jax.tree.leaves(tree):
        if isinstance(x, jax.core.Tracer) and x._trace not in known:
            tag = getattr(x._trace, "tag", x._trace)
            if not any(tag is other for other in tags):
                return x
    return None


_TRANSFORMS = {
    "LinearizeTrace": "jax.grad, jax.vjp, jax.jacrev or jax.linearize",
    "JVPTrace": "jax.jvp, jax.jacfwd or jax.hessian",
    "BatchTrace": "jax.vmap",
}


def transform_of(tracer: Any) -> str:
    """Say which transform of JAX a tracer belongs to, for error texts. JAX 0.10 to 0.12 (`traced_for` of frames)."""
    trace = tracer._trace
    staged = getattr(getattr(getattr(trace, "frame", None), "debug_info", None), "traced_for", None)
    return f"jax's {staged}" if staged else _TRANSFORMS.get(type(trace).__name__, "a JAX transform")


def traces() -> list[Any]:
    """Return the trace that runs now and those around it. JAX 0.10 to 0.12 (`trace_ctx`, `parent_trace` of traces)."""
    return _chain(jax._src.core.trace_ctx.trace)  # type: ignore[attr-defined]


def _chain(trace: Any) -> list[Any]:
    found = []
    while trace is not None:
        found.append(trace)
        trace = getattr(trace, "parent_trace", None)
    return found


def staging() -> bool:
    """Tell whether a jaxpr is being written now, so that what runs sees no values. JAX 0.10 to 0.12 (`frame`)."""
    return any(hasattr(trace, "frame") for trace in traces())


class barred:
    """A context in which to use a tracer of `others` is an `UnexpectedTracerError`, unless its trace is around it.

    A trace may go on as another one with the same tag: that of `vmap` does, inside a rule. JAX 0.10 to 0.12
    (`_invalidated`, of which `Primitive.bind` asks for each tracer among its operands; `tag` of traces).

    Args:
        others: Weak references to traces.
    """

    def __init__(self, others: Sequence[Callable[[], Any]]):
        self.others = others

    def __enter__(self) -> None:
        now = {id(getattr(trace, "tag", trace)) for trace in traces()}  # tags are all equal, but not the same
        self.held = []
        for ref in self.others:
            trace = ref()
            if trace is not None and trace.is_valid() and id(getattr(trace, "tag", trace)) not in now:
                self.held.append(trace)
        for trace in self.held:
            trace._invalidated = True

    def __exit__(self, *exception: object) -> None:
        for trace in self.held:
            trace._invalidated = False


def run_equation(eqn: Any, values: Sequence[Any]) -> list[Any]:
    """Run one equation of a jaxpr on `values`, as JAX does when it evaluates a jaxpr: a program of this one equation.

    JAX 0.10 to 0.12 (`primitive`, `params` and `ctx` of equations; `Primitive.get_bind_params`).
    """
    with eqn.ctx.manager:
        out = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return list(out) if eqn.primitive.multiple_results else [out]


def closed(fun: Callable[..., Any], *example: Any) -> tuple[Callable[..., Any], list[Any]]:
    """Return `(run, consts)`: `run(consts, *args)` is `fun(*args)`, traced once, with all that it closes over given.

    `jax.closure_convert` takes out only what is being differentiated. JAX 0.10 to 0.12 (`consts` of jaxprs,
    `eval_jaxpr`).
    """
    traced, shape = jax.make_jaxpr(fun, return_shape=True)(*example)
    jaxpr, structure, consts = without_consts(traced), jax.tree.structure(shape), list(traced.consts)

    def run(consts: Any, *args: Any) -> Any:
        return jax.tree.unflatten(structure, jax.core.eval_jaxpr(jaxpr, consts, *jax.tree.leaves(args)))

    return run, consts


def without_consts(traced: Any) -> Any:
    """Return the jaxpr of what `jax.make_jaxpr` returns, without the values that the function closed over.

    Their variables come first among the inputs, for `jax.core.eval_jaxpr(jaxpr, consts, *args)`. Up to JAX 0.11 the
    values are beside the jaxpr; in JAX 0.12 they are in it (`with_consts`), where keeping it would keep them.
    """
    jaxpr = traced.jaxpr
    return jaxpr.with_consts([]) if hasattr(jaxpr, "with_consts") else jaxpr


def maximum_dtype(numbers: Any) -> Any:
    """Make a dtype whose arrays are those of the dtype `numbers`, but whose cotangents add up by their maximum.

    It converts to and from `numbers` by `jax.lax.convert_element_type`, and takes part in no arithmetic. JAX 0.10 to
    0.12 (`jax._src.dtypes.ExtendedDType`, the rules that it asks for, and `jax._src.earray`).
    """
    numbers = jax.numpy.dtype(numbers)
    convert = jax.lax.convert_element_type

    class Rules:
        allow_conversion = True

        @staticmethod
        def physical_element_aval(dtype: Any) -> Any:
            return jax._src.core.ShapedArray((), numbers)

        @staticmethod
        def convert_from(dtype: Any, other: Any) -> bool:
            return other == numbers

        @staticmethod
        def convert_to(other: Any, dtype: Any) -> bool:
            return other == numbers

        @staticmethod
        def tangent_dtype(dtype: Any) -> Any:
            return dtype

        @staticmethod
        def add(dtype: Any, x: Any, y: Any) -> Any:
            return convert(jax.lax.max(convert(x, numbers), convert(y, numbers)), dtype)

        @staticmethod
        def zero(dtype: Any) -> Any:
            return convert(numbers.type(-jax.numpy.inf), dtype)

        @staticmethod
        def full(shape: Any, fill_value: Any, dtype: Any) -> Any:
            return convert(jax.lax.full(shape, convert(fill_value, numbers)), dtype)

        @staticmethod
        def global_sharded_result_handler(aval: Any, sharding: Any, committed: bool) -> Any:
            """Return what makes the result of a program from the buffers of its numbers."""
            from jax._src import earray
            from jax._src.interpreters import pxla

            inner = jax._src.core.physical_aval(aval)
            made = pxla.global_result_handlers[jax._src.core.ShapedArray](inner, sharding, committed)
            return lambda buffers: earray.EArray(aval, made(buffers))

    class Maximum(jax.dtypes.extended):
        """The kind of the dtype, for `jax.dtypes.issubdtype`."""

    @dataclasses.dataclass(frozen=True)
    class MaximumDType(jax._src.dtypes.ExtendedDType):
        _rules: Any = Rules
        type: Any = Maximum

        def __repr__(self) -> str:
            return self.name

        @property
        def name(self) -> str:
            return f"max_{numbers.name}"

    return MaximumDType()


def einsum(equation: str, *operands: Any, dot_general: Callable[..., Any], preferred_element_type: Any) -> Any:
    """Return `jnp.einsum`, multiplied by `dot_general`. JAX 0.10 to 0.12 (`_dot_general`, an experimental argument).

    It is called as `dot_general(a, b, dimension_numbers, precision, preferred_element_type=…)`, where `a` and `b` may
    be the operands in the other order.
    """
    return jax.numpy.einsum(
        equation, *operands, preferred_element_type=preferred_element_type, _dot_general=dot_general
    )
