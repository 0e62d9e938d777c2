"""The commands `ask` and `chat`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from chatpipe.cli.ask_file import FileOptions, answer_file, setting_changes
from chatpipe.cli.errors import exit_on_error
from chatpipe.cli.options import Overrides, VariantName, VariantOrStudy, check_is_number
from chatpipe.errors import ConfigError
from chatpipe.utils.visible_text import visible

DEFAULT = "Default: the variant's setting."
MOST_SHOWN = 8  # variants of a study
# Bounds are those of the settings, so that a fault names the option and not a setting.
MaxNewTokens = Annotated[int | None, typer.Option(min=1, max=8192, help=DEFAULT)]
Temperature = Annotated[
    float | None,
    typer.Option(min=0, max=5, callback=check_is_number, help=f"0 is greedy. {DEFAULT}"),
]
TopP = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        max=1,
        callback=check_is_number,
        help=f"Draw from the likeliest tokens that have this probability together. {DEFAULT}",
    ),
]
System = Annotated[
    str | None, typer.Option(help="Text before the conversation, as its system turn.")
]
Seed = Annotated[
    int | None, typer.Option(min=0, max=2**31 - 1, help=f"Seed of the sampling. {DEFAULT}")
]


def ask(
    variant: VariantOrStudy,
    prompt: Annotated[str | None, typer.Argument(help="The instruction.")] = None,
    input_text: Annotated[
        str, typer.Option("--input", help="Text that the instruction is about.")
    ] = "",
    system: System = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    overrides: Overrides = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="Answer all prompts of this JSONL or CSV file; of a study, by every variant."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="With --file: the answers, JSONL; the same command goes on with it."),
    ] = None,
) -> None:
    """Ask a variant one question, or those of a file, in the template of its training."""
    with exit_on_error():
        generation = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
        }
        if file is not None:
            given = {"a prompt": prompt, "--input": input_text or None, "--system": system}
            for option, value in given.items():
                if value is not None:
                    raise ConfigError([f"--file: goes without {option}; write it into the file."])
            answer_file(variant, FileOptions(file, out, overrides or [], generation))
            return
        if out is not None:
            raise ConfigError(["--out: goes with --file; name the file of prompts."])
        if prompt is None or not prompt.strip():
            raise ConfigError(["ask: the prompt is empty; write it, or name a file with --file."])
        _check_is_no_study(variant)
        conversation, settings = _conversation(variant, overrides or [], generation, system)
        for piece in conversation.reply(prompt, settings, input_text):
            typer.echo(visible(piece), nl=False)
        typer.echo()


def chat(
    variant: VariantName,
    system: System = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    overrides: Overrides = None,
) -> None:
    """Chat with a variant; an empty line or Ctrl-D ends the chat, Ctrl-C stops a reply, or ends the
    chat where no reply is being written."""
    with exit_on_error():
        generation = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
        }
        conversation, settings = _conversation(variant, overrides or [], generation, system)
        _ = conversation.model  # loads it before the first question
        typer.echo(
            f"{variant}: an empty line, Ctrl-D or Ctrl-C ends the chat; Ctrl-C in a reply stops it "
            "and no more."
        )
        for line in _lines():
            replies = conversation.reply(line, settings)
            try:
                for piece in replies:
                    typer.echo(visible(piece), nl=False)
            except KeyboardInterrupt:
                replies.close()
                typer.echo(" …", nl=False)
            typer.echo()


def _check_is_no_study(name: str) -> None:
    """ConfigError where that is a study's name or file: one prompt is for one model."""
    from chatpipe.study.studies import is_study, load_study

    if is_study(name):
        variants = load_study(name).variants
        shown = ", ".join((*variants[:MOST_SHOWN], *(["…"] if variants[MOST_SHOWN:] else [])))
        raise ConfigError(
            [
                f"{name}: is a study; name one of its variants ({shown}), or have all of them "
                "answer a file of prompts: --file prompts.jsonl --out answers.jsonl."
            ]
        )


def _lines() -> Iterator[str]:
    while sys.stdin is not None:  # None: the process has no standard input
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            typer.echo()
            return
        if not line:
            return
        yield line


def _conversation(
    name: str,
    overrides: list[str],
    generation: dict[str, float | None],
    system: str | None,
) -> tuple[Any, Any]:
    """Return a conversation with a variant, and its generation settings merged with these."""
    if system is not None and not system.strip():
        raise ConfigError(["--system: the text is empty; leave the option out."])
    from chatpipe.runtime.environment import prepare
    from chatpipe.store.store import store
    from chatpipe.study.loading import load_variant
    from chatpipe.study.lookup import find_model

    settings = load_variant(name, [*overrides, *setting_changes(generation)]).generation
    # Without these changes: they do not name another run, and the adapter is the same.
    variant = load_variant(name, overrides)
    model = find_model(variant)
    for artifact in model.artifacts():
        store().fetch(artifact)
    prepare()

    from chatpipe.generation.chat import ChatSession

    conversation = ChatSession(
        model.base.path, model.adapter_path, variant.quantization, variant.prompt_template, system
    )
    return conversation, settings
