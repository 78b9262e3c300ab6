"""Reverse mode: a function's value, and the linear map from cotangents of its output to cotangents of its inputs.

    vjp : (a -> b) -> a -> (b, CT b -o CT a)

One call to `jax.vjp`. Around it stands what JAX leaves out: `reduce_axes` (see `liftax.ad.reduce`), errors that name
the leaf, and `VjpFn`, a backward map whose result the lifted transforms can shape.

Source: `jax.vjp`; the autodiff cookbook of JAX for the mathematics.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError, dataclass, field, replace
from typing import Any, Literal, TypeVar, overload

import jax

from liftax import _compat
from liftax.ad.checks import explain_cotangent, explain_values, is_ref_type
from liftax.ad.notes import add_note
from liftax.ad.reduce import mark, resolve_axes
from liftax.errors import ArityError, CotangentError, LiftaxError, nearest
from liftax.explain.functions import demand_callable, explain_arity
from liftax.explain.transform import Transform
from liftax.explain.values import describe
from liftax.typing import AxisName, PyTree

VJP = Transform("vjp", "(f, *primals)")

T = TypeVar("T")
U = TypeVar("U")

_FIELDS = ("jax_vjp", "arrange", "prepare")


@jax.tree_util.register_dataclass
@dataclass(eq=False, repr=False, slots=True, weakref_slot=True)
class VjpFn:
    """Map a cotangent of a function's output to the cotangents of its primals.

    A pytree: it can be returned from and given to `jax.jit`, is a legal residual of `jax.custom_vjp`, an output of
    `jax.lax.scan`, and can be vmapped over cotangents. Everything that JAX's own object offers (`args_res`, `jaxpr`,
    `with_refs`, …) is offered here too, without `arrange`; what can be assigned there (`args_res`) can be here.

    A map made with `reduce_axes` must be called inside the `jax.vmap` that it was made in. Not made by hand: see `vjp`.

    Attributes:
        jax_vjp: The object that `jax.vjp` returned.
        arrange: Applied to the tuple of cotangents before it is returned, if given. It belongs to the structure of
            the pytree, hence must be hashable, and equal where structures are to be equal.
        prepare: Makes the cotangent that JAX's object takes of the arguments of the map, if given. The same holds.

    Example:
        >>> import jax
        >>> from liftax import ad
        >>> y, vjp_fn = jax.jit(lambda x: ad.vjp(lambda x: x**3, x))(2.0)
        >>> jax.vmap(vjp_fn)(jax.numpy.array([1.0, 10.0]))
        (Array([ 12., 120.], dtype=float32),)
    """

    jax_vjp: Any
    arrange: Callable[[tuple[Any, ...]], Any] | None = field(default=None, metadata={"static": True})
    prepare: Callable[..., Any] | None = field(default=None, metadata={"static": True})

    def __call__(self, out_ct: PyTree, *extra: Any) -> Any:
        """Return the cotangents of the primals for `out_ct`, the cotangent of the output.

        Args:
            out_ct: A tree with the structure, the shapes and the dtypes of `primals_out`; `float0` for integers.
            *extra: Nothing: the cotangents of several outputs are one tuple. With `prepare`, what that takes.

        Returns:
            A tuple with one tree for each primal, of its structure, shapes and dtypes (`float0` for integers), or
            what `arrange` makes of that tuple.

        Raises:
            CotangentError: `out_ct` does not fit the output.
            ReduceAxesError: An axis of `reduce_axes` is not bound any more.
        """
        if self.prepare is not None:
            out_ct = self.prepare(out_ct, *extra)
        elif extra:
            raise CotangentError(
                f"The backward map takes one cotangent, and got {1 + len(extra)}. The cotangents of several outputs "
                "are one tuple: write vjp_fn((a, b)) instead of vjp_fn(a, b)."
            )
        try:
            cotangents = self.jax_vjp(out_ct)
        except (TypeError, ValueError) as error:
            outputs = _compat.vjp_outputs(self.jax_vjp)
            if outputs is not None:
                explain_cotangent(outputs[0], out_ct, error, VJP)
            if any(is_ref_type(v.aval) for v in getattr(getattr(self.jax_vjp, "jaxpr", None), "invars", ())):
                raise CotangentError(
                    "The backward map of vjp was called without refs for the cotangents of primals that are refs: they "
                    "are accumulated, not returned. Write vjp_fn.with_refs(ct_ref, …)(out_ct), with a ref of zeros for "
                    "each such primal."
                ) from error
            add_note(error)
            raise
        if self.arrange is None:
            return cotangents
        if getattr(self.jax_vjp, "want_logs", False):  # of JAX 0.12 on: a pair
            return self.arrange(cotangents[0]), cotangents[1]
        return self.arrange(cotangents)

    def with_refs(self, *refs: Any) -> "VjpFn":
        """Return a map that adds the cotangents to refs and returns placeholders for them.

        Args:
            *refs: One tree of `jax.new_ref`s for each cotangent that the map returns, shaped like it. Where there is
                no ref, the cotangent is returned.

        Raises:
            CotangentError: The refs have another structure than the cotangents.
        """
        undo = getattr(self.arrange, "undo", None)
        given = refs if undo is None or not refs else undo(refs)
        expected = getattr(self.jax_vjp, "in_tree", None)
        if expected is not None and jax.tree.structure(given) != expected:
            whole = expected.unflatten(["ref"] * expected.num_leaves)
            whole = whole if undo is None else self.arrange(whole)  # type: ignore[misc]
            raise CotangentError(
                f"with_refs takes one tree of refs for each cotangent that the map returns, shaped like it: expected "
                f"{whole}, got {jax.tree.map(describe, refs)}."
            )
        return replace(self, jax_vjp=self.jax_vjp.with_refs(*given))

    def __getattr__(self, name: str) -> Any:
        """Return what JAX's object calls `name`."""
        # While the map is copied, a field may not be set yet.
        if name in _FIELDS or name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self.jax_vjp, name)
        return replace(self, jax_vjp=value) if isinstance(value, type(self.jax_vjp)) else value

    def __setattr__(self, name: str, value: Any) -> None:
        """Set what JAX's object calls `name`. The fields of the map itself are set once, when it is made."""
        if name not in _FIELDS:
            setattr(self.jax_vjp, name, value)
            return
        try:
            object.__getattribute__(self, name)
        except AttributeError:
            object.__setattr__(self, name, value)
        else:
            raise FrozenInstanceError(f"cannot assign to field {name!r}: use dataclasses.replace(vjp_fn, {name}=…)")

    def replace(self, **changes: Any) -> "VjpFn":
        """Return a map around a copy of JAX's object, with some of its attributes (`args_res`, …) replaced."""
        return replace(self, jax_vjp=replace(self.jax_vjp, **changes))

    def __repr__(self) -> str:
        outputs = _compat.vjp_outputs(self.jax_vjp)
        return f"VjpFn({'…' if outputs is None else jax.tree.map(describe, outputs[0])})"


@overload
def vjp(
    fun: Callable[..., T],
    *primals: Any,
    has_aux: Literal[False] = False,
    reduce_axes: AxisName | Sequence[AxisName] = (),
    **jax_options: Any,
) -> tuple[T, VjpFn]: ...


@overload
def vjp(
    fun: Callable[..., tuple[T, U]],
    *primals: Any,
    has_aux: Literal[True],
    reduce_axes: AxisName | Sequence[AxisName] = (),
    **jax_options: Any,
) -> tuple[T, VjpFn, U]: ...


@overload
def vjp(
    fun: Callable[..., Any],
    *primals: Any,
    has_aux: bool = False,
    reduce_axes: AxisName | Sequence[AxisName] = (),
    **jax_options: Any,
) -> tuple[Any, VjpFn] | tuple[Any, VjpFn, Any]: ...


def vjp(
    fun: Callable[..., Any],
    *primals: Any,
    has_aux: bool = False,
    reduce_axes: AxisName | Sequence[AxisName] = (),
    **jax_options: Any,
) -> tuple[Any, VjpFn] | tuple[Any, VjpFn, Any]:
    """Compute a vector-Jacobian product of `fun`: its value, and the map from output to input cotangents.

    For a gradient of a scalar write `grad`; for functions of a module use the lifted `nn.vjp`, because a module's
    variables are no primals here.

    Args:
        fun: The function. Its arguments and its output are arrays, scalars or pytrees of them.
        *primals: Where to differentiate: one value for each positional argument of `fun`. Values that `fun` closes
            over get no cotangent.
        has_aux: `fun` returns a pair `(output, aux)`, and `aux` is not differentiated.
        reduce_axes: Names of axes of enclosing `jax.vmap`s. The cotangent of a primal that does not vary over such an
            axis is summed over it, and does not vary over it either; all other cotangents are per example. Without
            it, all cotangents are per example.
        **jax_options: What the installed `jax.vjp` takes besides: `saveable_args` and `in_nzs` of JAX 0.12, which say
            which primals may be kept for the backward pass, and which have a tangent.

    Returns:
        `(primals_out, vjp_fn)`, or `(primals_out, vjp_fn, aux)` if `has_aux`, where `primals_out` is `fun(*primals)`
        and `vjp_fn` is a `VjpFn`: from one cotangent, structured as `primals_out`, to a tuple of one cotangent for
        each primal.

    Raises:
        ArityError: `fun` can't be called with that many arguments, or at all; the installed `jax.vjp` does not take an
            option.
        AuxError: With `has_aux`, `fun` returned no pair.
        NonDifferentiablePrimalError, NonDifferentiableOutputError: A primal, or what `fun` returned, is no array.
        ReduceAxesError: `reduce_axes` holds something that is no name of an axis bound here.

    Example:
        >>> import jax
        >>> from liftax import ad
        >>> def f(x, y):
        ...     return jax.numpy.sin(x), jax.numpy.cos(y)
        >>> primals_out, vjp_fn = ad.vjp(f, 0.5, 1.0)
        >>> xbar, ybar = vjp_fn((-0.7, 0.3))
        >>> print(f"{xbar:.6f} {ybar:.6f}")
        -0.614308 -0.252441

        One gradient of shared parameters `w` for a whole batch, and one of `x` for each example:

        >>> def per_example(w, x):
        ...     loss, vjp_fn = ad.vjp(lambda w, x: w * x**2, w, x, reduce_axes="batch")
        ...     return vjp_fn(jax.numpy.ones_like(loss))
        >>> batched = jax.vmap(per_example, in_axes=(None, 0), out_axes=(None, 0), axis_name="batch")
        >>> w_ct, x_ct = batched(0.5, jax.numpy.array([1.0, 2.0, 3.0]))
        >>> print(w_ct, x_ct)
        14.0 [1. 2. 3.]
    """
    demand_callable(fun, VJP)
    if jax_options:
        _check_options(jax_options)
    pure = fun
    axes = resolve_axes(reduce_axes, VJP) if reduce_axes != () else ()
    if axes:

        def pure(*args: Any) -> Any:
            return fun(*mark(args, axes))

        functools.update_wrapper(pure, fun, updated=())  # JAX names fun, not pure, in its own errors and jaxprs
    try:
        primals_out, jax_vjp, *aux = jax.vjp(pure, *primals, has_aux=has_aux, **jax_options)
    except LiftaxError:
        raise
    except TypeError as error:
        explain_arity(fun, primals, {}, error, VJP)
        explain_values(fun, primals, error, VJP, has_aux)
        raise
    return primals_out, VjpFn(jax_vjp), *aux


def _check_options(options: dict[str, Any]) -> None:
    known = inspect.signature(jax.vjp).parameters
    for name in options:
        if name not in known:
            more = ", ".join(k for k, p in known.items() if p.kind is p.KEYWORD_ONLY)
            raise ArityError(
                f"vjp got an option {name!r}, which jax.vjp of the installed JAX {jax.__version__} does not take. It "
                f"takes {more}.{nearest(name, known)}"
            )
