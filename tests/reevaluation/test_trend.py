"""The trend's page: what stands in it, and that it loads nothing."""

import re
from xml.etree import ElementTree

from chatpipe.reevaluation import history, trend
from tests.support.entries import entry


def checks():
    return [
        entry(10.0),
        entry(10.0, record="accepted"),
        entry(10.5, day=7),
        entry(12.0, day=14, model_digest="other", answers_digest="else"),
        entry(20.0, day=14, variant="w <b>", heldout="a"),
    ]


def test_the_table_says_what_changed_since_a_figure_was_accepted():
    first, second = trend.trend_rows(checks())
    assert first["Accepted"] == "10.00 [9.000, 11.00]" and first["Now"].startswith("12.00")
    assert first["Change"] == "+20.0%"
    assert first["Since accepted"] == "another adapter, other answers"
    assert second["Accepted"] == "—"


def test_the_chart_has_a_line_of_every_check_and_a_dot_where_one_was_accepted():
    drawn = ElementTree.fromstring(trend.trend_chart(checks(), "a"))
    curves = [
        node.get("points").split()
        for node in drawn.iter("polyline")
        if len(node.get("points").split()) == 3
    ]
    assert len(curves) == 1
    heights = [float(point.split(",")[1]) for point in curves[0]]
    assert heights == sorted(heights, reverse=True)  # worse is higher, and SVG counts from above
    assert len(list(drawn.iter("circle"))) == 2  # the acceptance, and w's only check
    assert "w <b>: 20.00" in drawn.findtext("desc")


def test_the_line_breaks_where_rows_or_settings_changed():
    entries = [
        *(entry(10.0 + day, day=day, settings="{}") for day in range(2)),
        *(entry(10.0 + day, day=day, settings="{}", heldout_digest="new") for day in range(2, 4)),
        *(entry(1.0 + day, day=day, settings='{"a": 1}', heldout_digest="new") for day in (4, 5)),
    ]
    drawn = ElementTree.fromstring(trend.trend_chart(entries, "a"))
    lines = [len(node.get("points").split()) for node in drawn.iter("polyline")]
    assert lines == [2, 2, 2, 2]  # three stretches, and the legend
    first = entries[0].model_copy(update={"record": "accepted"})
    [row] = trend.trend_rows([first, *entries])
    assert row["Since accepted"] == "other held-out rows, a 1, None before"


def test_checks_seconds_apart_are_drawn():
    assert "polyline" in trend.trend_chart([entry(), entry(day=1e-9), entry(day=2e-9)], "a")


def test_a_figure_that_is_not_finite_is_in_the_table_and_not_in_the_chart():
    entries = [entry(float("inf"))]
    assert trend.trend_chart(entries, "a") == ""
    assert trend.trend_rows(entries)[0]["Now"].startswith("∞")


def test_the_page_is_written_whole_and_loads_nothing(chatpipe_home):
    history.append(checks())
    path = trend.write_page(["v on a: worse <script>."])
    page = path.read_text("utf-8")
    assert path == chatpipe_home / "reports" / "reevaluation" / "index.html"
    assert not re.search(r"(src|href)=|<script|@import|url\(", page)
    assert "w &lt;b&gt;" in page and "worse &lt;script&gt;" in page
    text = path.with_suffix(".md").read_text("utf-8")
    assert "| v | a |" in text and "worse &lt;script&gt;" in text and "<script" not in text
    assert len(list(path.parent.iterdir())) == 2
