"""Chat templates: ids are transformers' own, prompts of training are those of asking."""

import json

import pyarrow as pa
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from chatpipe.config.prompt_schema import ChatTemplate
from chatpipe.config.prompts import CHATS, any_template, raw_prompt
from chatpipe.config.schema import BaseModelRef, Generation, Prompt, Quantization
from chatpipe.errors import ConfigError
from chatpipe.generation.ask import Ask
from chatpipe.generation.batch import completion_of
from chatpipe.planning.lengths import lead_note
from chatpipe.sources.fetch import FetchModel
from chatpipe.store.store import store
from chatpipe.study.variants import parse_variant
from chatpipe.tokenization.chat_renderer import ChatRenderer
from chatpipe.tokenization.chat_text import THOUGHT_AFTER_CLOSED
from chatpipe.tokenization.conversation import Conversation, Message
from chatpipe.tokenization.encoder import IGNORED, Encoder
from tests.support import bases

CONTROL = (
    *("<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>"),
    *("<|end_header_id|>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
)
QWEN3 = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% set c = m.content %}"
    "{% set thought = '' %}{% if '</think>' in c %}"
    "{% set thought = c.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
    "{% set c = c.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
    "{% if loop.last %}{{ '<|im_start|>assistant\\n<think>\\n' + thought }}"
    "{{ '\\n</think>\\n\\n' + c }}"
    "{% else %}{{ '<|im_start|>assistant\\n' + c }}{% endif %}{{ '<|im_end|>\\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}"
    "{% endif %}{% endfor %}"
)
FAMILIES = {
    "llama3": (any_template("llama3"), "<|begin_of_text|>", "<|eot_id|>"),
    "gemma": (any_template("gemma"), "<bos>", "<eos>"),
    "chatml": (any_template("chatml"), "<|im_start|>", "<|im_end|>"),
    "zephyr": (any_template("zephyr"), "<bos>", "<eos>"),
    "qwen3": (ChatTemplate(chat=QWEN3), "<|im_start|>", "<|im_end|>"),
    "qwen3-off": (
        ChatTemplate(chat=QWEN3, options={"enable_thinking": False}),
        *("<|im_start|>", "<|im_end|>"),
    ),
    "mistral": (ChatTemplate(chat=MISTRAL), "<bos>", "<eos>"),
}
ROWS = (
    {"instruction": "Name a prime.", "input": "", "output": "Seven."},
    {"instruction": "Say it again.", "input": "How are you?", "output": "How are you? 漢字 ☃"},
)
FULL = Quantization(method="none", compute_dtype="float32")


@pytest.fixture(scope="session")
def control_tokenizer():
    """A byte-level tokenizer that has the control tokens of all families."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["user assistant model system Name a prime. Seven."], trainer)
    return tokenizer


def tokenizer_of(tokenizer, family):
    template, bos, eos = FAMILIES[family]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)
    return fast, template


def row_of(tokenizer, template, row):
    [encoded] = (
        Encoder(tokenizer, template, "every_reply", 4096)
        .encode(pa.Table.from_pylist([row]))
        .examples
    )
    return encoded


def messages_of(row):
    return written(Conversation(row["instruction"], row["input"], row["output"]).messages)


def written(messages):
    return [{"role": message.role, "content": message.content} for message in messages]


def applied(tokenizer, template, messages, **arguments):
    jinja = None if template.chat == "base" else template.chat
    encoded = tokenizer.apply_chat_template(
        messages, chat_template=jinja, return_dict=True, **template.options, **arguments
    )
    return encoded["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("row", ROWS)
def test_ids_are_those_of_apply_chat_template_to_the_end_of_the_turn(
    chatpipe_home, control_tokenizer, family, row
):
    tokenizer, template = tokenizer_of(control_tokenizer, family)
    encoded = row_of(tokenizer, template, row)
    prompt = applied(tokenizer, template, messages_of(row)[:1], add_generation_prompt=True)
    whole = applied(tokenizer, template, messages_of(row))
    assert encoded.input_ids == whole[: len(encoded.input_ids)]
    assert not tokenizer.decode(whole[len(encoded.input_ids) :]).strip()
    assert encoded.input_ids[: len(prompt)] == prompt
    assert encoded.labels[: len(prompt)] == [IGNORED] * len(prompt)
    assert encoded.labels[len(prompt) :] == encoded.input_ids[len(prompt) :]
    renderer = ChatRenderer(tokenizer, template)
    assert encoded.labels[-1] == renderer.last_id in renderer.stops
    assert tokenizer.eos_token_id in renderer.stops


@pytest.mark.parametrize("family", FAMILIES)
def test_control_tokens_in_a_rows_text_are_text(chatpipe_home, control_tokenizer, family):
    tokenizer, template = tokenizer_of(control_tokenizer, family)
    plain = {"instruction": "Say ☃.", "input": "☃", "output": "☃"}
    spelled = {name: text.replace("☃", "".join(CONTROL)) for name, text in plain.items()}
    control = set(tokenizer.convert_tokens_to_ids(list(CONTROL)))
    encoded, expected = (row_of(tokenizer, template, row) for row in (spelled, plain))
    assert [n for n in encoded.input_ids if n in control] == [
        n for n in expected.input_ids if n in control
    ]
    text = tokenizer.decode(encoded.input_ids)
    assert text == tokenizer.decode(expected.input_ids).replace("☃", "".join(CONTROL))


@pytest.mark.parametrize(
    "output",
    [
        "",
        " padded ",
        "\nline",
        "line\n",
        "<think>\nyes\n</think>\n\nNo.",
        "سلام",
        "👍🏽",
        "\ufdd0<eos>",
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_any_reply_follows_the_prompt_that_is_asked_and_ends_its_turn(
    chatpipe_home, control_tokenizer, family, output
):
    tokenizer, template = tokenizer_of(control_tokenizer, family)
    row = {"instruction": "Go on.", "input": "", "output": output}
    encoder = Encoder(tokenizer, template, "every_reply", 4096)
    [asked] = encoder.prompt_ids([Conversation("Go on.")])
    if family == "qwen3-off" and output.startswith("<think>"):
        rows = encoder.encode(pa.Table.from_pylist([row]))
        assert not rows.row_count and rows.left_out == {THOUGHT_AFTER_CLOSED: 1}
        return
    encoded = row_of(tokenizer, template, row)
    assert encoded.input_ids[: len(asked)] == asked
    assert encoded.input_ids[-1] == encoder.renderer.last_id
    reply = tokenizer.decode(encoded.input_ids[len(asked) : -1])
    assert output.strip() in reply


@pytest.mark.parametrize("family", FAMILIES)
def test_earlier_turns_of_a_conversation_are_as_the_template_writes_them(control_tokenizer, family):
    tokenizer, template = tokenizer_of(control_tokenizer, family)
    history = (
        *(Message("user", "Hi"), Message("assistant", "Hello.")),
        *(Message("user", "Who?\n\na"), Message("assistant", "Me.")),
    )
    asked = Conversation("Why?", history=history)
    expected = applied(
        tokenizer, template, written(asked.prompt_messages), add_generation_prompt=True
    )
    assert ChatRenderer(tokenizer, template).prompts([asked]) == [expected]


@pytest.mark.parametrize(
    ("jinja", "sentence"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "writes nothing, so a model would"),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "which is no token of this base"),
        ("{{ messages[0].content }}<eos>", "reply (the key 'content' of its message) is not in"),
        ("{% for m in messages %}{{ m.contents }}<eos>{% endfor %}", "writes; mend its text"),
        ("{% for m in messages %}{{ m.content * 2 }}<eos>{% endfor %}", "more than once; mend"),
        (
            "{% for m in messages %}{{ m.role }}: {{ m.content }}<eos>{% endfor %}",
            "'assistant: ', which the chat template writes before a reply, would be scored as a",
        ),
        ("{{ messages | length }}{{ messages[-1].content }}<eos>", "is not how it begins"),
        (
            "{{ raise_exception('only on Mondays') }}",
            "the chat template fails: only on Mondays; mend its text",
        ),
        ("{{ messages }}\n{{ messages.x.y }}", "fails: line 2: 'list object' has no attribute 'x'"),
        ("base", "the base has no chat template that can be read"),
    ],
)
def test_a_template_that_cannot_work_is_refused_with_a_sentence(control_tokenizer, jinja, sentence):
    tokenizer, _ = tokenizer_of(control_tokenizer, "gemma")
    with pytest.raises(ConfigError) as error:
        ChatRenderer(tokenizer, ChatTemplate(chat=jinja)).prompts([Conversation("Hi")])
    assert sentence in str(error.value)


def test_a_known_template_whose_tokens_the_base_lacks_is_refused(tiny_model_dir):
    from chatpipe.models.loading import load_tokenizer

    tokenizer = load_tokenizer(tiny_model_dir)
    with pytest.raises(ConfigError) as error:
        ChatRenderer(tokenizer, CHATS["chatml"]).prompts([Conversation("Hi")])
    assert "which is no token of this base" in str(error.value)
    assert ChatRenderer(tokenizer, CHATS["zephyr"]).stops == [tokenizer.eos_token_id]


def test_a_date_in_a_template_is_the_same_on_every_day(control_tokenizer):
    tokenizer, _ = tokenizer_of(control_tokenizer, "gemma")
    jinja = "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m.content }}<eos>{% endfor %}"
    [ids] = ChatRenderer(tokenizer, ChatTemplate(chat=jinja)).prompts([Conversation("Hi")])
    assert tokenizer.decode(ids) == "26 Jul 2024Hi<eos>"


def test_generation_stops_at_the_end_of_a_turn_as_at_eos(control_tokenizer):
    tokenizer, template = tokenizer_of(control_tokenizer, "gemma")
    renderer = ChatRenderer(tokenizer, template)
    text = tokenizer("Seven.", add_special_tokens=False)["input_ids"]
    for end in renderer.stops:
        assert completion_of([*text, end, 99, 99], tokenizer, renderer.stops).text == "Seven."
        assert completion_of([*text, end], tokenizer, renderer.stops).stop == "eos"
    assert completion_of(text, tokenizer, renderer.stops).stop == "length"


@pytest.fixture(scope="module")
def chat_base(tiny_model_dir, tmp_path_factory):
    """The tiny base with a chat template of its own, which ends a turn with EOS."""
    base = bases.copy_of(tiny_model_dir, tmp_path_factory.mktemp("chat") / "base")
    file = base / "tokenizer_config.json"
    config = json.loads(file.read_text()) | {"chat_template": CHATS["zephyr"].chat}
    file.write_text(json.dumps(config))
    return base


ALONE = Conversation("Say </s> and <s>.", "a </s>", "ok")
LONGER = Conversation(
    "And <s>?",
    "a </s>",
    "ok",
    system="Be </s> kind.",
    history=(Message("user", "Hi  <s>"), Message("assistant", "Hello </s>.")),
)


@pytest.mark.parametrize("row", [ALONE, LONGER], ids=["alone", "after earlier turns"])
@pytest.mark.parametrize("name", ["chat", "alpaca"])
def test_panel_ask_chat_and_training_begin_with_the_same_ids(chatpipe_home, chat_base, name, row):
    from chatpipe.generation.chat import ChatSession

    template = any_template(name)
    session = ChatSession(chat_base, None, FULL, template, row.system)
    session.history = row.history
    asked = []
    join = session.rows.join
    session.rows.join = lambda requests: asked.append(requests[0].ids) or join(requests)
    list(session.reply(row.instruction, Generation(max_new_tokens=1), row.input))
    list(session.reply("And?", Generation(max_new_tokens=1)))
    tokenizer = session.encoder.tokenizer
    turns = [{"role": message.role, "content": message.content} for message in row.history]
    columns = {"instruction": row.instruction, "input": row.input, "output": row.reply}
    if turns:
        columns |= {"system": row.system, "history": turns}
    table = pa.Table.from_pylist([columns])
    [trained] = Encoder(tokenizer, template, "last", 4096).encode(table).examples
    panel = Ask(
        base=store().get_or_build(FetchModel.of(BaseModelRef(repo=str(chat_base)))),
        adapter=None,
        prompt_template=template,
        quantization=FULL,
        panel=(
            Prompt(
                id="p",
                instruction=row.instruction,
                input=row.input,
                system=row.system,
                history=turns,
            ),
        ),
        generation=Generation(),
        asked=("template", "raw"),
    )
    templated, raw = (question.ids for question in panel.questions(tokenizer))
    assert asked[0] == templated == trained.input_ids[: len(templated)]
    assert trained.labels[: len(templated)] == [IGNORED] * len(templated)
    assert trained.labels[len(templated)] != IGNORED
    if name == "chat":  # the second turn goes on from the first
        assert asked[1][: len(templated)] == templated
    assert session.system == row.system and len(session.history) == len(row.history) + 4
    plain = Encoder(tokenizer, any_template("alpaca"), "all", 4096)
    assert [raw] == plain.prompt_ids([raw_prompt(panel.panel[0])])
    if row.history:
        assert raw_prompt(panel.panel[0]).startswith("Be </s> kind.\nHi  <s>\nHello </s>.\nAnd")


def test_a_template_that_writes_more_before_a_reply_than_in_the_prompt_is_noted(control_tokenizer):
    raw = {
        "base_model": {"repo": "smollm2-135m-instruct"},
        "datasets": ["sample-alpaca"],
        "prompt_template": {"chat": QWEN3},
    }
    tokenizer, _ = tokenizer_of(control_tokenizer, "qwen3")
    note = lead_note(parse_variant({"name": "mine", **raw}, "a test"), tokenizer)
    lead = "<think>\n\n</think>\n\n"
    tokens = len(tokenizer(lead, add_special_tokens=False)["input_ids"])
    assert note is not None
    assert f"{tokens} scored tokens of a reply are not the row's" in note and repr(lead) in note
    raw["prompt_template"] = "chatml"
    assert lead_note(parse_variant({"name": "mine", **raw}, "a test"), tokenizer) is None
