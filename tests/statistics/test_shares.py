"""Intervals of shares: Wilson's, as statsmodels computes it."""

import pytest

from chatpipe.statistics.shares import wilson


@pytest.mark.parametrize("alike", [0, 20])
def test_a_share_of_items_that_are_all_alike_has_a_width(alike):
    ends = wilson(alike / 20, 20)
    assert ends == pytest.approx((0.8389, 1.0) if alike else (0.0, 0.1611), abs=1e-4)


def test_it_is_that_of_statsmodels():
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    for count in (0, 3, 8, 20):
        expected = proportion.proportion_confint(count, 20, method="wilson")
        assert wilson(count / 20, 20) == pytest.approx(expected, abs=1e-12)
