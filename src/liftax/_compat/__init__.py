"""The one door to private JAX: `jax._src`, `jax.extend`, `jax.interpreters`, and attributes that JAX does not document.

Nothing private is touched when liftax is imported. A feature looks for what it needs on its first use, and falls back
to something that is slower or says less, but is right:

| feature | without it |
| --- | --- |
| `trace_state`, `unknown` | writes are not checked for leaking tracers; JAX reports these where they are used |
| `transform_of`, `bound_axis_names`, `vjp_outputs` | error texts say less |
| `loop_inside` | a key that all steps of a raw loop share is no warning |
| `is_staged` | a tracer counts as differentiated: more is traced, the programs are the same |
| `staging` | equal programs are not shared: tracing takes longer |
| `traces`, `foreign`, `barred` | a rule that closes over a traced value is found by JAX, later |
| `known_zero` | only the running program finds a cotangent that a rule drops |
| `run_equation` | one equation at a time is run as a jaxpr |
| `linear_in_first` | `reduce_axes`, and state in `custom_jvp` without `state_tangents`, raise `JaxVersionError` |
| `opaque_call` | calling a function of `custom_laplacian` raises `JaxVersionError` |
| `refused` | a dropped tangent of state raises where it is made, also if nobody uses it |
| `plans` | `lx.checkpoint` with a plan raises `JaxVersionError`; reports do not say where an array is computed |
| `maximum_dtype`, `einsum` | `nn.fp8_ops.fm32`, and `dot_general` for `Einsum`, raise `JaxVersionError` |

`tests/test_compat.py` runs with each private name removed in turn.
"""

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.core

from liftax._compat.staged import Staged as Staged
from liftax._compat.staged import closed as closed
from liftax._compat.staged import staged as staged
from liftax._compat.staged import without_consts as without_consts
from liftax.errors import JaxVersionError

SUPPORTED = ("0.10.2", "0.12")
"""The oldest release of JAX that is supported, and the newest series that the suite has run on."""

_MISSING = object()


def _private(module: str, name: str, default: Any = _MISSING) -> Any:
    """Return what a private module of JAX calls `name`, or `default`.

    Raises:
        JaxVersionError: There is no such name, and no default.
    """
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        if default is _MISSING:
            raise JaxVersionError(
                f"This needs {module}.{name}, which jax {jax.__version__} does not have. liftax supports jax "
                f"{SUPPORTED[0]} to {SUPPORTED[1]}: install one of these, or a newer liftax."
            ) from None
        return default


def trace_state() -> Any:
    """Return an object that equals another one if and only if both were made under the same trace."""
    state = _state_of()
    return None if state is None else state()


@functools.cache
def _state_of() -> Callable[[], Any] | None:
    # `jax.extend.core` has it too, and imports Pallas, which takes as long as all of liftax.
    return _private("jax._src.core", "get_opaque_trace_state", None)


def is_tracer(x: Any) -> bool:
    """Say whether `x` is a tracer of JAX. Public in JAX 0.10 to 0.12 (`jax.core.Tracer`), kept here with its kin."""
    return isinstance(x, jax.core.Tracer)


def is_staged(x: Any) -> bool:
    """Tell whether `x` stands for a value in a jaxpr that is being written. Uses `_trace` and `frame`."""
    return is_tracer(x) and hasattr(getattr(x, "_trace", None), "frame")


def bound_axis_names() -> tuple[Hashable, ...]:
    """Return the named axes in whose scope the caller runs, for error texts alone. JAX 0.10 to 0.12."""
    names = _private("jax.extend.core", "unsafe_get_axis_names_DO_NOT_USE", None)
    return () if names is None else tuple(names())


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
) -> Any:
    """Make a primitive `p(x, like, **params)` whose result has the type of `x` and that is linear in `x`.

    `like` carries no derivative: rules only look at it. Uses `jax.interpreters.{ad, batching, mlir}`.

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
    prim = _private("jax._src.core", "Primitive")(name)
    zero = _private("jax.interpreters.ad", "Zero")

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
    _private("jax.interpreters.ad", "primitive_jvps")[prim] = jvp
    _private("jax.interpreters.ad", "primitive_transposes")[prim] = transposed
    _private("jax.interpreters.batching", "fancy_primitive_batchers")[prim] = batched
    lowering = _private("jax.interpreters.mlir", "lower_fun")(lower or run, multiple_results=False)
    _private("jax.interpreters.mlir", "register_lowering")(prim, lowering)
    return prim


def opaque_call(
    name: str,
    run: Callable[[Any], Callable[..., Sequence[Any]]],
    batch: Callable[[Any, Sequence[int | None]], Any],
) -> Any:
    """Make a primitive `p(*arrays, called) -> arrays` that stays one equation until it is compiled or differentiated.

    Uses `jax.interpreters.{ad, batching, mlir}`. The parameter `called` of a call stands for `run(called)`, a
    function of arrays; `batch(called, batch dimensions)` is the one under `vmap`, with a leading axis in every result.
    """
    prim = _private("jax._src.core", "Primitive")(name)
    prim.multiple_results = True
    array_type = _private("jax._src.core", "ShapedArray")
    instantiated = _private("jax.interpreters.ad", "instantiate_zeros")

    def jvp(primals: Sequence[Any], tangents: Sequence[Any], *, called: Any) -> tuple[Any, Any]:
        made = tuple(instantiated(t) for t in tangents)
        return jax.jvp(lambda *args: list(run(called)(*args)), tuple(primals), made)

    def batched(vals: Sequence[Any], dims: Sequence[Any], *, called: Any) -> tuple[Any, Any]:
        out = prim.bind(*vals, called=batch(called, list(dims)))
        return out, [0] * len(out)

    def types(*avals: Any, called: Any) -> Sequence[Any]:
        args = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]
        return [array_type(o.shape, o.dtype) for o in jax.eval_shape(run(called), *args)]

    prim.def_impl(lambda *args, called: list(run(called)(*args)))
    prim.def_abstract_eval(types)
    _private("jax.interpreters.ad", "primitive_jvps")[prim] = jvp
    _private("jax.interpreters.batching", "primitive_batchers")[prim] = batched
    lower = _private("jax.interpreters.mlir", "lower_fun")
    lowering = lower(lambda *args, called: run(called)(*args), multiple_results=True)
    _private("jax.interpreters.mlir", "register_lowering")(prim, lowering)
    return prim


def known_zero(x: Any) -> bool | None:
    """Tell whether `x` is zero everywhere: True, False, or None where only running the program would tell.

    A tracer that some equation of the program at hand computes counts as not zero, unless that equation spells out
    zeros; a tracer that is an input of the program may be either. Uses `val`, `primal` and `parent` of
    tracers.
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


@functools.cache
def _refusals() -> tuple[Any, Any] | None:
    """Return the trace of what must not be used, and its tracer: JAX asks each tracer whether its trace is valid."""
    trace = _private("jax._src.core", "Trace", None)
    if trace is None:
        return None

    class Refusal(trace):
        __slots__ = ("error",)

        def __init__(self, error: Exception):
            super().__init__()
            self.error = error

        def is_valid(self) -> bool:
            raise self.error

    class Refused(jax.core.Tracer):
        __slots__ = ()

        def _refuse(self, *_: Any, **__: Any) -> Any:
            raise self._trace.error

        @property
        def _debug_info(self) -> Any:  # JAX asks for it when it is about to raise an error of its own
            raise self._trace.error

        def __repr__(self) -> str:
            return f"<{self.aval.str_short()}: {self._trace.error}>"

        __array__ = __bool__ = __complex__ = __float__ = __format__ = __index__ = __int__ = __iter__ = _refuse
        __str__ = __repr__

    return Refusal, Refused


def refused(like: Any, error: Exception) -> Any:
    """Return what has the type of the array `like`, may be passed on and dropped, and raises `error` where it is used.

    Uses `Trace.is_valid`, which `Primitive.bind` calls for tracers among its operands.
    """
    made = _refusals()
    if made is None:
        raise error
    trace, tracer = made
    return tracer(trace(error), jax.typeof(like))


def foreign(tree: Any) -> bool:
    """Tell whether `tree` has a tracer that the trace that runs now, and those around it, know nothing of.

    A function that is traced late gets hold of one by closing over it: a value of a transform that has ended, or of
    one that differentiates the function from outside. What `vmap` wraps counts where that goes on, under a new trace
    with the same tag. Uses `_trace` and `val` of tracers, `tag` of traces; see `traces`.
    """
    now = traces()
    for x in jax.tree.leaves(tree):
        while now and isinstance(x, jax.core.Tracer) and x._trace not in now:
            tag = getattr(x._trace, "tag", None)
            if not any(tag is getattr(trace, "tag", trace) for trace in now):
                return True
            x = x.val
    return False


def unknown(tree: Any, state: Any) -> Any:
    """Return the first tracer in `tree` that the trace `state`, and those around it, know nothing of, or None.

    Such a value can't be kept by what belongs to that trace: it would leak. What another trace computed from constants
    is no tracer of it, and is known everywhere. Uses `_trace` of tracers, `tag` of traces, and the weak
    reference in what `trace_state` returns.
    """
    if not hasattr(state, "_trace_ref"):
        return None
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
    """Say which transform of JAX a tracer belongs to, for error texts. Uses `traced_for` of frames."""
    trace = tracer._trace
    staged = getattr(getattr(getattr(trace, "frame", None), "debug_info", None), "traced_for", None)
    return f"jax's {staged}" if staged else _TRANSFORMS.get(type(trace).__name__, "a JAX transform")


_LOOPS = frozenset({"scan", "while_loop", "while_body", "while_cond", "fori_loop", "map"})


def loop_inside(state: Any) -> bool:
    """Tell whether the body of a loop is traced now, inside of the trace `state`. Uses `traced_for` of frames."""
    if not hasattr(state, "_trace_ref"):
        return False
    around = _chain(state._trace_ref())
    for trace in traces():
        if trace in around:
            return False
        if getattr(getattr(getattr(trace, "frame", None), "debug_info", None), "traced_for", None) in _LOOPS:
            return True
    return False


def traces() -> list[Any]:
    """Return the trace that runs now and those around it. Uses `trace_ctx`, `parent_trace` of traces."""
    context = _private("jax._src.core", "trace_ctx", None)
    return _chain(getattr(context, "trace", None))


def _chain(trace: Any) -> list[Any]:
    found = []
    while trace is not None:
        found.append(trace)
        trace = getattr(trace, "parent_trace", None)
    return found


def staging() -> bool:
    """Tell whether a jaxpr is being written now, so that what runs sees no values. Uses `frame`."""
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
            if (
                trace is not None
                and hasattr(trace, "_invalidated")
                and trace.is_valid()
                and id(getattr(trace, "tag", trace)) not in now
            ):
                self.held.append(trace)
        for trace in self.held:
            trace._invalidated = True

    def __exit__(self, *exception: object) -> None:
        for trace in self.held:
            trace._invalidated = False


def run_equation(eqn: Any, values: Sequence[Any]) -> list[Any]:
    """Run one equation of a jaxpr on `values`, as JAX does when it evaluates a jaxpr: a program of this one equation.

    Uses `primitive`, `params` and `ctx` of equations; `Primitive.get_bind_params`.
    """
    parameters = getattr(eqn.primitive, "get_bind_params", None)
    if parameters is None or not hasattr(eqn, "ctx"):
        return (
            eqn.primitive.bind(*values, **eqn.params)
            if eqn.primitive.multiple_results
            else [eqn.primitive.bind(*values, **eqn.params)]
        )
    with eqn.ctx.manager:
        out = eqn.primitive.bind(*values, **parameters(eqn.params))
    return list(out) if eqn.primitive.multiple_results else [out]


def maximum_dtype(numbers: Any) -> Any:
    """Make a dtype whose arrays are those of the dtype `numbers`, but whose cotangents add up by their maximum.

    It converts to and from `numbers` by `jax.lax.convert_element_type`, and takes part in no arithmetic. Uses
    `jax._src.dtypes.ExtendedDType`, the rules that it asks for, and `jax._src.earray`.
    """
    numbers = jax.numpy.dtype(numbers)
    convert = jax.lax.convert_element_type

    class Rules:
        allow_conversion = True

        @staticmethod
        def physical_element_aval(dtype: Any) -> Any:
            return _private("jax._src.core", "ShapedArray")((), numbers)

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
            inner = _private("jax._src.core", "physical_aval")(aval)
            handlers = _private("jax._src.interpreters.pxla", "global_result_handlers")
            made = handlers[_private("jax._src.core", "ShapedArray")](inner, sharding, committed)
            array = _private("jax._src.earray", "EArray")
            return lambda buffers: array(aval, made(buffers))

    class Maximum(jax.dtypes.extended):
        """The kind of the dtype, for `jax.dtypes.issubdtype`."""

    @dataclasses.dataclass(frozen=True)
    class MaximumDType(_private("jax._src.dtypes", "ExtendedDType")):
        _rules: Any = Rules
        type: Any = Maximum

        def __repr__(self) -> str:
            return self.name

        @property
        def name(self) -> str:
            return f"max_{numbers.name}"

    return MaximumDType()


def einsum(equation: str, *operands: Any, dot_general: Callable[..., Any], preferred_element_type: Any) -> Any:
    """Return `jnp.einsum`, multiplied by `dot_general`. Uses `_dot_general`, an experimental argument.

    It is called as `dot_general(a, b, dimension_numbers, precision, preferred_element_type=…)`, where `a` and `b` may
    be the operands in the other order.
    """
    if "_dot_general" not in inspect.signature(jax.numpy.einsum).parameters:
        raise JaxVersionError(
            f"This needs the argument _dot_general of jax.numpy.einsum, which jax {jax.__version__} does not have. "
            "liftax "
            f"supports jax {SUPPORTED[0]} to {SUPPORTED[1]}: install one of these, or a newer liftax."
        )
    return jax.numpy.einsum(
        equation, *operands, preferred_element_type=preferred_element_type, _dot_general=dot_general
    )
