"""The answers of a study's models to prompts of a file, which are then rated."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from chatpipe.config.prompt_schema import Prompt
from chatpipe.config.schema import Variant
from chatpipe.generation.ask import Ask
from chatpipe.generation.ask_batch import AskBatch
from chatpipe.rating.pairs import Model
from chatpipe.report import Answer, Report
from chatpipe.runtime.worker import SharedWorker
from chatpipe.store.artifact import Artifact
from chatpipe.store.store import store
from chatpipe.study.lookup import LookUp
from chatpipe.study.recipe import Recipe
from chatpipe.study.study_model import StudyModel

TOGETHER = 16  # prompts of an artifact: what is lost where the command is ended

OnProgress = Callable[[int, int], None]


def answers_to(
    report: Report, variants: Sequence[Variant], prompts: Sequence[Prompt], on_progress: OnProgress
) -> tuple[dict[str, Model], list[Answer]]:
    """Return the models of a report and their answers to the prompts, which are generated unless
    they are stored.

    A base in its own chat template only for comparison is left out.

    Args:
        on_progress: Gets how many of the steps are done, and how many there are.
    """
    models = _study_models(report, variants)
    parts = [tuple(prompts[at : at + TOGETHER]) for at in range(0, len(prompts), TOGETHER)]
    rounds = [[_ask(model, part) for model in models] for part in parts]
    answers: list[Answer] = []
    worker = SharedWorker()
    with worker.keep_alive():
        for done, asks in enumerate(rounds):
            for place, (model, ask) in enumerate(zip(models, asks, strict=True)):
                on_progress(done * len(models) + place, len(rounds) * len(models))
                answers += _answers(model.name, _answered(ask, asks[place + 1 :], worker))
    return {model.name: _rated(model) for model in models}, answers


def _study_models(report: Report, variants: Sequence[Variant]) -> list[StudyModel]:
    """Return the bases and the variants that are in the report."""
    names = {model.name for model in report.models}
    bases = Recipe(variants, LookUp(report.study)).base_models()
    present = [variant for variant in variants if variant.name in names]
    tuned = [
        model
        for variant in present
        for model in Recipe([variant], LookUp(variant.name)).finetuned_models()
    ]
    return [*(model for model in bases if model.name in names), *tuned]


def _ask(model: StudyModel, prompts: tuple[Prompt, ...]) -> Ask:
    variant = model.variant.model_copy(update={"panel": prompts})
    return Ask.of(variant, model.ref, is_asked_raw=False)


def _answered(ask: Ask, others: Sequence[Ask], worker: SharedWorker) -> Artifact:
    """Return the answers to an Ask, which may be generated in the same batches as others."""

    def build(into: Path) -> dict[str, Any]:
        batch = AskBatch.of(ask, others)
        return worker.build(batch, into, lambda _: None, lambda _: None)

    return store().get_or_build(ask, build)


def _answers(model: str, artifact: Artifact) -> Iterator[Answer]:
    for answer in json.loads((artifact.path / "answers.json").read_text("utf-8")):
        yield Answer(model=model, **answer)


def _rated(model: StudyModel) -> Model:
    adapter = model.ref.adapter
    return Model(model.name, adapter.digest if adapter else model.base_name)
