"""Templates of the training as Jinja and Go texts: every conversation has training's ids."""

import json
import re
from itertools import pairwise
from typing import ClassVar

import pytest

from chatpipe.config.chat_templates import CHAT_TEMPLATES
from chatpipe.config.prompt_schema import ChatTemplate, PromptTemplate
from chatpipe.config.prompts import CHATS, any_template
from chatpipe.config.schema import Generation
from chatpipe.errors import ExportError
from chatpipe.export import prompts
from chatpipe.export.go_template import frame_of, go_template, modelfile
from chatpipe.export.jinja_template import jinja_text
from tests.support.tiny import tiny_model

OWN = PromptTemplate(
    name="own",
    with_input="{system} {instruction} {input}\n### Response:\n",
    without_input='{{system}} is {system}; "quoted" \\ é {instruction}\n### Response:\n',
)
# SmolLM2's: it writes a system text of its own where there is none.
DEFAULT_SYSTEM = ChatTemplate(
    name="default system",
    chat="{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    + CHAT_TEMPLATES["chatml"].partition("%}")[2],
)
OPTIONS = ChatTemplate(
    name="with an option",
    chat="{% if short %}{{ 'Short.' }}{% endif %}" + CHAT_TEMPLATES["chatml"],
    options={"short": True},
)
TEMPLATES = {
    name: any_template(name)
    for name in ("alpaca", "paper", "short", "zephyr", "chatml", "llama3", "gemma")
} | {"own": OWN, "default system": DEFAULT_SYSTEM, "option": OPTIONS}
TOKENS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model(tmp_path_factory.mktemp("base")))
    tokenizer.add_special_tokens({"additional_special_tokens": list(TOKENS)})
    return tokenizer


def conversations(tokenizer, template):
    """The checked conversations, and their texts by the Jinja text."""
    jinja = jinja_text(tokenizer, template)
    encoder = prompts.encoder_of(tokenizer, template)
    prompts.check_template(encoder, tokenizer, jinja)

    def write(messages):
        return tokenizer.apply_chat_template(
            list(messages), chat_template=jinja, tokenize=False, add_generation_prompt=True
        )

    return write, [messages for messages, _ in prompts.template_conversations(encoder)]


ACTION = re.compile(r"\{\{-? (.*?) \}\}", re.DOTALL)


class GoProgram:
    """The few actions of Go's text/template that are used here."""

    constants: ClassVar = {"true": True, "false": False}

    def __init__(self, template):
        assert not ACTION.sub("", template), "text outside of actions is trimmed by Go"
        self.actions = ACTION.findall(template)
        self.variables = {}
        self.output = []

    def write(self, messages):
        self.messages = messages
        self.run(0, len(self.actions))
        return "".join(self.output)

    def run(self, place, end):
        while place < end:
            action = self.actions[place]
            if action.startswith(("range ", "if ")):
                ends = self.ends_of_block(place)
                (self.loop if action.startswith("range ") else self.branch)(place, ends)
                place = ends[-1]
            elif match := re.fullmatch(r"(\$\w+) :?= (.*)", action):
                self.variables[match[1]] = self.value(match[2])
            else:
                self.output.append(self.value(action))
            place += 1

    def loop(self, place, ends):
        for message in self.messages:
            self.variables["."] = message
            self.run(place + 1, ends[0])

    def branch(self, place, ends):
        for start, end in pairwise([place, *ends]):
            condition = re.sub("^(else ?)?(if )?", "", self.actions[start])
            if not condition or self.holds(condition):
                return self.run(start + 1, end)
        return None

    def ends_of_block(self, place):
        """The places of `else` and `end` of the block that begins there."""
        depth, places = 0, []
        for number, action in enumerate(self.actions[place:], place):
            depth += action.startswith(("if ", "range ")) - (action == "end")
            if depth == 0:
                return [*places, number]
            if depth == 1 and action.startswith("else"):
                places.append(number)
        raise AssertionError("a block has no end")

    def value(self, text):
        if text in self.constants:
            return self.constants[text]
        if text.startswith("."):
            return self.variables["."][text[1:].lower()]
        return self.variables[text] if text.startswith("$") else json.loads(text)

    def holds(self, condition):
        word, _, rest = condition.partition(" ")
        if word == "eq":
            left, _, right = rest.partition(" ")
            return self.value(left) == self.value(right)
        return not self.value(rest) if word == "not" else bool(self.value(condition))


@pytest.mark.parametrize("name", TEMPLATES)
def test_jinja_and_go_texts_write_what_training_has(name, tokenizer):
    write, checked = conversations(tokenizer, TEMPLATES[name])
    frame = frame_of(write, checked)
    bos = "<s>" if write(checked[0]).startswith("<s>") else ""
    template = go_template(frame, bos)
    for messages in checked:
        assert bos + GoProgram(template).write(messages) == write(messages)


def test_a_template_that_counts_its_turns_has_no_go_text(tokenizer):
    counting = CHAT_TEMPLATES["chatml"].replace(
        "message['content']", "loop.index ~ message.content"
    )
    write, checked = conversations(tokenizer, ChatTemplate(name="counting", chat=counting))
    with pytest.raises(ExportError, match="cannot be written in Ollama's template language"):
        frame_of(write, checked)


def test_a_modelfile_names_the_file_the_template_and_the_end(tokenizer):
    write, checked = conversations(tokenizer, CHATS["chatml"])
    template = go_template(frame_of(write, checked), "")
    text = modelfile("m.gguf", template, ["</s>", "<|im_end|>"], Generation(temperature=0.7))
    assert text.startswith('FROM ./m.gguf\nTEMPLATE """{{- $first := true }}')
    assert 'PARAMETER stop "</s>"\nPARAMETER stop "<|im_end|>"\n' in text
    assert text.endswith("temperature 0.7\nPARAMETER top_p 1\nPARAMETER repeat_penalty 1\n")
