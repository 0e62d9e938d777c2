"""Numbers as text."""

import pytest

from chatpipe.report import formatting
from chatpipe.utils.quantities import in_per_cent


@pytest.mark.parametrize(
    ("share", "text"),
    [(5 / 8, "63"), (3 / 8, "38"), (57 / 200, "29"), (1 / 3, "33"), (0, "0"), (12.5, "1,250"),
     (-0.001, "0"), (-0.125, "-13"), (1e-9, "0")],
)  # fmt: skip
def test_half_a_percent_is_rounded_up(share, text):
    assert in_per_cent(share) == text
    assert formatting.per_cent(share) == f"{text} %"
    assert formatting.share(share) == f"{text} %".replace("-", formatting.MINUS)


def test_digits_and_signs_of_percents():
    assert in_per_cent(0.06125, 1) == "6.1" and in_per_cent(0.00125, 2) == "0.13"
    assert in_per_cent(0.0625, 1, "+") == "+6.3" and in_per_cent(-0.0625, 1, "+") == "-6.3"
