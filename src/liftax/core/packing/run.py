"""What one run of a packed target did, as a value: `collect` returns it, `include` and `commit` take it.

Run = (State, Effects): the arrays are leaves of a pytree, all else is static
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from liftax.typing import Path

Draws = tuple[tuple[Any, tuple[tuple[str, int], ...]], ...]
"""Key path -> rng stream -> number of draws, as sorted tuples."""


class State(NamedTuple):
    """What a run did to variables, for each packed root. A pytree.

    Args:
        written: (collection, *path, name) -> last value, of the variables that were written.
        created: the same keys -> initial value, of the variables that did not exist before.
    """

    written: tuple[dict[Path, Any], ...]
    created: tuple[dict[Path, Any], ...]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, slots=True)
class Effects:
    """What a run did besides state. Static and hashable, so that it may leave a JAX transform as an output.

    Args:
        drawn: for each root, the draws that creating a variable took, by the key of the variable; those that were only
            counted, in the run after the one that created it, are among them.
        counters: for each root, the draws so far, by path relative to the root.
        names: for each rebound module, the automatic names that it has given so far, or None.
    """

    drawn: tuple[Draws, ...]
    counters: tuple[Draws, ...]
    names: tuple[tuple[tuple[str, int], ...] | None, ...]


class Run(NamedTuple):
    """What a run did. A pytree whose leaves are those of `state`."""

    state: State
    effects: Effects


def no_state(roots: int) -> State:
    """Return the state of a run that wrote nothing."""
    return State(tuple([{} for _ in range(roots)]), tuple([{} for _ in range(roots)]))


def frozen_draws(draws: Mapping[Any, Mapping[str, int]], skip: int = 0) -> Draws:
    """Return counts of draws as sorted tuples; of each key the first `skip` names are dropped."""
    if not draws:
        return ()
    return tuple(sorted([(key[skip:], tuple(sorted(counts.items()))) for key, counts in draws.items()]))


def thawed_draws(draws: Draws, prefix: Path = ()) -> dict[Any, dict[str, int]]:
    """Undo `frozen_draws`."""
    return {(*prefix, *key): dict(counts) for key, counts in draws}
