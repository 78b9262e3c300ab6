"""Errors about functions of the user: not callable, called with the wrong arguments, not returning a pair.

`explain_arity` runs after Python has raised, and costs nothing otherwise.
"""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from liftax.errors import ArityError, AuxError, LiftaxError
from liftax.explain.transform import Transform
from liftax.explain.values import describe


def demand_callable(fun: Any, transform: Transform | str) -> None:
    """Raise `ArityError` unless `fun` can be called."""
    if not callable(fun):
        raise ArityError(
            f"{transform} expected a function and got {describe(fun)}. Pass the function itself and not its result: "
            f"{transform}(f, …) instead of {transform}(f(x), …)."
        )


def demand_pair(
    out: Any,
    transform: Transform | str,
    *,
    pair: str = "(output, aux)",
    why: str = "has_aux=True",
    who: str = "the function",
    remedy: str = "drop has_aux=True",
) -> tuple[Any, Any]:
    """Return both parts of `out`, a tuple or list of two. An array of length two does not count.

    Args:
        out: What a function of the user returned.
        transform: For the error text.
        pair: What the two parts are.
        why: What promised a pair.
        who: The function that had to return it.
        remedy: What to do if no pair was meant.

    Raises:
        AuxError: `out` is something else.
    """
    if isinstance(out, tuple | list) and len(out) == 2:
        return out[0], out[1]
    raise AuxError(
        f"{transform}: with {why} {who} must return a pair {pair}, and it returned {describe(out)}. "
        f"Return a tuple of two, or {remedy}."
    )


def explain_arity(
    fun: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    error: TypeError,
    transform: Transform,
    wanted: str | None = None,
) -> None:
    """Raise `ArityError` from `error` if `fun` can't be called with `args` and `kwargs`, or at all; else return.

    Args:
        fun: The function.
        args: What it was called with.
        kwargs: What it was called with.
        error: What Python raised.
        transform: For the error text.
        wanted: The expected signature, for callbacks that are not called with primals.
    """
    demand_callable(fun, transform)
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
        remedy = f"Give {transform} one primal for each positional argument, and {remedy}"
        if wanted is not None:
            remedy = f"It is called as {wanted}."
        raise ArityError(
            f"{transform} calls {_function(fun)}{signature} with {', '.join(given)}, which does not fit: {mismatch}. "
            f"{remedy}"
        ) from error


class arity_explained:
    """A context that raises `ArityError` from a TypeError if the function called inside does not take its arguments.

    Args:
        fun, args, kwargs, transform, wanted: see `explain_arity`.
    """

    __slots__ = ("_call",)

    def __init__(
        self,
        fun: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        transform: Transform,
        wanted: str | None = None,
    ):
        self._call = fun, args, kwargs, transform, wanted

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        """Explain the error."""
        if isinstance(error, TypeError) and not isinstance(error, LiftaxError):
            fun, args, kwargs, transform, wanted = self._call
            explain_arity(fun, args, kwargs, error, transform, wanted)


def _function(fun: Callable[..., Any]) -> str:
    """Return the name of a function in front of its signature; for a lambda, where it was written."""
    fun = inspect.unwrap(fun)  # the wrapper of a method was written elsewhere
    name = (getattr(fun, "__qualname__", None) or type(fun).__name__).rpartition("<locals>.")[2]
    code = getattr(fun, "__code__", None)
    if "<lambda>" not in name or code is None:
        return name
    return f"the lambda in line {code.co_firstlineno} of {os.path.basename(code.co_filename)}, "
