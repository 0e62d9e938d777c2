"""The panel asked of several models in one batch: each request still gives its own artifact."""

import json

import pytest

from chatpipe.config.prompt_schema import ChatTemplate, Prompt
from chatpipe.config.prompts import template
from chatpipe.config.schema import BaseModelRef, Generation, Quantization
from chatpipe.generation import ask_batch
from chatpipe.generation.ask import Ask, answered
from chatpipe.generation.ask_batch import AskBatch
from chatpipe.runtime.worker import SharedWorker
from chatpipe.sources.fetch import FetchModel
from chatpipe.store.store import store
from tests.support.adapters import RandomAdapter


@pytest.fixture
def asks(chatpipe_home, tiny_model_dir):
    """A base and two adapters on it."""
    base = store().get_or_build(FetchModel.of(BaseModelRef(repo=str(tiny_model_dir))))
    adapters = [store().get_or_build(RandomAdapter(base=base, seed=seed)) for seed in (1, 2)]
    return [
        Ask(
            base=base,
            adapter=adapter,
            prompt_template=template("alpaca"),
            quantization=Quantization(compute_dtype="float32"),
            panel=(Prompt(id="a", instruction="Hello?"), Prompt(id="b", instruction="Why?")),
            generation=Generation(max_new_tokens=4),
            asked=("template",) if adapter else ("template", "raw"),
        )
        for adapter in (None, *adapters)
    ]


def changed(ask, **settings):
    return ask.model_copy(update=settings)


def test_who_may_join(asks):
    first, *others = asks
    assert AskBatch.of(first, asks).others == tuple(others)
    longer = changed(others[0], generation=Generation(max_new_tokens=5))
    plain = changed(others[0], quantization=Quantization(method="none"))
    assert AskBatch.of(first, [longer, plain]).others == ()
    sampled = [changed(ask, generation=Generation(temperature=1.0)) for ask in asks]
    assert AskBatch.of(sampled[0], sampled).others == tuple(sampled[1:])
    assert AskBatch.of(first, sampled).others == ()


def test_models_with_other_templates_join_and_are_asked_in_their_own(asks, tmp_path):
    """One ends a turn with another token than EOS: in the same batch."""
    first, second, third = asks
    short = changed(second, prompt_template=template("short"))
    ends = "{% for m in messages %}{{ m.content + '<s>' }}{% endfor %}"
    chat = changed(third, prompt_template=ChatTemplate(chat=ends))
    batch = AskBatch.of(first, [short, chat])
    assert batch.others == (short, chat)
    together = answered([first, short, chat])
    assert [of.details["models_asked_together"] for of in together] == [3, 3, 3]
    alone = [answered([ask])[0] for ask in (first, short, chat)]
    assert [of.answers for of in together] == [of.answers for of in alone]


def test_no_more_join_than_a_batch_and_the_memory_hold(asks, monkeypatch):
    first, *others = asks
    prompts = tuple(Prompt(id=f"p{n}", instruction="?") for n in range(30))
    raw_too = changed(first, panel=prompts)
    assert AskBatch.of(raw_too, others).together(1) == [raw_too, *others]  # 60 + 2 + 2 questions
    large = changed(others[0], panel=prompts)
    assert AskBatch.of(raw_too, [large, others[1]]).together(1) == [raw_too, others[1]]
    assert AskBatch.of(raw_too, [large, others[1]]).together(2) == [raw_too, large, others[1]]
    monkeypatch.setattr(ask_batch, "ADAPTERS_BYTES", others[0].adapter.size())
    assert AskBatch.of(first, others).others == (others[0],)


def test_an_adapter_that_is_not_here_does_not_join(asks):
    first, second, third = asks
    store().forget(second.adapter.path)
    assert AskBatch.of(first, asks).others == (third,)


def test_the_company_is_in_no_key(asks):
    first, *others = asks
    assert AskBatch.of(first, others).key() == first.key()


def test_a_model_that_cannot_be_asked_keeps_no_other_from_its_answers(asks, tmp_path, caplog):
    _, second, third = asks
    asked = AskBatch.of(third, [second])
    (second.adapter.path / "adapter_model.safetensors").unlink()
    details = asked.build(tmp_path)
    assert details["models_asked_together"] == 1
    assert len(json.loads((tmp_path / "answers.json").read_text("utf-8"))) == 2
    assert "2 models could not be asked together" in caplog.text
    assert not ask_batch._PENDING_ANSWERS


def test_what_was_answered_before_is_not_asked_again(asks):
    first, second, third = asks
    store().get_or_build(second)
    assert AskBatch.of(first, asks).others == (third,)


@pytest.mark.slow
def test_answers_are_those_of_each_model_alone_and_the_second_request_finds_its_own(asks, tmp_path):
    alone = []
    for n, ask in enumerate(asks):
        into = tmp_path / f"alone-{n}"
        into.mkdir()
        details = ask.build(into)
        assert details["models_asked_together"] == 1
        alone.append(json.loads((into / "answers.json").read_text("utf-8")))
    assert alone[0][0]["text"] != alone[1][0]["text"] != alone[2][0]["text"]

    worker, tokens = SharedWorker(), []
    with worker.keep_alive():
        for ask, expected in zip(asks, alone, strict=True):
            heard = []
            asked = AskBatch.of(ask, asks)
            made = store().get_or_build(
                ask,
                lambda into, asked=asked, heard=heard: worker.build(
                    asked, into, heard.append, lambda line: None
                ),
            )
            tokens.append(len(heard))
            assert json.loads((made.path / "answers.json").read_text("utf-8")) == expected
            assert made.details()["models_asked_together"] == 3
            others = {other.adapter.key for other in asks if other.adapter} - {
                ask.adapter and ask.adapter.key
            }
            assert not others & {step["key"] for step in made.lineage()}
    assert tokens[0] and not any(tokens[1:]), "the others were asked again"
