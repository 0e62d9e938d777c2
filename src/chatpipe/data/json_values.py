"""JSON values of row files: objects that know which of their keys were given twice, line by line
or from one long list that is read in pieces."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from chatpipe.formats.base import UNDECODABLE

PIECE = 1 << 20
LONGEST_ITEM = 1 << 26
# So much may a number, a literal or an escape lack where a piece ends.
NEAR_END = 16
SPACE = re.compile(r"[ \t\r\n]*")


class Repeating(dict[str, Any]):
    """An object in which some keys were given more than once; the last value stands."""

    repeated: frozenset[str] = frozenset()


class Undecodable:
    """A line that is no JSON."""

    def __init__(self, line: bytes) -> None:
        self.line = line


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) == len(pairs):
        return plain
    repeating = Repeating(plain)
    names = [name for name, _ in pairs]
    repeating.repeated = frozenset(name for name in plain if names.count(name) > 1)
    return repeating


# Integers as floats: Python refuses those of more than 4,300 digits, and none is text anyway.
DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=float)


class JSONListError(ValueError):
    """A list of rows that cannot be read to its end; `row` counts from 1."""

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(f"row {row}: {problem}")


def decoded_lines(block: bytes) -> Iterator[Any]:
    """Every line's value; Undecodable where it is no JSON."""
    for line in block.split(b"\n"):
        if line.strip():
            value = decoded(line)
            yield Undecodable(line) if value == UNDECODABLE else value


def why_undecodable(line: bytes) -> str:
    """What is wrong with a line that is no JSON, in a few words."""
    try:
        DECODER.decode(line.decode("utf-8"))
    except UnicodeDecodeError:
        # One damaged line of a UTF-8 file looks the same, and converting that file would damage it.
        return (
            "is no UTF-8 text; if the whole file has another encoding, convert it: "
            "iconv -f ENCODING -t UTF-8"
        )
    except json.JSONDecodeError as error:
        problem = error.msg.removesuffix(" at").lower()
        return f"is no JSON: {problem} at character {error.pos + 1}"
    except (ValueError, RecursionError):
        return "is nested too deeply"
    return "is no object"


def decoded(line: bytes) -> Any:
    """A line's value, or UNDECODABLE."""
    try:
        return DECODER.decode(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return UNDECODABLE


def is_list(head: bytes) -> bool:
    """Whether text that begins so is one list of rows, and not a row a line."""
    text = head.lstrip()
    if not text.startswith(b"["):
        return False
    first, _, rest = text.partition(b"\n")
    return decoded(first) == UNDECODABLE or not rest.strip()


def list_items(stream: TextIO) -> Iterator[Any]:
    """The items of a list, read in pieces; JSONListError where it is broken or does not end."""
    text = _Pieces(stream)
    if text.next_letter() != "[":
        raise JSONListError(1, "a list of rows must begin with [")
    text.place += 1
    row = 1
    if text.next_letter() != "]":
        while True:
            yield text.value(row)
            letter = text.next_letter()
            if letter == "]":
                break
            if letter != ",":
                raise JSONListError(
                    row, "a comma or ] must follow" if letter else "the list is cut off"
                )
            text.place += 1
            row += 1
    text.place += 1
    if text.next_letter():
        raise JSONListError(row, "text follows after the end of the list")


class _Pieces:
    """The text that is read and not yet used."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text = ""
        self.place = 0
        self._ended = False

    def next_letter(self) -> str:
        """The next letter that is no white space; "" at the end."""
        while True:
            match = SPACE.match(self._text, self.place)
            self.place = match.end() if match else self.place
            if self.place < len(self._text):
                return self._text[self.place]
            if self._ended:
                return ""
            self._more(PIECE)

    def value(self, row: int) -> Any:
        """The next value; the text is read on until it is whole."""
        self.next_letter()
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self.place)
            except RecursionError:
                raise JSONListError(row, "is nested too deeply") from None
            except json.JSONDecodeError as error:
                broken = not error.msg.startswith("Unterminated") and (
                    error.pos < len(self._text) - NEAR_END
                )
                if broken or self._ended:
                    raise JSONListError(row, f"is not valid JSON: {error.msg}") from None
            else:
                if end < len(self._text) or self._ended:
                    self.place = end
                    return value
            if len(self._text) - self.place > LONGEST_ITEM:
                raise JSONListError(row, f"does not end within {LONGEST_ITEM >> 20} MiB")
            self._more(max(PIECE, len(self._text) - self.place))

    def _more(self, size: int) -> None:
        piece = self._stream.read(size)
        self._ended = not piece
        self._text = self._text[self.place :] + piece
        self.place = 0
