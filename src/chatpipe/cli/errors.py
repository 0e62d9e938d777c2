"""How commands end badly: one sentence on stderr, and an exit code; never a traceback."""

from __future__ import annotations

import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import typer

from chatpipe.cli import standard_output
from chatpipe.cli.usage_errors import UsageError, is_call_for_help, usage_sentence
from chatpipe.errors import ChatpipeError, ConfigError, OutputError
from chatpipe.server.errors import in_a_sentence
from chatpipe.utils.visible_text import visible

FAILED = 1
BAD_INPUT = 2
STOPPED = 130
STOPPED_SENTENCE = "stopped; run the same command again to go on."
OUTPUT_CLOSED = 141  # as a shell counts a program that SIGPIPE ended


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Exit code 2 for bad input, 1 for what failed, 130 for what was stopped."""
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
    except (KeyboardInterrupt, typer.Abort):  # Abort: the same at a question
        raise _exit([STOPPED_SENTENCE], STOPPED) from None
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _is_output_closed():
            standard_output.discard()
            raise typer.Exit(OUTPUT_CLOSED) from None
        raise _exit([_sentence(error)], FAILED) from None


def _exit(sentences: list[str], code: int) -> typer.Exit:
    with suppress(OSError):  # nobody can be told of anything
        for sentence in sentences:
            typer.echo(visible(sentence), err=True)
    return typer.Exit(code)


def _sentence(error: Exception) -> str:
    """The error in one sentence; where nobody foresaw it, with the file that has its traceback."""
    from chatpipe.runtime.failures import in_one_line, write_traceback
    from chatpipe.store.disk_errors import as_disk_error
    from chatpipe.store.paths import home

    foreseen = as_disk_error(error, home()) or in_a_sentence(error)
    if foreseen is not None:
        return str(foreseen)
    file = write_traceback("chatpipe", error)
    where = f"; report it with {file}, which has the traceback." if file else "."
    return f"a fault of chatpipe itself: {in_one_line(error)}{where}"


def _is_output_closed() -> bool:
    """Whether nobody reads this process's output any more."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError):
        return False
