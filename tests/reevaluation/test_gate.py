"""The gate: worse than accepted, by more than the tolerance, and beyond the interval."""

import math

import pytest

from chatpipe.reevaluation import gate, history
from chatpipe.reevaluation.gate import regressions
from tests.support.entries import entry

pytestmark = pytest.mark.usefixtures("chatpipe_home")


def regressed(now, accepted, tolerance=0.02):
    mark = accepted.model_copy(update={"record": "accepted"})
    return bool(regressions([now], {mark.figure: mark}, tolerance))


@pytest.mark.parametrize(
    ("value", "tolerance", "fails"),
    [
        (9.0, 0.02, False),  # better
        (10.9, 0.02, False),  # worse by 9 %, but within the interval 9 … 11
        (11.1, 0.02, True),
        (11.1, 0.2, False),  # beyond the interval, but within the tolerance
        (12.1, 0.2, True),
        (11.0, 0.0, False),  # the interval's edge belongs to it
        (math.inf, 0.02, True),
        (math.nan, 0.02, True),
    ],
)
def test_a_figure_fails_beyond_tolerance_and_interval(value, tolerance, fails):
    assert regressed(entry(value), entry(10.0), tolerance) is fails


def test_without_an_interval_the_tolerance_decides():
    accepted = entry(10.0, low=None, high=None)
    assert not regressed(entry(10.1), accepted)
    assert regressed(entry(10.3), accepted)


def test_only_the_same_variant_set_and_metric_are_compared():
    accepted = entry(10.0)
    for other in ({"variant": "w"}, {"heldout": "b"}, {"metric": "perplexity_paper"}):
        assert not regressed(entry(99.0, **other), accepted)


def test_the_first_evaluation_is_accepted_and_said_to_be():
    verdict = gate.record([entry(10.0)], 0.02)
    assert not verdict.regressions and [e.value for e in verdict.first] == [10.0]
    assert [e.record for e in history.read()] == ["evaluated", "accepted"]


def test_a_new_held_out_set_of_a_known_variant_is_accepted_at_first():
    gate.record([entry(10.0)], 0.02)
    verdict = gate.record([entry(10.0, day=1), entry(50.0, day=1, heldout="b")], 0.02)
    assert [e.heldout for e in verdict.first] == ["b"]


def test_what_passes_is_not_accepted_so_that_small_steps_add_up():
    gate.record([entry(10.0)], 0.0)
    for day, value in enumerate((10.4, 10.8), 1):
        assert gate.record([entry(value, day=day)], 0.0).regressions == []
    assert gate.record([entry(11.2, day=3)], 0.0).regressions


def test_a_regression_is_recorded_and_its_sentence_says_how_to_accept():
    gate.record([entry(10.0)], 0.02)
    [regression] = gate.record([entry(12.5, day=1)], 0.02).regressions
    assert str(regression) == (
        "v on a: perplexity 12.50 is 25.0% worse than the accepted 10.00 [9.000, 11.00]; "
        "if that is right, `chatpipe accept v`."
    )
    assert [e.value for e in history.newest(history.read())] == [12.5]


def test_other_held_out_rows_are_named():
    gate.record([entry(10.0)], 0.02)
    checked = entry(12.5, day=1, heldout_digest="more rows")
    [regression] = gate.record([checked], 0.02).regressions
    assert "(measured otherwise: other held-out rows)" in str(regression)


SETTINGS = '{"prompt_template": "alpaca 1", "evaluation.max_length": 2048}'


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"heldout_digest": "more rows", "rows": 15}, "other held-out rows, 15 rows scored, 12"),
        ({"settings": SETTINGS.replace("2048", "512")}, "evaluation.max_length 512, 2048 before"),
        ({"settings": SETTINGS.replace("1", "2")}, "prompt_template alpaca 2, alpaca 1 before"),
    ],
)
def test_what_passes_under_other_rows_or_settings_is_not_compared_in_silence(change, words):
    gate.record([entry(10.0, settings=SETTINGS)], 0.02)
    now = entry(9.0, day=1, **{"settings": SETTINGS, **change})
    verdict = gate.record([now, now.model_copy(update={"metric": "other"})], 0.02)
    assert verdict.regressions == []
    [sentence] = verdict.unlike
    assert sentence.startswith("v on a: compared with a figure that was measured otherwise (")
    assert words in sentence and "chatpipe accept v" in sentence


def test_figures_of_an_edition_without_settings_compare_as_before():
    gate.record([entry(10.0)], 0.02)
    assert gate.record([entry(10.1, day=1, settings=SETTINGS)], 0.02).unlike == []


def test_after_accepting_the_same_figure_passes():
    gate.record([entry(10.0)], 0.02)
    assert gate.record([entry(12.5, day=1)], 0.02).regressions
    history.accept("v")
    assert gate.record([entry(12.5, day=2)], 0.02).regressions == []
