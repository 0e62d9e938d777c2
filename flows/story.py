"""The story that both flows tell: plan → download → normalize → merge → fine-tune → score →
ask → report.

Every line asks for an artifact; one that the store already has costs milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from chatpipe.artifacts import Artifact
from chatpipe.config import Dataset, Split, Variant
from chatpipe.corpus import Merge, Normalize
from chatpipe.export import export_report, export_variant
from chatpipe.finetuning import Finetune
from chatpipe.generation import Ask
from chatpipe.report import read_report
from chatpipe.reporting import MakeReport, Measured
from chatpipe.run_names import SEPARATOR
from chatpipe.scoring import Score
from chatpipe.sources import FetchDataset, FetchModel
from flows.entering import check_home
from flows.gpu_steps import AskedStep
from flows.placement import Placement
from tasks import showing, steps


def study_story(study: str, variants: Sequence[Variant], gpu: Placement) -> Artifact:
    """The report of these variants and their bases."""
    check_home()
    gpu.plan(variants)
    examples, heldout = heldout_sets(variants)
    bases = [base_model(variant) for variant in _one_per_base(variants)]
    tuned = fine_tuned(variants, bases, examples, gpu)
    models = measured([*bases, *tuned], heldout, gpu)
    report = steps.make_report(MakeReport(study=study, models=tuple(models), examples=examples))
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
    adapter: Artifact | None = None
    corpus: Artifact | None = None

    @property
    def name(self) -> str:
        """What the report calls it."""
        return self.variant.name if self.adapter else base_name(self.variant)

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
    """(examples, held-out rows) of every data set that the variants name."""
    datasets = {d.name: (d, v.split) for v in variants for d in v.datasets}
    examples = {name: _examples(dataset) for name, (dataset, _) in datasets.items()}
    heldout = {
        name: steps.merge(Merge(examples=(examples[name],), split=_by_hash(split)), name)
        for name, (_, split) in datasets.items()
    }
    return examples, heldout


def base_model(variant: Variant) -> Model:
    """The variant's base as it was published."""
    base = steps.download_base(FetchModel.of(variant.base_model), base_name(variant))
    return Model(variant, base)


def fine_tuned(
    variants: Sequence[Variant],
    bases: Sequence[Model],
    examples: Mapping[str, Artifact],
    gpu: Placement,
) -> list[Model]:
    """Every variant's adapter on its base, in the variants' order."""
    by_base = {_base_key(model.variant): model.base for model in bases}
    corpora = {variant.name: _corpus(variant, examples) for variant in variants}
    requests = {
        variant.name: Finetune.of(variant, by_base[_base_key(variant)], corpora[variant.name])
        for variant in variants
    }
    gpu.build_ahead([(name, [AskedStep.of(asked, name)]) for name, asked in requests.items()])
    adapters = {name: steps.finetune_adapter(asked, name) for name, asked in requests.items()}
    return [Model(v, by_base[_base_key(v)], adapters[v.name], corpora[v.name]) for v in variants]


def measured(
    models: Sequence[Model],
    heldout: Mapping[str, Artifact],
    gpu: Placement,
    others: Sequence[Model] = (),
) -> list[Measured]:
    """Score every model on every held-out set, and ask it the panel; the others are measured after
    them, in the same process."""
    gpu.build_ahead([(f"measure {model.name}", _steps(model, heldout)) for model in models])
    # Base by base, so that each is loaded once; the given order is kept in what comes out.
    by_base = sorted(enumerate(models), key=lambda item: _base_key(item[1].variant))
    with steps.MEASURING.kept():
        asked = steps.apart([model.asked() for model in [*models, *others]])
        found = {place: _measured(model, heldout, asked) for place, model in by_base}
    return [found[place] for place in range(len(models))]


def base_name(variant: Variant) -> str:
    """What the report calls the variant's base."""
    return variant.base_model.repo.rstrip("/").rpartition("/")[2]


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
        base_model=base_name(model.variant),
        variant=model.variant,
        adapter=model.adapter,
        corpus=model.corpus,
        scores=scores,
        generations=steps.ask(model.asked(), model.name, asked),
    )


def _base_key(variant: Variant) -> str:
    return variant.base_model.model_dump_json()


def _one_per_base(variants: Iterable[Variant]) -> list[Variant]:
    return list({_base_key(v): v for v in reversed(list(variants))}.values())[::-1]


def _by_hash(split: Split) -> Split:
    """The held-out rows of a data set are the same whether or not a variant trains on them."""
    return split.model_copy(update={"method": "hash"})
