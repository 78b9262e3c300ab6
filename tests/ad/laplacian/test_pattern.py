"""Patterns: which directions numbers depend on."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from liftax.ad.laplacian.pattern import Directions


def positions(directions, electrons):
    return directions.pattern(np.arange(3 * electrons).reshape(1, electrons, 3))


def test_equal_patterns_are_one_object():
    directions = Directions(12, 7)
    assert positions(directions, 4) is positions(directions, 4)
    assert directions.dense(2).dense and directions.dense(2) is directions.dense(2)


def test_an_axis_that_does_not_vary_has_length_one():
    directions = Directions(12, 7)
    index = np.broadcast_to(np.arange(12).reshape(4, 3, 1).transpose(1, 0, 2), (3, 4, 5))
    assert directions.pattern(index).index.shape == (3, 4, 1)


def test_features_of_an_electron_depend_on_its_position():
    own = positions(Directions(12, 7), 4).over([1])
    assert own.index[:, :, 0].T.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert not own.dense and own.without([1]).index.shape == (3, 4)


def test_pairs_list_a_direction_once():
    directions = Directions(12, 7)
    own = positions(directions, 4).over([1]).index
    first, second = directions.pattern(own[:, :, None]), directions.pattern(own[:, None])
    pairs = directions.union(first, second)
    assert pairs.index.shape == (6, 4, 4, 1)
    assert sorted(pairs.index[:, 1, 2, 0]) == [3, 4, 5, 6, 7, 8]
    assert sorted(pairs.index[:, 2, 2, 0]) == [-1, -1, -1, 6, 7, 8]


def test_too_many_slots_are_given_up():
    directions = Directions(12, 7)
    assert positions(directions, 4).over([0, 1]).dense
    assert directions.union(directions.dense(2), positions(directions, 4)).dense


@given(st.lists(st.lists(st.integers(-1, 8), min_size=6, max_size=6), min_size=1, max_size=5), st.integers(0, 9))
def test_union_over_an_axis_lists_what_any_number_depends_on(rows, most):
    directions = Directions(9, most)
    index = np.array(rows).reshape(-1, 2, 3)
    pattern = directions.pattern(np.where((index[:1] == index).cumsum(0) > 1, -1, index))
    over = pattern.over([1])
    for i in range(2):
        wanted = set(pattern.spread((2, 3))[:, i].ravel().tolist()) - {-1}
        listed = [d for d in over.spread((2, 1))[:, i, 0].tolist() if d >= 0]
        assert wanted <= set(listed) and (over.dense or len(listed) == len(set(listed)))
