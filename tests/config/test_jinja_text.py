"""The Jinja of a chat template is parsed with the settings, as transformers compiles it."""

import pytest
from transformers.utils.chat_template_utils import _compile_jinja_template

from chatpipe.config.chat_templates import CHAT_TEMPLATES
from chatpipe.config.jinja_text import syntax_fault
from chatpipe.errors import ConfigError
from chatpipe.study.variants import parse_variant
from chatpipe.utils.sentences import shortened

TURN = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    "text",
    [
        *CHAT_TEMPLATES.values(),
        TURN + "{% generation %}{{ 1 | tojson }}{% endgeneration %}",
        "{% for m in messages %}{% if m.x %}{% continue %}{% endif %}{% break %}{% endfor %}",
        "{{ strftime_now('%d') }}{{ raise_exception('no') }}",
    ],
)
def test_what_transformers_compiles_has_no_fault(text):
    _compile_jinja_template(text)
    assert syntax_fault(text) is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{{ 1 }}\n{% for m in x %}{% endfr %}", "line 2 of the Jinja text: Encountered unknown"),
        (TURN + "{% for m in x %}", "line 1 of the Jinja text: Unexpected end of template"),
        ("a\n\n{{ m.content", "line 3 of the Jinja text: unexpected end of template"),
        ("\n{{ m | no_filter }}", "line 2 of the Jinja text: No filter named 'no_filter'"),
        ("{% generation %}{{ m }}", "line 1 of the Jinja text: Unexpected end of template"),
    ],
)
def test_what_transformers_does_not_compile_is_a_fault_of_the_setting_with_its_line(text, fault):
    with pytest.raises(Exception, match=r".+"):
        _compile_jinja_template(text)
    raw = {
        "name": "mine",
        "base_model": {"repo": "smollm2-135m-instruct"},
        "datasets": ["sample-alpaca"],
        "prompt_template": {"chat": text},
    }
    with pytest.raises(ConfigError) as refused:
        parse_variant(raw, "mine.yaml")
    [sentence] = refused.value.faults
    assert sentence.startswith(f"mine.yaml: prompt_template.chat: {fault}")


def test_a_long_text_is_cut_after_a_sentence_or_a_word():
    assert shortened("No. " + "word " * 50) == "No"
    assert shortened("word, " * 50).endswith("word, word …")
    assert shortened("It fails.") == "It fails"
