"""Notes on errors of JAX about modes of differentiation: what to use instead."""

from collections.abc import Callable, Sequence
from typing import Any

from liftax.ad.checks import explain_tangents
from liftax.errors import LiftaxError
from liftax.explain.functions import explain_arity
from liftax.explain.transform import Transform


class tangents_explained:
    """Raise `TangentError` from an error of JAX about tangents that do not fit, and add to others what `noted` adds.

    Args:
        primals: The arguments.
        tangents: What the user gave for them.
        transform: For the error text.
    """

    def __init__(self, primals: Sequence[Any], tangents: Sequence[Any], transform: Transform):
        self.primals, self.tangents, self.transform = primals, tangents, transform

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        """Explain the error."""
        if isinstance(error, TypeError | ValueError):
            explain_tangents(self.primals, self.tangents, error, self.transform)
            add_note(error)


class noted:
    """Add to an error of JAX about a mode of differentiation what to use instead.

    Args:
        fun: A function that runs inside, to say if it can't be called so.
        args: What it is called with.
        transform: For the error text.
    """

    def __init__(
        self, fun: Callable[..., Any] | None = None, args: Sequence[Any] = (), transform: Transform | None = None
    ):
        self.fun, self.args, self.transform = fun, args, transform

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        """Add the note."""
        if (
            isinstance(error, TypeError)
            and self.fun is not None
            and self.transform is not None
            and not isinstance(error, LiftaxError)
        ):
            explain_arity(self.fun, self.args, {}, error, self.transform)
        if isinstance(error, TypeError | ValueError):
            add_note(error)


def lacks_forward_mode(error: Exception) -> bool:
    """Tell whether JAX raised `error` because there is a `custom_vjp` where it differentiates forwards."""
    return "forward-mode" in str(error) and "custom_vjp" in str(error)


def add_note(error: TypeError | ValueError) -> None:
    """Add to an error of JAX about a mode of differentiation what to use instead, and to any other error nothing."""
    text = str(error)
    if lacks_forward_mode(error):
        note = (
            "liftax: jvp, linearize, jacobian, jacfwd, hvp, hessian and divergence differentiate forwards, for "
            "which a rule of custom_vjp says nothing. Reverse mode over reverse mode works: for a Hessian pass "
            'mode="reverse", for its product with a vector use vhp instead of hvp. Or give the function its rule with '
            "custom_jvp, which serves both modes."
        )
    elif "everse-mode" in text and "while_loop" in text:
        note = (
            "liftax: a loop of JAX whose number of steps is open can't be differentiated backwards. In the place of "
            "jax.lax.while_loop use liftax.while_loop, or nn.while_loop for functions of modules; in the place of "
            "jax.lax.fori_loop, liftax.fori_loop or nn.fori_loop. Their derivatives take the memory of as many carries "
            "as their argument checkpoints says."
        )
    else:
        return
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
