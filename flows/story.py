"""The story that both flows tell: plan → download → normalize → merge → fine-tune → score →
ask → report.

Every line asks for an artifact; one that the store already has costs milliseconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from prefect import runtime

from chatpipe.artifacts import Artifact
from chatpipe.config import Dataset, Split, Variant
from chatpipe.corpus import Merge, Normalize
from chatpipe.errors import ConfigError
from chatpipe.export import export_report
from chatpipe.finetuning import Finetune
from chatpipe.generation import Ask
from chatpipe.report import read_report
from chatpipe.reporting import MakeReport, Measured
from chatpipe.scoring import Score
from chatpipe.sources import FetchDataset, FetchModel
from tasks import preflight, showing, steps


def study_story(study: str, variants: Sequence[Variant]) -> Artifact:
    """The report of these variants and their bases."""
    check_home()
    preflight.plan(variants)
    examples, heldout = heldout_sets(variants)
    bases = {
        _base_key(v): steps.download_base(FetchModel.of(v.base_model), base_name(v))
        for v in _one_per_base(variants)
    }
    trained = [(v, *_adapter(v, bases[_base_key(v)], examples)) for v in variants]
    with steps.MEASURING.kept():
        models = [measured(v, bases[_base_key(v)], heldout) for v in _one_per_base(variants)]
        # Base by base, so that each is loaded once; the report keeps the study's order.
        tuned = {
            v.name: measured(v, bases[_base_key(v)], heldout, adapter, corpus)
            for v, adapter, corpus in sorted(trained, key=lambda item: _base_key(item[0]))
        }
    models += [tuned[v.name] for v in variants]
    report = steps.make_report(MakeReport(study=study, models=tuple(models), examples=examples))
    showing.show_report(read_report(report.path), export_report(report, study))
    return report


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


def check_home() -> None:
    """A worker runs a deployment in a directory that is removed afterwards."""
    if runtime.deployment.id and not os.environ.get("CHATPIPE_HOME"):
        raise ConfigError(["CHATPIPE_HOME: a worker's environment must say where the store is."])


def _examples(dataset: Dataset) -> Artifact:
    raw = steps.download(FetchDataset.of(dataset), dataset.name)
    return steps.normalize(Normalize.of(dataset, raw))


def _adapter(
    variant: Variant, base: Artifact, examples: dict[str, Artifact]
) -> tuple[Artifact, Artifact]:
    parts = tuple(examples[dataset.name] for dataset in variant.datasets)
    label = " + ".join(dataset.name for dataset in variant.datasets)
    corpus = steps.merge(Merge(examples=parts, split=variant.split), label)
    return steps.finetune_adapter(Finetune.of(variant, base, corpus), variant.name), corpus


def measured(
    variant: Variant,
    base: Artifact,
    heldout: dict[str, Artifact],
    adapter: Artifact | None = None,
    corpus: Artifact | None = None,
) -> Measured:
    """Score the model on every held-out set, and ask it the panel (a base raw as well)."""
    name = variant.name if adapter else base_name(variant)
    settings = (variant.prompt_template, variant.quantization, variant.evaluation)
    scores = {
        data: steps.score(Score.of((base, adapter), rows, settings), f"{name} on {data}")
        for data, rows in heldout.items()
    }
    return Measured(
        name=name,
        base_model=base_name(variant),
        variant=variant,
        adapter=adapter,
        corpus=corpus,
        scores=scores,
        generations=steps.ask(Ask.of(variant, base, adapter), name),
    )


def base_name(variant: Variant) -> str:
    """What the report calls the variant's base."""
    return variant.base_model.repo.rstrip("/").rpartition("/")[2]


def _base_key(variant: Variant) -> str:
    return variant.base_model.model_dump_json()


def _one_per_base(variants: Iterable[Variant]) -> list[Variant]:
    return list({_base_key(v): v for v in reversed(list(variants))}.values())[::-1]


def _by_hash(split: Split) -> Split:
    """The held-out rows of a data set are the same whether or not a variant trains on them."""
    return split.model_copy(update={"method": "hash"})
