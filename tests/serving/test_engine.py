"""What happens to replies in the engine: where stop texts end them, and what one failure leaves."""

import queue

import pytest
import torch

from chatpipe.config.schema import Generation, Quantization
from chatpipe.generation.reply_text import ReplyText
from chatpipe.generation.row_groups import PaddedGroup
from chatpipe.generation.row_request import RowRequest
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


@pytest.fixture
def fail_at(monkeypatch):
    """Has memory end at an allocation of a tensor: the first one from now on is number 0."""
    allocate = torch.Tensor.new_zeros

    def plant(number):
        numbers = iter(range(1 << 20))

        def new_zeros(*args, **kwargs):
            if next(numbers) == number:
                raise torch.OutOfMemoryError("no memory")
            return allocate(*args, **kwargs)

        monkeypatch.setattr(torch.Tensor, "new_zeros", new_zeros)

    return plant


def test_a_join_without_memory_leaves_the_replies_that_run_as_they_are(tiny_model_dir, fail_at):
    """Whichever of the keys and values of two layers memory does not last for, those of the prompt
    that is read or those of the cache that takes it."""
    model = load_base(tiny_model_dir, Quantization(method="none", compute_dtype="float32"))
    tokenizer = load_tokenizer(tiny_model_dir)

    def replies(failing):
        """The text of a reply; the ends of one that joins it, of another then, and its own."""
        engine, texts, others, ends = Engine(model), [], [], queue.Queue()

        def submit(name, ids, tokens, deliver):
            generation = Generation(max_new_tokens=tokens, temperature=0)
            request = RowRequest(name, ids, None, frozenset(), generation)
            engine.submit(
                [ReplyJob(request, ReplyText(tokenizer, [], is_stripped=True), deliver, True)]
            )

        def take(piece):
            if not texts:
                fail_at(failing)
                submit("joining", [*range(2, 120)], 2, joined)
            texts.append(piece.text)
            if piece.end:
                ends.put(piece.end)

        def joined(piece):
            if piece.end:
                ends.put(piece.end)
                if not others:
                    submit("after", [*range(2, 90)], 2, joined)
                others.append(piece.end)

        submit("running", [5, 6, 7, 8], 40, take)
        engine.start()
        ended = [ends.get(timeout=60) for _ in range(3)]
        engine.stop()
        return "".join(texts), ended

    alone, ended = replies(-1)
    assert ended == ["length"] * 3 and len(set(alone)) > 3
    for number in range(8):
        assert replies(number) == (alone, ["error", "length", "length"]), number


def test_where_memory_ends_in_a_step_the_newest_replies_wait_and_their_texts_are_whole(
    tiny_model_dir, monkeypatch
):
    """There is memory for two of five streamed replies at once, and for one of them never: that
    alone ends with an error, and the others have the texts that they have alone."""
    model = load_base(tiny_model_dir, Quantization(method="none", compute_dtype="float32"))
    tokenizer = load_tokenizer(tiny_model_dir)
    prompts = {name: [*range(5 + 7 * n, 12 + 9 * n)] for n, name in enumerate("abcde")}

    def replies(names):
        """Each one's text and end, and what is said of the load when all have ended."""
        engine, pieces, ends = Engine(model), {name: [] for name in names}, queue.Queue()

        def job(name):
            def deliver(piece):
                pieces[name].append(piece.text)
                if piece.end:
                    ends.put((name, piece.end))

            settings = {"max_new_tokens": 12, "temperature": 1.0 * (name in "bd"), "seed": 5}
            request = RowRequest(name, prompts[name], None, frozenset(), Generation(**settings))
            text = ReplyText(tokenizer, [], is_stripped=True)
            return ReplyJob(request, text, deliver, is_streamed=True)

        engine.submit([job(name) for name in names])
        engine.start()
        ended = dict(ends.get(timeout=60) for _ in names)
        engine.stop()
        texts = {name: "".join(parts) for name, parts in pieces.items()}
        return texts, ended, engine.counts()

    alone = {name: replies([name])[0][name] for name in prompts}
    step = PaddedGroup.logits

    def lacking(group, tokens):
        rows = [row.request.id for row in group.rows]
        if len(rows) > 2 or ("a" in rows and len(group.rows[0].tokens) > 2):
            raise torch.OutOfMemoryError("no memory")
        return step(group, tokens)

    monkeypatch.setattr(PaddedGroup, "logits", lacking)
    texts, ended, load = replies(list(prompts))
    assert ended == {"a": "error", **dict.fromkeys("bcde", "length")}
    assert {name: texts[name] for name in "bcde"} == {name: alone[name] for name in "bcde"}
    assert load == {"running": 0, "waiting": 0, "most_running": 1}
    assert alone["a"].startswith(texts["a"])


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
