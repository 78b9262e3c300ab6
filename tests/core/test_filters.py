"""Filters are sets of names: their algebra is that of sets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liftax import core, errors
from liftax.core.filters import check_known, named

NAMES = ("params", "batch_stats", "cache", "state")
PLAIN = st.one_of(
    st.booleans(),
    st.sampled_from(NAMES),
    st.lists(st.sampled_from(NAMES), max_size=3),
    st.frozensets(st.sampled_from(NAMES), max_size=3),
    st.lists(st.sampled_from(NAMES), max_size=2).map(tuple),
)
FILTERS = st.recursive(PLAIN, lambda inner: inner.map(core.DenyList), max_leaves=4)


def members(filter_):
    """Return what `filter_` matches of the names, and of one that no filter spells out."""
    return {n for n in (*NAMES, "other") if core.in_filter(filter_, n)}


@given(FILTERS, FILTERS)
def test_union_intersection_and_difference_are_those_of_sets(a, b):
    assert members(core.union(a, b)) == members(a) | members(b)
    assert members(core.intersect(a, b)) == members(a) & members(b)
    assert members(core.subtract(a, b)) == members(a) - members(b)


@given(FILTERS)
def test_deny_list_is_the_complement(a):
    assert members(core.DenyList(a)) == {*NAMES, "other"} - members(a)
    assert members(core.union(a, core.DenyList(a))) == {*NAMES, "other"}
    assert core.is_empty(core.intersect(a, core.DenyList(a)))


@given(FILTERS)
def test_is_empty_says_whether_nothing_can_match(a):
    assert core.is_empty(a) == (not members(a))


@given(st.lists(FILTERS, max_size=3))
def test_group_sends_each_collection_to_the_first_filter_that_matches(filters):
    collections = {name: name.upper() for name in NAMES}
    groups = core.group(collections, filters)
    assert len(groups) == len(filters)
    seen = set()
    for filter_, group in zip(filters, groups, strict=True):
        assert set(group) == (members(filter_) & set(NAMES)) - seen
        assert all(group[k] == collections[k] for k in group)
        seen |= set(group)


@given(FILTERS)
def test_named_lists_what_is_spelled_out(a):
    assert named(a) <= set(NAMES)
    assert named(core.DenyList(a)) == named(a)


@pytest.mark.parametrize("wrong", [3, None, 1.5, {"params": 1}, ["params", 3], b"params"])
def test_what_is_no_filter_is_an_error(wrong):
    with pytest.raises(errors.InvalidFilterError, match="A filter is True, False"):
        core.in_filter(wrong, "params")


def test_near_miss_of_a_collection_is_an_error():
    with pytest.raises(errors.UnknownCollectionError, match="Did you mean 'batch_stats'"):
        check_known("batch_stat", {"params", "batch_stats"}, "variables", "vjp", "/")
    with pytest.raises(errors.UnknownCollectionError, match="matches none of the collections"):
        check_known("zzz", {"params"}, "variables", "vjp", "/")
    check_known(["zzz", "params"], {"params"}, "variables", "vjp", "/")
    check_known("params", {"cache"}, "variables", "vjp", "/")
