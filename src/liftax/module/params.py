"""Hyperparameters that may be given when a module is made or when it is called."""

from typing import TypeVar

T = TypeVar("T")


def merge_param(name: str, a: T | None, b: T | None) -> T:
    """Return whichever of a field and an argument was given.

    Args:
        name: the name of both, for error texts.
        a: the field.
        b: the argument.

    Raises:
        ValueError: both are None, or neither is.

    Example:
        >>> from liftax import nn
        >>> nn.merge_param('train', None, True)
        True
    """
    if a is None and b is None:
        raise ValueError(f"{name!r} must be given: as a field of the module, or as an argument of the call.")
    if a is not None and b is not None:
        raise ValueError(
            f"{name!r} was given twice: {a!r} as a field of the module and {b!r} as an argument. Give it once."
        )
    return a if b is None else b  # type: ignore[return-value]
