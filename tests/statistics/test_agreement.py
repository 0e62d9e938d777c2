"""Alpha and kappa are those of worked examples."""

import pytest

from chatpipe.statistics import cohen_kappa, krippendorff_alpha

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: four observers, twelve
# units, missing values.
OBSERVERS = {
    "A": "1 2 3 3 2 1 4 1 2 . . .",
    "B": "1 2 3 3 2 2 4 1 2 5 . 3",
    "C": ". 3 3 3 2 3 4 2 2 5 1 .",
    "D": "1 2 3 3 2 4 4 1 2 5 1 .",
}
UNITS = [
    {name: value for name, value in zip(OBSERVERS, values, strict=True) if value != "."}
    for values in zip(*(line.split() for line in OBSERVERS.values()), strict=True)
]


def test_alpha_is_that_of_krippendorffs_example():
    nominal = krippendorff_alpha(UNITS, "12345", "nominal")
    assert nominal.value == pytest.approx(0.743, abs=5e-4)
    assert (nominal.units, nominal.ratings) == (11, 40)  # a unit with one value says nothing
    ordinal = krippendorff_alpha(UNITS, "12345", "ordinal")
    assert ordinal.value == pytest.approx(0.815, abs=5e-4)


def test_alpha_of_two_observers_and_two_categories_is_that_of_section_a():
    first, second = "0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0"
    pairs = zip(first.split(), second.split(), strict=True)
    units = [dict(zip("AB", pair, strict=True)) for pair in pairs]
    assert krippendorff_alpha(units, "01").value == pytest.approx(0.095, abs=5e-4)


def test_agreement_that_is_not_defined_has_no_value():
    same = krippendorff_alpha([{"A": 1, "B": 1}] * 5, [1, 2])
    assert same.value is None and same.units == 5
    assert krippendorff_alpha([{"A": 1}], [1, 2]).units == 0
    assert cohen_kappa([]).value is None and cohen_kappa([(1, 1)]).value is None


def test_kappa_is_that_of_a_table():
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    assert cohen_kappa(pairs).value == pytest.approx(0.4)  # 0.7 agreed, 0.5 by chance
