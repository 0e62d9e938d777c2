"""Builds report.json, .md, .html, .csv and .parquet from the artifacts of a study."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from chatpipe import report as contract
from chatpipe.evaluation.row_scores import ScoreReader
from chatpipe.report.configurations import configurations, describe
from chatpipe.report.contamination import contamination, contamination_note
from chatpipe.report.described_models import described_model, import_notes
from chatpipe.report.differences import differences_from_bases, set_name
from chatpipe.report.figures_table import write_figures
from chatpipe.report.manifests import manifests
from chatpipe.report.measured import Measured
from chatpipe.report.row_accounts import format_notes, row_accounts
from chatpipe.report.score_cells import heldout_sets, score_cells, tokenizers
from chatpipe.report.settings import settings_of
from chatpipe.report.task_scores import task_scores
from chatpipe.report.template_gains import template_gains
from chatpipe.report.verdicts import compare_configurations
from chatpipe.store.artifact import Artifact, Request


class MakeReport(Request):
    """The only step whose key has names in it: renaming a variant rebuilds only the report."""

    kind: ClassVar[str] = "report"
    version: ClassVar[int] = 21
    hash_exclude_at_default: ClassVar[frozenset[str]] = frozenset({"ratings", "unfinished"})

    study: str
    models: tuple[Measured, ...]
    examples: dict[str, Artifact]
    heldout: dict[str, Artifact]
    notes: tuple[str, ...] = ()  # sentences on what could not be measured
    missing: tuple[contract.MissingCell, ...] = ()  # the study's models that failed
    unfinished: tuple[str, ...] = ()  # sentences on variants that are left for later
    ratings: contract.Ratings | None = None  # figures of the ratings, where there are any

    def build(self, into: Path) -> dict[str, Any]:
        report = build_report(self)
        (into / "report.json").write_text(report.model_dump_json(indent=1) + "\n", "utf-8")
        (into / "report.md").write_text(contract.render_markdown(report), "utf-8")
        write_figures(report, into)
        (into / "report.html").write_text(contract.render_html(report), "utf-8")
        return {"study": self.study}


def build_report(request: MakeReport) -> contract.Report:
    """Return the report of these artifacts."""
    models = request.models
    sets = heldout_sets(models, request.heldout)
    reader = ScoreReader()
    differences, notes = differences_from_bases(models, sets, reader)
    groups = configurations(models)
    compared = dict(vars(compare_configurations(groups, models, sets, reader)))
    tasks, task_notes = task_scores(models)
    warnings = [
        note for artifact in request.examples.values() for note in artifact.details()["warnings"]
    ] + format_notes(models, request.examples)
    contaminated = list(contamination(models, request.heldout))
    described = [described_model(model) for model in models]
    values = settings_of(models)
    adapted = [model for model in described if not (model.is_base or model.elsewhere)]
    return contract.Report(
        study=request.study,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        models=described,
        heldout=[
            contract.HeldoutSet(name=set_name(parts), parts=list(parts), rows=len(replies))
            for parts, replies in sets.items()
        ],
        scores=score_cells(models, sets, reader),
        differences=differences,
        answers=list(itertools.chain.from_iterable(map(panel_answers, models))),
        accounts=row_accounts(models, request.examples, request.heldout),
        notes=[
            *import_notes(described),
            *warnings,
            *request.notes,
            *map(contamination_note, contaminated),
            *compared.pop("notes"),
            *notes,
            *task_notes,
        ],
        settings=values,
        generation=_shared([model.generation for model in described]),
        paper=[
            contract.PaperRow(
                model=model.name, perplexity=reported.perplexity, wall_s=reported.training_s
            )
            for model in models
            if (reported := model.paper_reported)
        ],
        versions=_shared([model.versions for model in adapted]),
        device="; ".join(dict.fromkeys(m.device for m in adapted if m.device)) or "unknown",
        tokenizers=tokenizers(models, reader),
        template_gains=list(template_gains(models, sets, reader)),
        configurations=list(describe(groups, values)),
        **compared,
        missing=list(request.missing),
        unfinished=list(request.unfinished),
        manifests=list(manifests(models, request.examples, request.heldout)),
        task_scores=tasks,
        ratings=request.ratings,
        contamination=contaminated,
    )


def _shared(mappings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the items that all mappings have."""
    first = mappings[0] if mappings else {}
    return {
        key: value
        for key, value in first.items()
        if all(key in other and other[key] == value for other in mappings)
    }


def panel_answers(model: Measured) -> list[contract.Answer]:
    """Return the model's answers to the panel, then to prompts of each data set's held-out rows."""
    return [
        contract.Answer(model=model.name, dataset=dataset, **answer)
        for dataset, artifact in [(None, model.generations), *model.row_answers.items()]
        for answer in json.loads((artifact.path / "answers.json").read_text("utf-8"))
    ]
