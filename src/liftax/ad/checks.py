"""What can be wrong with a call to a transform, and the texts that say so.

    tree_mismatch : tree of types -> tree -> Mismatch | None

Each check takes a phrase `what`, the name that the user called (`vjp`, `nn.grad`), so that the lifted transforms say
the same sentences. Checks that only explain a failure (`explain_arity`, `explain_cotangent`, `explain_tangents`) run
after JAX has raised and cost nothing otherwise.
"""

import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import keystr

from liftax.errors import (
    ArityError,
    AuxError,
    CotangentError,
    NonDifferentiableOutputError,
    NonDifferentiablePrimalError,
    TangentError,
)
from liftax.typing import PyTree


class Mismatch(NamedTuple):
    """The first place where a tree differs from the one expected."""

    path: str
    expected: str
    got: str
    hint: str = ""


# --- the function ----------------------------------------------------------------------------------------------------


def demand_callable(fun: Any, what: str) -> None:
    """Raise `ArityError` unless `fun` can be called."""
    if not callable(fun):
        raise ArityError(
            f"{what} expected a function and got {describe(fun)}. Pass the function itself and not its result: "
            f"{what}(f, …) instead of {what}(f(x), …)."
        )


def demand_pair(
    out: Any,
    what: str,
    *,
    pair: str = "(output, aux)",
    why: str = "has_aux=True",
    who: str = "the function",
    remedy: str = "drop has_aux=True",
) -> tuple[Any, Any]:
    """Return both parts of `out`, which must be a tuple or list of two. An array of length two is none.

    Args:
        out: What a function of the user returned.
        what: The transform that speaks.
        pair: What the two parts are.
        why: What promised a pair.
        who: The function that had to return it.
        remedy: What to do if no pair was meant.

    Returns:
        The two parts.

    Raises:
        AuxError: `out` is something else.
    """
    if isinstance(out, tuple | list) and len(out) == 2:
        return out[0], out[1]
    raise AuxError(
        f"{what}: with {why} {who} must return a pair {pair}, and it returned {describe(out)}. "
        f"Return a tuple of two, or {remedy}."
    )


def explain_arity(
    fun: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    error: TypeError,
    what: str = "vjp",
    wanted: str | None = None,
) -> None:
    """Raise `ArityError` from `error` if `fun` can't be called with `args` and `kwargs`, or at all; else return.

    Args:
        fun: The function.
        args: What it was called with.
        kwargs: What it was called with.
        error: What Python raised.
        what: The transform that speaks.
        wanted: For a function that is no function of primals: its signature.
    """
    demand_callable(fun, what)
    try:
        signature = inspect.signature(fun)
    except (TypeError, ValueError):  # a builtin without a signature
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as mismatch:
        plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
        signature = signature.replace(parameters=plain, return_annotation=signature.empty)
        given = [f"{len(args)} positional argument{'s' * (len(args) != 1)}", *(f"{k}=…" for k in kwargs)]
        remedy = "bind everything else first (functools.partial or a lambda)."
        if args and hasattr(args[0], "scope"):  # a lifted transform hands the module over
            remedy = "let the module be its first parameter, fn(mdl, x)."
        remedy = f"Give {what} one primal for each positional argument, and {remedy}"
        if wanted is not None:
            remedy = f"It is called as {wanted}."
        raise ArityError(
            f"{what} calls {_function(fun)}{signature} with {', '.join(given)}, which does not fit: {mismatch}. "
            f"{remedy}"
        ) from error


def _function(fun: Callable[..., Any]) -> str:
    """Return what to call a function in front of its signature; of a lambda, where it stands."""
    fun = inspect.unwrap(fun)  # what a method has around it stands elsewhere
    name = (getattr(fun, "__qualname__", None) or type(fun).__name__).rpartition("<locals>.")[2]
    code = getattr(fun, "__code__", None)
    if "<lambda>" not in name or code is None:
        return name
    return f"the lambda in line {code.co_firstlineno} of {os.path.basename(code.co_filename)}, "


# --- the values ------------------------------------------------------------------------------------------------------


def explain_values(fun: Callable[..., Any], primals: Sequence[Any], error: TypeError, what: str, has_aux: bool) -> None:
    """Raise from `error` if a primal, or what `fun` makes of them, is no value to JAX; else return.

    Args:
        fun: The function. It runs once more.
        primals: What it was called with.
        error: What JAX raised.
        what: The transform that speaks.
        has_aux: `fun` returns a pair.

    Raises:
        NonDifferentiablePrimalError: A primal is no array or number.
        AuxError: With `has_aux`, `fun` returned no pair.
        NonDifferentiableOutputError: What it returned is no array or number.
    """
    for i, primal in enumerate(primals):
        for leaf in jax.tree.leaves(primal):
            if _dtype(leaf) is None:
                _refuse_primal(primal, leaf, f"argument {i}", what, False)
    returned: list[Any] = []
    try:
        jax.eval_shape(lambda *args: returned.append(fun(*args)), *primals)
    except Exception:  # its own, which is on its way already
        return
    out = demand_pair(returned[0], what)[0] if has_aux else returned[0]
    for path, leaf in jax.tree_util.tree_leaves_with_path(out):
        if _dtype(leaf) is None:
            raise NonDifferentiableOutputError(
                f"{what} needs a function that returns arrays, and it returned {describe(leaf)}"
                f"{' at ' * bool(path)}{keystr(path)}. Give other values back with has_aux=True."
            ) from error


def check_float_primals(
    primals: Sequence[PyTree], names: Sequence[str], what: str, *, holomorphic: bool = False, allow_int: bool = False
) -> None:
    """Check that everything in `primals` can be differentiated.

    Args:
        primals: The values to differentiate with respect to.
        names: What to call each of them in an error text, such as `argument 0`.
        what: The transform that speaks.
        holomorphic: Demand complex values.
        allow_int: Accept integers and Booleans; their cotangents are `float0`.

    Raises:
        NonDifferentiablePrimalError: A leaf is an integer, a Boolean, a key, no array, or (`holomorphic`) not complex.
    """
    for primal, name in zip(primals, names, strict=True):
        for leaf in jax.tree.leaves(primal):
            dtype = _dtype(leaf)
            if dtype is not None and not holomorphic and jnp.issubdtype(dtype, jnp.inexact):
                continue
            if dtype is not None and holomorphic and jnp.issubdtype(dtype, jnp.complexfloating):
                continue
            if allow_int and not holomorphic and dtype is not None:
                continue
            _refuse_primal(primal, leaf, name, what, holomorphic)


def _in_nn(what: str) -> str:
    return f"For a function of a bound module use nn.{what}; here, differentiate module.apply(variables, …)."


def check_scalar_output(out: Any, what: str, *, holomorphic: bool = False) -> None:
    """Check that `out` is a scalar that a gradient can be taken of.

    Args:
        out: The output of the function (under a trace: before its backward pass is built).
        what: The transform that speaks.
        holomorphic: Demand a complex scalar instead of a real floating-point one.

    Raises:
        NonDifferentiableOutputError: `out` is no array, has a shape other than `()`, or another dtype.
    """
    dtype = _dtype(out)
    wanted = jnp.complexfloating if holomorphic else jnp.floating
    if dtype is not None and jnp.shape(out) == () and jnp.issubdtype(dtype, wanted):
        return
    kind = "complex" if holomorphic else "real floating-point"
    if dtype is None:
        remedy = "Return one array; give the rest back with has_aux=True."
    elif jnp.shape(out) != ():
        remedy = "Reduce it to one number, for instance with `.sum()` or `.mean()`, or use a vjp or a Jacobian."
    elif jnp.issubdtype(dtype, jnp.complexfloating):
        remedy = f"Take its real part{_or_holomorphic(what)}."
    elif holomorphic:
        remedy = "Drop holomorphic=True."
    else:
        remedy = "An integer or Boolean has no derivative: return the floating-point value it was made from."
    raise NonDifferentiableOutputError(
        f"{what} needs a function whose output is a {kind} scalar, and it returned {describe(out)}. {remedy}"
    )


_FORWARD = ("jacfwd", "laplacian", "divergence")
_WITH_ALLOW_INT = ("grad", "value_and_grad")
_WITH_HOLOMORPHIC = (*_WITH_ALLOW_INT, "jacfwd", "jacrev", "hessian")


def _or_holomorphic(what: str) -> str:
    return ", or pass holomorphic=True if the function is holomorphic" if what in _WITH_HOLOMORPHIC else ""


def check_real_inputs(diff: PyTree, what: str) -> None:
    """Raise `NonDifferentiablePrimalError` if `what` goes forwards from `diff`, and something in it is complex."""
    for leaf in jax.tree.leaves(diff) if what != "jacrev" else ():
        if jnp.iscomplexobj(leaf):
            raise NonDifferentiablePrimalError(
                f"{what} differentiates with respect to real numbers, and got {describe(leaf)}. Split real and "
                f"imaginary parts{_or_holomorphic(what)}."
            )


def check_jacobian_types(out: PyTree, diff: PyTree, what: str) -> None:
    """Check that there is a real Jacobian by `what`, which is not holomorphic.

    Args:
        out: The output of the function.
        diff: What it is differentiated with respect to.
        what: `jacfwd`, `laplacian` and `divergence`, whose inputs are real; `jacrev`, whose outputs are; `hessian`,
            where both are.

    Raises:
        NonDifferentiableOutputError: An output is an integer, or complex in reverse mode.
        NonDifferentiablePrimalError: An input is complex in forward mode.
    """
    check_real_inputs(diff, what)
    wanted = jnp.inexact if what in _FORWARD else jnp.floating
    if what in ("jacrev", "hessian") and not jax.tree.leaves(out):
        raise NonDifferentiableOutputError(
            f"{what} goes through the numbers of the output, and the function returned {describe(out)}, which has none."
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(out):
        dtype = _dtype(leaf)
        if dtype is None or not jnp.issubdtype(dtype, wanted):
            real = "" if what in _FORWARD else " that are real"
            raise NonDifferentiableOutputError(
                f"{what} needs floating-point outputs{real}, and the function returned {describe(leaf)}"
                f"{' at ' * bool(path)}{keystr(path)}. Give other values back with has_aux=True; for complex ones take "
                f"real and imaginary parts{_or_holomorphic(what)}."
            )


# --- cotangents and tangents -----------------------------------------------------------------------------------------


def explain_cotangent(outputs: PyTree, out_ct: PyTree, error: Exception, what: str = "vjp") -> None:
    """Raise `CotangentError` from `error` if `out_ct` does not fit `outputs`, a tree of types; else return."""
    if found := tree_mismatch(outputs, out_ct):
        raise CotangentError(
            f"The cotangent given to the backward map of {what} does not fit the output{found.path and ' at '}"
            f"{found.path}: expected {found.expected}, got {found.got}. A cotangent has the structure, the shapes and "
            f"the dtypes of primals_out (float0 or anything of the same shape for integers).{found.hint}"
        ) from error


def check_pair_of_sequences(primals: Any, tangents: Any, what: str) -> None:
    """Raise `TangentError` unless both are tuples or lists: one entry for each argument."""
    for name, given in (("primals", primals), ("tangents", tangents)):
        if not isinstance(given, tuple | list):
            raise TangentError(
                f"{what} expected {name} as a tuple or list, one entry for each argument, and got {describe(given)}. "
                f"Write {what}(f, (x,), (x_dot,)) instead of {what}(f, x, x_dot)."
            )


def explain_tangents(primals: Sequence[Any], tangents: Sequence[Any], error: Exception, what: str = "jvp") -> None:
    """Raise `TangentError` from `error` if `tangents` do not fit `primals`; else return."""
    if found := tree_mismatch(tuple(primals), tuple(tangents), any_for_float0=False):
        raise TangentError(
            f"The tangents given to {what} do not fit the primals{found.path and ' at '}{found.path}: expected "
            f"{found.expected}, got {found.got}. Tangents have the structure, the shapes and the dtypes of the "
            f"primals (float0 for integers).{found.hint}"
        ) from error


def tree_mismatch(
    expected: PyTree, got: PyTree, *, any_for_float0: bool = True, same: bool = False, path: tuple = ()
) -> Mismatch | None:
    """Return the first place where `got` is no (co)tangent of `expected`, or `None`.

    Args:
        expected: A tree of arrays or of `jax.ShapeDtypeStruct`: the values that the (co)tangents belong to.
        got: The tree to check.
        any_for_float0: Accept any dtype where the value is no floating-point one.
        same: Look for the types of `expected` themselves, as the carry of a loop needs them.
        path: Where in the whole tree this one stands.

    Returns:
        The first difference in the order of the expected tree.
    """
    children, treedef = _open(expected)
    got_children, got_treedef = _open(got)
    if children is None and got_children is None and same:
        return None if _same_type(expected, got) else Mismatch(keystr(path), _plain(expected), describe(got))
    if children is None and got_children is None:
        return _leaf_mismatch(expected, got, any_for_float0, keystr(path))
    if children is None or got_children is None or type(expected) is not type(got):
        dtype = None if any_for_float0 else _dtype(expected)
        if dtype is None or jnp.issubdtype(dtype, jnp.inexact):
            return Mismatch(keystr(path), _plain(expected), describe(got))
        return Mismatch(
            keystr(path), _typestr(jax.dtypes.float0, jnp.shape(expected)), describe(got), _float0(expected)
        )
    for key in [k for k in children if k not in got_children]:
        return Mismatch(keystr((*path, *key)), _plain(children[key]), "nothing there")
    for key in [k for k in got_children if k not in children]:
        return Mismatch(keystr((*path, *key)), "nothing there", describe(got_children[key]))
    options: dict[str, Any] = {"any_for_float0": any_for_float0, "same": same}
    for key, child in children.items():
        if found := tree_mismatch(child, got_children[key], **options, path=(*path, *key)):
            return found
    if treedef != got_treedef:  # same children, other static data
        return Mismatch(keystr(path), str(treedef), str(got_treedef))
    return None


def _open(tree: PyTree) -> tuple[dict[tuple, Any] | None, Any]:
    """Return the children of a node by key and its structure, one level deep; `None` for a leaf."""
    children, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is not tree)
    if jax.tree_util.treedef_is_leaf(treedef) and children and not children[0][0]:
        return None, treedef
    return dict(children), treedef


def _same_type(x: Any, y: Any) -> bool:
    """Tell whether `y` can be what `x` is; JAX makes a Python number whatever it has to be."""
    ours, theirs = _dtype(x), _dtype(y)
    if ours is None or theirs is None or jnp.shape(x) != jnp.shape(y):
        return False
    return ours == theirs or (getattr(x, "weak_type", False) and jnp.promote_types(ours, theirs) == theirs)


def _leaf_mismatch(expected: Any, got: Any, any_for_float0: bool, path: str) -> Mismatch | None:
    shape, dtype = jnp.shape(expected), _dtype(expected)
    inexact = dtype is not None and jnp.issubdtype(dtype, jnp.inexact)
    ct_dtype = dtype if inexact else jax.dtypes.float0
    got_dtype = _dtype(got)
    same_shape = got_dtype is not None and jnp.shape(got) == shape
    if same_shape and (got_dtype == ct_dtype or (not inexact and any_for_float0)):
        return None
    hint = ""
    if not inexact and dtype is not None and not any_for_float0:
        hint = _float0(expected)
    elif isinstance(got, bool | int) and inexact and shape == ():
        hint = f" Write {float(got)} instead of {got}."
    elif inexact and same_shape:
        hint = f" Cast it with `.astype({dtype})`."
    return Mismatch(path, _typestr(ct_dtype, shape), describe(got), hint)


def _float0(x: Any) -> str:
    return f" An integer has no tangent but np.zeros({jnp.shape(x)}, jax.dtypes.float0)."


# --- words -----------------------------------------------------------------------------------------------------------


def describe(x: Any) -> str:
    """Say in a few words what `x` is: `float32[3]`, `int (int32[])`, `a tuple of 2`, `a str`."""
    dtype = _dtype(x)
    if dtype is not None:
        text = _typestr(dtype, jnp.shape(x))
        return f"{type(x).__name__} ({text})" if isinstance(x, bool | int | float | complex) else text
    if x is None:
        return "None"
    article = "an" if type(x).__name__[0] in "aeiouAEIOU" else "a"
    if isinstance(x, dict):
        return f"{article} {type(x).__name__} with keys {list(x)!r}"
    if isinstance(x, tuple | list):
        return f"{article} {type(x).__name__} of {len(x)}"
    return f"{article} {type(x).__name__}"


def _plain(x: Any) -> str:
    dtype = _dtype(x)
    return describe(x) if dtype is None else _typestr(dtype, jnp.shape(x))


def _typestr(dtype: Any, shape: tuple) -> str:
    name = "float0" if dtype == jax.dtypes.float0 else getattr(dtype, "name", str(dtype))
    return f"{name}[{','.join(map(str, shape))}]"


def is_value(x: Any) -> bool:
    """Tell whether `x` is an array or a number, so that JAX can work with it."""
    return _dtype(x) is not None


def _dtype(x: Any) -> Any | None:
    """Return the dtype that JAX sees in `x`, or `None` where it sees no array."""
    if isinstance(x, jax.ShapeDtypeStruct):
        return x.dtype
    try:
        return getattr(jax.typeof(x), "dtype", None)
    except TypeError:
        return None


def _refuse_primal(primal: PyTree, leaf: Any, name: str, what: str, holomorphic: bool) -> None:
    path = next((keystr(p) for p, x in jax.tree_util.tree_flatten_with_path(primal)[0] if x is leaf), "")
    dtype = _dtype(leaf)
    if holomorphic:
        wanted, remedy = "complex", "Convert it with `.astype(complex)`, or drop holomorphic=True."
    elif hasattr(type(leaf), "lift_parts"):
        wanted, remedy = "a floating-point array", _in_nn(what)
    elif dtype is None:
        wanted, remedy = "a floating-point array", _leave_out(name, path, what)
    else:
        wanted, remedy = "floating-point or complex", _leave_out(name, path, what)
        if not jnp.issubdtype(dtype, jax.dtypes.prng_key):
            remedy += " If it is meant as a number, convert it with `.astype(float)`"
            remedy += ", or pass allow_int=True for a gradient of dtype float0." if what in _WITH_ALLOW_INT else "."
    raise NonDifferentiablePrimalError(
        f"{what} can't differentiate with respect to {name}{path}: expected {wanted}, got {describe(leaf)}. {remedy}"
    )


def _leave_out(name: str, path: str, what: str) -> str:
    """Say how to keep a value from being differentiated."""
    if name == "variables":
        return "Keep it in a collection that is not differentiated."
    if what not in _WITH_HOLOMORPHIC or not name.startswith("argument"):
        return "Leave it out of what is differentiated: give it to the function by a closure."
    if path:
        return "Give it apart, as an argument that argnums leaves out, or to the function by a closure."
    return "Name the arguments that are to be differentiated in argnums, or give this one by a closure."
