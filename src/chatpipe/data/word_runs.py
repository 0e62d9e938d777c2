"""Runs of words of a text, whatever its punctuation and capital letters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from xxhash import xxh3_64_intdigest

# Scripts without spaces between words: Thai, Lao, kana, Han.
_UNSPACED = r"\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")

TEXTS = ("system", "history", "instruction", "input", "output")

Hashes = npt.NDArray[np.uint64]


def row_texts(table: pa.Table) -> Iterator[str]:
    """All texts of each row: system text, earlier turns, instruction, input and output."""
    names = [name for name in TEXTS if name in table.column_names]
    for row in table.select(names).to_pylist():
        earlier = [turn["content"] for turn in row.pop("history", None) or ()]
        yield "\n".join([*earlier, *(text for text in row.values() if text)])


def word_runs(words: Sequence[str], size: int, word_hashes: dict[str, int]) -> Hashes:
    """The different runs of that many words, as hashes, in order; of fewer words, the run of all.

    word_hashes: hashes of words, which are added to it.
    """
    hashes = np.fromiter((_hash(word, word_hashes) for word in words), np.uint64, len(words))
    size = min(size, len(words))
    runs = np.zeros(len(words) - size + 1, np.uint64)
    for place in range(size):
        runs = runs * np.uint64(0x9E3779B97F4A7C15) + hashes[place : place + len(runs)]
    return np.unique(runs)


def words_of(text: str) -> list[str]:
    """The words of a text in small letters, without punctuation; a text of nothing else is one.
    Where words have no spaces between them, each letter is one."""
    return _WORD.findall(text.lower()) or [text]


def runs_of(texts: Iterable[str], size: int, shorter: bool = True) -> Iterator[Hashes]:
    """Yield the different runs of that many words of each text, as hashes, in order.

    shorter: whether all words of a text that has fewer are a run.
    """
    word_hashes: dict[str, int] = {}
    for text in texts:
        words = words_of(text)
        is_none = not shorter and len(words) < size
        yield np.zeros(0, np.uint64) if is_none else word_runs(words, size, word_hashes)


def _hash(word: str, word_hashes: dict[str, int]) -> int:
    if word not in word_hashes:
        word_hashes[word] = xxh3_64_intdigest(word.encode("utf-8", "surrogatepass"))
    return word_hashes[word]
