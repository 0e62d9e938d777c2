"""What became of the rows of every data set: their formats, and how many each step kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chatpipe import report as contract
from chatpipe.config.schema import AUTO, Variant
from chatpipe.data.columns import format_note
from chatpipe.data.own_heldout import HoldOut
from chatpipe.report.differences import set_name
from chatpipe.report.measured import Measured
from chatpipe.store.artifact import Artifact, recorded_manifest


def format_notes(models: Sequence[Measured], examples: Mapping[str, Artifact]) -> list[str]:
    """Return a sentence for each data set whose format was found by its columns."""
    datasets = {d.name: d for model in models for d in model.variant.read_datasets}
    return [
        format_note(name, recorded_manifest(artifact)["asked"]["format"])
        for name, artifact in examples.items()
        if name in datasets and datasets[name].format == AUTO
    ]


def row_accounts(
    models: Sequence[Measured], examples: Mapping[str, Artifact], heldout: Mapping[str, Artifact]
) -> list[contract.RowAccountRow]:
    """Return how many rows each step kept and dropped: of every data set when it was normalized, of
    every corpus when it was merged, and of held-out rows of one's own."""
    rows = [
        contract.RowAccountRow(name=name, step="normalize", **artifact.details()["account"])
        for name, artifact in examples.items()
    ]
    corpora = {_corpus_name(model.variant): model.corpus for model in models if model.corpus}
    own = {
        f"{name} (held out)": artifact
        for name, artifact in heldout.items()
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
