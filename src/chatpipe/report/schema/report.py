"""The report: its parts, each once, and what refers to what."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from chatpipe.report.schema.accounts import Contamination, RowAccountRow
from chatpipe.report.schema.answers import Answer
from chatpipe.report.schema.base import NOT_KNOWN, Contract, JsonScalar, Metric
from chatpipe.report.schema.comparisons import (
    CostFront,
    LearningCurve,
    RankedVariant,
    Selection,
    Verdict,
)
from chatpipe.report.schema.earlier import upgrade
from chatpipe.report.schema.models import Model, PaperRow
from chatpipe.report.schema.ratings import Ratings
from chatpipe.report.schema.scores import Difference, HeldoutSet, ScoreCell, TemplateGain
from chatpipe.report.schema.study import Configuration, Manifest, MissingCell
from chatpipe.report.schema.tasks import TaskScore


class Report(Contract):
    """A study's report. created: ISO 8601 time; settings: model → dotted setting → value;
    notes: what was found odd in the data, a sentence each. generation, versions: what all models
    share of theirs. device: what they were trained on, each device once. tokenizers: the names
    of the bases in groups, each of which cuts the replies into the same numbers of tokens; empty
    where all bases do. template_gains: for the variants that have an own_template_base.
    configurations: the fine-tuned models, grouped by seed. verdicts, ranking, fronts, curves and
    selections are of configurations, one data set's held-out rows at a time; they may also name a
    base. missing: the variants of the study that have no figures. manifests: of the artifacts that
    the figures were computed from. unfinished: sentences on variants that are left for later.
    contamination: for each set of training rows."""

    schema_version: Literal[2] = 2
    study: str
    created: str
    models: list[Model]
    heldout: list[HeldoutSet]
    scores: list[ScoreCell]
    differences: list[Difference]
    answers: list[Answer]
    accounts: list[RowAccountRow]
    notes: list[str] = Field([])
    settings: dict[str, dict[str, JsonScalar]]
    generation: dict[str, JsonScalar]
    versions: dict[str, str]
    device: str
    paper: list[PaperRow] = Field([])
    tokenizers: list[list[str]] = Field([])
    verdicts: list[Verdict] = Field([])
    ranking: list[RankedVariant] = Field([])
    template_gains: list[TemplateGain] = Field([])
    task_scores: list[TaskScore] = Field([])
    configurations: list[Configuration] = Field([])
    fronts: list[CostFront] = Field([])
    curves: list[LearningCurve] = Field([])
    selections: list[Selection] = Field([])
    missing: list[MissingCell] = Field([])
    manifests: list[Manifest] = Field([])
    ratings: Ratings | None = None
    unfinished: list[str] = Field([])
    contamination: list[Contamination] = Field([])

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_versions(cls, values: Any) -> Any:
        return upgrade(values)

    @model_validator(mode="after")
    def _names_are_unique_and_known(self) -> Self:
        models = _check_unique("model", (model.name for model in self.models))
        sets = _check_unique("held-out set", (heldout.name for heldout in self.heldout))
        _check_unique("score", ((cell.model, cell.heldout, cell.metric) for cell in self.scores))
        _check_unique("difference", ((diff.model, diff.heldout) for diff in self.differences))
        _check_known("model", models, (cell.model for cell in self.scores))
        _check_known("model", models, (answer.model for answer in self.answers))
        _check_known("model", models, self.settings)
        _check_known(
            "model", models, (n for diff in self.differences for n in (diff.model, diff.base))
        )
        _check_known("held-out set", sets, (cell.heldout for cell in self.scores))
        _check_known("held-out set", sets, (diff.heldout for diff in self.differences))
        gains = self.template_gains
        _check_known("model", models, (n for g in gains for n in (g.model, g.base)))
        _check_known("model", models, (gain.own_template_base for gain in gains))
        _check_known("held-out set", sets, (gain.heldout for gain in gains))
        _check_known("model", models, (n for each in self.contamination for n in each.models))
        _check_known("model", models, (n for each in self.configurations for n in each.models))
        configurations = _check_unique("configuration", (c.name for c in self.configurations))
        ranked = (item.configuration for item in self.ranking)
        _check_known("configuration", configurations | models, ranked)
        _check_known("held-out set", sets, (item.heldout for item in self.ranking))
        return self

    @property
    def bases(self) -> list[Model]:
        """The models that nothing was trained on."""
        return [model for model in self.models if model.is_base]

    @property
    def variants(self) -> list[Model]:
        """The fine-tuned models."""
        return [model for model in self.models if not model.is_base]

    def base_of(self, variant: Model) -> Model | None:
        """The base model's own entry, where the study scored it."""
        return next((base for base in self.bases if base.base_model == variant.base_model), None)

    def score(self, model: str, heldout: str, metric: Metric = "perplexity") -> ScoreCell | None:
        """Return a figure of a model on a set, None where it was not scored."""
        key = (model, heldout, metric)
        cells = (cell for cell in self.scores if (cell.model, cell.heldout, cell.metric) == key)
        return next(cells, None)

    def difference(self, model: str, heldout: str) -> Difference | None:
        """Return a model's difference from its base on a set, None where it was not compared."""
        matches = (d for d in self.differences if (d.model, d.heldout) == (model, heldout))
        return next(matches, None)

    def configuration(self, name: str) -> Configuration | None:
        """Return the configuration of that name, None for a base."""
        return next((each for each in self.configurations if each.name == name), None)

    def manifest(self, model: str, step: str, data: str | None = None) -> Manifest | None:
        """Return what a step built for a model, None where it is not recorded."""
        key = (model, step, data)
        return next((m for m in self.manifests if (m.model, m.step, m.data) == key), None)

    def template_gain(self, model: str, heldout: str) -> TemplateGain | None:
        """Return what of a model's gain on a set is the template, None where it is not known."""
        matches = (g for g in self.template_gains if (g.model, g.heldout) == (model, heldout))
        return next(matches, None)

    def own_set(self, variant: Model) -> HeldoutSet | None:
        """Return the held-out set of exactly the variant's data sets; of one that was trained
        elsewhere, of those that it is scored on under its own name."""
        datasets = variant.elsewhere.heldout if variant.elsewhere else variant.datasets
        exact = (h for h in self.heldout if set(h.parts) == set(datasets))
        return next(exact, None)

    def paper_row(self, model: str) -> PaperRow | None:
        """Return the paper's row of that name, ignoring case."""
        rows = (row for row in self.paper if row.model.casefold() == model.casefold())
        return next(rows, None)

    def seen(self) -> list[ScoreCell]:
        """Return the figures whose rows are partly in the model's training split."""
        return [cell for cell in self.scores if cell.seen_in_training]

    def elsewhere(self) -> list[Model]:
        """Return the variants that were trained elsewhere."""
        return [model for model in self.models if model.elsewhere]

    def panel(self) -> list[list[Answer]]:
        """Return the answers grouped by prompt and form, models in the report's order."""
        order = {model.name: index for index, model in enumerate(self.models)}
        groups: dict[tuple[str, ...], list[Answer]] = {_question(a): [] for a in self.answers}
        for answer in sorted(self.answers, key=lambda answer: order[answer.model]):
            groups[_question(answer)].append(answer)
        return list(groups.values())

    def differing_settings(self) -> dict[str, dict[str, JsonScalar]]:
        """Dotted setting → variant → value, only where variants differ; unset reads as None, and
        as not known of one that was trained elsewhere."""
        return {key: row for key, row in self._setting_rows().items() if not _all_same(row)}

    def shared_settings(self) -> dict[str, JsonScalar]:
        """Dotted setting → the one value that all variants have."""
        rows = self._setting_rows().items()
        return {key: next(iter(row.values())) for key, row in rows if _all_same(row)}

    def _setting_rows(self) -> dict[str, dict[str, JsonScalar]]:
        settings = {m.name: self.settings.get(m.name, {}) for m in self.variants}
        keys = dict.fromkeys(key for values in settings.values() for key in values)
        unset = {m.name: NOT_KNOWN if m.elsewhere else None for m in self.variants}
        return {key: {n: s.get(key, unset[n]) for n, s in settings.items()} for key in keys}


def _question(answer: Answer) -> tuple[str, ...]:
    """Identify a prompt by its texts too: two variants may use one id for different texts."""
    earlier = [text for turn in answer.history for text in (turn.role, turn.content)]
    texts = (answer.instruction, answer.input, answer.system or "", *earlier)
    return (answer.dataset or "", answer.prompt_id, answer.asked, *texts)


def _all_same(row: dict[str, JsonScalar]) -> bool:
    return len({(isinstance(value, bool), value) for value in row.values()}) <= 1


def _check_unique(kind: str, names: Iterable[Hashable]) -> set[Hashable]:
    unique: set[Hashable] = set()
    for name in names:
        if name in unique:
            raise ValueError(f"{kind} {name} occurs twice in the report")
        unique.add(name)
    return unique


def _check_known(kind: str, known_names: set[Hashable], names: Iterable[str]) -> None:
    unknown = sorted(set(names) - known_names)
    if unknown:
        raise ValueError(
            f"unknown {kind} {', '.join(unknown)}; the report has {sorted(map(str, known_names))}"
        )
