"""Scored positions of conversations are those of TRL's training templates and of renderers that
are written here by hand."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chatpipe.config.prompt_schema import ChatTemplate
from chatpipe.config.prompts import any_template
from chatpipe.tokenization.encoder import IGNORED, Encoder, TokenizedRow
from tests.support.conversations import Messages, conversations, family_tokenizer, table_of

COUNT = 427  # 227 of the package, and 200 of DailyDialog where it is at hand
Pieces = Iterator[tuple[str, bool]]  # text, whether it is scored

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{% set first = '' %}{% if messages[0].role == 'system' %}"
    "{% set first = messages[0].content + '\n\n' %}{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{{ (first if loop.first else '') + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# Only the last reply has its thoughts; those of the replies before it are dropped.
QWEN3 = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def chatml(messages: Messages, thought: str = "", last_thought: str = "") -> Pieces:
    for message in messages:
        if message["role"] != "assistant":
            yield f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n", False
            continue
        thinks = last_thought if message is messages[-1] else thought
        yield "<|im_start|>assistant\n", False
        yield f"{thinks}{message['content']}<|im_end|>", True
        yield "\n", False


def smollm2(messages: Messages) -> Pieces:
    if messages[0]["role"] != "system":
        text = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
        yield f"<|im_start|>system\n{text}<|im_end|>\n", False
    yield from chatml(messages)


def qwen3_of_trl(messages: Messages) -> Pieces:
    empty = "<think>\n\n</think>\n\n"
    yield from chatml(messages, empty, empty)


def llama3(messages: Messages) -> Pieces:
    yield "<|begin_of_text|>", False
    for message in messages:
        yield f"<|start_header_id|>{message['role']}<|end_header_id|>\n\n", False
        yield message["content"].strip() + "<|eot_id|>", message["role"] == "assistant"


def gemma3(messages: Messages) -> Pieces:
    yield "<bos>", False
    system = ""
    for message in messages:
        if message["role"] == "system":
            system = message["content"] + "\n\n"
        elif message["role"] == "user":
            yield f"<start_of_turn>user\n{system}{message['content'].strip()}<end_of_turn>\n", False
            system = ""
        else:
            yield "<start_of_turn>model\n", False
            yield message["content"].strip() + "<end_of_turn>", True
            yield "\n", False


def expected(tokenizer, pieces: Pieces) -> tuple[list[int], list[int]]:
    """Ids of the whole text, and its labels by the tokens' positions in the text."""
    text, spans = "", []
    for piece, is_scored in pieces:
        if is_scored:
            spans.append(range(len(text), len(text) + len(piece)))
        text += piece
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    places = [next((span for span in spans if a in span), None) for a, _ in encoded.offset_mapping]
    assert all(
        span is None or b <= span.stop
        for span, (_, b) in zip(places, encoded.offset_mapping, strict=True)
    )
    labels = [IGNORED if s is None else n for n, s in zip(encoded.input_ids, places, strict=True)]
    return to_last_scored(encoded.input_ids, labels)


def to_last_scored(ids: list[int], labels: list[int]) -> tuple[list[int], list[int]]:
    """Without what a template writes after the last reply."""
    end = max(place for place, label in enumerate(labels) if label != IGNORED) + 1
    return list(ids[:end]), labels[:end]


def encoded_rows(tokenizer, template: ChatTemplate, rows: list[Messages]) -> list[TokenizedRow]:
    return list(
        Encoder(tokenizer, template, "every_reply", 1 << 14).encode(table_of(rows)).examples
    )


HAND_WRITTEN: dict[str, tuple[str, ChatTemplate, Callable[[Messages], Pieces]]] = {
    "llama3": ("llama3", any_template("llama3"), llama3),
    "chatml": ("qwen3", any_template("chatml"), chatml),
    "smollm2": ("smollm2", ChatTemplate(chat=SMOLLM2), smollm2),
    "gemma3": ("gemma3", ChatTemplate(chat=GEMMA3), gemma3),
}


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_every_reply_is_scored_where_it_stands(chatpipe_home, name):
    family, template, render = HAND_WRITTEN[name]
    tokenizer, rows = family_tokenizer(family), conversations(COUNT)
    encoded = encoded_rows(tokenizer, template, rows)
    assert [row.index for row in encoded] == list(range(len(rows)))
    for row, messages in zip(encoded, rows, strict=True):
        assert (row.input_ids, row.labels) == expected(tokenizer, render(messages))


def test_a_template_that_drops_earlier_thoughts_gives_an_example_for_each_reply(chatpipe_home):
    tokenizer, rows = family_tokenizer("qwen3"), conversations(COUNT)
    encoded = iter(encoded_rows(tokenizer, ChatTemplate(chat=QWEN3), rows))
    for index, messages in enumerate(rows):
        ends = [i + 1 for i, m in enumerate(messages) if m["role"] == "assistant"]
        for end in ends:
            pieces = list(chatml(messages[:end], last_thought="<think>\n\n</think>\n\n"))
            last = len(pieces) - 2
            pieces = [(text, is_scored and i == last) for i, (text, is_scored) in enumerate(pieces)]
            row = next(encoded)
            assert (row.input_ids, row.labels) == expected(tokenizer, iter(pieces))
            assert row.index == index
    assert next(encoded, None) is None


# TRL's training template, and how its text is written here.
TRL = {"llama3": llama3, "qwen3": qwen3_of_trl, "gemma3": gemma3}


@pytest.mark.parametrize("family", TRL)
def test_scored_positions_are_trls_assistant_masks(chatpipe_home, family):
    """TRL also scores the line end after `<|im_end|>` and `<end_of_turn>`, where generation has
    stopped; nothing else differs."""
    spec = importlib.util.find_spec("trl")
    if spec is None or spec.origin is None:
        pytest.skip("TRL is not installed here (the extra bench has it)")
    templates = Path(spec.origin).parent / "chat_templates"
    training = (templates / f"{family}_training.jinja").read_text("utf-8")
    tokenizer, rows = family_tokenizer(family), conversations(COUNT)
    ends = {tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<end_of_turn>")}
    encoded = encoded_rows(tokenizer, ChatTemplate(chat=training), rows)
    for row, messages in zip(encoded, rows, strict=True):
        applied = tokenizer.apply_chat_template(
            messages, chat_template=training, return_dict=True, return_assistant_tokens_mask=True
        )
        ids = applied["input_ids"]
        labels = [
            n if is_scored and before not in ends else IGNORED
            for n, is_scored, before in zip(
                ids, applied["assistant_masks"], [None, *ids], strict=False
            )
        ]
        assert (row.input_ids, row.labels) == to_last_scored(ids, labels)
        assert (row.input_ids, row.labels) == expected(tokenizer, TRL[family](messages))
