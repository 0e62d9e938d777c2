"""Prompts of the panel that are drawn from held-out rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from chatpipe.config.prompt_schema import Prompt
from chatpipe.data.hashing import share_order

FILE = "heldout.parquet"
MOST_CHARACTERS = 1000  # of all texts of a prompt: a longer one is not read by people
CANDIDATES = 50  # rows that are looked at for each prompt


def heldout_prompts(heldout: Path, count: int) -> tuple[Prompt, ...]:
    """Return prompts of an artifact of held-out rows, by the hash of their text: always the same
    ones, and those of a smaller number are the first of a larger one. Rows with long prompts are
    passed over."""
    table = pq.read_table(heldout / FILE)
    order = share_order(table)[: count * CANDIDATES]
    prompts: list[Prompt] = []
    for row in table.take(pa.array(order)).to_pylist():
        prompt = _prompt(row, f"heldout-{len(prompts) + 1}")
        if prompt and sum(map(len, prompt.texts())) <= MOST_CHARACTERS:
            prompts.append(prompt)
        if len(prompts) == count:
            break
    return tuple(prompts)


def _prompt(row: dict[str, Any], name: str) -> Prompt | None:
    """Return the row's prompt; None where it has no instruction or an empty turn."""
    turns = [
        {"role": turn["role"].partition("_")[0], "content": turn["content"]}
        for turn in row.get("history") or ()
    ]
    parts = {"instruction": row["instruction"], "input": row["input"], "history": turns}
    try:
        return Prompt.model_validate({"id": name, "system": row.get("system"), **parts})
    except ValidationError:
        return None
