"""Text → token ids where text stays text, whatever control token it spells out.

Only a template's own text may hold control tokens. A tokenizer is always called in one mode, as
changing it is not safe while several threads use the tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from chatpipe.config.template_text import Segment
from chatpipe.errors import ModelError

# Of added tokens that are not marked as special, those that are written like control tokens.
_LIKE_CONTROL = re.compile(r"<\|[^|]+\|>")

PromptText = str | Sequence[Segment]


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer's ids of plain text, and of templates with control tokens."""

    tokenizer: Any

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of every text, without BOS and EOS, no control token among them."""
        encoded = self._plain(texts)
        return [
            ids if self._forbidden.isdisjoint(ids) else self._broken_up(text)
            for text, ids in zip(texts, encoded, strict=True)
        ]

    def prompts(self, prompts: Sequence[PromptText]) -> list[list[int]]:
        """As `texts`, but with the control tokens that a template's own text holds."""
        texts = [prompt if isinstance(prompt, str) else _joined(prompt) for prompt in prompts]
        encoded = self.texts(texts)
        for place, prompt in enumerate(prompts):
            if not isinstance(prompt, str) and self._has_control(prompt):
                encoded[place] = self._around_control(prompt)
        return encoded

    def continuations(self, texts: Sequence[Sequence[Segment]]) -> list[list[int]]:
        """As `prompts`, of texts that others stand before."""
        return [self._around_control(segments, follows=True) for segments in texts]

    @cached_property
    def control(self) -> dict[str, int]:
        """Control tokens by their text: what is added as special, and what is written like it."""
        tokenizer = self.tokenizer
        special = set(tokenizer.all_special_ids)
        tokens = {
            added.content: int(number)
            for number, added in tokenizer.added_tokens_decoder.items()
            if added.special or number in special or _LIKE_CONTROL.fullmatch(added.content)
        }
        named = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=False)
        return {text: number for text, number in {**dict(named), **tokens}.items() if text}

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Any control token, the longest first."""
        ordered = sorted(self.control, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, ordered)) or "(?!)")

    def holds_control(self, texts: pa.ChunkedArray | pa.Array) -> pa.Array:
        """Which texts spell out a control token."""
        literals = "|".join(rf"\Q{token}\E" for token in self.control)
        return pc.match_substring_regex(texts, literals or "a^")

    @cached_property
    def _forbidden(self) -> frozenset[int]:
        """Ids that no text may have; that of unknown characters may be padding's as well."""
        tokenizer = self.tokenizer
        unknown = tokenizer.unk_token_id
        ends = {tokenizer.eos_token_id, tokenizer.bos_token_id}
        return frozenset(self.control.values()) - ({unknown} - ends)

    def _plain(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        try:
            ids: list[list[int]] = self.tokenizer(
                list(texts), add_special_tokens=False, split_special_tokens=True
            )["input_ids"]
        except Exception as error:  # the Rust library raises nothing narrower
            raise ModelError(
                f"the base's tokenizer cannot encode text: {error}; take the tokenizer files that "
                "belong to the base."
            ) from error
        return ids

    def _broken_up(self, text: str) -> list[int]:
        """For tokenizers whose vocabulary itself holds the token: its text is cut in two."""
        starts = [match.start() + 1 for match in self.pattern.finditer(text)]
        pieces = [text[a:b] for a, b in zip([0, *starts], [*starts, len(text)], strict=True)]
        ids = [number for piece in self._plain(pieces) for number in piece]
        if self.tokenizer.eos_token_id in ids:
            raise ModelError(
                f"the tokenizer's EOS {self.tokenizer.eos_token!r} is a piece of ordinary text, so "
                "that a response would end in its middle; take a base whose EOS is a token of its "
                "own."
            )
        return ids

    def _has_control(self, segments: Sequence[Segment]) -> bool:
        return any(not s.from_row and self.pattern.search(s.text) for s in segments)

    def _around_control(self, segments: Sequence[Segment], follows: bool = False) -> list[int]:
        """Texts between the template's control tokens, each as the tokenizer encodes it there."""
        pieces, tokens = self._cut(segments)
        ids: list[int] = []
        for place, piece in enumerate(pieces):
            before, after = tokens[place - 1 : place], tokens[place : place + 1]
            text = self._stripped(piece, before[0] if place else None, after[0] if after else None)
            ids += self._following(text) if place or follows else self.texts([text])[0]
            ids += [self.control[token] for token in after]
        return ids

    def _cut(self, segments: Sequence[Segment]) -> tuple[list[str], list[str]]:
        """The texts around the template's control tokens, and these: one less."""
        pieces, tokens = [""], []
        for segment in segments:
            end = 0
            if not segment.from_row:
                for match in self.pattern.finditer(segment.text):
                    pieces[-1] += segment.text[end : match.start()]
                    pieces.append("")
                    tokens.append(match.group())
                    end = match.end()
            pieces[-1] += segment.text[end:]
        return pieces, tokens

    def _stripped(self, text: str, before: str | None, after: str | None) -> str:
        """Without the white space that the tokens around it take, as some tokenizers have it."""
        added = {token.content: token for token in self.tokenizer.added_tokens_decoder.values()}
        if before in added and added[before].rstrip:
            text = text.lstrip()
        if after in added and added[after].lstrip:
            text = text.rstrip()
        return text

    def _following(self, text: str) -> list[int]:
        """Ids of text that is not the prompt's first: SentencePiece puts a space before that."""
        if not text:
            return []
        newline, ids = self.texts(["\n", "\n" + text])
        return ids[len(newline) :] if ids[: len(newline)] == newline else self.texts([text])[0]


def _joined(segments: Sequence[Segment]) -> str:
    return "".join(segment.text for segment in segments)


def start_ids(tokenizer: Any) -> list[int]:
    """What this tokenizer puts in front by itself (LLaMA's its BOS, SmolLM's nothing)."""
    plain, whole = (
        tokenizer("a", add_special_tokens=special, split_special_tokens=True)["input_ids"]
        for special in (False, True)
    )
    places = range(len(whole) - len(plain) + 1)
    start = next((n for n in places if whole[n : n + len(plain)] == plain), 0)
    return list(whole[:start])
