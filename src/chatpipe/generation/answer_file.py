"""The answers to a file of prompts: a JSON line each, appended whole, so that a run goes on."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from chatpipe.errors import ConfigError

ANSWERED_BY = "answered_by"
# The keys of a line that are not the prompt's.
ANSWER_KEYS = frozenset({"model", "answer", "tokens", "stop", "settings", ANSWERED_BY})


class Expected(NamedTuple):
    """What a line has to be for a run to go on after it: the prompt's row, and who answers it."""

    row: dict[str, Any]
    model: str
    answered_by: str  # digest of base, adapter, template and generation settings


class AnswerFile:
    """The file while it is open: how many lines it has, and new ones for its end."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._file = file

    def count(self, expected: Sequence[Expected]) -> int:
        """Return how many of the expected answers the file has, from the first on; cut off the
        beginning of a line that was not written to its end.

        ConfigError where a line is something else: another file, other settings, another model.
        """
        self._file.seek(0)
        lines = self._file.read().split(b"\n")
        *whole, partial = lines
        for number, (line, answer) in enumerate(zip(whole, expected, strict=False), 1):
            if fault := _difference(line, answer):
                raise self._refusal(number, fault)
        if len(whole) > len(expected):
            raise self._refusal(len(expected) + 1, "the file of prompts has no such row")
        if partial:
            begin = _begin(expected[len(whole)].row) if len(whole) < len(expected) else b"\n"
            if not (partial.startswith(begin) or begin.startswith(partial)):
                raise self._refusal(len(whole) + 1, "it is no answer to the file's prompt")
            self._file.truncate(sum(len(line) + 1 for line in whole))
        return len(whole)

    def append(self, lines: Sequence[dict[str, Any]]) -> None:
        """Write these answers, and have the disk hold them."""
        texts = [json.dumps(line, ensure_ascii=False) + "\n" for line in lines]
        self._file.write("".join(texts).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def _refusal(self, number: int, reason: str) -> ConfigError:
        return ConfigError(
            [f"{self.path}: line {number}: {reason}; name another file with --out, or remove it."]
        )


@contextmanager
def open_answers(path: Path) -> Iterator[AnswerFile]:
    """Open the file for this process alone; ConfigError where it cannot be."""
    if path.is_dir() or not path.parent.is_dir():
        reason = "is a directory" if path.is_dir() else f"there is no directory {path.parent}"
        raise ConfigError([f"--out {path}: {reason}; name a file."])
    try:
        file = path.open("a+b")
    except OSError as error:
        raise ConfigError([f"--out {path}: {error.strerror}; name another file."]) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError([f"--out {path}: another run writes it; wait for its end."]) from None
        yield AnswerFile(path, file)


def _difference(line: bytes, expected: Expected) -> str:
    """Return why the line is not the expected answer; "" where it is."""
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or not answer.keys() >= ANSWER_KEYS:
        return "it is no answer that `chatpipe ask --file` has written"
    if {key: value for key, value in answer.items() if key not in ANSWER_KEYS} != expected.row:
        return "it answers another prompt than the file has there"
    if answer[ANSWERED_BY] != expected.answered_by:
        return f"it was answered by another model or with other settings than {expected.model}"
    return ""


def _begin(row: dict[str, Any]) -> bytes:
    """How the line of a row begins."""
    return json.dumps(row, ensure_ascii=False)[:-1].encode()
