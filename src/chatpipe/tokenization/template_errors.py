"""What a chat template (Jinja) that fails says of it, in one line."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

from chatpipe.utils.sentences import one_line, shortened


def template_fault(error: Exception) -> str:
    """The line of the template, unless the template itself refuses (`raise_exception`), and the
    error's first words: the same for all rows that fail alike."""
    from jinja2 import TemplateError

    text = shortened(one_line(error)) or type(error).__name__
    line = None if type(error) is TemplateError else next(_lines(error), None)
    return text if line is None else f"line {line}: {text}"


def _lines(error: Exception) -> Iterator[int]:
    """Lines of the template where the error was raised, the innermost first."""
    if isinstance(line := getattr(error, "lineno", None), int):
        yield line
    # Jinja has its templates' own lines in tracebacks, under this name of a file.
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == "<template>" and frame.lineno is not None:
            yield frame.lineno
