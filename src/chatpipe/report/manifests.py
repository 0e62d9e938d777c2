"""Which artifacts the figures of a report come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chatpipe import report as contract
from chatpipe.report.measured import Measured
from chatpipe.store.artifact import Artifact


def manifests(
    models: Sequence[Measured], examples: Mapping[str, Artifact], heldout: Mapping[str, Artifact]
) -> Iterator[contract.Manifest]:
    """Yield the artifacts of the rows, then those of every model."""
    for name, artifact in examples.items():
        yield _manifest(None, "normalize", name, artifact)
    for name, artifact in heldout.items():
        yield _manifest(None, "held-out rows", name, artifact)
    for model in models:
        if model.corpus:
            yield _manifest(model.name, "merge", None, model.corpus)
        if model.adapter:
            step = "import" if model.variant.imported else "fine-tune"
            yield _manifest(model.name, step, None, model.adapter)
        for name, artifact in model.scores.items():
            yield _manifest(model.name, "score", name, artifact)
        yield _manifest(model.name, "generate", None, model.generations)
        for name, artifact in model.row_answers.items():
            yield _manifest(model.name, "generate", name, artifact)


def _manifest(model: str | None, step: Any, data: str | None, of: Artifact) -> contract.Manifest:
    return contract.Manifest(model=model, step=step, data=data, kind=of.kind, key=of.key)
