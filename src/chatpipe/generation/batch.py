"""Prompts completed by one model, or by several adapters of one base, in one running batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, groupby
from typing import TYPE_CHECKING, Any

from chatpipe.config.schema import Generation
from chatpipe.generation.capacity import AT_ONCE, pass_key, reads_packed
from chatpipe.generation.reply_text import text_of_cut_reply
from chatpipe.runtime.progress import Report, Reporter, after
from chatpipe.tokenization.encoder import AskedPrompt, Encoder

if TYPE_CHECKING:
    from chatpipe.generation.rows import RowRequest
    from chatpipe.generation.running_batch import RunningBatch

HasEnded = Callable[[list[int]], bool]
# Of the rows, so many join together at least, while others wait: reading one prompt takes nearly
# as long as reading a few.
LEAST_SHARE_JOINED = 1 / 8


@dataclass(frozen=True)
class Completion:
    """What a model wrote: text, its tokens (EOS included), and why it stopped: eos or length."""

    text: str
    tokens: int
    stop: str


@dataclass(frozen=True)
class Question:
    """A prompt's tokens and the adapter that goes on from them; None: the base alone."""

    ids: list[int]
    adapter: str | None
    index: int  # its place among those that are asked


def complete(
    model: Any,
    encoder: Encoder,
    prompts: Sequence[AskedPrompt],
    generation: Generation,
    adapters: Sequence[str | None] | None = None,
) -> list[Completion]:
    """Complete the prompts, as many at once as there is room for; the same prompt and seed give
    the same text, but for near ties that rounding breaks otherwise. Each passes through its
    adapter, by name, or through the base alone where that is None; all through the one that is
    on, where nothing is said of them."""
    from chatpipe.kernels.lora_inference import active

    through = [active(model)] * len(prompts) if adapters is None else adapters
    questions = list(map(Question, encoder.prompt_ids(prompts), through, count()))
    return complete_ids(model, encoder.tokenizer, encoder.renderer.stops, questions, generation)


def complete_ids(
    model: Any,
    tokenizer: Any,
    stops: Sequence[int],
    questions: Sequence[Question],
    generation: Generation,
    report: Report | None = None,
) -> list[Completion]:
    """Complete questions that are token ids; stops: the ids at which an answer ends."""
    written = written_ids(model, stops, questions, generation, report=report)
    return [completion_of(ids, tokenizer, stops) for ids in written]


def completions_in_order(
    model: Any,
    tokenizer: Any,
    stops: Sequence[int],
    questions: Sequence[Question],
    generation: Generation,
    report: Report,
) -> Iterator[list[Completion]]:
    """As `complete_ids`, but yield completions in the questions' order, as many at a time as are
    next in it. Until the iterator has ended or is closed, nothing else may use the model."""
    # Without packs, questions are computed by their lengths, and not in their order.
    at_once = len(questions) if reads_packed(model) else AT_ONCE
    for begin in range(0, len(questions), at_once):
        together = questions[begin : begin + at_once]
        order = deque(question.index for question in together)
        ended: dict[int, Completion] = {}
        reported = after(begin * generation.max_new_tokens, report)
        for index, ids in iter_written_ids(model, stops, together, generation, report=reported):
            ended[index] = completion_of(ids, tokenizer, stops)
            following = []
            while order and order[0] in ended:
                following.append(ended.pop(order.popleft()))
            if following:
                yield following


def written_ids(
    model: Any,
    stops: Sequence[int],
    questions: Sequence[Question],
    generation: Generation,
    has_ended: HasEnded | None = None,
    report: Report | None = None,
) -> list[list[int]]:
    """The new token ids of every question, up to and with the one that ends the answer: one of the
    ids `stops`, or where `has_ended` says so of the new ids so far."""
    written = dict(iter_written_ids(model, stops, questions, generation, has_ended, report))
    return [written[question.index] for question in questions]


def iter_written_ids(
    model: Any,
    stops: Sequence[int],
    questions: Sequence[Question],
    generation: Generation,
    has_ended: HasEnded | None = None,
    report: Report | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """Yield the index of every question and its new token ids, as answers end. Until the iterator
    has ended or is closed, nothing else may use the model.

    Progress is reported in tokens, those that an ended answer did not need included.
    """
    from chatpipe.generation.rows import RowRequest
    from chatpipe.generation.running_batch import RunningBatch

    if not questions:
        return
    most = generation.max_new_tokens
    report = report or Reporter(len(questions) * most, "tokens")
    rows = [
        RowRequest(one.index, one.ids, one.adapter, frozenset(stops), generation)
        for one in questions
    ]
    batch = RunningBatch(model, is_lasting=False)
    ended = 0
    try:
        for waiting in _passes(model, rows):
            written: dict[Any, list[int]] = {}
            while waiting or len(batch):
                _join(batch, waiting)
                for index, ids in _step(batch, written, has_ended):
                    ended += 1
                    yield index, ids
                report(ended * most + sum(map(len, written.values())))
    finally:
        batch.clear()


def _passes(model: Any, rows: Sequence[RowRequest]) -> list[deque[RowRequest]]:
    """Rows that may be computed in one pass."""
    key = pass_key(model)
    return [deque(alike) for _, alike in groupby(sorted(rows, key=key), key)]


def _join(batch: RunningBatch, waiting: deque[RowRequest]) -> None:
    """Let those that wait join, in their order, as far as there is room and it is worth while."""
    joining: list[RowRequest] = []
    while waiting and batch.has_room(waiting[0], joining):
        joining.append(waiting.popleft())
    is_worth_while = len(joining) >= LEAST_SHARE_JOINED * (len(batch) + len(joining))
    if joining and (is_worth_while or not waiting):
        batch.join(joining)
    else:
        waiting.extendleft(reversed(joining))


def _step(
    batch: RunningBatch, written: dict[Any, list[int]], has_ended: HasEnded | None
) -> list[tuple[Any, list[int]]]:
    """Write a token of every row; return those that have ended with theirs, which `written` then
    has no more."""
    ended = []
    for new in batch.step():
        ids = written.setdefault(new.row, [])
        ids.append(new.token)
        if new.end or (has_ended and has_ended(ids)):
            ended.append((new.row, written.pop(new.row)))
    batch.leave([row for row, _ in ended])
    return ended


def up_to_stop(ids: list[int], stops: Sequence[int]) -> list[int]:
    """Those new ids before the first one that ends an answer, if there is one."""
    end = next((place for place, number in enumerate(ids) if number in stops), None)
    return ids[:end]


def completion_of(ids: list[int], tokenizer: Any, stops: Sequence[int]) -> Completion:
    """Those new tokens up to EOS or the end of the turn, if there is one."""
    written = up_to_stop(ids, stops)
    stopped = len(written) < len(ids)
    text = (
        tokenizer.decode(written, skip_special_tokens=True)
        if stopped
        else text_of_cut_reply(tokenizer, written)
    )
    return Completion(text.strip(), len(written) + stopped, "eos" if stopped else "length")
