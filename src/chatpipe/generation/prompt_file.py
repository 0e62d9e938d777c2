"""A file of prompts: JSONL or CSV rows with an instruction, or the messages of a conversation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatpipe.config.prompt_schema import Prompt
from chatpipe.config.validation import parse_section
from chatpipe.data.csv_rows import CSVFile
from chatpipe.data.json_values import DECODER, Repeating, why_undecodable
from chatpipe.data.opening import content_kind, opened
from chatpipe.errors import ConfigError, DataError
from chatpipe.utils.quantities import count_of
from chatpipe.utils.text import encodable

TEXTS = ("instruction", "input", "system")
ROLES = ("system", "user", "assistant")
MOST_FAULTS = 20  # that are listed one by one
BATCH_ROWS, BATCH_LETTERS = 1000, 1 << 20  # of a CSV file, read together
Row = dict[str, Any]


@dataclass(frozen=True)
class PromptRow:
    """A row of the file: where it is ("line 3"), what it has, and the prompt that it is."""

    position: str
    values: Row
    prompt: Prompt


def read_prompts(path: Path, reserved: frozenset[str] = frozenset()) -> list[PromptRow]:
    """Return the prompts of a JSONL or CSV file in their order.

    Args:
        reserved: Keys that no row may have, because the answers to it have them.

    ConfigError lists the rows that are no prompts, with file and line, and what to change.
    """
    rows: list[PromptRow] = []
    faults: list[str] = []
    try:
        for position, values in _rows(path):
            if isinstance(values, DataError):
                faults.append(str(values))
                continue
            try:
                rows.append(PromptRow(position, values, _prompt(position, values, reserved)))
            except ValueError as error:
                faults.append(f"{path}: {position}: {error}")
            except ConfigError as error:
                faults += [f"{path}: {fault}" for fault in error.faults]
    except DataError as error:
        faults.append(str(error))
    if not rows and not faults:
        faults = [f'{path}: has no rows; write a prompt a line, such as {{"instruction": "…"}}.']
    if faults:
        raise ConfigError(first_faults(path, faults))
    return rows


def first_faults(path: Path, faults: list[str]) -> list[str]:
    """Return the first faults of a file, and how many more there are."""
    if len(faults) <= MOST_FAULTS:
        return faults
    more = count_of(len(faults) - MOST_FAULTS, "more fault")
    return [*faults[:MOST_FAULTS], f"{path}: and {more}."]


def _rows(path: Path) -> Iterator[tuple[str, Row | DataError]]:
    """Yield the rows that are not blank, each with its position; the error of one that cannot be
    read, after which others can."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.")
    kind = content_kind(path)
    if kind == "jsonl":
        yield from _json_rows(path)
    elif kind == "csv":
        yield from _csv_rows(path)
    else:
        raise DataError(f"{path}: prompts are read from .jsonl and .csv files; convert it.")


def _json_rows(path: Path) -> Iterator[tuple[str, Row | DataError]]:
    try:
        with opened(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"line {number}", _json_row(path, number, line)
    except UnicodeError as error:
        raise DataError(f"{path}: is not {error.encoding.upper()} text.") from None  # type: ignore[attr-defined]


def _json_row(path: Path, number: int, line: bytes) -> Row | DataError:
    """Return the line's object, with its numbers as they are written, or why it is none."""
    try:
        checked = DECODER.decode(line.decode("utf-8"))
        row = json.loads(line)
    except (ValueError, RecursionError):
        return DataError(f"{path}: line {number} {why_undecodable(line)}.")
    if not isinstance(row, dict):
        return DataError(f'{path}: line {number} is no object; write {{"instruction": "…"}}.')
    if isinstance(checked, Repeating):
        return DataError(f"{path}: line {number} has the key {min(checked.repeated)} twice.")
    return row


def _csv_rows(path: Path) -> Iterator[tuple[str, Row | DataError]]:
    file = CSVFile(path, TEXTS)
    number = 0
    for piece in file.pieces(BATCH_ROWS, BATCH_LETTERS):
        for cells in piece:
            number += 1
            row: Row | DataError = dict(zip(file.names, cells, strict=False))
            if len(cells) != len(file.names):
                row = DataError(
                    f"{path}: row {number} has {count_of(len(cells), 'cell')}, the header has "
                    f"{len(file.names)}; put cells with a comma in quotes."
                )
            yield f"row {number}", row


def _prompt(position: str, row: Row, reserved: frozenset[str]) -> Prompt:
    """Return the row as a prompt; ValueError or ConfigError says why it is none."""
    if taken := sorted(reserved & row.keys()):
        raise ValueError(f"has the key {taken[0]}, which the answer to it has; rename the key.")
    if not encodable(json.dumps(row, ensure_ascii=False)):
        raise ValueError("has half of a surrogate pair, which is no text.")
    texts = {key: row[key] for key in TEXTS if row.get(key) not in (None, "")}
    if "messages" in row:
        if texts:
            raise ValueError(f"has messages and {min(texts)}; leave one of them out.")
        texts = _of_messages(row["messages"])
    elif "instruction" not in texts:
        raise ValueError("has no instruction and no messages; write one of them.")
    return parse_section(Prompt, {"id": position.replace(" ", "-"), **texts}, position)


def _of_messages(messages: Any) -> Row:
    """Return a conversation that ends with the user's message as the parts of a prompt."""
    if not isinstance(messages, list) or not messages:
        raise ValueError('messages: expected a list such as [{"role": "user", "content": "…"}].')
    turns = [(_role(message, place), message) for place, message in enumerate(messages)]
    system = [message["content"] for role, message in turns[:1] if role == "system"]
    turns = turns[len(system) :]
    if any(role == "system" for role, _ in turns):
        raise ValueError("messages: the system message has to be the first one.")
    if not turns or turns[-1][0] != "user":
        raise ValueError("messages: the last message has to be the user's, which is answered.")
    history = [{"role": role, "content": message["content"]} for role, message in turns[:-1]]
    parts: Row = {"instruction": turns[-1][1]["content"], "history": history}
    return {**parts, "system": system[0]} if system else parts


def _role(message: Any, place: int) -> str:
    """Return the message's role; ValueError where it has another one or is no message."""
    if not isinstance(message, dict) or not isinstance(message.get("content"), str):
        raise ValueError(f"messages.{place}: expected a role and a content that is text.")
    if message.get("role") not in ROLES:
        raise ValueError(f"messages.{place}.role: expected {', '.join(ROLES)}.")
    return str(message["role"])
