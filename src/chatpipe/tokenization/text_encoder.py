"""Text → token ids where text stays text, whatever control token it spells out.

Only a template's own text may hold control tokens. A tokenizer is always called in one mode, as
changing it is not safe while several threads use the tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from chatpipe.config.template_text import Segment
from chatpipe.errors import ModelError

THOUGHT_TAGS = "think|thinking|thought|reasoning"
# Of added tokens that are not marked as special, those that are written like control tokens.
_LIKE_CONTROL = re.compile(r"<\|[^|]+\|>")
# Of those that a template holds, such as <start_of_turn>: no run of spaces, which some bases add.
_LIKE_MARKER = re.compile(r"<\S+>|\[\S+\]|\{\S+\}")
_THOUGHT_TAG = re.compile(rf"</?({THOUGHT_TAGS})>")

Text = Sequence[Segment]


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer's ids of plain text, and of templates with control tokens.

    template_text: the template itself; an added token that it holds is a control token, marked as
    special or not.
    """

    tokenizer: Any
    template_text: str = ""

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of every text, without BOS and EOS, no control token among them."""
        encoded = self._plain(texts)
        return [
            ids if self._forbidden.isdisjoint(ids) else self._broken_up(text)
            for text, ids in zip(texts, encoded, strict=True)
        ]

    def encode(self, texts: Sequence[Text], before: Sequence[str | None]) -> list[list[int]]:
        """As `texts`, but with the control tokens that a template's own text holds.

        before: what stands before each text, None where nothing does: the control token that it
        follows, or "" where it follows other text.
        """
        cut = [self._cut(segments, token) for segments, token in zip(texts, before, strict=True)]
        is_first = [token is None for token in before]
        first = [pieces[0] for (pieces, _), begins in zip(cut, is_first, strict=True) if begins]
        later = [
            piece
            for (pieces, _), begins in zip(cut, is_first, strict=True)
            for piece in pieces[begins:]
        ]
        first_ids, later_ids = iter(self.texts(first)), iter(self._following(later))
        encoded = []
        for (pieces, tokens), begins in zip(cut, is_first, strict=True):
            ids = next(first_ids if begins else later_ids)
            for token, _ in zip(tokens, pieces[1:], strict=True):
                ids = [*ids, self.control[token], *next(later_ids)]
            encoded.append(ids)
        return encoded

    def prompts(self, prompts: Sequence[Text]) -> list[list[int]]:
        """As `encode`, of texts that nothing stands before."""
        return self.encode(prompts, [None] * len(prompts))

    @cached_property
    def control(self) -> dict[str, int]:
        """Control tokens by their text: what is added as special, and what is written like it."""
        tokenizer = self.tokenizer
        special = set(tokenizer.all_special_ids)
        tokens = {
            added.content: int(number)
            for number, added in tokenizer.added_tokens_decoder.items()
            if added.special or number in special or self._is_marker(added.content)
        }
        named = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=False)
        return {text: number for text, number in {**dict(named), **tokens}.items() if text}

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Any control token, the longest first."""
        ordered = sorted(self.control, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, ordered)) or "(?!)")

    def _is_marker(self, token: str) -> bool:
        """Whether an added token that is not marked as special is a control token."""
        if _LIKE_CONTROL.fullmatch(token):
            return True
        return bool(_LIKE_MARKER.fullmatch(token)) and token in self.template_text

    def holds_control(self, texts: pa.ChunkedArray | pa.Array) -> pa.Array:
        """Which texts spell out a control token, other than the tags of a thought: in a reply,
        these are the template's."""
        spelled = (token for token in self.control if not _THOUGHT_TAG.fullmatch(token))
        literals = "|".join(rf"\Q{token}\E" for token in spelled)
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
                list(texts),
                add_special_tokens=False,
                split_special_tokens=True,
                return_attention_mask=False,
                return_token_type_ids=False,
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

    def _cut(self, segments: Text, before: str | None) -> tuple[list[str], list[str]]:
        """The texts around the template's control tokens, and these: one less. Each text is without
        the white space that the tokens around it take."""
        pieces, tokens = [""], []
        for segment in segments:
            end = 0
            if not segment.from_row:
                for begin, next_end in self._control_spans(segment.text):
                    pieces[-1] += segment.text[end:begin]
                    pieces.append("")
                    tokens.append(segment.text[begin:next_end])
                    end = next_end
            pieces[-1] += segment.text[end:]
        around = [before, *tokens, None]
        if self._takes_space:
            pieces = [
                self._stripped(piece, *tokens_around)
                for piece, tokens_around in zip(pieces, pairwise(around), strict=True)
            ]
        return pieces, tokens

    @cached_property
    def _control_spans(self) -> Callable[[str], list[tuple[int, int]]]:
        """Where the control tokens of a text are; it remembers a template's parts, which are the
        same in every row."""
        spans = self.pattern.finditer
        return lru_cache(maxsize=64)(lambda text: [match.span() for match in spans(text)])

    @cached_property
    def _takes_space(self) -> dict[str, Any]:
        """Added tokens that take the white space beside them, as some tokenizers have it."""
        added = self.tokenizer.added_tokens_decoder.values()
        return {token.content: token for token in added if token.lstrip or token.rstrip}

    def _stripped(self, text: str, before: str | None, after: str | None) -> str:
        """Without the white space that the tokens around it take."""
        added = self._takes_space
        if before in added and added[before].rstrip:
            text = text.lstrip()
        if after in added and added[after].lstrip:
            text = text.rstrip()
        return text

    def _following(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts that others stand before: SentencePiece puts a space before a first one."""
        different = [text for text in dict.fromkeys(texts) if text]
        if not different:
            return [[] for _ in texts]
        newline, *followed = self.texts(["\n", *("\n" + text for text in different)])
        size = len(newline)
        ids = {
            text: after[size:]
            for text, after in zip(different, followed, strict=True)
            if after[:size] == newline
        }
        merged = [text for text in different if text not in ids]
        ids |= dict(zip(merged, self.texts(merged), strict=True))
        return [ids[text] if text else [] for text in texts]


def start_ids(tokenizer: Any) -> list[int]:
    """What this tokenizer puts in front by itself (LLaMA's its BOS, SmolLM's nothing)."""
    plain, whole = (
        tokenizer("a", add_special_tokens=special, split_special_tokens=True)["input_ids"]
        for special in (False, True)
    )
    places = range(len(whole) - len(plain) + 1)
    start = next((n for n in places if whole[n : n + len(plain)] == plain), 0)
    return list(whole[:start])
