"""What happens to replies in the engine: where stop texts end them, and what one failure leaves."""

import queue

import pytest

from chatpipe.config.schema import Generation, Quantization
from chatpipe.generation.reply_text import ReplyText
from chatpipe.generation.rows import RowRequest
from chatpipe.models.loading import load_base, load_tokenizer
from chatpipe.serving.engine import Engine, QueueFullError, ReplyJob


class Letters:
    """A tokenizer of a few texts."""

    texts = ("\n", "User", "Hi", "\n\n", " there ")

    def decode(self, ids, skip_special_tokens):
        return "".join(self.texts[number] for number in ids)


@pytest.mark.parametrize(
    ("tokens", "stop", "expected"),
    [
        ([0, 1, 2], "\nUser", ""),
        ([0, 0, 2], "\n\n", ""),
        ([3, 2], "\n\n", ""),
        ([0, 2, 4, 2], "User", "Hi there Hi"),
        ([0, 2, 4], "", "Hi there"),
        ([2, 0, 1], "\nUser", "Hi"),
    ],
)
def test_a_stop_text_ends_a_reply_wherever_tokens_divide_it(tokens, stop, expected):
    reply = ReplyText(Letters(), [stop], is_stripped=True)
    pieces = []
    for token in tokens:
        pieces.append(reply.add(token))
        if reply.has_stopped:
            break
    assert "".join([*pieces, reply.end()]) == expected


def test_a_prompt_that_cannot_be_read_fails_alone(tiny_model_dir):
    """A token id that the embedding does not have, beside prompts of the same burst."""
    model = load_base(tiny_model_dir, Quantization(method="none", compute_dtype="float32"))
    tokenizer, ends, engine = load_tokenizer(tiny_model_dir), queue.Queue(), Engine(model)
    generation = Generation(max_new_tokens=3, temperature=0)

    def job(name, ids):
        request = RowRequest(name, ids, None, frozenset({0}), generation)
        text = ReplyText(tokenizer, [], is_stripped=True)
        return ReplyJob(request, text, lambda piece: ends.put((name, piece.end)), False)

    engine.start()
    engine.submit([job("a", [5, 6]), job("bad", [1 << 20, 6]), job("b", [7, 8, 9])])
    ended = dict(ends.get(timeout=60) for _ in range(3))
    assert ended.pop("bad") == "error"
    assert ended.keys() == {"a", "b"} and "error" not in ended.values()
    engine.submit([job("after", [5, 6])])
    assert ends.get(timeout=60)[1] in ("length", "stop")
    engine.stop()


def test_a_burst_fills_the_places_of_the_batch_before_the_queue(tiny_model_dir):
    model = load_base(tiny_model_dir, Quantization(method="none", compute_dtype="float32"))
    tokenizer, ends = load_tokenizer(tiny_model_dir), queue.Queue()
    engine = Engine(model, most_waiting=2, most_rows=3)

    def job(name):
        request = RowRequest(name, [5, 6], None, frozenset({0}), Generation(max_new_tokens=2))
        text = ReplyText(tokenizer, [], is_stripped=True)
        return ReplyJob(request, text, lambda piece: ends.put(piece.end), False)

    for name in range(5):  # before the thread has taken any
        engine.submit([job(name)])
    with pytest.raises(QueueFullError):
        engine.submit([job(5)])
    engine.start()
    engine.stop()
    assert ends.qsize() == 5
