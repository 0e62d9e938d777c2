"""The models of a report: how each was trained, and what is known of one trained elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chatpipe import report as contract
from chatpipe.report.measured import Measured

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


def described_model(model: Measured) -> contract.Model:
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


def import_notes(models: Sequence[contract.Model]) -> list[str]:
    """Return what was noticed when adapters that were trained elsewhere were imported."""
    return [f"{m.name}: {note}" for m in models if m.elsewhere for note in m.elsewhere.notes]
