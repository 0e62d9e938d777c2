"""A conversation: the panel's text, streamed; stopped where its iterator is closed."""

import signal

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


def test_a_model_whose_loading_is_interrupted_is_not_loaded_again(base, monkeypatch):
    loads = []

    def interrupt(*_):
        loads.append(1)
        signal.raise_signal(signal.SIGINT)

    session = ChatSession(base.path, None, EXACT, template("alpaca"))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(inference, "load_model", interrupt)
        list(session.reply("How are you?", Generation(max_new_tokens=2)))
    assert len(loads) == 1 and not session.history
    assert list(session.reply("How are you?", Generation(max_new_tokens=2)))


def test_a_stopped_reply_stays_in_the_conversation_which_goes_on(base):
    """Stopped by closing its iterator between two pieces, and by Ctrl-C within a step."""
    adapter = store().get_or_build(RandomAdapter(base=base, seed=1))
    session = ChatSession(base.path, adapter.path, EXACT, template("alpaca"))
    layer = next(m for name, m in session.model.named_modules() if name.endswith("1.mlp.act_fn"))
    steps = []

    def interrupt(*_):
        steps.append(1)
        if len(steps) == 5:
            signal.raise_signal(signal.SIGINT)

    for is_closed in (True, False):
        reply = session.reply("How are you?", Generation(max_new_tokens=400))
        pieces = [next(piece for piece in reply if piece)]
        if is_closed:
            reply.close()
        else:
            hook = layer.register_forward_pre_hook(interrupt)
            with pytest.raises(KeyboardInterrupt):
                pieces.extend(reply)
            hook.remove()
        assert len(session.rows) == 0
        assert not any("forward" in module.__dict__ for module in session.model.modules())
        assert session.history[-1].content.startswith("".join(pieces).strip())
    again = ChatSession(base.path, adapter.path, EXACT, template("alpaca"))
    again.history = session.history
    generation = Generation(max_new_tokens=4)
    assert list(again.reply("And now?", generation)) == list(session.reply("And now?", generation))
    assert len(session.history) == 6
