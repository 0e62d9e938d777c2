"""A reply's text while its tokens arrive, up to a stop text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

INCOMPLETE = "\ufffd"  # what a part of a character's bytes is decoded to
MOST_PARTS = 6  # tokens of a part of a character, and of the one before, whose end it may share


def text_of_cut_reply(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Decode a reply that was cut, without a character at its end that is not all there."""
    texts = [
        tokenizer.decode(tokens[: len(tokens) - left_out], skip_special_tokens=True)
        for left_out in range(min(MOST_PARTS, len(tokens)) + 1)
    ]
    whole = next((text for text in texts if not text.endswith(INCOMPLETE)), texts[0])
    # A token may end a character and begin the next one.
    without_end: str = texts[0].rstrip(INCOMPLETE)
    return without_end if without_end.startswith(whole) else whole


class ReplyText:
    """Text of the tokens so far. What may turn out to be the beginning of a stop text, or white
    space at the reply's end, is held back until it is known.

    is_stripped: the reply is without white space around it, as answers to the panel are.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str], is_stripped: bool) -> None:
        self.has_stopped = False  # at a stop text, which is left out
        self._tokenizer = tokenizer
        self._stops = [stop for stop in stops if stop]
        self._is_stripped = is_stripped
        self._tokens: list[int] = []
        self._begin = self._read = 0  # tokens that give context to the next, and those decoded
        self._text = ""
        self._sent = 0

    def add(self, token: int) -> str:
        """Return the text that is certain now and was not before."""
        self._tokens.append(token)
        before = self._decode(self._begin, self._read)
        after = self._decode(self._begin, None)
        if len(after) > len(before) and not after.endswith(INCOMPLETE):
            self._begin, self._read = self._read, len(self._tokens)
            self._extend(after[len(before) :])
        return self._send(self._certain())

    def end(self, is_cut: bool = False) -> str:
        """Return the rest. is_cut: the reply did not end by itself, so a character at its end may
        not be all there; it is left out."""
        if not self.has_stopped:
            before = self._decode(self._begin, self._read)
            tokens = self._tokens[self._begin :]
            rest = (
                text_of_cut_reply(self._tokenizer, tokens)
                if is_cut
                else self._decode(self._begin, None)
            )
            self._extend(rest[len(before) :])
        rest = self._text.rstrip() if self._is_stripped else self._text
        return self._send(max(len(rest), self._sent))

    def _decode(self, begin: int, end: int | None) -> str:
        text: str = self._tokenizer.decode(self._tokens[begin:end], skip_special_tokens=True)
        return text

    def _extend(self, piece: str) -> None:
        searched = max(0, len(self._text) - max(map(len, self._stops), default=0))
        self._text += piece
        ends = [self._text.find(stop, searched) for stop in self._stops]
        ends = [end for end in ends if end >= 0]
        if ends:
            self._text, self.has_stopped = self._text[: min(ends)], True

    def _certain(self) -> int:
        """Return how many characters are certain."""
        text = self._text
        if not self.has_stopped:
            longest = max(map(len, self._stops), default=0)
            for begin in range(max(0, len(text) - longest + 1), len(text)):
                if any(stop.startswith(text[begin:]) for stop in self._stops):
                    text = text[:begin]
                    break
        return len(text.rstrip() if self._is_stripped else text)

    def _send(self, end: int) -> str:
        begin = self._sent
        if self._is_stripped and not begin:
            begin = len(self._text) - len(self._text.lstrip())
        if end <= begin:
            return ""
        self._sent = end
        return self._text[begin:end]
