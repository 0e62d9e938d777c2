"""Errors of commands: one sentence on stderr and an exit code, never a traceback."""

from __future__ import annotations

import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import typer

from chatpipe.cli import standard_output
from chatpipe.cli.usage_errors import UsageError, is_call_for_help, usage_sentence
from chatpipe.errors import ChatpipeError, ConfigError, OutputError
from chatpipe.server.errors import server_error_sentence
from chatpipe.utils.visible_text import visible

FAILED = 1
BAD_INPUT = 2
STOPPED = 130
STOPPED_SENTENCE = "stopped; run the same command again to go on."
OUTPUT_CLOSED = 141  # a shell's exit code for a program that SIGPIPE ended


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print an error as one sentence; exit code 2 for bad input, 1 for failures, 130 for Ctrl-C."""
    try:
        yield
    except ConfigError as error:
        raise _exit(error.faults, BAD_INPUT) from None
    except OutputError as error:
        standard_output.discard()
        raise _exit([str(error)], FAILED) from None
    except ChatpipeError as error:
        raise _exit([str(error)], FAILED) from None
    except typer.Exit:
        raise
    except UsageError as error:
        sentences = [] if is_call_for_help(error) else [usage_sentence(error)]
        raise _exit(sentences, BAD_INPUT) from None
    except (KeyboardInterrupt, typer.Abort):  # Abort: Ctrl-C at a question
        raise _exit([STOPPED_SENTENCE], STOPPED) from None
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _is_output_closed():
            standard_output.discard()
            raise typer.Exit(OUTPUT_CLOSED) from None
        raise _exit([_sentence(error)], FAILED) from None


def _exit(sentences: list[str], code: int) -> typer.Exit:
    with suppress(OSError):  # stderr is closed
        for sentence in sentences:
            typer.echo(visible(sentence), err=True)
    return typer.Exit(code)


def _sentence(error: Exception) -> str:
    """Return the error as one sentence; of an unexpected one, with the file of its traceback."""
    from chatpipe.runtime.failures import in_one_line, write_traceback
    from chatpipe.store.disk_errors import as_disk_error
    from chatpipe.store.paths import home

    expected = as_disk_error(error, home()) or server_error_sentence(error)
    if expected is not None:
        return str(expected)
    file = write_traceback("chatpipe", error)
    where = f"; report it with {file}, which has the traceback." if file else "."
    return f"an error inside chatpipe: {in_one_line(error)}{where}"


def _is_output_closed() -> bool:
    """Whether the reader of this process's output has ended."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError):
        return False
