"""Preference data: rows with a reply that is to be preferred to another, or with a verdict on it.

Fine-tuning here has replies to be learnt, and none to be avoided.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

CHOSEN, REJECTED, LABEL = "chosen", "rejected", "label"


class Layout(NamedTuple):
    """What a variant says of a file: the format, and which column (ours -> the file's) is which."""

    format: str | None
    columns: Mapping[str, str]


def verdict_fault(row: Mapping[str, Any]) -> str | None:
    """Return what is wrong with training on all replies of a file whose rows have verdicts (KTO);
    row: its first."""
    if not isinstance(row.get(LABEL), bool) or not {"prompt", "completion"} <= row.keys():
        return None
    return (
        "column label is true or false, so this is preference data (KTO): the completions whose "
        "label is false would be trained on like the others"
    )


def preference_warnings(row: Mapping[str, Any]) -> list[str]:
    """Return a sentence where the rows are preference data."""
    if fault := verdict_fault(row):
        return [f"{fault}; keep the rows whose label is true."]
    if {CHOSEN, REJECTED} <= row.keys():
        return ["columns chosen and rejected: this is preference data; rejected is not trained on."]
    return []


def turns_layout(row: Mapping[str, Any]) -> Layout | None:
    """Return what to write in a variant where `chosen` has lists of turns, else None."""
    chosen = row.get(CHOSEN)
    if not isinstance(chosen, list) or not chosen or not isinstance(chosen[0], Mapping):
        return None
    role = chosen[0].get("role", chosen[0].get("from"))
    is_whole = len(chosen) > 1 and role not in ("assistant", "gpt")
    if is_whole or "prompt" not in row:
        return Layout("messages", {"messages": CHOSEN})
    return Layout("completion", {"completion": CHOSEN})
