"""A command's standard output, whose failures are the output's and not a disk's of chatpipe."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

from chatpipe.errors import OutputError


class _OutputFile(io.FileIO):
    """The file of standard output; what keeps it from being written is an OutputError."""

    def write(self, data: object) -> int | None:  # type: ignore[override]
        """Write bytes; BrokenPipeError where nobody reads them any more."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError:
            raise
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise OutputError(
                f"the output{_place(self.fileno())} cannot be written: {reason}; send it elsewhere."
            ) from error


def name_failures() -> None:
    """Have a failed write to sys.stdout raise an OutputError, and a letter that the encoding lacks
    printed by its number."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not isinstance(sys.stdout, io.TextIOWrapper):  # None: started without an output
        return
    descriptor = sys.stdout.fileno()
    sys.stdout.flush()
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_OutputFile(descriptor, "w", closefd=False)),
        encoding=sys.stdout.encoding,
        errors="backslashreplace",
        line_buffering=os.isatty(descriptor),
    )


def flush() -> None:
    """Write what standard output still holds."""
    if sys.stdout is not None:
        sys.stdout.flush()


def discard() -> None:
    """Send what is still to be printed nowhere: whoever read it (`| head`) is gone, or it cannot be
    written."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _place(descriptor: int) -> str:
    """', PATH,' of a file or device that the descriptor writes to; empty where it has no path."""
    try:
        path = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 (a descriptor's, no file's)
    except OSError:
        return ""
    return f", {path}," if path.startswith("/") else ""
