"""What tokens are called in replies: by their texts, or by their bytes where these are no text."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from chatpipe.generation.reply_text import INCOMPLETE

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenName(NamedTuple):
    """A token's text, escaped bytes such as `\\xe4\\xbd` where it is a part of a character, and its
    bytes."""

    text: str
    content: bytes

    @property
    def is_text(self) -> bool:
        return self.text.encode() == self.content


class TokenNames:
    """The names of a tokenizer's tokens, each found once."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._names: dict[int, TokenName] = {}

    def __getitem__(self, token: int) -> TokenName:
        if token not in self._names:
            self._names[token] = self._name(token)
        return self._names[token]

    def _name(self, token: int) -> TokenName:
        text: str = self._tokenizer.decode([token])
        if INCOMPLETE not in text:
            return TokenName(text, text.encode())
        content = _piece_bytes(str(self._tokenizer.convert_ids_to_tokens(token)))
        if content is None or content == text.encode():
            return TokenName(text, text.encode())
        return TokenName("".join(f"\\x{byte:02x}" for byte in content), content)


def _piece_bytes(piece: str) -> bytes | None:
    """Return the bytes that a piece of the vocabulary stands for; None where that is not known."""
    if match := _BYTE.fullmatch(piece):
        return bytes([int(match[1], 16)])
    if all(letter in _BYTE_OF_LETTER for letter in piece):
        return bytes(_BYTE_OF_LETTER[letter] for letter in piece)
    return None


def _letters_of_bytes() -> dict[str, int]:
    """Return GPT-2's letters of bytes, which byte-level vocabularies are written in: printable
    bytes stand for themselves, the others for the letters from U+0100 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTE_OF_LETTER = _letters_of_bytes()
