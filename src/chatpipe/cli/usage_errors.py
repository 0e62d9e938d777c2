"""What typer says of an unknown command or option and of a missing argument, as one sentence."""

from __future__ import annotations

import re

import typer

# typer brings click's classes under a private name, or takes click's own: by version.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

_IN_OUR_WORDS = (
    (r"Input should be an? valid integer\b.*", "expected a whole number"),
    (r"Input should be an? valid number\b.*", "expected a number"),
    (r"Input should be an? valid boolean\b.*", "expected true or false"),
    (r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", r"one argument too many: \1"),
    (r"\. Did you mean", "; did you mean"),
)


def is_call_for_help(error: Exception) -> bool:
    """Whether it only says that a command was called without arguments: its help was printed."""
    return type(error).__name__ == "NoArgsIsHelpError"


def usage_sentence(error: Exception) -> str:
    """Return the error as one sentence with the command and how to see what it takes."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "chatpipe"
    message = " ".join(error.format_message().split())  # type: ignore[attr-defined]
    for pattern, words in _IN_OUR_WORDS:
        message = re.sub(pattern, words, message)
    sentence = f"{command}: {message[:1].lower()}{message[1:].removesuffix('.')}"
    return sentence if sentence.endswith("?") else f"{sentence}; see {command} --help."
