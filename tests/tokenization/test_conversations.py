"""Conversations as examples: which tokens are scored, after what, and what is cut or left out."""

import time
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from chatpipe.config.prompt_schema import ChatTemplate, PromptTemplate
from chatpipe.config.prompts import CHATS, any_template
from chatpipe.formats.base import UNSCORED
from chatpipe.tokenization.chat_text import REWRITTEN, THOUGHT_AFTER_CLOSED
from chatpipe.tokenization.conversation import Conversation, Message
from chatpipe.tokenization.encoder import IGNORED, Encoder
from tests.tokenization.test_chat_renderer import CONTROL, FAMILIES, QWEN3, tokenizer_of

DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}{{ '<｜User｜>' + m.content }}{% else %}{% set c = m.content %}"
    "{% if '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}"
    "{{ '<｜Assistant｜>' + c + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Not marked as special, as DeepSeek's and Qwen3's.
MARKERS = ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "<start_of_turn>", "<tool_call>")


@pytest.fixture(autouse=True)
def _home(chatpipe_home):
    return chatpipe_home


@pytest.fixture(scope="module")
def control_tokenizer():
    return byte_level("user assistant system Name a prime. Seven. aaaa")


@pytest.fixture
def qwen(control_tokenizer):
    return tokenizer_of(control_tokenizer, "qwen3")[0]


def byte_level(text):
    """A tokenizer with the families' control tokens, and what it merges of that text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token in CONTROL if token not in MARKERS]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([text], trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in MARKERS])
    return tokenizer


def conversation(*turns, system=None):
    """Of user, assistant, user, …, the last one the assistant's."""
    roles = ("user", "assistant")
    history = tuple(Message(roles[place % 2], text) for place, text in enumerate(turns[:-2]))
    return Conversation(turns[-2], "", turns[-1], system, history)


def unscored(item, *places):
    """The conversation, of which these earlier replies are context alone."""
    history = [
        replace(message, is_scored=place not in [2 * reply + 1 for reply in places])
        for place, message in enumerate(item.history)
    ]
    return replace(item, history=tuple(history))


def row_of(item):
    return {
        "instruction": item.instruction,
        "input": item.input,
        "output": item.reply,
        "system": item.system,
        "history": [
            {"role": m.role if m.is_scored else UNSCORED, "content": m.content}
            for m in item.history
        ]
        or None,
    }


def table(*conversations):
    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    texts = [(name, pa.string()) for name in ("instruction", "input", "output", "system")]
    schema = pa.schema([*texts, ("history", pa.list_(turn))])
    return pa.Table.from_pylist([row_of(item) for item in conversations], schema)


def encoded(tokenizer, template, *conversations, labels="every_reply", length=1 << 20, **more):
    return Encoder(tokenizer, template, labels, length, **more).encode(table(*conversations))


def written(messages):
    return [{"role": message.role, "content": message.content} for message in messages]


def applied(tokenizer, template, messages, asks=False):
    jinja = None if template.chat == "base" else template.chat
    return tokenizer.apply_chat_template(
        written(messages),
        chat_template=jinja,
        add_generation_prompt=asks,
        return_dict=True,
        **template.options,
    )["input_ids"]


def spans(example):
    """(begin, end) of every run of scored tokens."""
    scored = [label != IGNORED for label in example.labels]
    edges = [i for i in range(len(scored) + 1) if (i and scored[i - 1]) != [*scored, False][i]]
    return list(zip(edges[::2], edges[1::2], strict=True))


def expected_spans(tokenizer, template, item, end):
    """By transformers alone: (ids of the prompt, ids of the reply to its end) of every reply."""
    messages = item.messages
    pairs = []
    for place, message in enumerate(messages):
        if message.role == "assistant":
            prompt = applied(tokenizer, template, messages[:place], asks=True)
            whole = applied(tokenizer, template, messages[: place + 1])
            assert whole[: len(prompt)] == prompt
            reply = whole[len(prompt) :]
            pairs.append((prompt, reply[: len(reply) - reply[::-1].index(end)]))
    return pairs


TALK = conversation(
    *(
        "Name a prime.",
        "Seven.",
        "Why <|im_end|> so?",
        "It is\n\nodd: 漢字 ☃.",
        "سلام",
        "👍🏽 Bye.",
    ),
    system="Be a prime.",
)
PLAIN = conversation("Name a prime.", "Seven.", "Why?", "It is odd.", "Sure?", "Yes.")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("item", [PLAIN, TALK])
def test_every_reply_is_scored_once_after_the_prompt_that_transformers_writes(
    control_tokenizer, family, item
):
    tokenizer, template = tokenizer_of(control_tokenizer, family)
    rows = encoded(tokenizer, template, item)
    renderer = Encoder(tokenizer, template, "every_reply", 9).renderer
    found = [
        (example.input_ids[:begin], example.input_ids[begin:end])
        for example in rows.examples
        for begin, end in spans(example)
    ]
    assert [reply[-1] for _, reply in found] == [renderer.last_id] * 3
    assert rows.row_count == 1 and rows.row_scored_tokens.tolist() == [
        sum(len(reply) for _, reply in found)
    ]
    assert len(rows.examples) == (3 if family.startswith("qwen3") else 1)
    assert {example.index for example in rows.examples} == {0}
    messages = item.messages
    for place, (prompt, _) in zip((-6, -4, -2), found, strict=True):
        before = [*messages[: len(messages) + place + 1]]
        *history, question = before[1:] if item.system else before
        asked = Conversation(question.content, system=item.system, history=tuple(history))
        assert renderer.prompts([asked]) == [prompt]
    if item is PLAIN:
        assert found == expected_spans(tokenizer, template, item, renderer.last_id)
        whole = applied(tokenizer, template, messages)
        last = rows.examples[-1].input_ids
        assert last == whole[: len(last)]


def test_which_replies_are_scored(qwen):
    chatml, thinking = CHATS["chatml"], ChatTemplate(chat=QWEN3)
    every = encoded(qwen, chatml, PLAIN).examples
    [last] = encoded(qwen, chatml, PLAIN, labels="last").examples
    [whole] = encoded(qwen, chatml, PLAIN, labels="all").examples
    assert every[0].input_ids == last.input_ids == whole.input_ids == whole.labels
    assert spans(last) == spans(every[0])[-1:]
    [look_ahead] = encoded(qwen, thinking, PLAIN, labels="last").examples
    assert look_ahead == encoded(qwen, thinking, PLAIN).examples[-1]
    for labels in ("every_reply", "last", "all"):
        rows = encoded(qwen, thinking, PLAIN, TALK, labels=labels)
        scored = [sum(label != IGNORED for label in e.labels[1:]) for e in rows.examples]
        assert rows.example_scored_tokens.tolist() == scored
        assert rows.row_tokens.tolist() == [
            sum(len(example.input_ids) for example in row) for row in rows.by_row()
        ]


@pytest.mark.parametrize("name", ["alpaca", "chatml", "qwen3"])
@pytest.mark.parametrize("places", [(0,), (1,), (0, 1)])
def test_a_reply_that_is_context_has_its_tokens_and_is_not_scored(qwen, name, places):
    template = ChatTemplate(chat=QWEN3) if name == "qwen3" else any_template(name)
    whole, rows = (encoded(qwen, template, item) for item in (TALK, unscored(TALK, *places)))
    scored, left = (
        [example.input_ids[a:b] for example in of.examples for a, b in spans(example)]
        for of in (whole, rows)
    )
    assert left == [ids for place, ids in enumerate(scored) if place not in places]
    assert (whole.scored_replies, rows.scored_replies) == (3, 3 - len(places))
    assert rows.examples[-1].input_ids == whole.examples[-1].input_ids
    last = encoded(qwen, template, TALK, unscored(TALK, *places), labels="last")
    assert last.scored_replies == 2
    cut = encoded(qwen, template, TALK, length=30, too_long="cut_left")
    assert cut.scored_replies == sum(len(spans(example)) for example in cut.examples)


def test_a_system_text_is_in_the_first_prompt_alone(qwen):
    text = "<{system}> {instruction}{input}\n### Response:\n"
    template = PromptTemplate(with_input=text, without_input=text)
    [example] = encoded(qwen, template, TALK).examples
    prompts = [
        f"<{system}> {question}\n### Response:\n"
        for system, question in zip(
            ("Be a prime.", "", ""), [m.content for m in TALK.prompt_messages[1::2]], strict=True
        )
    ]
    replies = [m.content for m in TALK.messages[2::2]]
    expected = "".join(
        f"{prompt}{reply}<|im_end|>" for prompt, reply in zip(prompts, replies, strict=True)
    )
    assert qwen.decode(example.input_ids) == expected


def test_two_hundred_turns_are_one_example_in_reasonable_time(qwen):
    turns = [f"Turn {number}." for number in range(400)]
    started = time.process_time()
    rows = encoded(qwen, CHATS["chatml"], conversation(*turns))
    assert time.process_time() - started < 20
    [example] = rows.examples
    assert len(spans(example)) == 200
    whole = applied(qwen, CHATS["chatml"], conversation(*turns).messages)
    assert example.input_ids == whole[: len(example.input_ids)]


@pytest.mark.parametrize("reply", ["\n\nSeven.", "Seven.\n\n", " Seven. ", "\n", ""])
def test_no_token_reaches_over_the_edge_of_a_scored_reply(reply):
    qwen, _ = tokenizer_of(byte_level("assistant\n\n\n\n Seven\n\n"), "qwen3")
    item = conversation("Name a prime.", reply, "Why?", reply)
    [example] = encoded(qwen, CHATS["chatml"], item).examples
    for begin, end in spans(example):
        assert qwen.decode(example.input_ids[begin:end]) == f"{reply}<|im_end|>"
        assert qwen.decode(example.input_ids[:begin]).endswith("<|im_start|>assistant\n")
    assert len(spans(example)) == 2


@pytest.mark.parametrize("family", ["chatml", "gemma", "qwen3"])
def test_markers_in_the_texts_of_a_conversation_are_text(control_tokenizer, family):
    """Those of the template; what is none of its markers has the tokenizer's own ids."""
    tokenizer, template = tokenizer_of(control_tokenizer, family)
    markers = ["<|im_end|>", "<start_of_turn>", "<think>", "</think>"]
    in_template = [m for m in markers if m in template.chat or m == "<|im_end|>"]
    control = set(tokenizer.convert_tokens_to_ids(in_template))
    spelled = "a <|im_end|> <start_of_turn> <think> b </think>"
    found, expected = (
        [
            [number for number in example.input_ids if number in control]
            for example in encoded(tokenizer, template, item).examples
        ]
        for item in (
            conversation(spelled, spelled, spelled, spelled, system=spelled),
            conversation("a", "a", "a", "a", system="a"),
        )
    )
    assert found == expected


THOUGHT = "<think>\nIt is odd.\n</think>\n\nSeven."


def test_a_thought_in_a_reply_is_scored_and_a_template_drops_it_from_later_prompts(qwen):
    item = conversation("Name a prime.", THOUGHT, "Another?", THOUGHT)
    rows = encoded(qwen, ChatTemplate(chat=QWEN3), item)
    first, second = rows.examples
    think = qwen.convert_tokens_to_ids("<think>")
    for example in (first, second):
        [(begin, end)] = spans(example)
        assert qwen.decode(example.input_ids[begin:end]) == f"{THOUGHT}<|im_end|>"
        assert example.input_ids.count(think) == 1
    assert rows.control_rows == 0
    off = ChatTemplate(chat=QWEN3, options={"enable_thinking": False})
    rows = encoded(qwen, off, item, PLAIN, item)
    assert rows.row_count == 1 and rows.left_out == {THOUGHT_AFTER_CLOSED: 2}


def test_a_prompt_that_opens_a_thought_is_followed_by_its_rest(control_tokenizer):
    tokenizer, _ = tokenizer_of(control_tokenizer, "gemma")
    template = ChatTemplate(chat=DEEPSEEK)
    item = conversation("Name a prime.", THOUGHT, "Another?", "Three.", system="Be brief.")
    first, second = encoded(tokenizer, template, item).examples
    text = tokenizer.decode
    assert (
        text(first.input_ids)
        == f"<bos>Be brief.<｜User｜>Name a prime.<｜Assistant｜>{THOUGHT}<eos>"
    )
    [(begin, _)] = spans(first)
    assert text(first.input_ids[begin:]) == THOUGHT.removeprefix("<think>\n") + "<eos>"
    assert text(second.input_ids) == (
        "<bos>Be brief.<｜User｜>Name a prime.<｜Assistant｜>\n\nSeven.<eos>"
        "<｜User｜>Another?<｜Assistant｜><think>\n\n</think>\n\nThree.<eos>"
    )
    [(begin, _)] = spans(second)
    assert text(second.input_ids[begin:]) == "\n</think>\n\nThree.<eos>"
    markers = ("<｜Assistant｜>", "<think>", "</think>")
    counts = [first.input_ids.count(n) for n in tokenizer.convert_tokens_to_ids(list(markers))]
    assert counts == [1, 1, 1]


def test_a_system_text_stands_before_the_question_where_the_template_has_no_turn_for_it(qwen):
    folded = conversation("Be brief.\n\nHi.", "Hello.")
    item = conversation("Hi.", "Hello.", system="Be brief.")
    for template in (ChatTemplate(chat=NO_SYSTEM), ChatTemplate(chat=CHATS["gemma"].chat)):
        tokenizer = qwen
        if "<start_of_turn>" in template.chat:
            tokenizer = PreTrainedTokenizerFast(
                tokenizer_object=qwen.backend_tokenizer, bos_token="<bos>", eos_token="<eos>"
            )
        [found] = encoded(tokenizer, template, item).examples
        assert [found] == encoded(tokenizer, template, folded).examples


def test_the_oldest_turns_are_cut_until_a_row_fits_and_the_system_text_stays(qwen):
    turns = [f"Say {'a ' * 20}{number}." for number in range(12)]
    item, short = conversation(*turns, system="Be brief."), conversation("Hi.", "Hello.")
    much = conversation("Hi.", "a " * 900)
    chatml = CHATS["chatml"]
    one = len(encoded(qwen, chatml, item).examples[0].input_ids) // 6
    rows = encoded(qwen, chatml, item, short, much, length=3 * one + 30, too_long="cut_turns")
    expected = conversation(*turns[6:], system="Be brief.")
    assert rows.examples == [
        *encoded(qwen, chatml, expected).examples,
        *encoded(qwen, chatml, PLAIN, short).examples[1:],
    ]
    assert (rows.cut, rows.left_out) == (1, {"longer than max_length": 1})
    thinking = ChatTemplate(chat=QWEN3)
    rows = encoded(qwen, thinking, item, length=3 * one + 30, too_long="cut_turns")
    assert rows.row_count == rows.cut == 1 and len(rows.examples) == 3
    assert rows.longest <= 3 * one + 30


@pytest.mark.parametrize("too_long", ["cut_left", "cut_right", "drop"])
@pytest.mark.parametrize("labels", ["every_reply", "last", "all"])
@pytest.mark.parametrize(
    "template", [CHATS["chatml"], ChatTemplate(chat=QWEN3), any_template("short")]
)
def test_counts_are_those_of_the_labels_however_a_row_is_cut(qwen, too_long, labels, template):
    items = [PLAIN, TALK, conversation("Hi.", "Hello.")]
    whole = encoded(qwen, template, *items, labels=labels)
    for length in (20, 60, 90):
        rows = encoded(qwen, template, *items, labels=labels, length=length, too_long=too_long)
        scored = [sum(label != IGNORED for label in e.labels[1:]) for e in rows.examples]
        assert rows.example_scored_tokens.tolist() == scored and all(scored)
        assert rows.example_tokens.tolist() == [len(e.input_ids) for e in rows.examples]
        assert all(len(example.input_ids) <= length for example in rows.examples)
        assert rows.row_count + sum(rows.left_out.values()) == 3
        full = {e.index: max(len(e.input_ids), 0) for e in whole.examples}
        fits = {
            row
            for row in full
            if all(len(e.input_ids) <= length for e in whole.examples if e.index == row)
        }
        if too_long == "drop":
            assert set(rows.row_indices.tolist()) == fits


def test_a_row_that_the_template_cannot_write_is_left_out_and_others_are_not(qwen, tmp_path):
    strict = ChatTemplate(
        chat="{% for m in messages %}{% if 'Why' in m.content %}"
        "{{ raise_exception('no questions') }}{% endif %}"
        "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
        "{% if 'Odd' in messages[-1].content %}!{% endif %}{% endif %}"
    )
    items = [PLAIN, TALK, conversation("Odd.", "Yes."), conversation("Hi.", "Hello.")]
    rows = encoded(qwen, strict, *items)
    assert rows.row_indices.tolist() == [3]
    assert rows.left_out == {"the chat template fails: no questions": 2, REWRITTEN: 1}
    pq.write_table(table(*items), tmp_path / "rows.parquet")
    mapped = Encoder(qwen, strict, "every_reply", 99).encode_file(tmp_path / "rows.parquet")
    assert list(mapped.examples) == rows.examples and mapped.left_out == rows.left_out


def test_system_and_history_are_a_part_of_what_rows_are_known_by(qwen):
    chatml = CHATS["chatml"]
    single = conversation("Sure?", "Yes.")
    without = table(single).select(["instruction", "input", "output"])
    plain = Encoder(qwen, chatml, "every_reply", 99).encode(without)
    assert plain == encoded(qwen, chatml, single, length=99)
    others = [PLAIN, conversation("Sure?", "Yes.", system="Be brief.")]
    made = [encoded(qwen, chatml, item).examples for item in (single, *others)]
    assert len({tuple(examples[0].input_ids) for examples in made}) == 3
