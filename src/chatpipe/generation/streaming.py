"""A reply as text while it is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import TextIteratorStreamer


class ReplyStreamer(TextIteratorStreamer):  # type: ignore[misc]
    """Text of the new tokens, without those that end the reply, special or not."""

    def __init__(self, tokenizer: Any, stops: Sequence[int]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._stops = frozenset(stops)

    def put(self, value: Any) -> None:
        """Take the prompt's tokens, then each new one."""
        is_end = not self.next_tokens_are_prompt and value.flatten()[-1].item() in self._stops
        if not is_end:
            super().put(value)
