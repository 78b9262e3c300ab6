"""Arguments that stay Python values: their positions, counted with the module as 0, and their names.

A static argument is one by position, by keyword and at its default: the signature of the function says which position
has which name.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax

from liftax import errors
from liftax.explain.transform import Transform


class Static(NamedTuple):
    """Which arguments are static.

    Args:
        positions: counted with the module as 0; negative ones from the end.
        names: of keyword arguments.
    """

    positions: tuple[int, ...]
    names: tuple[str, ...]


def static_arguments(
    fn: Callable[..., Any], argnums: int | Iterable[int], argnames: str | Iterable[str] = ()
) -> Static:
    """Return which arguments of `fn` are static, each by position and by name where the signature has both."""
    positions = [argnums] if isinstance(argnums, int) else list(argnums)
    names = [argnames] if isinstance(argnames, str) else list(argnames)
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):  # a callable without a signature
        return Static(tuple(positions), tuple(names))
    by_position = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    named = {p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
    whole = not any(p.kind is p.VAR_POSITIONAL for p in parameters)
    for i in list(positions):
        if -len(by_position) <= i < len(by_position) and (i >= 0 or whole) and by_position[i] in named:
            names.append(by_position[i])
    for name in names:
        if name in by_position:
            positions.append(by_position.index(name))
    return Static(tuple(dict.fromkeys(positions)), tuple(dict.fromkeys(names)))


def check_not_the_module(static: Static, transform: Transform) -> None:
    """Raise `ArityError` if the module is marked static."""
    if 0 in static.positions:
        raise errors.ArityError(f"{transform}: position 0 is the module, which can't be marked. Count from 1.")


@contextmanager
def explained(static: Static, fn: Callable[..., Any], name: str) -> Iterator[None]:
    """Add to an error of JAX about a traced or an unhashable argument how static positions are counted."""
    try:
        yield
    except (jax.errors.ConcretizationTypeError, ValueError, TypeError) as error:
        about = isinstance(error, jax.errors.ConcretizationTypeError) or "static arg" in str(error)
        marked = [i for i in static.positions if i > 0]
        if about and marked and not any("static_argnums" in note for note in getattr(error, "__notes__", ())):
            names = list(inspect.signature(fn).parameters) if callable(fn) else []
            said = ", ".join(f"{i} is {names[i]!r}" for i in marked if i < len(names))
            error.add_note(
                f"liftax: static_argnums of nn.{name} counts the module as 0: {said or marked}. Counted without the "
                f"module, as nn.partitioning.remat counts, these are static_argnums={tuple(i + 1 for i in marked)}."
            )
        raise
