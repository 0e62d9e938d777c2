"""How alike a text and a reference are: exact match, ROUGE-L and chrF of one pair.

Both overlaps are a few lines, so nothing has to be installed for them; `rouge-score` and
`sacrebleu`, which give the same values, are the references of their tests.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

CHRF_ORDER, CHRF_BETA = 6, 2  # sacrebleu's defaults
# Scripts without spaces between words: every character is a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def exact_match(text: str, reference: str) -> float:
    """1 where both are the same but for white space, else 0."""
    return float(text.split() == reference.split())


def words(text: str) -> list[str]:
    """The words of a text in lower case: runs of letters and digits; every Han character and kana
    is one."""
    return _WORD.findall(text.lower())


def rouge_l(text: str, reference: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004), from 0 to 1; no stemming."""
    own, other = words(text), words(reference)
    common = longest_common_subsequence(own, other)
    return 2 * common / (len(own) + len(other)) if common else 0.0


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Its length. One integer has a bit for each of `first`'s words (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    everywhere = (1 << len(first)) - 1
    row = everywhere
    for word in second:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & everywhere
    return len(first) - row.bit_count()


def chrf(text: str, reference: str) -> float:
    """chrF2 (Popović 2015), from 0 to 100: F2 of the mean precision and recall of character
    n-grams of 1 to 6 characters, without white space; orders that one text lacks do not count."""
    own, other = ("".join(part.split()) for part in (text, reference))
    precision = recall = 0.0
    orders = min(CHRF_ORDER, len(own), len(other))
    for order in range(1, orders + 1):
        grams, others = _ngrams(own, order), _ngrams(other, order)
        common = (grams & others).total()
        precision += common / grams.total() / orders
        recall += common / others.total() / orders
    factor = CHRF_BETA**2
    if not precision + recall:
        return 0.0
    return 100 * (1 + factor) * precision * recall / (factor * precision + recall)


def _ngrams(text: str, order: int) -> Counter[str]:
    return Counter(text[start : start + order] for start in range(len(text) - order + 1))
