"""Every placeholder of a template is replaced, wherever it stands; the row's text is not read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from chatpipe.config.prompt_schema import PromptTemplate
from chatpipe.config.prompts import TEMPLATES, render, segments

END = "\n\n### Response:\n"


def made(with_input, without_input="{instruction}" + END):
    return PromptTemplate(name="own", with_input=with_input, without_input=without_input)


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("{input}\n{instruction}", "IN\nASK"),
        ("{instruction} {instruction} {input} {input} {instruction}", "ASK ASK IN IN ASK"),
        ("{{input}} {instruction} {input}", "{input} ASK IN"),
        ('{"a": {"q": "{instruction}", "c": {input}}}', '{"a": {"q": "ASK", "c": IN}}'),
        ("{} {0} {instruction}{input} {a b} }{", "{} {0} ASKIN {a b} }{"),
        ("{{anything}} {instruction}{input}", "{anything} ASKIN"),
        ("{{input!r}} {{été}} {instruction}{input}", "{input!r} {été} ASKIN"),
    ],
)
def test_every_placeholder_is_replaced_and_other_braces_stay(text, prompt):
    assert render(made(text + END), "ASK", "IN") == prompt + END


def test_a_system_text_is_where_the_template_has_it_else_a_paragraph_before():
    rows = ("ASK", "", "Be brief.")
    for text, prompt in (
        ("<{system}> {instruction}", "<Be brief.> ASK"),
        ("{instruction}", "Be brief.\n\nASK"),
        ("{{system}} {instruction}", "Be brief.\n\n{system} ASK"),
    ):
        template = made("{instruction}{input}" + END, text + END)
        assert "".join(part.text for part in segments(template, *rows)) == prompt + END
    empty = made("{instruction}{input}" + END, "<{system}> {instruction}" + END)
    assert render(empty, "ASK", "") == "<> ASK" + END


def test_without_an_input_its_place_is_empty():
    template = made("{input}{instruction}" + END, "[{input}] {instruction}" + END)
    assert render(template, "ASK", "") == "[] ASK" + END


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{instruction} {input} {context}", "with_input has the unknown placeholder {context}"),
        ("{Instruction} {instruction} {input}", "the unknown placeholder {Instruction}"),
        ("{instruction} {input} {input!r}", "the unknown placeholder {input!r}"),
        ("{instruction} {input} {input:>10}", "the unknown placeholder {input:>10}"),
        ("{instruction} {input} {instruction.text}", "placeholder {instruction.text}"),
        ("{instruction} {input} {entrée}", "the unknown placeholder {entrée}"),
        ("{ instruction } {input}", "with_input lacks '{instruction}'"),
        ("{{instruction}} {input}", "with_input lacks '{instruction}'"),
        ("{instruction}", "with_input lacks '{input}'"),
        ("{instruction} {input} {% if x %}", "not a Jinja template"),
    ],
)
def test_what_is_no_placeholder_is_a_fault_that_says_how_to_write_it(text, sentence):
    with pytest.raises(ValidationError) as error:
        made(text + END)
    assert sentence in str(error.value)


def test_the_fault_says_how_braces_are_written_as_text():
    with pytest.raises(ValidationError, match=r"\{\{context\}\} is the text \{context\}"):
        made("{instruction} {input} {context}" + END)


row_text = st.text(max_size=40) | st.sampled_from(
    ["{input}", "{instruction}", "{{input}}", "a {input} b {instruction}", "{", "}}", "{x}"]
)


@given(row_text, row_text, st.permutations(["{instruction}", "{input}", "{{x}}", "{input}"]))
def test_a_row_is_in_the_prompt_as_it_is(instruction, input_text, order):
    template = made("|".join(order) + END)
    values = {"{instruction}": instruction, "{input}": input_text, "{{x}}": "{x}"}
    expected = "|".join(values[name] for name in order) + END
    if input_text:
        assert render(template, instruction, input_text) == expected


@given(row_text, row_text)
def test_the_shipped_templates_hold_a_row_as_it_is(instruction, input_text):
    for template in TEMPLATES.values():
        text = template.with_input if input_text else template.without_input
        before, after = text.split("{instruction}")
        expected = before + instruction + input_text.join(after.split("{input}"))
        assert render(template, instruction, input_text) == expected
