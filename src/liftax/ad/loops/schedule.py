"""When to keep a state of a loop, so that few steps are computed again on the way back.

With c states kept at a time, the first one included, and no step computed more than r times again, a loop of
`beta(c, r) = (c + r)! / (c! r!)` steps can be reversed. A stretch of n steps, `beta(c, r - 1) < n <= beta(c, r)`, is
reversed by keeping the state after m of its steps, reversing the n - m behind it with c - 1 states, and then the m
before it with c states and one repetition less. No m is better than those of `split`.

Of a loop whose length is not known, a state is kept every few steps, and once all places are taken the one is given up
whose neighbours are closest to each other, measured by the distances that the optimal schedule of the steps so far has
there (`Online`). For 3 to 100 states and up to 30,000 steps this takes at most a tenth more steps than knowing the
length, mostly one to four hundredths.

Source: Griewank and Walther, "Algorithm 799: revolve", ACM TOMS 26 (2000), for known lengths; Stumm and Walther, "New
algorithms for optimal online checkpointing", SIAM J. Sci. Comput. 32 (2010), for the problem of unknown ones.
"""

import functools
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

_ROWS = 512  # repetitions that the table of `Online` knows: more are needed only of 2 or 3 states
_MOST = 2**31 - 1  # steps that can be counted


def recomputed_steps(steps: int, checkpoints: int) -> int:
    """Return how many steps the optimal schedule takes forward while it reverses a loop, the first pass included.

    Args:
        steps: The number of steps of the loop.
        checkpoints: How many states are kept at a time, the initial one included.

    Returns:
        The number of steps. The step that is being reversed is not counted.

    Example:
        >>> import liftax as lx
        >>> lx.recomputed_steps(1000, 10), lx.recomputed_steps(1000, 1000), lx.recomputed_steps(3, 1)
        (3636, 999, 3)
    """
    if steps <= 1:
        return 0
    if checkpoints == 1:
        return steps * (steps - 1) // 2
    r = 0
    while math.comb(checkpoints + r, r) < steps:
        r += 1
    return r * steps - math.comb(checkpoints + r, r - 1)


class Rank(NamedTuple):
    """The least number r of repetitions for a stretch of the loop, and `beta(c, r)`: two float32 scalars."""

    r: Any
    beta: Any


def rank(steps: Any, c: Any, known: Rank | None = None) -> Rank:
    """Return the `Rank` of a stretch of `steps` steps and `c` states, searched from one that is not too large."""
    n, c = jnp.asarray(steps).astype(jnp.float32), jnp.asarray(c).astype(jnp.float32)
    known = known or Rank(jnp.zeros_like(n), jnp.zeros_like(n))

    def more(rank: Rank) -> Rank:
        return Rank(rank.r + 1, rank.beta * (c + rank.r + 1) / (rank.r + 1))

    start = Rank(known.r, jnp.maximum(known.beta, 1))  # beta(c, 0) = 1
    return lax.while_loop(lambda rank: (rank.beta < n) & (c > 1), more, start)  # of one state no one asks for it


def before(rank: Rank, c: Any) -> Rank:
    """Return the rank of the steps before a kept state: one repetition less, the same number of states."""
    less = rank.r > 1
    return Rank(jnp.where(less, rank.r - 1, rank.r), jnp.where(less, rank.beta * rank.r / (c + rank.r), rank.beta))


def split(begin: Any, end: Any, rank: Rank, c: Any) -> tuple[Any, Rank]:
    """Return the step whose state is to be kept next, and the rank of the steps behind it.

    Args:
        begin: The step whose state is at hand.
        end: Where the stretch ends. With nothing to keep, `end - 1` is returned.
        rank: The rank of the steps from `begin` to `end`.
        c: How many states can be kept, that of `begin` included.
    """
    n, c = (end - begin).astype(jnp.float32), c.astype(jnp.float32)
    longest = rank.beta * rank.r / (c + rank.r)  # beta(c, r - 1)
    behind = rank.beta * c / (c + rank.r)  # beta(c - 1, r)
    least = longest * c / jnp.maximum(c + rank.r - 1, 1)  # beta(c - 1, r - 1)
    m = jnp.maximum(jnp.round(jnp.minimum(longest, n - least)), 1).astype(begin.dtype)
    return jnp.where(c > 1, jnp.minimum(begin + m, end - 1), end - 1), Rank(rank.r, behind)


class Online(NamedTuple):
    """Which steps' states are kept while the end of the loop is unknown.

    Args:
        count: how many states are kept, the initial one included: an integer scalar.
        steps: the steps that they are of, in ascending order: `(c,)` integers.
        slots: where each of them lies, -1 for the initial one: `(c,)` integers.
        r: the number of repetitions for the steps so far: an integer scalar.
    """

    count: Any
    steps: Any
    slots: Any
    r: Any

    @classmethod
    def start(cls, c: int) -> "Online":
        """Keep the initial state and no other, of `c` at most."""
        zero = jnp.zeros((), jnp.int32)
        return cls(zero + 1, jnp.zeros(c, jnp.int32), jnp.arange(-1, c - 1, dtype=jnp.int32), zero + 1)

    def stride(self) -> Any:
        """Return how many steps to go until the next state is kept."""
        return jnp.maximum(self.r // 2, 1)

    def keep(self, step: Any) -> tuple["Online", Any, Any]:
        """Decide on the state before `step`: return what is kept then, whether it is, and its slot."""
        c = self.steps.size
        lengths = jnp.asarray(_lengths(c))
        r = lax.while_loop(lambda r: (lengths[r] <= step) & (r < lengths.size - 1), lambda r: r + 1, self.r)
        steps, slots = jnp.append(self.steps, step), jnp.append(self.slots, -1)
        gaps = jnp.append(steps[2:], step + 1) - self.steps  # without the states 1 to c, the last of them the new one
        full = 1 + jnp.argmin(gaps / jnp.asarray(_distances(c))[r]).astype(jnp.int32)
        given_up = jnp.where(self.count < c, self.count, full)
        slot = self.slots[jnp.minimum(given_up, c - 1)]
        last = jnp.minimum(self.count, c - 1)
        moved = (jnp.arange(c) >= given_up) & (self.count == c)
        steps = jnp.where(moved, steps[1:], steps[:-1])
        slots = jnp.where(moved, slots[1:], slots[:-1])
        kept = given_up < c
        steps = steps.at[last].set(jnp.where(kept, step, steps[last]))
        slots = slots.at[last].set(jnp.where(kept, slot, slots[last]))
        return Online(jnp.minimum(self.count + 1, c), steps, slots, r), kept, slot


@functools.lru_cache(maxsize=64)
def _lengths(c: int) -> np.ndarray:
    """Return `beta(c, r)` for each number of repetitions r, up to the one for 2**31 steps, or to 511."""
    found = []
    while len(found) < _ROWS and (not found or found[-1] < _MOST):
        found.append(min(math.comb(c + len(found), c), _MOST))
    return np.array(found, np.int32)


@functools.lru_cache(maxsize=64)
def _distances(c: int) -> np.ndarray:
    """Return for each r how far the states are apart, `beta(c - j, r - 1)` behind state j, as shares of the largest."""
    r = np.maximum(np.arange(len(_lengths(c))) - 1, 1)[:, None]
    left = c - np.arange(c)
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, c + r.max() + 1)))])
    log_beta = log_factorials[left + r] - log_factorials[left] - log_factorials[r]
    return np.exp(log_beta - log_beta[:, :1]).astype(np.float32)
