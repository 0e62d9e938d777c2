"""Replies as OpenAI's clients read them."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from chatpipe.generation.next_tokens import Likelihood
from chatpipe.serving.engine import Piece
from chatpipe.serving.token_names import TokenNames

Json = dict[str, Any]


@dataclass
class Answer:
    """The parts that all of one answer's JSON objects have."""

    model: str
    is_chat: bool
    names: TokenNames
    prompt_tokens: int
    new_tokens: int = 0
    id: str = field(init=False)
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.id = ("chatcmpl-" if self.is_chat else "cmpl-") + uuid.uuid4().hex

    def whole(self, pieces: list[Piece], wants_likelihoods: bool) -> Json:
        """Return the answer with all choices."""
        choices = []
        for index, piece in enumerate(pieces):
            self.new_tokens += piece.tokens
            text: Json = (
                {"message": {"role": "assistant", "content": piece.text, "refusal": None}}
                if self.is_chat
                else {"text": piece.text}
            )
            likelihoods = self._likelihoods(piece) if wants_likelihoods else None
            choices.append(
                {"index": index, **text, "logprobs": likelihoods, "finish_reason": piece.end}
            )
        kind = "chat.completion" if self.is_chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": self.usage()}

    def first_chunk(self, index: int) -> Json:
        """Return the chunk that names the role, of a chat."""
        delta = {"role": "assistant", "content": ""}
        return self._chunk([{"index": index, "delta": delta, "finish_reason": None}])

    def chunk(self, index: int, piece: Piece, wants_likelihoods: bool) -> Json:
        """Return a choice's next part."""
        self.new_tokens += piece.tokens
        text: Json = (
            {"delta": {"content": piece.text} if piece.text else {}}
            if self.is_chat
            else {"text": piece.text}
        )
        likelihoods = self._likelihoods(piece) if wants_likelihoods else None
        return self._chunk(
            [{"index": index, **text, "logprobs": likelihoods, "finish_reason": piece.end}]
        )

    def usage_chunk(self) -> Json:
        return {**self._chunk([]), "usage": self.usage()}

    def usage(self) -> Json:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.new_tokens,
            "total_tokens": self.prompt_tokens + self.new_tokens,
        }

    def _chunk(self, choices: list[Json]) -> Json:
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        return {**self._head(kind), "choices": choices}

    def _head(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _likelihoods(self, piece: Piece) -> Json:
        if self.is_chat:
            entries = [self._entry(token, likelihood) for token, likelihood in piece.likelihoods]
            return {"content": entries, "refusal": None}
        return {
            "tokens": [self._label(token) for token, _ in piece.likelihoods],
            "token_logprobs": [likelihood.logprob for _, likelihood in piece.likelihoods],
            "top_logprobs": [self._tops(likelihood) for _, likelihood in piece.likelihoods],
        }

    def _entry(self, token: int, likelihood: Likelihood) -> Json:
        tops = [self._named(*pair) for pair in likelihood.top]
        return {**self._named(token, likelihood.logprob), "top_logprobs": tops}

    def _named(self, token: int, logprob: float) -> Json:
        text, content = self.names[token]
        return {"token": text, "logprob": logprob, "bytes": list(content)}

    def _tops(self, likelihood: Likelihood) -> dict[str, float]:
        """Return a completion's likeliest tokens. Of two with one text, the less likely one is
        called by its id, as vLLM writes it: as keys they would be one."""
        tops: dict[str, float] = {}
        for token, logprob in likelihood.top:
            label = self._label(token)
            tops[f"token_id:{token}" if label in tops else label] = logprob
        return tops

    def _label(self, token: int) -> str:
        """Return a completion's name of a token; it has no field for bytes, and OpenAI writes them
        so."""
        name = self.names[token]
        return name.text if name.is_text else f"bytes:{name.text}"
