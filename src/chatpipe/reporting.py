"""Artifacts of a study → report.json (the contract), report.md and report.html."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from chatpipe import report as contract
from chatpipe.artifacts import Artifact, Request
from chatpipe.config import Variant
from chatpipe.metrics import METRICS
from chatpipe.metrics.perplexity import difference, interval

TRAINING_FIGURES = (
    "wall_s",
    "trained_tokens",
    "tokens_per_s",
    "peak_memory_bytes",
    "optimizer_steps",
    "trainable_parameters",
    "rows_trained",
    "device",
)


class Measured(BaseModel):
    """One model of a study with everything that was found out about it; a base has no adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    base_model: str
    variant: Variant
    adapter: Artifact | None
    corpus: Artifact | None
    scores: dict[str, Artifact]  # data set -> nats of its held-out rows
    generations: Artifact


class MakeReport(Request):
    """The one step whose key has names in it: a renamed variant rewrites the report alone."""

    kind: ClassVar[str] = "report"
    version: ClassVar[int] = 2

    study: str
    models: tuple[Measured, ...]
    examples: dict[str, Artifact]

    def build(self, into: Path) -> dict[str, Any]:
        made = build_report(self)
        (into / "report.json").write_text(made.model_dump_json(indent=1) + "\n", "utf-8")
        (into / "report.md").write_text(contract.render_markdown(made), "utf-8")
        (into / "report.html").write_text(contract.render_html(made), "utf-8")
        return {"study": self.study}


def build_report(request: MakeReport) -> contract.Report:
    """The report's contract from the artifacts; only what they hold is in it."""
    sets = _heldout_sets(request.models)
    cells, differences = [], []
    by_name = {model.name: model for model in request.models}
    for model in request.models:
        for heldout in sets:
            rows = _Rows(model, heldout)
            cells += _cells(rows)
            base = by_name.get(model.base_model)
            if model.adapter and base:
                differences.append(_difference(rows, _Rows(base, heldout)))
    return contract.Report(
        study=request.study,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        models=[_model(model) for model in request.models],
        heldout=[
            contract.HeldoutSet(
                name=_set_name(s), parts=list(s), rows=_Rows(request.models[0], s).count
            )
            for s in sets
        ],
        scores=cells,
        differences=differences,
        answers=list(itertools.chain.from_iterable(map(_answers, request.models))),
        accounts=_accounts(request),
        notes=[note for made in request.examples.values() for note in made.details()["warnings"]],
        settings={m.name: settings(m.variant) for m in request.models if m.adapter},
        generation=request.models[0].variant.generation.model_dump(),
        paper=[
            contract.PaperRow(
                model=model.name, perplexity=reported.perplexity, wall_s=reported.training_s
            )
            for model in request.models
            if model.adapter and (reported := model.variant.paper_reported)
        ],
        versions=_newest(request.models).get("versions", {}),
        device=_newest(request.models).get("device", "unknown"),
    )


def figures(models: Sequence[Measured]) -> list[contract.ScoreCell]:
    """Every measure of every model on every held-out set, and on the unions trained on."""
    return [
        cell
        for model in models
        for heldout in _heldout_sets(models)
        for cell in _cells(_Rows(model, heldout))
    ]


def settings(variant: Variant) -> dict[str, contract.JsonScalar]:
    """Every setting of a variant by its dotted name; what only names or locates is left out."""
    plain = variant.model_dump(mode="json", exclude={"name", "panel", "datasets", *Variant.unkeyed})
    flat = _flat(plain)
    flat["datasets"] = ", ".join(dataset.name for dataset in variant.datasets)
    return flat


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, contract.JsonScalar]:
    flat: dict[str, contract.JsonScalar] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return flat


@dataclass(frozen=True)
class _Rows:
    """A model's nats of one held-out set: the union of its parts, a row that stands in two of
    them counted once."""

    model: Measured
    parts: tuple[str, ...]

    @cached_property
    def table(self) -> pa.Table:
        parts = [
            pq.read_table(self.model.scores[part].path / "nats.parquet") for part in self.parts
        ]
        frame = pa.concat_tables(parts).to_pandas().drop_duplicates(["id", "labels"])
        return pa.Table.from_pandas(frame.sort_values(["labels", "id"]), preserve_index=False)

    @property
    def count(self) -> int:
        return len(pc.unique(self.table["id"]))

    def labelled(self, labels: str) -> pa.Table:
        return self.table.filter(pc.equal(self.table["labels"], labels))

    def nats(self, labels: str) -> tuple[Any, Any]:
        """(nats, tokens), each (rows,), in the order of the rows' ids."""
        rows = self.labelled(labels)
        return rows["nats"].to_numpy().astype(np.float64), rows["tokens"].to_numpy().astype(
            np.float64
        )

    @property
    def seen(self) -> int:
        """How many of the rows stand in the model's own training split."""
        if self.model.corpus is None:
            return 0
        train = pq.read_table(self.model.corpus.path / "train.parquet", columns=["id"])["id"]
        ids = pc.unique(self.table["id"])
        return int(pc.sum(pc.is_in(ids, train.combine_chunks())).as_py() or 0)

    @property
    def own(self) -> bool:
        names = {dataset.name for dataset in self.model.variant.datasets}
        return self.model.adapter is not None and set(self.parts) == names


def _heldout_sets(models: Sequence[Measured]) -> list[tuple[str, ...]]:
    """Every data set's held-out rows, and the unions that variants were trained on."""
    unions = [tuple(d.name for d in m.variant.datasets) for m in models if m.adapter]
    singles = [(name,) for union in unions for name in union]
    return list(dict.fromkeys([*singles, *sorted(unions, key=len)]))


def _set_name(parts: Iterable[str]) -> str:
    return " + ".join(parts)


def _cells(rows: _Rows) -> list[contract.ScoreCell]:
    evaluation = rows.model.variant.evaluation
    seen, cells = rows.seen, []
    for name, metric in METRICS.items():
        nats, tokens = rows.nats(metric.labels)
        found = interval(
            metric.measure, nats, tokens, evaluation.bootstrap_samples, evaluation.seed
        )
        cells.append(
            contract.ScoreCell(
                model=rows.model.name,
                heldout=_set_name(rows.parts),
                metric=name,
                value=found.value,
                low=found.low,
                high=found.high,
                rows=len(nats),
                tokens=int(tokens.sum()),
                nats=float(nats.sum()),
                seen_in_training=seen,
                own=rows.own,
            )
        )
    return cells


def _difference(rows: _Rows, base: _Rows) -> contract.Difference:
    metric = METRICS["perplexity"]
    evaluation = rows.model.variant.evaluation
    nats, tokens = rows.nats(metric.labels)
    found = difference(
        metric.measure,
        (nats, base.nats(metric.labels)[0]),
        tokens,
        evaluation.bootstrap_samples,
        evaluation.seed,
    )
    return contract.Difference(
        model=rows.model.name,
        base=base.model.name,
        heldout=_set_name(rows.parts),
        value=found.value,
        low=found.low,
        high=found.high,
    )


def _model(model: Measured) -> contract.Model:
    details = model.adapter.details() if model.adapter else {}
    return contract.Model(
        name=model.name,
        base_model=model.base_model,
        is_base=model.adapter is None,
        datasets=[d.name for d in model.variant.datasets] if model.adapter else [],
        adapter_digest=model.adapter.digest if model.adapter else None,
        loss_history=[contract.LossPoint(**point) for point in details.get("loss_history", [])],
        **{name: details.get(name) for name in TRAINING_FIGURES},
    )


def _answers(model: Measured) -> list[contract.Answer]:
    answers = json.loads((model.generations.path / "answers.json").read_text("utf-8"))
    return [contract.Answer(model=model.name, **answer) for answer in answers]


def _accounts(request: MakeReport) -> list[contract.RowAccountRow]:
    rows = [
        contract.RowAccountRow(name=name, step="normalize", **artifact.details()["account"])
        for name, artifact in request.examples.items()
    ]
    corpora = {
        _set_name(d.name for d in m.variant.datasets) + f" ({m.variant.split.method})": m.corpus
        for m in request.models
        if m.corpus
    }
    return rows + [
        contract.RowAccountRow(name=name, step="merge", **artifact.details()["account"])
        for name, artifact in corpora.items()
    ]


def _newest(models: Sequence[Measured]) -> dict[str, Any]:
    return next((m.adapter.details() for m in models if m.adapter), {})
