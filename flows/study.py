"""The story that both flows tell: plan → download → normalize → merge → fine-tune → score →
ask → report.

Every line asks for an artifact; one that the store already has costs milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from chatpipe.config.run_names import SEPARATOR
from chatpipe.config.schema import Dataset, Variant
from chatpipe.data.merge import Merge
from chatpipe.data.normalize import Normalize
from chatpipe.evaluation.score import Score
from chatpipe.generation.ask import Ask
from chatpipe.report import read_report
from chatpipe.report.build import MakeReport, Measured
from chatpipe.sources.fetch import FetchDataset, FetchModel
from chatpipe.store.artifact import Artifact
from chatpipe.study.base_names import base_names
from chatpipe.study.checks import check_study
from chatpipe.study.export import export_report, export_variant
from chatpipe.training.finetune import Finetune
from chatpipe.utils.unique import unique_by
from flows.gpu_steps import AskedStep
from flows.naming import check_home
from flows.placement import AskedFor, Placement
from tasks import showing, steps


def study_story(study: str, variants: Sequence[Variant], gpu: Placement) -> Artifact:
    """The report of these variants and their bases."""
    check_home()
    check_study(variants)
    gpu.plan(variants)
    examples, heldout = heldout_sets(variants)
    bases = base_models(variants)
    tuned = fine_tuned(variants, bases, examples, gpu)
    # One row for each way in which a base is measured, before all variants.
    base_rows = unique_by(bases.values(), lambda base: base.base_name)
    models = measured([*base_rows, *tuned], heldout, gpu)
    request = MakeReport(study=study, models=tuple(models), examples=examples, heldout=heldout)
    report = steps.make_report(request)
    showing.show_report(read_report(report.path), export_report(report, study))
    for variant in variants:
        if SEPARATOR in variant.name:  # no file of its own says what was run
            export_variant(variant)
    return report


@dataclass(frozen=True)
class Model:
    """What is measured: a base, or a base with the adapter that a variant made for it."""

    variant: Variant
    base: Artifact
    base_name: str
    adapter: Artifact | None = None
    corpus: Artifact | None = None

    @property
    def name(self) -> str:
        """What the report calls it."""
        return self.variant.name if self.adapter else self.base_name

    def scores(self, heldout: Mapping[str, Artifact]) -> dict[str, Score]:
        """Requests for its scores on every held-out set."""
        v = self.variant
        settings = (v.prompt_template, v.quantization, v.evaluation)
        pair = (self.base, self.adapter)
        return {data: Score.of(pair, rows, settings) for data, rows in heldout.items()}

    def asked(self) -> Ask:
        """Request for its answers to the panel (a base gets the panel raw as well)."""
        return Ask.of(self.variant, self.base, self.adapter)


def heldout_sets(
    variants: Sequence[Variant],
) -> tuple[dict[str, Artifact], dict[str, Artifact]]:
    """(examples, held-out rows) of every data set that the variants name; they have one split."""
    datasets = {d.name: (d, v.split) for v in variants for d in v.datasets}
    examples = {name: _examples(dataset) for name, (dataset, _) in datasets.items()}
    heldout = {
        name: steps.merge(Merge.held_out_of(examples[name], split), name)
        for name, (_, split) in datasets.items()
    }
    return examples, heldout


def base_models(variants: Sequence[Variant]) -> dict[str, Model]:
    """Name of a variant → its base as it was published, measured with the variant's settings."""
    names = base_names(variants)
    bases = {
        _base_key(v): steps.download_base(FetchModel.of(v.base_model), _label(v))
        for v in unique_by(variants, _base_key)
    }
    return {v.name: Model(v, bases[_base_key(v)], names[v.name]) for v in variants}


def fine_tuned(
    variants: Sequence[Variant],
    bases: Mapping[str, Model],
    examples: Mapping[str, Artifact],
    gpu: Placement,
) -> list[Model]:
    """Every variant's adapter on its base, in the variants' order."""
    corpora = {variant.name: _corpus(variant, examples) for variant in variants}
    requests = {
        variant.name: Finetune.of(variant, bases[variant.name].base, corpora[variant.name])
        for variant in variants
    }
    trainings = [(name, [AskedStep.of(request, name)]) for name, request in requests.items()]
    gpu.build_ahead(_each_once(trainings))
    adapters = {name: steps.finetune_adapter(request, name) for name, request in requests.items()}
    return [
        replace(bases[v.name], variant=v, adapter=adapters[v.name], corpus=corpora[v.name])
        for v in variants
    ]


def measured(
    models: Sequence[Model],
    heldout: Mapping[str, Artifact],
    gpu: Placement,
    others: Sequence[Model] = (),
) -> list[Measured]:
    """Score every model on every held-out set, and ask it the panel; the others are measured after
    them, in the same process."""
    gpu.build_ahead(_each_once([(f"measure {m.name}", _steps(m, heldout)) for m in models]))
    # Base by base, so that each is loaded once; the given order is kept in what comes out.
    by_base = sorted(enumerate(models), key=lambda item: _loaded_key(item[1].variant))
    with steps.MEASURING.kept():
        asked = steps.apart([model.asked() for model in [*models, *others]])
        found = {place: _measured(model, heldout, asked) for place, model in by_base}
    return [found[place] for place in range(len(models))]


def _examples(dataset: Dataset) -> Artifact:
    raw = steps.download(FetchDataset.of(dataset), dataset.name)
    return steps.normalize(Normalize.of(dataset, raw))


def _corpus(variant: Variant, examples: Mapping[str, Artifact]) -> Artifact:
    parts = tuple(examples[dataset.name] for dataset in variant.datasets)
    label = " + ".join(dataset.name for dataset in variant.datasets)
    return steps.merge(Merge(examples=parts, split=variant.split), label)


def _steps(model: Model, heldout: Mapping[str, Artifact]) -> list[AskedStep]:
    scores = model.scores(heldout).items()
    on_sets = [AskedStep.of(request, f"{model.name} on {data}") for data, request in scores]
    return [*on_sets, AskedStep.of(model.asked(), model.name)]


def _measured(model: Model, heldout: Mapping[str, Artifact], asked: Sequence[Ask]) -> Measured:
    scores = {
        data: steps.score(request, f"{model.name} on {data}")
        for data, request in model.scores(heldout).items()
    }
    return Measured(
        name=model.name,
        base_model=model.base_name,
        variant=model.variant,
        paper_reported=model.variant.paper_reported if model.adapter else None,
        adapter=model.adapter,
        corpus=model.corpus,
        scores=scores,
        generations=steps.ask(model.asked(), model.name, asked),
    )


def _each_once(runs: Sequence[AskedFor]) -> list[AskedFor]:
    """Those runs without the steps that an earlier one has: two workers would build the same."""
    keys: set[str] = set()
    remaining: list[AskedFor] = []
    for label, asked in runs:
        fresh = {step.parsed().key(): step for step in asked}
        remaining.append((label, [step for key, step in fresh.items() if key not in keys]))
        keys |= fresh.keys()
    return remaining


def _base_key(variant: Variant) -> str:
    return variant.base_model.model_dump_json()


def _loaded_key(variant: Variant) -> tuple[str, str]:
    return (_base_key(variant), variant.quantization.model_dump_json())


def _label(variant: Variant) -> str:
    return variant.base_model.repo.rstrip("/").rpartition("/")[2]
