"""What counts as empty text, and text without the white space around it."""

from __future__ import annotations

import unicodedata

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

# White space, control and format characters (zero-width space, soft hyphen, byte order mark, …),
# and letters that are drawn as nothing: Hangul fillers, joiners, variation selectors, the empty
# Braille cell.
BLANK = (
    r"\A[\pZ\p{Cc}\p{Cf}\x{034f}\x{115f}\x{1160}\x{17b4}\x{17b5}\x{180b}-\x{180d}\x{2800}"
    r"\x{3164}\x{fe00}-\x{fe0f}\x{ffa0}]*\z"
)
# The same for single letters.
BLANK_CATEGORIES = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf"})
BLANK_LETTERS = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u2800\u3164\uffa0"
) | frozenset(map(chr, range(0xFE00, 0xFE10)))
SEEN_IN_ASCII = np.zeros(256, np.bool_)
SEEN_IN_ASCII[0x21:0x7F] = True
# The bytes with which a letter of white space can begin and end in UTF-8.
FIRST_OF_SPACE = np.zeros(256, np.bool_)
FIRST_OF_SPACE[[*range(0x21), 0xC2, 0xE1, 0xE2, 0xE3]] = True
LAST_OF_SPACE = np.zeros(256, np.bool_)
LAST_OF_SPACE[[*range(0x21), *range(0x80, 0x8B), 0x9F, 0xA0, 0xA8, 0xA9, 0xAF]] = True


def encodable(text: str) -> bool:
    """Whether it is text: half of a surrogate pair, which JSON can escape, is not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_blank(texts: pa.Array) -> npt.NDArray[np.bool_]:
    """True where a text has no letter that can be seen. Most texts begin with an ASCII letter that
    can: only the others are looked through."""
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int32, len(texts) + 1, texts.offset * 4)
    blank: npt.NDArray[np.bool_] = ends[1:] == ends[:-1]
    letters = np.frombuffer(data or b"", np.uint8)
    if blank.all() or not len(letters):
        return blank
    first_bytes = letters[np.minimum(ends[:-1], len(letters) - 1)]
    unclear = np.flatnonzero(~blank & ~SEEN_IN_ASCII[first_bytes])
    if len(unclear):
        some = texts.take(pa.array(unclear))
        blank[unclear] = pc.match_substring_regex(some, BLANK).to_numpy(zero_copy_only=False)
    return blank


def has_visible(text: str) -> bool:
    """Whether the text has a letter that can be seen: `is_blank` of one text, negated."""
    if "!" <= text[:1] <= "~":
        return True
    return any(
        letter not in BLANK_LETTERS and unicodedata.category(letter) not in BLANK_CATEGORIES
        for letter in text
    )


def has_byte(texts: pa.ChunkedArray | pa.Array, byte: int) -> bool:
    """Whether the byte is among those of the texts; it may be one of a row beside a slice."""
    chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    data = [chunk.buffers()[2] for chunk in chunks]
    return any(bool((np.frombuffer(part, np.uint8) == byte).any()) for part in data if part)


def trimmed(texts: pa.Array) -> pa.Array:
    """The texts without white space around them; most have none and are left as they are."""
    padded = np.flatnonzero(_may_be_padded(texts))
    if not len(padded):
        return texts
    mask = np.zeros(len(texts), np.bool_)
    mask[padded] = True
    return pc.replace_with_mask(
        texts, pa.array(mask), pc.utf8_trim_whitespace(texts.take(pa.array(padded)))
    )


def _may_be_padded(texts: pa.Array) -> npt.NDArray[np.bool_]:
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int32, len(texts) + 1, texts.offset * 4)
    if data is None or ends[-1] == ends[0]:
        return np.zeros(len(texts), np.bool_)
    letters = np.frombuffer(data, np.uint8)
    last = len(letters) - 1
    first_bytes = letters[np.minimum(ends[:-1], last)]
    last_bytes = letters[np.maximum(ends[1:] - 1, 0)]
    mask: npt.NDArray[np.bool_] = FIRST_OF_SPACE[first_bytes] | LAST_OF_SPACE[last_bytes]
    return mask
