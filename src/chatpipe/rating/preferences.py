"""Ratings as rows of preference data: a prompt, the chosen answer and the rejected one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from chatpipe.rating.entries import Entry
from chatpipe.rating.results import canonical, is_swapped, majority
from chatpipe.utils.atomic_writes import write_atomically

Row = dict[str, Any]


def preference_rows(ratings: Iterable[Entry]) -> tuple[list[Row], dict[str, int]]:
    """Return a row for each pair of which most raters prefer one answer, and the pairs without
    one: reason → how many.

    A row has the conversation before the answer as messages, as trl reads it, and what says where
    it comes from.
    """
    ratings = list(ratings)
    verdicts = majority(ratings)
    votes: dict[str, Counter[str]] = {}
    pairs: dict[str, Entry] = {}
    for entry in ratings:
        votes.setdefault(entry.pair, Counter())[canonical(entry)] += 1
        pairs[entry.pair] = entry
    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    for pair, entry in pairs.items():
        if (verdict := verdicts[pair]) in ("a", "b"):
            rows.append(_row(entry, is_first=verdict == "a", votes=votes[pair]))
        else:
            left_out["both bad" if verdict == "both_bad" else "tie, or raters disagree"] += 1
    return rows, dict(left_out)


def write_rows(rows: Iterable[Row], file: Path) -> None:
    """Write the rows as JSONL, whole or not at all."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomically(file, text.encode("utf-8", "surrogatepass"))


def _row(entry: Entry, is_first: bool, votes: Counter[str]) -> Row:
    """Return the row. is_first: whether the first answer in the pair's own order is better."""
    sides = [(entry.model_a, entry.answer_a), (entry.model_b, entry.answer_b)]
    if is_swapped(entry):
        sides.reverse()
    if not is_first:
        sides.reverse()
    (better, chosen), (worse, rejected) = sides
    text = "\n\n".join(part for part in (entry.instruction, entry.input) if part)
    system = [{"role": "system", "content": entry.system}] if entry.system else []
    return {
        "prompt": [*system, *json.loads(entry.history), {"role": "user", "content": text}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "chosen_model": better,
        "rejected_model": worse,
        "votes": votes["a" if is_first else "b"],
        "raters": votes.total(),
    }
