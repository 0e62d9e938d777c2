"""Text that could rule a terminal or a page is written out; all other text stays as it is."""

import pickle

import pytest

from chatpipe.errors import ConfigError, SourceError
from chatpipe.utils.visible_text import visible, visible_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x9b2J", r"\x9b2J"),
        ("over\rwritten", r"over\x0dwritten"),
        ("bell\x07 null\x00", r"bell\x07 null\x00"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\u2066a\u2069", r"\u2066a\u2069"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("\U000e0041", r"\U000e0041"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_hides_or_rules_other_text_is_written_out(text, shown):
    assert visible(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "a line\nanother\r\nand\ta tab",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "שלום",
        "👩‍👩‍👧 e\u0301",
        "<b>&amp;</b> \\x1b",
    ],
)
def test_other_text_stays_as_it_is(text):
    assert visible(text) == text


def test_a_line_stays_one():
    assert visible_line("a\nb\r\nc\u2028d\x85e\x1b") == r"a\nb\r\nc\u2028d\x85e\x1b"


def test_errors_are_a_line_a_sentence():
    several = SourceError("a\nb", "c")
    assert str(several) == "a\\nb\nc" and str(pickle.loads(pickle.dumps(several))) == str(several)
    faults = pickle.loads(pickle.dumps(ConfigError(["a\nb", "c"]))).faults
    assert faults == ["a\\nb", "c"]
