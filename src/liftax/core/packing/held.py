"""What a scope holds at the moment when a target is taken apart."""

from collections.abc import Mapping
from typing import Any

from liftax.core import filters
from liftax.core.scope import Scope
from liftax.typing import Filter, Path, PRNGKey


def replay_of(scope: Scope) -> Mapping[Path, dict[str, int]]:
    """Return the draws that are still to be counted for variables at and below a scope that exist already."""
    store = scope.store
    if not store.replay:
        return {}
    base = scope.names[len(store.root_path) :]
    return {
        (col, *names[len(base) :]): drawn
        for (col, *names), drawn in store.replay.items()
        if tuple(names[: len(base)]) == base
    }


def variables_of(scope: Scope) -> dict[str, Any]:
    """Return the variables at and below a scope: collection -> nested mapping, of those that are not empty."""
    found = {}
    for col in scope.store.variables:
        tree = scope.collection(col)
        if tree:
            found[col] = tree
    return found


def keys_of(scope: Scope, rngs: Filter) -> dict[str, PRNGKey]:
    """Return the keys of the rng streams that are let in."""
    keys = scope.streams[0]
    if not keys:
        return {}
    always = scope.store.flags.get("initializing")
    return {k: v for k, v in keys.items() if filters.in_filter(rngs, k) or (always and k == "params")}


def counters_of(scope: Scope) -> dict[Path, dict[str, int]]:
    """Return the draws so far at and below a scope."""
    counters, path = scope.store.counters, scope.names
    return {p: dict(c) for p, c in counters.items() if p[: len(path)] == path} if counters else {}
