"""The time of the benchmark of a GPU."""

import time

import pytest

from benchmarks.gpu_budget import Budget, LeftOutError


def test_nothing_is_begun_that_would_end_too_late():
    """What comes next is expected to take as long as the longest before it."""
    budget = Budget(60, time.time())
    with budget.spent():
        pass
    budget._longest = 61
    with pytest.raises(LeftOutError, match=r"no time: (59|60) s are left"), budget.spent():
        raise AssertionError
    with pytest.raises(LeftOutError, match="no time: 0 s are left"), Budget(1, 0).spent():
        raise AssertionError
