"""Whether a base has positions for the answers to a task, beside their prompts."""

from __future__ import annotations

from typing import Any

from chatpipe.errors import ConfigError
from chatpipe.models.base_checks import base_config
from chatpipe.store.artifact import Artifact

NEW_TOKENS = "new_tokens"  # a detail of a task's artifact: task -> the most tokens of an answer
# What configurations call the length of a text, in the order in which the harness looks for it.
LENGTHS = ("n_positions", "max_position_embeddings", "n_ctx")


def check_answer_lengths(task: Artifact, base: Artifact) -> None:
    """Raise ConfigError where answers may be as long as all that the base can read; whether they
    may is not known before both are stored, or of a base without a limit."""
    if task.is_pending or base.is_pending:
        return
    positions = _positions(base)
    for name, new_tokens in task.details().get(NEW_TOKENS, {}).items():
        if positions is not None and new_tokens >= positions:
            raise ConfigError([f"evaluation.tasks: {name}: {length_fault(new_tokens, positions)}"])


def length_fault(new_tokens: int, positions: int) -> str:
    """Return what is wrong with answers of so many tokens."""
    return (
        f"an answer may have {new_tokens:,} tokens, and the base was made for {positions:,}, the "
        "prompt included; name a YAML file of the task with a smaller max_gen_toks, or leave it "
        "out."
    )


def _positions(base: Artifact) -> int | None:
    config: Any = base_config(base.path).get_text_config()
    lengths = (getattr(config, name, None) for name in LENGTHS)
    return next((int(length) for length in lengths if length is not None), None)
