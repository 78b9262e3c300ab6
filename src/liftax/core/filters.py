"""Filters say which collections, or which rng streams, take part.

A filter is `True` (all), `False` (none), a name, a collection of names, or `DenyList(filter)` (all but these). Filters
are closed under union, intersection and difference, so that transforms can combine what a user asks for with what is
mutable.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from liftax import errors
from liftax.typing import Filter


@dataclasses.dataclass(frozen=True)
class DenyList:
    """Match every collection except those that `deny` matches.

    Args:
        deny: a filter.

    Example:
        >>> from liftax import core
        >>> core.in_filter(core.DenyList('params'), 'batch_stats')
        True
        >>> core.in_filter(core.DenyList(['params', 'cache']), 'cache')
        False
    """

    deny: Filter


def in_filter(filter_: Filter, name: str) -> bool:
    """Tell whether `filter_` matches the collection or stream `name`.

    Example:
        >>> from liftax import core
        >>> core.in_filter(core.DenyList('cache'), 'params')
        True
    """
    if filter_ is True or filter_ is False:
        return filter_
    if isinstance(filter_, str):
        return filter_ == name
    if isinstance(filter_, DenyList):
        return not in_filter(filter_.deny, name)
    return name in _names(filter_)


def is_empty(filter_: Filter) -> bool:
    """Tell whether `filter_` can match nothing at all.

    Example:
        >>> from liftax import core
        >>> core.is_empty([])
        True
    """
    if isinstance(filter_, DenyList):
        return filter_.deny is True or (isinstance(filter_.deny, DenyList) and is_empty(filter_.deny.deny))
    return filter_ is False or (not isinstance(filter_, str) and filter_ is not True and not _names(filter_))


def union(a: Filter, b: Filter) -> Filter:
    """Return the filter that matches what `a` or `b` matches.

    Example:
        >>> from liftax import core
        >>> core.union('params', ['cache', 'params']) == {'params', 'cache'}
        True
    """
    if a is True or b is True:
        return True
    if isinstance(a, DenyList):
        return DenyList(intersect(a.deny, b.deny) if isinstance(b, DenyList) else subtract(a.deny, b))
    if isinstance(b, DenyList):
        return union(b, a)
    return _names(a) | _names(b)


def intersect(a: Filter, b: Filter) -> Filter:
    """Return the filter that matches what both `a` and `b` match.

    Example:
        >>> from liftax import core
        >>> core.intersect(core.DenyList('cache'), ['params', 'cache']) == {'params'}
        True
    """
    if a is True or b is True:
        return b if a is True else a
    if isinstance(a, DenyList) and isinstance(b, DenyList):
        return DenyList(union(a.deny, b.deny))
    if isinstance(a, DenyList):
        a, b = b, a
    return frozenset(name for name in _names(a) if in_filter(b, name))


def subtract(a: Filter, b: Filter) -> Filter:
    """Return the filter that matches what `a` matches and `b` does not.

    Example:
        >>> from liftax import core
        >>> core.subtract(['params', 'cache'], 'cache') == {'params'}
        True
    """
    if b is True:
        return False
    if b is False:
        return a
    return intersect(a, b.deny if isinstance(b, DenyList) else DenyList(b))


def named(filter_: Filter) -> frozenset[str]:
    """Return the names that `filter_` spells out, those of a `DenyList` included: what a typo could be in."""
    if isinstance(filter_, bool):
        return frozenset()
    return named(filter_.deny) if isinstance(filter_, DenyList) else _names(filter_)


def group(collections: Mapping[str, Any], filters: Iterable[Filter]) -> tuple[dict[str, Any], ...]:
    """Split `collections` by `filters`: each goes to the first filter that matches it, or nowhere.

    Example:
        >>> from liftax import core
        >>> core.group({'params': 1, 'cache': 2, 'stats': 3}, ('params', core.DenyList('cache')))
        ({'params': 1}, {'stats': 3})
    """
    filters = tuple(filters)
    groups: tuple[dict[str, Any], ...] = tuple([{} for _ in filters])
    for name, tree in collections.items():
        for filter_, chosen in zip(filters, groups, strict=True):
            if in_filter(filter_, name):
                chosen[name] = tree
                break
    return groups


def check_known(filter_: Filter, known: Collection[str], argument: str, transform: str, where: str) -> None:
    """Raise unless every name in `filter_` exists or resembles nothing that does, and something is matched.

    Args:
        filter_: what the user gave.
        known: the collections that exist, besides `'params'`, which may always be asked for.
        argument: the argument's name, such as `vjp_variables`.
        transform: the transform's name, such as `vjp`.
        where: the module path.

    Raises:
        UnknownCollectionError: a name is a near miss of a collection, or the filter matches nothing although there
            are collections.
    """
    unknown = named(filter_) - {"params"} - set(known)
    if not unknown or not known:
        return
    listed = ", ".join(repr(k) for k in sorted(known))
    for name in sorted(unknown):
        hint = errors.nearest(name, {*known, "params"})
        if hint:
            raise errors.UnknownCollectionError(
                f"{transform} at {where}: {argument}={filter_!r} names the collection {name!r}, which does not exist. "
                f"The collections are {listed}.{hint}"
            )
    if not isinstance(filter_, DenyList) and not any(in_filter(filter_, k) for k in {*known, "params"}):
        raise errors.UnknownCollectionError(
            f"{transform} at {where}: {argument}={filter_!r} matches none of the collections {listed}. Name one of "
            f"them, or pass False for none."
        )


def _names(filter_: Any) -> frozenset[str]:
    if isinstance(filter_, str):
        return frozenset((filter_,))
    if filter_ is False:
        return frozenset()
    if isinstance(filter_, Collection) and not isinstance(filter_, Mapping | bytes):
        names = frozenset(filter_)
        if all(isinstance(n, str) for n in names):
            return names
    raise errors.InvalidFilterError(
        f"got {filter_!r} of type {type(filter_).__name__} as a filter. A filter is True, False, a collection's name, "
        "a collection of names, or DenyList(filter)."
    )
