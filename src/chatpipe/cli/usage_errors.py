"""Usage errors (unknown command or option, missing argument) as one sentence."""

from __future__ import annotations

import re

import typer

# By its version, typer has copies of click's classes under a private name, or uses click's own.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

_REPLACEMENTS = (
    (r"Input should be an? valid integer\b.*", "expected a whole number"),
    (r"Input should be an? valid number\b.*", "expected a number"),
    (r"Input should be an? valid boolean\b.*", "expected true or false"),
    (r"Input should be greater than or equal to (\S+?)\.?$", r"expected at least \1"),
    (r"Input should be less than or equal to (\S+?)\.?$", r"expected at most \1"),
    (r"(\S+) is not in the range (\S+)<=x<=(\S+?)\.?$", r"expected \2 to \3, found \1"),
    (r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", r"one argument too many: \1"),
    (r"Value error, ", ""),
    (r"\. Did you mean", "; did you mean"),
)


def is_call_for_help(error: Exception) -> bool:
    """Whether the command was called without arguments; its help was printed."""
    return type(error).__name__ == "NoArgsIsHelpError"


def usage_sentence(error: Exception) -> str:
    """Return the error as one sentence that names the command and its help."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "chatpipe"
    message = " ".join(error.format_message().split())  # type: ignore[attr-defined]
    for pattern, replacement in _REPLACEMENTS:
        message = re.sub(pattern, replacement, message)
    sentence = f"{command}: {message[:1].lower()}{message[1:].removesuffix('.')}"
    return sentence if sentence.endswith("?") else f"{sentence}; see {command} --help."
