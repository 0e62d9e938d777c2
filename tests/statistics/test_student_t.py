"""Student's t in numpy against scipy's."""

import numpy as np
import pytest
from scipy import stats

from chatpipe.statistics.student_t import quantile, two_sided_p

FREEDOM = np.array([1, 1.5, 2, 3, 4, 8, 16.3, 99, 999, 1e5])[:, None]


def test_p_values_are_scipys():
    t = np.array([0, 0.01, 0.5, 1, 2, -2, 5, 30, 1000])
    assert two_sided_p(t, FREEDOM) == pytest.approx(2 * stats.t.sf(abs(t), FREEDOM), abs=1e-7)


def test_quantiles_are_scipys():
    p = np.array([0.5, 0.6, 0.8, 0.975, 0.9999])
    expected = stats.t.ppf(p, FREEDOM)
    assert quantile(p, FREEDOM) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_what_is_not_a_number_has_no_p():
    assert np.isnan(two_sided_p([np.nan, 1.0], [4.0, np.nan])).all()
