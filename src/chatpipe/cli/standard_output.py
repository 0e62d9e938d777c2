"""Standard output whose failed writes are OutputErrors, not errors of the store's disk."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

from chatpipe.errors import OutputError


class _OutputFile(io.FileIO):
    """The file of standard output; a failed write is an OutputError."""

    def write(self, data: object) -> int | None:  # type: ignore[override]
        """Write bytes; BrokenPipeError where the reader has ended."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError:
            raise
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise OutputError(
                f"the output{_path_of(self.fileno())} cannot be written: {reason}; "
                "send it elsewhere."
            ) from error


def raise_output_errors() -> None:
    """Replace sys.stdout by one whose failed writes raise OutputError.

    Characters that its encoding does not have are printed as escapes.
    """
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
    """Write what standard output has buffered."""
    if sys.stdout is not None:
        sys.stdout.flush()


def discard() -> None:
    """Send the buffered rest to /dev/null: its reader (`| head`) has ended, or it cannot be
    written."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _path_of(descriptor: int) -> str:
    """Return ', PATH,' of the descriptor's file or device; empty where it has no path."""
    try:
        path = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 (a descriptor's, no file's)
    except OSError:
        return ""
    return f", {path}," if path.startswith("/") else ""
