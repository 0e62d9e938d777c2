"""Failures of a worker process: one sentence for its parent, and the traceback in a file."""

from __future__ import annotations

import os
import platform
import re
import sys
import tempfile
import traceback
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel

from chatpipe.errors import ChatpipeError, StepProcessError, error_from_name
from chatpipe.store.disk_errors import as_disk_error
from chatpipe.store.paths import home
from chatpipe.utils.redaction import redact
from chatpipe.utils.sentences import one_line

LONGEST_SENTENCE = 600
_WRITTEN_HERE = re.compile(r"-(\d{8}T\d{6}\.\d{6})-\d+\.log$")
KEPT_LOGS = 50  # in $CHATPIPE_HOME/logs, the newest


class Failure(BaseModel):
    """An error on its way from one process to another."""

    type: str
    message: str
    traceback: str = ""

    @classmethod
    def of(cls, error: Exception, kind: str) -> Failure:
        """Return the failure of a step of that `kind`.

        The message of an unexpected error also names the file with its traceback.
        """
        lines = redact("".join(traceback.format_exception(error)))
        expected = error if isinstance(error, ChatpipeError) else as_disk_error(error, home())
        if expected is not None:
            message = redact(str(expected))
            return cls(type=type(expected).__name__, message=message, traceback=lines)
        words = one_line(error) or "without a word"
        if not isinstance(error, ValueError):
            words = f"{type(error).__name__}: {words}"
        sentence = f"the {kind} step failed: {_shortened(redact(words))}"
        message = sentence + written_to(write_log(kind, [lines]))
        return cls(type=StepProcessError.__name__, message=message, traceback=lines)

    def as_error(self) -> ChatpipeError:
        """Return the error, to be raised in this process, with the other traceback as a note."""
        error = error_from_name(self.type, self.message)
        if self.traceback:
            error.add_note(f"In the step's own process:\n{self.traceback}")
        return error


def write_log(kind: str, lines: Iterable[str]) -> Path | None:
    """Write lines to a new file in $CHATPIPE_HOME/logs, or else the temporary directory.

    Returns:
        The file; None if neither can be written.
    """
    now = datetime.now().astimezone()
    name = f"{kind}-{now:%Y%m%dT%H%M%S.%f}-{os.getpid()}.log"
    text = redact("\n".join(lines))
    for folder in (home() / "logs", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, "utf-8", errors="replace")
        except OSError:
            continue
        if folder.name == "logs":
            _remove_oldest(folder)
        return folder / name
    return None


def _remove_oldest(folder: Path) -> None:
    """Remove all but the newest logs; ignore those that cannot be removed."""
    with suppress(OSError):
        logs = [path for path in folder.glob("*.log") if _WRITTEN_HERE.search(path.name)]
        for path in sorted(logs, key=_written_at)[:-KEPT_LOGS]:
            path.unlink(missing_ok=True)


def _written_at(path: Path) -> str:
    """Return the time in a log's name."""
    match = _WRITTEN_HERE.search(path.name)
    return match[1] if match else ""


def write_traceback(kind: str, error: Exception) -> Path | None:
    """Write the traceback, versions and command to a new file; None if that fails."""
    versions = f"chatpipe {version('chatpipe')}, Python {platform.python_version()}"
    command = " ".join(sys.argv)
    return write_log(
        kind, [versions, platform.platform(), command, *traceback.format_exception(error)]
    )


def in_one_line(error: Exception) -> str:
    """Return the type and message of an error, shortened and without secrets."""
    words = one_line(error)
    return _shortened(redact(f"{type(error).__name__}: {words}" if words else type(error).__name__))


def written_to(file: Path | None) -> str:
    """Return the end of a sentence: which file has the traceback."""
    return f"; the traceback is in {file}." if file else "."


def without_file(sentence: str) -> str:
    """Return the sentence without the file's name, for readers on other machines."""
    return re.sub(r"; the traceback is in .*\.log\.$", ".", sentence)


def _shortened(words: str) -> str:
    words = words.rstrip(".")
    return words if len(words) <= LONGEST_SENTENCE else f"{words[:LONGEST_SENTENCE]} …"
