"""Token ids of rows as Arrow columns: every example of a row, and where its replies are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chatpipe.tokenization.conversation import Conversation
from chatpipe.tokenization.renderer import Renderer, RenderError, Spans

# ids: of all examples of a row, end to end; spans: the tokens before a reply and those of the
# reply, in turn; replies: of each example; cut_turns: the oldest turns that were left out; fault:
# why there is no example.
SCHEMA = pa.schema(
    [
        ("ids", pa.list_(pa.int32())),
        ("spans", pa.list_(pa.int32())),
        ("replies", pa.list_(pa.int32())),
        ("cut_turns", pa.int32()),
        ("fault", pa.string()),
    ]
)

Ids = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RenderedRow:
    """The examples of one row, or why there are none."""

    examples: list[Spans] | RenderError
    cut_turns: int = 0

    def length(self) -> int:
        """The tokens of the longest example."""
        if isinstance(self.examples, RenderError):
            return 0
        return max(sum(len(a) + len(b) for a, b in spans) for spans in self.examples)


def rendered_batch(
    renderer: Renderer, conversations: Sequence[Conversation], most: int | None
) -> pa.RecordBatch:
    """The rows as SCHEMA has them; of those longer than `most` tokens, the oldest turns are left
    out until the others fit."""
    rows = [RenderedRow(examples) for examples in renderer.examples(conversations)]
    if most is not None:
        rows = [
            _shortened(renderer, conversation, row, most) if row.length() > most else row
            for conversation, row in zip(conversations, rows, strict=True)
        ]
    return _batch(rows)


def _shortened(
    renderer: Renderer, conversation: Conversation, row: RenderedRow, most: int
) -> RenderedRow:
    """The row with as many turns as fit, the last ones; as it is where not even one does."""
    low, high, best = 1, len(conversation.history) // 2, row
    while low <= high:
        cut = (low + high) // 2
        [examples] = renderer.examples([conversation.without_oldest(cut)])
        shorter = RenderedRow(examples, cut)
        if shorter.length() > most:
            low = cut + 1
        else:
            high, best = cut - 1, shorter
    return best


def _batch(rows: Sequence[RenderedRow]) -> pa.RecordBatch:
    examples = [[] if isinstance(r.examples, RenderError) else r.examples for r in rows]
    parts = [[ids for one in of_row for pair in one for ids in pair] for of_row in examples]
    lengths = [list(map(len, of_row)) for of_row in parts]
    sizes = list(map(sum, lengths))
    ids = np.fromiter(chain.from_iterable(chain.from_iterable(parts)), np.int32, sum(sizes))
    replies = [list(map(len, of_row)) for of_row in examples]
    faults = [str(r.examples) if isinstance(r.examples, RenderError) else None for r in rows]
    return pa.record_batch(
        [
            pa.ListArray.from_arrays(_ends(sizes), pa.array(ids)),
            _lists(lengths),
            _lists(replies),
            pa.array([row.cut_turns for row in rows], pa.int32()),
            pa.array(faults, pa.string()),
        ],
        schema=SCHEMA,
    )


def _lists(lists: Sequence[list[int]]) -> pa.ListArray:
    values = pa.array(chain.from_iterable(lists), pa.int32())
    return pa.ListArray.from_arrays(_ends(list(map(len, lists))), values)


def _ends(sizes: Sequence[int]) -> pa.Array:
    return pa.array(np.cumsum([0, *sizes], dtype=np.int32))


class TokenFile:
    """Token ids of every row's examples, read where they are asked for. With R rows, E examples and
    S scored replies of them, in their order:

    example_rows: (E,), the row of each; lengths: (E,), its tokens; reply_examples: (S,), the
    example of each; reply_begins, reply_ends: (S,), where in its example it is; cut_turns: (R,).
    """

    def __init__(self, content: pa.Buffer) -> None:
        reader = pa.ipc.open_file(content)
        parts = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self._ids = [_flat(part["ids"]) for part in parts]
        self._starts = np.cumsum([0, *(part.num_rows for part in parts)])
        self.cut_turns = _joined(part["cut_turns"].to_numpy() for part in parts)
        self.faults: Counter[str] = Counter()
        for part in parts:
            self.faults.update(part["fault"].drop_null().to_pylist())
        spans = _joined(_flat(part["spans"])[1] for part in parts).reshape(-1, 2)
        replies = _joined(_flat(part["replies"])[1] for part in parts)
        examples = _joined(np.diff(_flat(part["replies"])[0]) for part in parts)
        self._examples_before = np.concatenate([[0], np.cumsum(examples)])
        self.example_rows: Counts = np.repeat(np.arange(len(examples)), examples)
        self.reply_examples: Counts = np.repeat(np.arange(len(replies)), replies)
        ends = np.cumsum(spans.sum(axis=1))
        self._replies_before = np.concatenate([[0], np.cumsum(replies)])
        bounds = np.concatenate([[0], ends])[self._replies_before]
        self.lengths: Counts = np.diff(bounds)
        self._begins = bounds[:-1]  # of each example, among the tokens of all
        self.reply_ends: Counts = ends - self._begins[self.reply_examples]
        self.reply_begins: Counts = self.reply_ends - spans[:, 1]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def ids(self, example: int) -> Ids:
        """The tokens of that example."""
        row = int(self.example_rows[example])
        part = int(np.searchsorted(self._starts, row, "right")) - 1
        ends, ids = self._ids[part]
        begin = int(self._begins[example] - self._begins[self._examples_before[row]])
        begin += int(ends[row - int(self._starts[part])])
        return ids[begin : begin + int(self.lengths[example])]

    def replies(self, example: int) -> list[tuple[int, int]]:
        """Where its replies begin and end."""
        of_it = slice(*self._replies_before[example : example + 2].tolist())
        return list(
            zip(self.reply_begins[of_it].tolist(), self.reply_ends[of_it].tolist(), strict=True)
        )

    @cached_property
    def is_last(self) -> npt.NDArray[np.bool_]:
        """(E,) whether an example is the last one of its row, which has the whole conversation."""
        rows = self.example_rows
        return np.append(rows[1:] != rows[:-1], True)[: len(rows)]


def _joined(parts: object) -> Counts:
    return np.concatenate([np.zeros(0, np.int64), *parts])  # type: ignore[misc]


def _flat(column: pa.ListArray) -> tuple[Ids, Ids]:
    """(ends, ids) without a copy."""
    return column.offsets.to_numpy(), column.values.to_numpy()
