"""The thread that computes: requests wait in a bounded queue, join the running batch, and receive
their replies piece by piece."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from chatpipe.generation.capacity import AT_ONCE
from chatpipe.generation.next_tokens import Likelihood
from chatpipe.generation.reply_text import ReplyText
from chatpipe.generation.row_request import RowId, RowRequest
from chatpipe.generation.rows import NewToken
from chatpipe.generation.running_batch import RunningBatch

LOG = logging.getLogger(__name__)
MOST_WAITING = 64  # replies that wait for a place in the batch
BURST_S = 0.01  # pause after which a burst of requests is over
MOST_BURST_S = 0.1  # when it is over at the latest


class QueueFullError(Exception):
    """As many replies wait as may."""


@dataclass(frozen=True)
class Piece:
    """What is new of a reply.

    Attributes:
        text: The new text, which may be empty.
        tokens: The new tokens, those that end the reply included.
        likelihoods: Of each token but those that end the reply, where they were asked for.
        end: With the last piece, why the reply ends: "stop" or "length"; "error" where computing
            failed.
    """

    text: str = ""
    tokens: int = 0
    likelihoods: tuple[tuple[int, Likelihood], ...] = ()
    end: str | None = None


@dataclass
class ReplyJob:
    """A reply to be written. deliver: called in the engine's thread with every piece; it must not
    block. A reply that is not streamed is delivered as one piece."""

    request: RowRequest
    text: ReplyText
    deliver: Callable[[Piece], None]
    is_streamed: bool
    _pending: list[Piece] = field(default_factory=list)

    def add(self, new: NewToken) -> bool:
        """Take a token; return whether the reply has ended."""
        if new.end == "eos":
            return self._emit(Piece(self.text.end(), 1, (), "stop"))
        text = self.text.add(new.token)
        likelihoods = ((new.token, new.likelihood),) if new.likelihood else ()
        end = "stop" if self.text.has_stopped else new.end
        if end:
            text += self.text.end(is_cut=end == "length")
        return self._emit(Piece(text, 1, likelihoods, end))

    def _emit(self, piece: Piece) -> bool:
        self._pending.append(piece)
        if piece.end or (self.is_streamed and piece.text):
            pieces, self._pending = self._pending, []
            self.deliver(
                Piece(
                    "".join(one.text for one in pieces),
                    sum(one.tokens for one in pieces),
                    tuple(pair for one in pieces for pair in one.likelihoods),
                    piece.end,
                )
            )
        return piece.end is not None


class Engine:
    """One model with its adapters, used by this engine's thread alone."""

    def __init__(
        self,
        model: Any,
        most_waiting: int = MOST_WAITING,
        most_rows: int = AT_ONCE,
        cores: int | None = None,
    ) -> None:
        self.most_waiting = most_waiting
        self._cores = cores  # torch's threads in the engine's own; None: as many as it has anyway
        self._batch = RunningBatch(model, most_rows)
        self._waiting: deque[ReplyJob] = deque()
        self._running: dict[RowId, ReplyJob] = {}
        self._gone: set[RowId] = set()
        self._is_stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish all replies, then end the thread."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join()

    def submit(self, replies: Sequence[ReplyJob]) -> None:
        """Have replies written as soon as there is room; QueueFullError where too many wait.

        Those that the batch has places for do not count as waiting: of a burst, it takes them in a
        moment.
        """
        with self._changed:
            places = max(0, self._batch.most_rows - len(self._running))
            waiting = len(self._waiting) + len(replies) - places
            if self._is_stopping or waiting > self.most_waiting:
                raise QueueFullError
            self._waiting += replies
            self._changed.notify()

    def cancel(self, ids: Collection[RowId]) -> None:
        """Free the places of these replies; nothing more of them is delivered."""
        with self._changed:
            self._gone |= set(ids)
            self._changed.notify()

    def counts(self) -> dict[str, int]:
        """Return how many replies are written now, how many wait, and how many may be written at
        once: fewer than at the start, where memory has ended since."""
        with self._changed:
            paused = self._batch.paused()
            return {
                "running": len(self._running.keys() - paused),
                "waiting": len(self._waiting) + len(paused),
                "most_running": self._batch.most_rows,
            }

    def _run(self) -> None:
        if self._cores:
            torch.set_num_threads(self._cores)
        while self._wait():
            try:
                self._admit()
                self._deliver(self._batch.step() if len(self._batch) else [])
            except Exception:
                LOG.exception("a step of the batch failed; its replies end with an error.")
                self._fail()

    def _wait(self) -> bool:
        """Wait until there is something to do; return whether there is."""
        with self._changed:
            while not (self._waiting or self._running):
                self._gone.clear()
                if self._is_stopping:
                    return False
                self._changed.wait()
            if not self._running:
                self._await_burst()
            return True

    def _await_burst(self) -> None:
        """Wait for requests that come at the same time: each time that rows join costs a little."""
        deadline = time.monotonic() + MOST_BURST_S
        while time.monotonic() < deadline and self._changed.wait(BURST_S):
            pass

    def _admit(self) -> None:
        """Remove replies that nobody waits for, and let as many join as there is room for."""
        with self._changed:
            gone, self._gone = self._gone, set()
            self._waiting = deque(reply for reply in self._waiting if reply.request.id not in gone)
            for row in gone & self._running.keys():
                del self._running[row]
        self._batch.leave(gone)
        while (joined := self._next_join()) is not None:
            self._running[joined.request.id] = joined
            joining = [joined]
            # Those of one burst are read in one pack, where they have room together.
            while (more := self._next_join(joining)) is not None:
                self._running[more.request.id] = more
                joining.append(more)
            self._join(joining)

    def _join(self, replies: Sequence[ReplyJob]) -> None:
        """Let replies join the batch; one that cannot, for its memory or its prompt, ends with an
        error, and the others go on."""
        try:
            self._batch.join([reply.request for reply in replies])
            return
        except Exception:
            if len(replies) == 1:
                LOG.exception("a prompt could not be read; its reply ends with an error.")
        # The error has gone, and with it the memory that its traceback refers to.
        if len(replies) > 1:
            for reply in replies:
                self._join([reply])
            return
        with self._changed:
            del self._running[replies[0].request.id]
        replies[0].deliver(Piece(end="error"))

    def _next_join(self, joining: Sequence[ReplyJob] = ()) -> ReplyJob | None:
        with self._changed:
            if not self._waiting:
                return None
            beside = [reply.request for reply in joining]
            if not self._batch.has_room(self._waiting[0].request, beside):
                return None
            return self._waiting.popleft()

    def _fail(self) -> None:
        """End the replies that were computed, with an error; those that are paused go on."""
        self._batch.drop_computed()
        paused = self._batch.paused()
        with self._changed:
            failed = [reply for row, reply in self._running.items() if row not in paused]
            self._running = {row: self._running[row] for row in paused}
        for reply in failed:
            reply.deliver(Piece(end="error"))

    def _deliver(self, new_tokens: Sequence[NewToken]) -> None:
        ended = []
        for new in new_tokens:
            reply = self._running[new.row]
            if reply.add(new):
                ended.append(new.row)
        self._batch.leave(ended)  # some end at a stop text, of which the batch knows nothing
        with self._changed:
            for row in ended:
                del self._running[row]
