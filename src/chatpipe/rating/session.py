"""What raters are shown and say: the next pair, a rating, an undo."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from chatpipe.errors import ChatpipeError
from chatpipe.rating.entries import Entry, RatingLog, Verdict, valid_ratings
from chatpipe.rating.pairs import Pair, Pairs, for_rater
from chatpipe.utils.visible_text import visible

MOST_LETTERS = 4_000  # of a remark


class StaleError(ChatpipeError):
    """A page rates a pair that is not the rater's next one any more."""


class Judgement(BaseModel):
    """What a rater says of the pair with that token."""

    model_config = ConfigDict(extra="forbid")

    token: str
    verdict: Verdict
    correct_a: int | None = Field(None, ge=1, le=5)
    correct_b: int | None = Field(None, ge=1, le=5)
    remark: str = Field("", max_length=MOST_LETTERS)


class Session:
    """The ratings of a study's pairs by people, each at a place of its own in the pairs."""

    def __init__(self, study: str, pairs: Pairs, seed: int = 0) -> None:
        self.log = RatingLog(study)
        self.pairs = pairs
        self.seed = seed
        # Of this process only: what a token stands for cannot be computed from what is public.
        self._secret = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._orders: dict[str, list[Pair]] = {}

    def state(self, rater: str) -> dict[str, Any]:
        """Return the rater's next pair, if there is one, and how many are done."""
        with self._lock:
            return self._state(rater)

    def rate(self, rater: str, judgement: Judgement) -> dict[str, Any]:
        """Store a rating of the rater's next pair; return what follows it.

        Raises StaleError where another page of this rater was quicker, or the server is another.
        """
        with self._lock:
            pair = self._next(rater)
            if pair is None or not hmac.compare_digest(
                self._token(rater, pair).encode(), judgement.token.encode()
            ):
                raise StaleError("this pair is not the next one any more")
            values = judgement.model_dump(exclude={"token"})
            self.log.append(pair.entry(rater, **values))
            return self._state(rater)

    def undo(self, rater: str) -> dict[str, Any]:
        """Take the rater's newest rating back; return its pair with what was said beside the
        verdict."""
        with self._lock:
            ratings = self._ratings(rater)
            if not ratings:
                return self._state(rater)
            self.log.append(ratings[-1].undone())
            state = self._state(rater)
            pair = self._next(rater)
            if pair and pair.id == ratings[-1].pair:
                state["pair"] |= _beside_verdict(ratings[-1], pair)
            return state

    def counts(self) -> dict[str, int]:
        """Return the number of ratings of these pairs by rater."""
        ids = {pair.id for pair in self.pairs.rated}
        counts: dict[str, int] = {}
        for entry in valid_ratings(self.log.entries()):
            if entry.kind == "person" and entry.pair in ids:
                counts[entry.rater] = counts.get(entry.rater, 0) + 1
        return counts

    def _state(self, rater: str) -> dict[str, Any]:
        pair = self._next(rater)
        done = len(self._ratings(rater))
        state: dict[str, Any] = {"done": done, "total": len(self.pairs.rated)}
        return state if pair is None else {**state, "pair": self._shown(rater, pair)}

    def _shown(self, rater: str, pair: Pair) -> dict[str, Any]:
        """Return what the page shows of a pair: texts only."""
        answer = pair.answer_a
        return {
            "token": self._token(rater, pair),
            "system": visible(answer.system or ""),
            "history": [
                {"role": turn.role, "text": visible(turn.content)} for turn in answer.history
            ],
            "instruction": visible(answer.instruction),
            "input": visible(answer.input),
            "a": visible(answer.text.strip()),
            "b": visible(pair.answer_b.text.strip()),
        }

    def _next(self, rater: str) -> Pair | None:
        done = {entry.pair for entry in self._ratings(rater)}
        return next((pair for pair in self._order(rater) if pair.id not in done), None)

    def _order(self, rater: str) -> list[Pair]:
        if rater not in self._orders:
            self._orders[rater] = for_rater(self.pairs.rated, rater, self.seed)
        return self._orders[rater]

    def _ratings(self, rater: str) -> list[Entry]:
        """Return the rater's valid ratings of these pairs, the oldest first."""
        ids = {pair.id for pair in self.pairs.rated}
        ratings = valid_ratings(e for e in self.log.entries() if e.rater == rater)
        return [entry for entry in ratings if entry.kind == "person" and entry.pair in ids]

    def _token(self, rater: str, pair: Pair) -> str:
        text = f"{rater}\0{pair.id}".encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()[:32]


def _beside_verdict(entry: Entry, pair: Pair) -> dict[str, Any]:
    """Return what a rating has beside its verdict, with the sides as that pair has them."""
    values = (entry.correct_a, entry.correct_b)
    first, second = values if entry.model_a == pair.a.name else reversed(values)
    return {"correct_a": first, "correct_b": second, "remark": entry.remark}
