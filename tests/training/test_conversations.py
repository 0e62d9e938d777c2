"""Conversations are trained and scored reply by reply: the reference is transformers' own."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from chatpipe.config.prompt_schema import ChatTemplate
from chatpipe.config.prompts import CHATS
from chatpipe.config.schema import BaseModelRef, Dataset, Lora, Quantization, Split, Training
from chatpipe.data.merge import Merge
from chatpipe.data.normalize import Normalize
from chatpipe.errors import DataError
from chatpipe.evaluation.reply_bytes import ReplyBytes
from chatpipe.evaluation.score import Score
from chatpipe.models.loading import load_tokenizer
from chatpipe.packing.batching import PACKED
from chatpipe.planning.preview import preview_rows
from chatpipe.sources.fetch import FetchDataset, FetchModel
from chatpipe.store.store import store
from chatpipe.training.finetune import Finetune
from chatpipe.training.rows import encode_training_rows
from tests.support.rows import write_jsonl

FULL = Quantization(method="none", compute_dtype="float32")
# As Qwen3's: a thought is dropped from the prompts of later turns.
LOOK_AHEAD = ChatTemplate(
    chat="{% for m in messages %}{% set c = m.content %}"
    "{% if m.role == 'assistant' and not loop.last %}{% set c = c.split('</think>')[-1] %}"
    "{% endif %}{{ '<|' + m.role + '|>\n' + c + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
TEMPLATES = {"append": CHATS["zephyr"], "look-ahead": LOOK_AHEAD}


def talks():
    """Conversations of one to three turns; every second one has thoughts or a system text."""
    for number in range(20):
        messages = [{"role": "system", "content": "Be brief."}] if number % 4 == 0 else []
        for turn in range(1 + number % 3):
            thought = f"<think>\nhow {turn}\n</think>\n" if number % 2 else ""
            messages += [
                {"role": "user", "content": f"How are you, number {number}? Turn {turn}."},
                {"role": "assistant", "content": f"{thought}I am number {number} in {turn}."},
            ]
        yield {"messages": messages}


@pytest.fixture(params=TEMPLATES)
def request_(request, chatpipe_home, tiny_model_dir):
    base = store().get_or_build(FetchModel.of(BaseModelRef(repo=str(tiny_model_dir))))
    path = write_jsonl(chatpipe_home / "talks.jsonl", list(talks()))
    dataset = Dataset(name="talks", path=str(path), format="messages", turns="all")
    raw = store().get_or_build(FetchDataset.of(dataset))
    examples = store().get_or_build(Normalize.of(dataset, raw))
    return Finetune(
        base=base,
        corpus=store().get_or_build(Merge(examples=(examples,), split=Split(heldout=0.4))),
        prompt_template=TEMPLATES[request.param],
        quantization=FULL,
        lora=Lora(rank=2, alpha=4, dropout=0.0),
        training=Training(epochs=1, learning_rate=0.02, global_batch_size=4),
    )


def messages_of(row):
    system = [{"role": "system", "content": row["system"]}] if row["system"] else []
    user = {"role": "user", "content": row["instruction"]}
    reply = {"role": "assistant", "content": row["output"]}
    return [*system, *(row["history"] or []), user, reply]


def plainly(tokenizer, template, row):
    """(prompt, reply with its end) of every reply, by transformers alone."""

    def ids(messages, asks):
        return tokenizer.apply_chat_template(
            messages, chat_template=template.chat, add_generation_prompt=asks, return_dict=True
        )["input_ids"]

    messages = messages_of(row)
    for place, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt, whole = ids(messages[:place], True), ids(messages[: place + 1], False)
            assert whole[: len(prompt)] == prompt
            last = len(whole) - whole[::-1].index(tokenizer.eos_token_id)
            yield prompt, whole[len(prompt) : last]


def plain_nats(model, prompt, reply):
    logits = model(torch.tensor([prompt + reply])).logits[0, len(prompt) - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(reply), reduction="sum")


@pytest.fixture
def model(tiny_model_dir):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()


def test_packed_replies_have_the_nats_and_gradients_of_a_plain_loop(request_, model):
    tokenizer = load_tokenizer(request_.base.path)
    rows = encode_training_rows(
        request_.corpus, request_.prompt_template, request_.training, tokenizer
    )
    table = pq.read_table(request_.corpus.path / "train.parquet").to_pylist()
    expected = []
    for index in rows.row_indices.tolist():
        pairs = plainly(tokenizer, request_.prompt_template, table[index])
        nats = [plain_nats(model, *pair) for pair in pairs]
        sum(nats).backward()
        expected.append(float(sum(nats).detach()))
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    with PACKED.attention(model):
        for group in PACKED.groups(list(rows.examples), 400):
            PACKED.nats(model, PACKED.collate(group)).sum().backward()
        with torch.no_grad():
            found = [
                float(PACKED.nats(model, PACKED.collate(examples)).sum())
                for examples in rows.by_row()
            ]
    assert found == pytest.approx(expected, abs=1e-3, rel=1e-4)
    for name, parameter in model.named_parameters():
        scale = float(gradients[name].abs().max())
        assert torch.allclose(parameter.grad, gradients[name], rtol=1e-3, atol=1e-4 * scale), name


@pytest.mark.slow
def test_a_row_with_several_examples_is_one_row_of_every_count(request_, model):
    tokenizer = load_tokenizer(request_.base.path)
    rows = encode_training_rows(
        request_.corpus, request_.prompt_template, request_.training, tokenizer
    )
    splits = request_.prompt_template is LOOK_AHEAD
    assert (len(rows.examples) > rows.row_count) == splits
    details = store().get_or_build(request_).details()
    assert details["rows_trained"] == rows.row_count
    assert details["optimizer_steps"] == -(-rows.row_count // 4)
    assert details["trained_tokens"] == rows.tokens
    assert details["scored_tokens"] == rows.scored_tokens
    heldout = request_.corpus
    table = pq.read_table(heldout.path / "heldout.parquet").to_pylist()
    scores = store().get_or_build(
        Score(
            base=request_.base,
            adapter=None,
            heldout=heldout,
            prompt_template=request_.prompt_template,
            quantization=FULL,
            max_length=1024,
            batch_tokens=512,
        )
    )
    scored = pq.read_table(scores.path / "nats.parquet").to_pylist()
    scored = {row["id"]: row for row in scored if row["labels"] == "response"}
    assert scored.keys() == {row["id"] for row in table}
    reply_bytes = ReplyBytes.read({"talks": heldout}, ["talks"])
    for row in table:
        with torch.no_grad():
            pairs = list(plainly(tokenizer, request_.prompt_template, row))
            nats = sum(float(plain_nats(model, *pair)) for pair in pairs)
        assert scored[row["id"]]["nats"] == pytest.approx(nats, rel=1e-4)
        assert scored[row["id"]]["tokens"] == sum(len(reply) for _, reply in pairs)
        replies = [m["content"] for m in messages_of(row) if m["role"] == "assistant"]
        expected = sum(len(reply.encode()) for reply in replies)
        assert reply_bytes.of(np.array([row["id"]])).tolist() == [expected]


def test_the_preview_marks_every_scored_part(request_):
    shown = preview_rows("talks", request_, load_tokenizer(request_.base.path), 99)
    table = pq.read_table(request_.corpus.path / "train.parquet").to_pylist()
    assert {row.row for row in shown.rows} == set(range(len(table)))
    for index, row in enumerate(table):
        marked = [
            part.text
            for example in shown.rows
            if example.row == index
            for part in example.parts
            if part.scored
        ]
        replies = [m["content"] for m in messages_of(row) if m["role"] == "assistant"]
        assert marked == [f"{reply}</s>" for reply in replies]


def test_where_the_template_can_write_no_row_training_says_why(request_):
    strict = ChatTemplate(
        chat="{% if messages[0].content | length > 9 %}{{ raise_exception('too much') }}{% endif %}"
        + CHATS["zephyr"].chat
    )
    asked = request_.model_copy(update={"prompt_template": strict})
    with pytest.raises(DataError) as error:
        encode_training_rows(
            asked.corpus, asked.prompt_template, asked.training, load_tokenizer(request_.base.path)
        )
    assert str(error.value).startswith("prompt_template: none of ")
    assert "the chat template fails: too much" in str(error.value)


def test_the_former_name_of_a_loss_is_the_same_request(request_):
    for name in ("response", "every_reply"):
        training = Training.model_validate({**request_.training.model_dump(), "loss": name})
        assert training.loss == "every_reply"
        asked = request_.model_copy(update={"training": training})
        assert asked.key() == request_.key()
