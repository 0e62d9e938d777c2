"""The settings that tell a study's configurations apart."""

from chatpipe.report.configurations import without_named_texts

KEYS = ["prompt_template.name", "prompt_template.with_input", "training.epochs"]


def _values(*rows):
    return [dict(zip(KEYS, row, strict=True)) for row in rows]


def test_texts_of_templates_are_left_out_where_the_names_differ():
    values = _values(("alpaca", "### Input", 1), ("chat", None, 1), ("alpaca", "### Input", 2))
    assert without_named_texts(KEYS, values) == ["prompt_template.name", "training.epochs"]


def test_two_texts_under_one_name_are_kept():
    values = _values(("own", "Question:", 1), ("own", "Task:", 1), ("chat", None, 1))
    assert without_named_texts(KEYS, values) == KEYS


def test_texts_alone_are_kept():
    values = _values(("own", "Question:", 1), ("own", "Task:", 1))
    assert without_named_texts(KEYS[1:], values) == KEYS[1:]
