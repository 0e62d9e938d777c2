"""What llama.cpp computes with a GGUF file, by the wheel `xllamacpp`, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from chatpipe.errors import ExportError
from chatpipe.export.llama_cpp_process import ANSWERS, DISTRIBUTIONS
from chatpipe.utils.sentences import shortened

WHEEL = "xllamacpp"
AT_ONCE = 4  # prompts


@dataclass(frozen=True)
class Question:
    """A prompt, the reply that greedy tokens are compared with, and the places in the reply before
    which the next token's distribution is wanted."""

    ids: list[int]
    reply: list[int]
    distributions_at: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Answers:
    """What llama.cpp made of it.

    differences: for every question, (place in the reply, llama.cpp's token there); compared: how
    many tokens of the reply were compared; distributions: log-probabilities (vocabulary,) by
    question and place; texts, conversations: token ids.
    """

    differences: list[list[tuple[int, int]]]
    compared: list[int]
    stops: list[str]
    distributions: dict[tuple[int, int], Any]
    texts: list[list[int]]
    conversations: list[list[int]]


def is_installed() -> bool:
    """Whether GGUF files can be loaded here."""
    return find_spec(WHEEL) is not None


def ask(
    model: Path,
    adapters: Sequence[Path] = (),
    questions: Sequence[Question] = (),
    texts: Sequence[str] = (),
    conversations: Sequence[Sequence[dict[str, str]]] = (),
) -> Answers:
    """Load a GGUF file, with LoRA files on it, and answer; ExportError where it cannot be loaded.

    conversations: messages, which the template in the file writes.
    """
    import numpy as np

    longest = max((len(q.ids) + len(q.reply) for q in questions), default=0)
    at_once = max(1, min(AT_ONCE, len(questions)))
    request = {
        "model": str(model),
        "adapters": [str(path) for path in adapters],
        "context": max(512, longest + 16),
        "at_once": at_once,
        "threads": _threads(),
        "questions": [vars(question) for question in questions],
        "texts": list(texts),
        "conversations": [list(turns) for turns in conversations],
    }
    with tempfile.TemporaryDirectory(prefix="chatpipe-") as directory:
        process = subprocess.run(
            [sys.executable, "-m", "chatpipe.export.llama_cpp_process", directory],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            errors="replace",
        )
        if process.returncode != 0:
            lines = [line for line in process.stderr.splitlines() if line.strip()]
            reason = (
                shortened(lines[-1]) if lines else f"its process ended with {process.returncode}"
            )
            raise ExportError(f"llama.cpp cannot use {model.name}: {reason}")
        answers = json.loads((Path(directory) / ANSWERS).read_text("utf-8"))
        with np.load(Path(directory) / DISTRIBUTIONS) as arrays:
            distributions = {
                (int(number), int(place)): arrays[name]
                for name in arrays.files
                for number, _, place in [name.partition("-")]
            }
    replies = answers["replies"]
    return Answers(
        differences=[[(p, t) for p, t in reply["differences"]] for reply in replies],
        compared=[reply["compared"] for reply in replies],
        stops=[reply["stop"] for reply in replies],
        distributions=distributions,
        texts=answers["texts"],
        conversations=answers["conversations"],
    )


def _threads() -> int:
    set_by_user = os.environ.get("OMP_NUM_THREADS", "")
    return int(set_by_user) if set_by_user.isdigit() else max(1, len(os.sched_getaffinity(0)))
