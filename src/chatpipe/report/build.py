"""Builds report.json, .md, .html, .csv and .parquet from the artifacts of a study."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from chatpipe import report as contract
from chatpipe.config.schema import AUTO, Evaluation, Variant
from chatpipe.data.columns import format_note
from chatpipe.data.own_heldout import HoldOut
from chatpipe.evaluation.metrics import METRICS
from chatpipe.evaluation.perplexity import bits_per_byte, interval
from chatpipe.evaluation.reply_bytes import ReplyBytes
from chatpipe.evaluation.row_scores import (
    RowScores,
    ScoreReader,
    groups_by_tokens,
)
from chatpipe.report.configurations import configurations, describe
from chatpipe.report.contamination import contamination_notes
from chatpipe.report.differences import differences_from_bases, set_name
from chatpipe.report.figures_table import write_figures
from chatpipe.report.manifests import manifests
from chatpipe.report.measured import Measured
from chatpipe.report.settings import settings
from chatpipe.report.task_scores import task_scores
from chatpipe.report.template_gains import template_gains
from chatpipe.report.verdicts import compare_configurations
from chatpipe.store.artifact import Artifact, Request, recorded_manifest
from chatpipe.utils.unique import unique_by

TRAINING_FIGURES = (
    "wall_s",
    "trained_tokens",
    "tokens_per_s",
    "peak_memory_bytes",
    "optimizer_steps",
    "trainable_parameters",
    "rows_trained",
    "rows_left_out",
    "rows_cut",
    "device",
    "scored_tokens",
)


class MakeReport(Request):
    """The only step whose key has names in it: renaming a variant rebuilds only the report."""

    kind: ClassVar[str] = "report"
    version: ClassVar[int] = 16
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
    sets = _heldout_sets(models, request.heldout)
    reader = ScoreReader()
    differences, notes = differences_from_bases(models, sets, reader)
    groups = configurations(models)
    compared = dict(vars(compare_configurations(groups, models, sets, reader)))
    tasks, task_notes = task_scores(models)
    warnings = [
        note for artifact in request.examples.values() for note in artifact.details()["warnings"]
    ] + _formats(request)
    contaminated = contamination_notes(models, request.heldout)
    described = [_model(model) for model in models]
    adapted = [model for model in described if not (model.is_base or model.elsewhere)]
    return contract.Report(
        study=request.study,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        models=described,
        heldout=[
            contract.HeldoutSet(name=set_name(parts), parts=list(parts), rows=len(replies))
            for parts, replies in sets.items()
        ],
        scores=_score_cells(models, sets, reader),
        differences=differences,
        answers=list(itertools.chain.from_iterable(map(panel_answers, models))),
        accounts=_accounts(request),
        notes=[
            *_import_notes(described),
            *warnings,
            *request.notes,
            *contaminated,
            *compared.pop("notes"),
            *notes,
            *task_notes,
        ],
        settings={m.name: settings(m.variant) for m in models if m.adapter},
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
        tokenizers=_tokenizers(models, reader),
        template_gains=list(template_gains(models, sets, reader)),
        configurations=list(describe(groups)),
        **compared,
        missing=list(request.missing),
        unfinished=list(request.unfinished),
        manifests=list(manifests(models, request.examples, request.heldout)),
        task_scores=tasks,
        ratings=request.ratings,
    )


def figures(
    models: Sequence[Measured], heldout: Mapping[str, Artifact]
) -> list[contract.ScoreCell]:
    """Return every metric of every model on every held-out set, and on the unions trained on.

    heldout: data set -> its held-out rows.
    """
    return _score_cells(models, _heldout_sets(models, heldout), ScoreReader())


def _score_cells(
    models: Sequence[Measured], sets: Mapping[tuple[str, ...], ReplyBytes], reader: ScoreReader
) -> list[contract.ScoreCell]:
    return [
        cell
        for model in models
        for parts, replies in sets.items()
        for cell in _cells(model, parts, replies, reader)
    ]


def _heldout_sets(
    models: Sequence[Measured], heldout: Mapping[str, Artifact]
) -> dict[tuple[str, ...], ReplyBytes]:
    """Return the bytes of the replies of each data set's held-out set, of those of one's own, and
    of the unions that variants were trained on.

    Two unions of the same parts in another order are one.
    """
    unions = [tuple(d.name for d in m.variant.datasets) for m in models if m.adapter]
    singles = [(name,) for union in unions for name in union]
    own = [(name,) for name in heldout]
    sets = unique_by([*singles, *own, *sorted(unions, key=len)], frozenset)
    return {parts: ReplyBytes.read(heldout, parts) for parts in sets}


def _cells(
    model: Measured, parts: tuple[str, ...], replies: ReplyBytes, reader: ScoreReader
) -> list[contract.ScoreCell]:
    """Return the model's figures on a set of rows, for each metric that has rows."""
    evaluation = model.variant.evaluation
    is_elsewhere = model.variant.imported is not None and model.adapter is not None
    trained_here = model.adapter and not is_elsewhere
    trained_on = {dataset.name for dataset in model.variant.datasets} if trained_here else set()
    cells = []
    for name, metric in METRICS.items():
        rows = reader.rows(model.scores, parts, metric.labels)
        if not len(rows):
            continue
        value = interval(
            metric.measure, rows.nats, rows.tokens, evaluation.bootstrap_samples, evaluation.seed
        )
        cells.append(
            contract.ScoreCell(
                model=model.name,
                heldout=set_name(parts),
                metric=name,
                value=value.value,
                low=value.low,
                high=value.high,
                rows=len(rows),
                tokens=int(rows.tokens.sum()),
                nats=float(rows.nats.sum()),
                seen_in_training=None
                if is_elsewhere
                else reader.count_in_training(model.corpus, rows.ids),
                own=set(parts) <= trained_on,
                left_out=len(replies) - len(rows),
                bits_per_byte=_bits(rows, replies, evaluation) if name == "perplexity" else None,
            )
        )
    return cells


def _bits(rows: RowScores, replies: ReplyBytes, evaluation: Evaluation) -> contract.BitsPerByte:
    reply_bytes = replies.of(rows.ids)
    value = interval(
        bits_per_byte, rows.nats, reply_bytes, evaluation.bootstrap_samples, evaluation.seed
    )
    return contract.BitsPerByte(**vars(value), bytes=int(reply_bytes.sum()))


def _tokenizers(models: Sequence[Measured], reader: ScoreReader) -> list[list[str]]:
    """The bases, grouped by how many tokens they cut the replies into; nothing where all are
    alike.

    A base in its own chat template only for comparison is left out: it may end a reply with other
    tokens, but its tokenizer is among the others.
    """
    compared = {model.own_template_base for model in models} - {
        model.base_model for model in models if model.adapter
    }
    bases = unique_by(
        (model for model in models if model.name not in compared), lambda model: model.base_model
    )
    groups = groups_by_tokens(
        {
            model.base_model: reader.rows(model.scores, tuple(model.scores), "response")
            for model in bases
        }
    )
    return groups if len(groups) > 1 else []


def _shared(mappings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the items that all mappings have."""
    first = mappings[0] if mappings else {}
    return {
        key: value
        for key, value in first.items()
        if all(key in other and other[key] == value for other in mappings)
    }


def _model(model: Measured) -> contract.Model:
    details = model.adapter.details() if model.adapter else {}
    elsewhere = _elsewhere(model, details)
    return contract.Model(
        name=model.name,
        base_model=model.base_model,
        is_base=model.adapter is None,
        datasets=[d.name for d in model.variant.datasets]
        if model.adapter and not elsewhere
        else [],
        adapter_digest=model.adapter.digest if model.adapter else None,
        loss_history=[contract.LossPoint(**point) for point in details.get("loss_history", [])],
        epochs=details.get("epochs"),
        versions=details.get("versions", {}),
        measured_on=model.generations.details().get("device"),
        generation=model.variant.generation.model_dump(),
        prompt_template=model.variant.prompt_template.name,
        own_template_base=model.own_template_base,
        elsewhere=elsewhere,
        **{name: details.get(name) for name in TRAINING_FIGURES},
    )


def _elsewhere(model: Measured, details: Mapping[str, Any]) -> contract.TrainedElsewhere | None:
    """Return what is known of an adapter that was trained elsewhere."""
    imported = model.variant.imported
    if imported is None or model.adapter is None:
        return None
    return contract.TrainedElsewhere(
        heldout=[dataset.name for dataset in model.variant.datasets],
        trained_on=imported.trained_on,
        base_named=details.get("base_named"),
        notes=details.get("notes", []),
    )


def _import_notes(models: Sequence[contract.Model]) -> list[str]:
    """Return what was noticed when adapters that were trained elsewhere were imported."""
    return [f"{m.name}: {note}" for m in models if m.elsewhere for note in m.elsewhere.notes]


def panel_answers(model: Measured) -> list[contract.Answer]:
    """Return the model's answers to the panel, then to prompts of each data set's held-out rows."""
    return [
        contract.Answer(model=model.name, dataset=dataset, **answer)
        for dataset, artifact in [(None, model.generations), *model.row_answers.items()]
        for answer in json.loads((artifact.path / "answers.json").read_text("utf-8"))
    ]


def _formats(request: MakeReport) -> list[str]:
    """Return a sentence for each data set whose format was found by its columns."""
    datasets = {d.name: d for model in request.models for d in model.variant.read_datasets}
    return [
        format_note(name, recorded_manifest(artifact)["asked"]["format"])
        for name, artifact in request.examples.items()
        if name in datasets and datasets[name].format == AUTO
    ]


def _accounts(request: MakeReport) -> list[contract.RowAccountRow]:
    rows = [
        contract.RowAccountRow(name=name, step="normalize", **artifact.details()["account"])
        for name, artifact in request.examples.items()
    ]
    corpora = {
        _corpus_name(model.variant): model.corpus for model in request.models if model.corpus
    }
    own = {
        f"{name} (held out)": artifact
        for name, artifact in request.heldout.items()
        if artifact.kind == HoldOut.kind
    }
    return rows + [
        contract.RowAccountRow(name=name, step="merge", **artifact.details()["account"])
        for name, artifact in [*corpora.items(), *own.items()]
    ]


def _corpus_name(variant: Variant) -> str:
    """Name the rows that a variant is trained on by all that decides them."""
    share = f", {100 * variant.data_share:g} %" if variant.data_share < 1 else ""
    near = ", without near-duplicates" if variant.dedup == "near" else ""
    return f"{set_name(d.name for d in variant.datasets)} ({variant.split.method}{share}{near})"
