"""Splits as `datasets.load_dataset` takes them: `train`, `train[:5%]`, `train[100:200]`, `a+b`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

_BOUND = r"(-?\d[\d_]*%?)?"
_TERM = re.compile(
    rf"(?P<name>\w+(\.\w+)*)(\[{_BOUND}:{_BOUND}\])?(\((closest|pct1_dropremainder)\))?"
)
_PLUS = re.compile(r"\s*\+\s*")
_PERCENT = re.compile(r"(\d[\d_]*)%")


def split_names(spec: str) -> list[str]:
    """Return the names of the splits, each once, in their order."""
    terms = (_TERM.fullmatch(term) for term in _PLUS.split(spec.strip()))
    return list(dict.fromkeys(term["name"] for term in terms if term))


def _checked(spec: str) -> str:
    """Return the spec without white space; ValueError where it is none."""
    terms = _PLUS.split(spec.strip())
    if not all(_TERM.fullmatch(term) for term in terms):
        raise ValueError(
            "is no split; write it as `datasets` does, like train, train[:5%], train[100:200] or "
            "train+test"
        )
    if any(int(percent) > 100 for percent in _PERCENT.findall(spec)):
        raise ValueError("has a bound above 100%; a share of a split is at most 100%")
    return "+".join(terms)


SplitSpec = Annotated[
    str,
    AfterValidator(_checked),
    Field(min_length=1, description="as datasets writes it: train, train[:5%], train+test"),
]
