"""What can be wrong with the values of a derivative: primals, outputs, tangents and cotangents.

Checks that only explain a failure (`explain_values`, `explain_cotangent`, `explain_tangents`) run after JAX has raised
and cost nothing otherwise. Lifted transforms use the same checks.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr

from liftax.errors import (
    CotangentError,
    NonDifferentiableOutputError,
    NonDifferentiablePrimalError,
    TangentError,
)
from liftax.explain.functions import demand_pair
from liftax.explain.transform import Transform
from liftax.explain.trees import tree_mismatch
from liftax.explain.values import describe, dtype_of
from liftax.typing import PyTree


def explain_values(
    fun: Callable[..., Any], primals: Sequence[Any], error: TypeError, transform: Transform, has_aux: bool
) -> None:
    """Raise from `error` if a primal, or what `fun` makes of them, is not a value to JAX; else return.

    Args:
        fun: The function. It runs once more.
        primals: What it was called with.
        error: What JAX raised.
        transform: For the error text.
        has_aux: `fun` returns a pair.

    Raises:
        NonDifferentiablePrimalError: A primal is no array or number.
        AuxError: With `has_aux`, `fun` returned no pair.
        NonDifferentiableOutputError: What it returned is no array or number.
    """
    for i, primal in enumerate(primals):
        for leaf in jax.tree.leaves(primal):
            if dtype_of(leaf) is None:
                _refuse_primal(primal, leaf, f"argument {i}", transform, False)
    returned: list[Any] = []
    try:
        jax.eval_shape(lambda *args: returned.append(fun(*args)), *primals)
    except Exception:  # its own, which is on its way already
        return
    out = demand_pair(returned[0], transform)[0] if has_aux else returned[0]
    for path, leaf in jax.tree_util.tree_leaves_with_path(out):
        if dtype_of(leaf) is None:
            raise NonDifferentiableOutputError(
                f"{transform} needs a function that returns arrays, and it returned {describe(leaf)}"
                f"{' at ' * bool(path)}{keystr(path)}. Give other values back with has_aux=True."
            ) from error


def check_float_primals(
    primals: Sequence[PyTree],
    names: Sequence[str],
    transform: Transform,
    *,
    holomorphic: bool = False,
    allow_int: bool = False,
) -> None:
    """Check that everything in `primals` can be differentiated.

    Args:
        primals: The values to differentiate with respect to.
        names: What to call each of them in an error text, such as `argument 0`.
        transform: For the error text.
        holomorphic: Demand complex values.
        allow_int: Accept integers and Booleans; their cotangents are `float0`.

    Raises:
        NonDifferentiablePrimalError: A leaf is an integer, a Boolean, a key, no array, or (`holomorphic`) not complex.
    """
    for primal, name in zip(primals, names, strict=True):
        for leaf in jax.tree.leaves(primal):
            dtype = dtype_of(leaf)
            if dtype is not None and is_ref_type(jax.typeof(leaf)):
                _refuse_ref(primal, leaf, name, transform)
            if dtype is not None and not holomorphic and jnp.issubdtype(dtype, jnp.inexact):
                continue
            if dtype is not None and holomorphic and jnp.issubdtype(dtype, jnp.complexfloating):
                continue
            if allow_int and not holomorphic and dtype is not None:
                continue
            _refuse_primal(primal, leaf, name, transform, holomorphic)


def is_ref_type(aval: Any) -> bool:
    """Tell whether `aval` is the type of a ref (`jax.new_ref`), to which values are added instead of returned."""
    return hasattr(aval, "inner_aval")


def _refuse_ref(primal: PyTree, leaf: Any, name: str, transform: Transform) -> None:
    raise NonDifferentiablePrimalError(
        f"{transform} can't differentiate with respect to {name}{_path_to(primal, leaf)}, a ref: its gradient is "
        "accumulated in a ref, too. Use vjp: y, vjp_fn = lx.vjp(f, ref); vjp_fn.with_refs(grad_ref)(ct). A ref that "
        "argnums leaves out needs nothing."
    )


def _path_to(primal: PyTree, leaf: Any) -> str:
    return next((keystr(p) for p, x in jax.tree_util.tree_flatten_with_path(primal)[0] if x is leaf), "")


def _in_nn(transform: Transform) -> str:
    return f"For a function of a bound module use nn.{transform}; here, differentiate module.apply(variables, …)."


def check_scalar_output(out: Any, transform: Transform, *, holomorphic: bool = False) -> None:
    """Check that `out` is a scalar that a gradient can be taken of.

    Args:
        out: The output of the function (under a trace: before its backward pass is built).
        transform: For the error text.
        holomorphic: Demand a complex scalar instead of a real floating-point one.

    Raises:
        NonDifferentiableOutputError: `out` is no array, has a shape other than `()`, or another dtype.
    """
    dtype = dtype_of(out)
    wanted = jnp.complexfloating if holomorphic else jnp.floating
    if dtype is not None and jnp.shape(out) == () and jnp.issubdtype(dtype, wanted):
        return
    kind = "complex" if holomorphic else "real floating-point"
    if dtype is None:
        remedy = "Return one array; give the rest back with has_aux=True."
    elif jnp.shape(out) != ():
        remedy = "Reduce it to one number, for instance with `.sum()` or `.mean()`, or use a vjp or a Jacobian."
    elif jnp.issubdtype(dtype, jnp.complexfloating):
        remedy = f"Take its real part{_or_holomorphic(transform)}."
    elif holomorphic:
        remedy = "Drop holomorphic=True."
    else:
        remedy = "An integer or Boolean has no derivative: return the floating-point value it was made from."
    raise NonDifferentiableOutputError(
        f"{transform} needs a function whose output is a {kind} scalar, and it returned {describe(out)}. {remedy}"
    )


def _or_holomorphic(transform: Transform) -> str:
    return ", or pass holomorphic=True if the function is holomorphic" if "holomorphic" in transform.options else ""


def check_real_inputs(diff: PyTree, transform: Transform) -> None:
    """Raise `NonDifferentiablePrimalError` if a transform goes forwards from `diff`, and something in it is complex."""
    for leaf in jax.tree.leaves(diff) if transform.mode != "reverse" else ():
        if jnp.iscomplexobj(leaf):
            raise NonDifferentiablePrimalError(
                f"{transform} differentiates with respect to real numbers, and got {describe(leaf)}. Split real and "
                f"imaginary parts{_or_holomorphic(transform)}."
            )


def check_jacobian_types(out: PyTree, diff: PyTree, transform: Transform) -> None:
    """Check that there is a real Jacobian by a transform that is not holomorphic.

    Args:
        out: The output of the function.
        diff: What it is differentiated with respect to.
        transform: Its mode decides: forward mode has real inputs, reverse mode real outputs, forward over reverse both.

    Raises:
        NonDifferentiableOutputError: An output is an integer, or complex in reverse mode.
        NonDifferentiablePrimalError: An input is complex in forward mode.
    """
    check_real_inputs(diff, transform)
    forward = transform.mode == "forward"
    wanted = jnp.inexact if forward else jnp.floating
    if not forward and not jax.tree.leaves(out):
        raise NonDifferentiableOutputError(
            f"{transform} goes through the numbers of the output, and the function returned {describe(out)}, which "
            "has none."
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(out):
        dtype = dtype_of(leaf)
        if dtype is None or not jnp.issubdtype(dtype, wanted):
            real = "" if forward else " that are real"
            raise NonDifferentiableOutputError(
                f"{transform} needs floating-point outputs{real}, and the function returned {describe(leaf)}"
                f"{' at ' * bool(path)}{keystr(path)}. Give other values back with has_aux=True; for complex ones take "
                f"real and imaginary parts{_or_holomorphic(transform)}."
            )


# --- cotangents and tangents -----------------------------------------------------------------------------------------


def explain_cotangent(outputs: PyTree, out_ct: PyTree, error: Exception, transform: Transform) -> None:
    """Raise `CotangentError` from `error` if `out_ct` does not fit `outputs`, a tree of types; else return."""
    if found := tree_mismatch(outputs, out_ct):
        raise CotangentError(
            f"The cotangent given to the backward map of {transform} does not fit the output{found.path and ' at '}"
            f"{found.path}: expected {found.expected}, got {found.got}. A cotangent has the structure, the shapes and "
            f"the dtypes of primals_out (float0 or anything of the same shape for integers).{found.hint}"
        ) from error


def check_pair_of_sequences(primals: Any, tangents: Any, transform: Transform) -> None:
    """Raise `TangentError` unless both are tuples or lists: one entry for each argument."""
    for name, given in (("primals", primals), ("tangents", tangents)):
        if not isinstance(given, tuple | list):
            raise TangentError(
                f"{transform} expected {name} as a tuple or list, one entry for each argument, and got "
                f"{describe(given)}. For one argument write (x,). The call is {transform.usage}."
            )


def explain_tangents(primals: Sequence[Any], tangents: Sequence[Any], error: Exception, transform: Transform) -> None:
    """Raise `TangentError` from `error` if `tangents` do not fit `primals`; else return."""
    if found := tree_mismatch(tuple(primals), tuple(tangents), any_for_float0=False):
        raise TangentError(
            f"The tangents given to {transform} do not fit the primals{found.path and ' at '}{found.path}: expected "
            f"{found.expected}, got {found.got}. Tangents have the structure, the shapes and the dtypes of the "
            f"primals (float0 for integers).{found.hint}"
        ) from error


def _refuse_primal(primal: PyTree, leaf: Any, name: str, transform: Transform, holomorphic: bool) -> None:
    path = _path_to(primal, leaf)
    dtype = dtype_of(leaf)
    if holomorphic:
        wanted, remedy = "complex", "Convert it with `.astype(complex)`, or drop holomorphic=True."
    elif hasattr(type(leaf), "lift_parts"):
        wanted, remedy = "a floating-point array", _in_nn(transform)
    elif dtype is None:
        wanted, remedy = "a floating-point array", _leave_out(name, path, transform)
    else:
        wanted, remedy = "floating-point or complex", _leave_out(name, path, transform)
        if not jnp.issubdtype(dtype, jax.dtypes.prng_key):
            remedy += " If it is meant as a number, convert it with `.astype(float)`"
            remedy += (
                ", or pass allow_int=True for a gradient of dtype float0." if "allow_int" in transform.options else "."
            )
    raise NonDifferentiablePrimalError(
        f"{transform} can't differentiate with respect to {name}{path}: expected {wanted}, got {describe(leaf)}. "
        f"{remedy}"
    )


def _leave_out(name: str, path: str, transform: Transform) -> str:
    """Say how to keep a value from being differentiated."""
    if name == "variables":
        return "Keep it in a collection that is not differentiated."
    if "argnums" not in transform.options or not name.startswith("argument"):
        return "Leave it out of what is differentiated: give it to the function by a closure."
    if path:
        return "Give it apart, as an argument that argnums leaves out, or to the function by a closure."
    return "Name the arguments that are to be differentiated in argnums, or give this one by a closure."
