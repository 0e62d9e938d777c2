"""A conversation: the panel's text, streamed; stopped where its iterator is closed."""

import pytest

from chatpipe.config.prompts import template
from chatpipe.config.schema import BaseModelRef, Generation, Quantization
from chatpipe.generation.batch import complete
from chatpipe.generation.chat import ChatSession
from chatpipe.models import inference
from chatpipe.sources.fetch import FetchModel
from chatpipe.store.store import store
from chatpipe.tokenization.conversation import Conversation
from tests.support.adapters import RandomAdapter

EXACT = Quantization(method="none", compute_dtype="float32")


@pytest.fixture
def base(chatpipe_home, tiny_model_dir):
    return store().get_or_build(FetchModel.of(BaseModelRef(repo=str(tiny_model_dir))))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_reply_is_what_the_panel_gets(base, temperature):
    adapter = store().get_or_build(RandomAdapter(base=base, seed=1))
    generation = Generation(max_new_tokens=12, temperature=temperature)
    session = ChatSession(base.path, adapter.path, EXACT, template("alpaca"))
    reply = "".join(session.reply("How are you?", generation))
    with inference.cached_model(base.path, [adapter.path], EXACT) as model:
        [answer] = complete(model, session.encoder, [Conversation("How are you?")], generation)
    assert reply.strip() == answer.text
    assert [turn.content for turn in session.history] == ["How are you?", answer.text]


def test_a_closed_reply_stops_the_model_and_stays_in_the_conversation(base):
    session = ChatSession(base.path, None, EXACT, template("alpaca"))
    reply = session.reply("How are you?", Generation(max_new_tokens=400))
    first = next(piece for piece in reply if piece)
    reply.close()
    assert len(session.rows) == 0
    assert session.history[1].content.startswith(first.strip())
    assert list(session.reply("And now?", Generation(max_new_tokens=4)))
    assert len(session.history) == 4
