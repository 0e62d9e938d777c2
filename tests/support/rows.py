"""Rows for tests: small, all different, in the upstream layouts."""

import json
from pathlib import Path

THINGS = ("river", "stone", "candle", "garden", "window", "bridge", "lantern", "market")
DOINGS = ["paint", "mend", "carry", "find", "describe"]


def alpaca_rows(count: int = 40) -> list[dict[str, str]]:
    """Instruction rows; every third has an input."""
    return [
        {
            "instruction": f"{DOINGS[i % 5].capitalize()} the {THINGS[i // 5 % 8]} ({i}).",
            "input": f"It is number {i}." if i % 3 == 0 else "",
            "output": f"The {THINGS[i // 5 % 8]} is done, and it took {i} minutes.",
        }
        for i in range(count)
    ]


def dialogue_rows(count: int = 40) -> list[dict[str, list]]:
    """Dialogues of three utterances."""
    return [
        {
            "dialog": [
                f" Have you seen the {THINGS[i % 8]} of {DOINGS[i // 8 % 5]}ers ? ",
                f" Yes , {i} of them . ",
                " Thanks . ",
            ],
            "act": [2, 1, 1],
            "emotion": [0, 0, 0],
        }
        for i in range(count)
    ]


def write_jsonl(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path
