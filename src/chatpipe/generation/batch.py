"""Prompts completed by one model, or by several adapters of one base, in one running batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from chatpipe.config.schema import Generation
from chatpipe.generation.capacity import AT_ONCE, pass_key, reads_packed
from chatpipe.generation.reply_text import text_of_cut_reply
from chatpipe.runtime.progress import Report, Reporter, after
from chatpipe.tokenization.encoder import AskedPrompt, Encoder

if TYPE_CHECKING:
    from chatpipe.generation.row_request import RowId, RowRequest
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
    from chatpipe.generation.row_request import RowRequest
    from chatpipe.kernels.lora_inference import active

    through = [active(model)] * len(prompts) if adapters is None else adapters
    stops = frozenset(encoder.renderer.stops)
    pairs = zip(encoder.prompt_ids(prompts), through, strict=True)
    rows = [RowRequest(n, *pair, stops, generation) for n, pair in enumerate(pairs)]
    return complete_rows(model, encoder.tokenizer, rows)


def complete_rows(
    model: Any, tokenizer: Any, rows: Sequence[RowRequest], report: Report | None = None
) -> list[Completion]:
    """Complete prompts that are token ids."""
    written = written_ids(model, rows, report=report)
    return [
        completion_of(ids, tokenizer, row.stops) for row, ids in zip(rows, written, strict=True)
    ]


def completions_in_order(
    model: Any, tokenizer: Any, rows: Sequence[RowRequest], report: Report
) -> Iterator[list[Completion]]:
    """As `complete_rows`, but yield completions in the rows' order, as many at a time as are next
    in it. Until the iterator has ended or is closed, nothing else may use the model."""
    # Without packs, rows are computed by their lengths, and not in their order.
    at_once = len(rows) if reads_packed(model) else AT_ONCE
    for begin in range(0, len(rows), at_once):
        together = rows[begin : begin + at_once]
        order = deque(together)
        ended: dict[RowId, list[int]] = {}
        reported = after(most_new_tokens(rows[:begin]), report)
        for row, ids in iter_written_ids(model, together, report=reported):
            ended[row] = ids
            following = []
            while order and order[0].id in ended:
                first = order.popleft()
                following.append(completion_of(ended.pop(first.id), tokenizer, first.stops))
            if following:
                yield following


def written_ids(
    model: Any,
    rows: Sequence[RowRequest],
    has_ended: HasEnded | None = None,
    report: Report | None = None,
) -> list[list[int]]:
    """The new token ids of every row, up to and with the one that ends the answer: one of the row's
    `stops`, or where `has_ended` says so of the new ids so far."""
    written = dict(iter_written_ids(model, rows, has_ended, report))
    return [written[row.id] for row in rows]


def iter_written_ids(
    model: Any,
    rows: Sequence[RowRequest],
    has_ended: HasEnded | None = None,
    report: Report | None = None,
) -> Iterator[tuple[RowId, list[int]]]:
    """Yield the id of every row and its new token ids, as answers end. Until the iterator has ended
    or is closed, nothing else may use the model.

    Progress is reported in tokens; an answer that has ended counts as its `max_new_tokens`.
    """
    from chatpipe.generation.running_batch import RunningBatch

    if not rows:
        return
    report = report or Reporter(most_new_tokens(rows), "tokens")
    most = {row.id: row.generation.max_new_tokens for row in rows}
    batch = RunningBatch(model, is_lasting=False)
    of_ended = 0
    try:
        for waiting in _passes(model, rows):
            written: dict[RowId, list[int]] = {}
            while waiting or len(batch):
                _join(batch, waiting)
                for row, ids in _step(batch, written, has_ended):
                    of_ended += most[row]
                    yield row, ids
                report(of_ended + sum(map(len, written.values())))
    finally:
        batch.clear()


def most_new_tokens(rows: Sequence[RowRequest]) -> int:
    """Return how many tokens the completions have at most: the unit of progress."""
    return sum(row.generation.max_new_tokens for row in rows)


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
    batch: RunningBatch, written: dict[RowId, list[int]], has_ended: HasEnded | None
) -> list[tuple[RowId, list[int]]]:
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


def up_to_stop(ids: list[int], stops: Collection[int]) -> list[int]:
    """Those new ids before the first one that ends an answer, if there is one."""
    end = next((place for place, number in enumerate(ids) if number in stops), None)
    return ids[:end]


def completion_of(ids: list[int], tokenizer: Any, stops: Collection[int]) -> Completion:
    """Those new tokens up to EOS or the end of the turn, if there is one."""
    written = up_to_stop(ids, stops)
    stopped = len(written) < len(ids)
    text = (
        tokenizer.decode(written, skip_special_tokens=True)
        if stopped
        else text_of_cut_reply(tokenizer, written)
    )
    return Completion(text.strip(), len(written) + stopped, "eos" if stopped else "length")
