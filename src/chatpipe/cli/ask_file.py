"""`chatpipe ask --file`: a file of prompts answered by a variant, or by all variants of a study."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from chatpipe.errors import ConfigError
from chatpipe.generation.capacity import AT_ONCE
from chatpipe.utils.quantities import count_of, in_time
from chatpipe.utils.visible_text import visible_line

if TYPE_CHECKING:
    from chatpipe.generation.answer_file import AnswerFile
    from chatpipe.generation.ask_file import FileAsk
    from chatpipe.generation.prompt_file import PromptRow

REPORT_EVERY_S = 5


@dataclass(frozen=True)
class FileOptions:
    """What the command was given: the file of prompts, the file of answers, `--set`, and generation
    settings, None where the variant's are used."""

    file: Path
    out: Path | None
    overrides: Sequence[str]
    generation: Mapping[str, float | None]


def setting_changes(generation: Mapping[str, float | None]) -> list[str]:
    """Return the generation settings that an option changes, as values of `--set`."""
    return [f"generation.{key}={value}" for key, value in generation.items() if value is not None]


def answer_file(name: str, options: FileOptions) -> None:
    """Append to --out the answers that it lacks, model by model, each in the file's order."""
    if options.out is None:
        raise ConfigError(["--file: needs --out, the file that the answers are written to."])
    if options.out.exists() and options.file.exists() and options.out.samefile(options.file):
        raise ConfigError([f"--out {options.out}: is the file of prompts; name another file."])
    from chatpipe.generation.answer_file import ANSWER_KEYS, open_answers
    from chatpipe.generation.prompt_file import read_prompts

    rows = read_prompts(options.file, ANSWER_KEYS)
    asks = _asks(name, options, rows)
    ids = [ask.prompt_ids(options.file) for ask in asks]
    with open_answers(options.out) as answers:
        done = answers.count([line for ask in asks for line in ask.expected()])
        if done:
            typer.echo(f"{options.out} has {count_of(done, 'answer')} already.", err=True)
        for place, (ask, prompt_ids) in enumerate(zip(asks, ids, strict=True)):
            first = min(max(0, done - place * len(rows)), len(rows))
            if first < len(rows):
                _append(answers, ask, prompt_ids, first)
    typer.echo(f"answers: {visible_line(str(options.out))}")


def _append(answers: AnswerFile, ask: FileAsk, ids: Sequence[list[int]], first: int) -> None:
    """Write the model's answers from that row on, and say every few seconds how far it is."""
    started = shown = time.monotonic()
    done, total = first, len(ids)
    for lines in ask.answers(ids, first):
        answers.append(lines)
        done += len(lines)
        if done < total and time.monotonic() - shown < REPORT_EVERY_S:
            continue
        shown = time.monotonic()
        end = time_left(total - done, done - first, shown - started)
        typer.echo(f"{ask.name}: {done:,} of {count_of(total, 'prompt')} answered{end}", err=True)


def time_left(left: int, answered: int, seconds: float) -> str:
    """Return in words how long the prompts that are left take, where so many were answered in so
    many seconds; nothing before a batch was answered, as those beside the first one to end have had
    most of the time."""
    if not left or answered < AT_ONCE:
        return ""
    return f", {in_time(left * seconds / answered)} left"


def _asks(name: str, options: FileOptions, rows: Sequence[PromptRow]) -> list[FileAsk]:
    """Return the prompts for the variant, or for each variant of the study; all have been run."""
    from chatpipe.generation.ask_file import FileAsk
    from chatpipe.runtime.environment import prepare
    from chatpipe.store.store import store
    from chatpipe.study.lookup import find_model, needs_run_of
    from chatpipe.study.studies import is_study, load_variants

    changed = load_variants(name, [*options.overrides, *setting_changes(options.generation)])
    # Without these changes: they do not name another run, and the adapter is the same.
    variants = load_variants(name, options.overrides)
    with needs_run_of(name if is_study(name) else None, variants):
        models = [find_model(variant) for variant in variants]
    for model in models:
        for artifact in model.artifacts():
            store().fetch(artifact)
    prepare()
    settings = [variant.generation for variant in changed]
    parts = zip(variants, models, settings, strict=True)
    return [FileAsk(variant, model, generation, rows) for variant, model, generation in parts]
