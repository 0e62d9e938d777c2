"""The step graph of a study, from its data sets to its report.

    download ─► normalize ─► merge ─► fine-tune ─► score ─► generate ─► report
      raw        examples    corpus    adapter     scores   generations   report

Where `evaluation` says so, models also answer held-out rows (`replies`) and tasks of
lm-evaluation-harness (`task`, `task-scores`). A base that has a chat template of its own is scored
and asked in that as well, where no variant uses it and a step before (`template-check`) finds that
it can be.

`Recipe` makes each step's request from the artifacts of the steps before it. A `Resolver`
(`resolving.py`) gives the artifact of a request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from chatpipe.config.schema import Dataset, Split, Variant
from chatpipe.data.merge import Merge
from chatpipe.data.normalize import Normalize
from chatpipe.data.own_heldout import HoldOut
from chatpipe.errors import DataError
from chatpipe.evaluation.score import Score
from chatpipe.generation.ask import Ask
from chatpipe.harness.answer_length import check_answer_lengths
from chatpipe.harness.fetch_task import FetchTask, task_name
from chatpipe.models.model_ref import ModelRef
from chatpipe.report.build import MakeReport
from chatpipe.report.measured import Measured
from chatpipe.sources.base_files import has_chat_template
from chatpipe.sources.fetch import FetchModel
from chatpipe.sources.hub_splits import FindSplits, ReadSplit, is_hub_split
from chatpipe.sources.saved_rows import rows_request
from chatpipe.store.artifact import Artifact, Request
from chatpipe.study.base_names import base_names, own_template_names
from chatpipe.study.measured_ratings import ratings_of
from chatpipe.study.resolving import Job, Resolver, Step
from chatpipe.study.study_model import OwnTemplateBases, StudyModel
from chatpipe.study.template_check import (
    CheckChatTemplate,
    TemplateVerdict,
    in_own_template,
    is_own_template,
)
from chatpipe.training.finetune import Finetune
from chatpipe.training.import_adapter import ImportAdapter
from chatpipe.utils.unique import unique_by


class Recipe:
    """The steps of a study's variants."""

    def __init__(self, variants: Sequence[Variant], resolver: Resolver) -> None:
        self.variants = tuple(variants)
        self.resolver = resolver
        self._examples: dict[str, Artifact] = {}
        self._normalized: dict[str, tuple[Dataset, Normalize]] = {}
        self._bases: dict[str, Artifact] = {}
        self._corpora: dict[Merge, Artifact] = {}
        self._tasks: dict[str, Artifact] = {}

    def report(self, study: str) -> Artifact:
        """Return the report of the study: every variant, every base as it was published, and that
        base in its own chat template."""
        return self.resolver.resolve(Step(self.report_request(study), study))

    def report_request(self, study: str) -> MakeReport:
        """Return the request for the report, with every model measured."""
        datasets = self._datasets() | self._own_heldout()
        examples = {name: self.examples(dataset) for name, (dataset, _) in datasets.items()}
        heldout = self.heldout_sets()
        self._check_tasks()  # what is wrong with one is found before anything is trained
        own = self.own_template_bases(heldout)
        results = self.evaluate(self.models(own), heldout)
        return MakeReport(
            study=study,
            models=tuple(results),
            examples=examples,
            heldout=heldout,
            missing=self.resolver.missing(),
            notes=tuple(own.notes),
            ratings=ratings_of(study, results),
        )

    def models(self, own: OwnTemplateBases) -> list[StudyModel]:
        """Return every model of the report, in its order."""
        tuned = [
            replace(model, own_template_base=own.names.get(model.variant.name))
            for model in self.finetuned_models()
        ]
        return [*self.base_models(), *own.models, *tuned]

    def examples(self, dataset: Dataset) -> Artifact:
        """Return the data set's rows: downloaded, then normalized.

        DataError where variants read a data set of one name in two formats, which `auto` shows
        only when the rows are here.
        """
        name = dataset.name
        first, request = self._normalized.get(name, (None, None))
        if dataset != first:
            raw = self.raw(dataset)
            normalize = Normalize.of(dataset, raw)
            if request is None:
                self._examples[name] = self.resolver.resolve(Step(normalize, name))
                self._normalized[name] = dataset, normalize
            elif not raw.is_pending and normalize.key() != request.key():
                raise DataError(
                    f"data set {name}: is read as {request.format} by one variant and as "
                    f"{normalize.format} by another; give one of the two another name."
                )
        return self._examples[name]

    def raw(self, dataset: Dataset) -> Artifact:
        """Return the data set's rows as they are at their source."""
        request: Request
        if is_hub_split(dataset):
            request = ReadSplit.of(dataset, self.splits(dataset))
        else:
            request = rows_request(dataset)
        return self.resolver.resolve(Step(request, dataset.name))

    def splits(self, dataset: Dataset) -> Artifact:
        """Return the commit of a hub data set, and the files of its splits."""
        return self.resolver.resolve(Step(FindSplits.of(dataset), dataset.name))

    def corpus(self, variant: Variant) -> Artifact:
        """Return the rows that the variant is trained on: its data sets merged, without those held
        out."""
        examples = tuple(self.examples(dataset) for dataset in variant.datasets)
        request = Merge(
            examples=examples,
            split=variant.split,
            data_share=variant.data_share,
            dedup=variant.dedup,
        )
        if request not in self._corpora:
            label = " + ".join(dataset.name for dataset in variant.datasets)
            self._corpora[request] = self.resolver.resolve(Step(request, label))
        return self._corpora[request]

    def heldout(self, dataset: Dataset, split: Split) -> Artifact:
        """Return the data set's held-out rows, which models are scored on."""
        request = Merge.held_out_of(self.examples(dataset), split)
        return self.resolver.resolve(Step(request, dataset.name))

    def own_heldout(self, dataset: Dataset, split: Split) -> Artifact:
        """Return the rows of that data set which no variant of the study is trained on."""
        trained_on = [self.examples(trained) for trained, _ in self._datasets().values()]
        request = HoldOut(
            examples=self.examples(dataset),
            trained_on=tuple(sorted(trained_on, key=lambda artifact: artifact.key)),
            split=split,
        )
        return self.resolver.resolve(Step(request, dataset.name))

    def heldout_sets(self) -> dict[str, Artifact]:
        """Return the held-out rows of every data set that the variants name, and those of one's
        own."""
        sets = self._datasets().items()
        heldout = {name: self.heldout(dataset, split) for name, (dataset, split) in sets}
        own = {name: self.own_heldout(*pair) for name, pair in self._own_heldout().items()}
        return heldout | own

    def tasks(self) -> dict[str, Artifact]:
        """Return the tasks of all variants with their data, by the items of `evaluation.tasks`."""
        items = (task for variant in self.variants for task in variant.evaluation.tasks)
        return {task: self.task(task) for task in items}

    def task(self, task: str) -> Artifact:
        """Return what an item of `evaluation.tasks` stands for, with its data."""
        if task not in self._tasks:
            step = Step(FetchTask.of(task), task_name(task))
            self._tasks[task] = self.resolver.resolve(step)
        return self._tasks[task]

    def _check_tasks(self) -> None:
        """ConfigError where a task cannot be evaluated on the base of its variant."""
        for variant in self.variants:
            for task in variant.evaluation.tasks:
                check_answer_lengths(self.task(task), self.base(variant))

    def base(self, variant: Variant) -> Artifact:
        """Return the variant's base model as it was published."""
        base = variant.base_model
        key = base.model_dump_json()
        if key not in self._bases:
            self._bases[key] = self.resolver.resolve(Step(FetchModel.of(base), base.short_name))
        return self._bases[key]

    def base_models(self) -> list[StudyModel]:
        """Return the bases: one model for each way in which a base is evaluated."""
        return unique_by(self._variant_bases().values(), lambda model: model.base_name)

    def own_template_bases(self, heldout: Mapping[str, Artifact]) -> OwnTemplateBases:
        """Return the bases in their own chat templates, as far as these exist and can be used."""
        names = own_template_names(self.variants)
        links: dict[str, str] = {}
        models: dict[str, StudyModel] = {}
        for variant in self.variants:
            base, name = self.base(variant), names[variant.name]
            if not is_own_template(variant) and _has_chat_template(base):
                links[variant.name] = name
                models.setdefault(name, StudyModel(in_own_template(variant), name, ModelRef(base)))
        for model in self.base_models():  # those that are measured so for a variant
            models.pop(model.base_name, None)
        verdicts = {name: self._verdict(model, heldout) for name, model in models.items()}
        refused = {name for name, verdict in verdicts.items() if not (verdict and verdict.usable)}
        return OwnTemplateBases(
            names={variant: name for variant, name in links.items() if name not in refused},
            models=[model for name, model in models.items() if name not in refused],
            notes=[
                f"{models[name].variant.base_model.short_name} is not measured in its own chat "
                f"template: {verdict.fault}"
                for name, verdict in verdicts.items()
                if verdict and verdict.fault
            ],
        )

    def _verdict(
        self, model: StudyModel, heldout: Mapping[str, Artifact]
    ) -> TemplateVerdict | None:
        """Return whether the base can be measured in that model's template; None where that could
        not be checked."""
        scores = tuple(Score.of(model.variant, model.ref, rows) for rows in heldout.values())
        ask = Ask.of(model.variant, model.ref, model.is_asked_raw)
        request = CheckChatTemplate(scores=scores, ask=ask)
        artifact = self.resolver.resolve_optional(Step(request, model.name))
        return TemplateVerdict.of(artifact) if artifact else None

    def adapter_request(self, variant: Variant) -> Finetune | ImportAdapter:
        """Return the request for the variant's adapter: for its training, or for the copy of one
        that was trained elsewhere."""
        if variant.imported:
            return ImportAdapter.of(variant.imported, self.base(variant))
        return self.finetune(variant)

    def finetune(self, variant: Variant) -> Finetune:
        """Return the request for the variant's training."""
        return Finetune.of(variant, self.base(variant), self.corpus(variant))

    def import_adapter(self, variant: Variant) -> Artifact | None:
        """Return the copy of the variant's adapter that was trained elsewhere, if it is one."""
        if variant.imported is None:
            return None
        return self.resolver.resolve_optional(Step(self.adapter_request(variant), variant.name))

    def finetuned_models(self) -> list[StudyModel]:
        """Return every variant's adapter on its base, in the order of the variants."""
        bases = self._variant_bases()
        trained = [variant for variant in self.variants if not variant.imported]
        requests = {variant.name: self.finetune(variant) for variant in trained}
        jobs = [Job(name, (Step(request, name),), name) for name, request in requests.items()]
        results = dict(zip(requests, self.resolver.resolve_jobs(jobs), strict=True))
        models = []
        for variant in self.variants:
            base, name = bases[variant.name], variant.name
            if variant.imported:
                adapter, corpus = self.import_adapter(variant), None
            else:
                artifacts = results[name]
                adapter, corpus = artifacts[0] if artifacts else None, requests[name].corpus
            if adapter:
                models.append(base.with_adapter(variant, adapter, corpus))
        return models

    def evaluate(
        self, models: Sequence[StudyModel], heldout: Mapping[str, Artifact]
    ) -> list[Measured]:
        """Score every model on every held-out set, and have it answer the panel with prompts of
        held-out rows and, where the variant says so, many held-out rows and tasks."""
        tasks = self.tasks()
        jobs = [model.job(heldout, tasks) for model in models]
        results = list(zip(models, self.resolver.resolve_jobs(jobs), strict=True))
        names = {model.name for model, artifacts in results if artifacts}
        return [
            model.with_present_base(names).measured(tuple(heldout), artifacts)
            for model, artifacts in results
            if artifacts
        ]

    def _datasets(self) -> dict[str, tuple[Dataset, Split]]:
        """Map the name of each data set to it and its split; a study has one split."""
        return {d.name: (d, variant.split) for variant in self.variants for d in variant.datasets}

    def _own_heldout(self) -> dict[str, tuple[Dataset, Split]]:
        """Map the name of held-out rows of one's own to them and the split of the study."""
        return {v.heldout.name: (v.heldout, v.split) for v in self.variants if v.heldout}

    def _variant_bases(self) -> dict[str, StudyModel]:
        """Map the name of a variant to its base, evaluated with the variant's settings."""
        names = base_names(self.variants)
        return {
            variant.name: StudyModel(
                variant, names[variant.name], ModelRef(self.base(variant)), is_asked_raw=True
            )
            for variant in self.variants
        }


def _has_chat_template(base: Artifact) -> bool:
    """Whether the base's tokenizer has one; of a base that is not here, nobody knows."""
    return not base.is_pending and has_chat_template(base.path)
