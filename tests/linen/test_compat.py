"""The comparison behind `make compat` tells equal from other."""

import numpy as np
import pytest
from tests.compat.__main__ import PACKAGES, differences, row

ONE = {"a": np.float32([1.0, 2.0]), "b": np.int32([3])}


@pytest.mark.parametrize(
    ("ours", "says"),
    [
        (ONE, "to the bit"),
        ({**ONE, "a": np.float32([1.0, 2.0 + 1e-6])}, "up to 5e-07"),
        ({**ONE, "a": np.float64([1.0, 2.0])}, "**another shape or dtype**: a"),
        ({**ONE, "a": np.float32([[1.0, 2.0]])}, "**another shape or dtype**: a"),
        ({"a": ONE["a"]}, "**other names**: ['b']"),
    ],
)
def test_differences(ours: dict, says: str):
    assert differences(ours, ONE) == says


def test_row_demands_both_libraries():
    mine = {"module": "liftax.module.module", "values": ONE, "trace_s": 1.0}
    with pytest.raises(AssertionError, match="not the libraries"):
        row(next(iter(PACKAGES)), mine, mine)
