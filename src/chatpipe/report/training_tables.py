"""Tables of what the figures were made with: trainings, rows, settings, devices and versions."""

from __future__ import annotations

from collections.abc import Mapping

from chatpipe.report import formatting as show
from chatpipe.report.elsewhere import of_training
from chatpipe.report.schema import JsonScalar, Model, Report, RowAccountRow, TurnAccountRow
from chatpipe.report.tables import Row
from chatpipe.utils.texts import counted, translate

MOST_COLUMNS = 6  # of settings of variants
TRAINING = (
    "The training time is that of a whole training, with reading the base and the rows and writing "
    "the adapter; tokens per second are of its optimizer steps alone."
)


def training_rows(report: Report) -> list[Row]:
    """Return the cost of each variant's training."""
    reduced = any(model.rows_left_out or model.rows_cut for model in report.variants)
    rows = [
        {
            "Model": model.name,
            "Rows": show.count(model.rows_trained),
            **(_reduced_rows(model) if reduced else {}),
            "Epochs": show.setting(model.epochs),
            "Tokens": show.count(model.trained_tokens),
            "Steps": show.count(model.optimizer_steps),
            "Trainable parameters": show.count(model.trainable_parameters),
            "Training time": show.duration(model.wall_s),
            "Tokens per second": show.count(model.tokens_per_s),
            "Peak memory": show.gibibytes(model.peak_memory_bytes),
            "Device": show.device(model.device),
        }
        for model in report.variants
    ]
    return [
        {header: of_training(text, model) for header, text in row.items()}
        for row, model in zip(rows, report.variants, strict=True)
    ]


def account_rows(report: Report) -> list[Row]:
    """How many rows each step read, kept and dropped: read = kept + dropped."""
    has_turns = any(row.turns for row in report.accounts)
    return [
        _account(row) | ({"Turns": _turns(row.turns)} if has_turns else {})
        for row in report.accounts
    ]


def heldout_rows(report: Report) -> list[Row]:
    """The held-out sets and the data sets that each is a union of."""
    return [
        {
            "Held-out set": heldout.name,
            "Held-out rows of": ", ".join(heldout.parts),
            "Rows": show.count(heldout.rows),
        }
        for heldout in report.heldout
    ]


def setting_rows(report: Report) -> list[Row]:
    """The settings in which variants differ: a column for each variant or, of many variants, a
    column for each setting."""
    differing = report.differing_settings()
    if len(report.variants) <= max(len(differing), MOST_COLUMNS):
        return [
            {"Setting": key} | {name: show.setting(value) for name, value in values.items()}
            for key, values in differing.items()
        ]
    return [
        {"Variant": model.name}
        | {key: show.setting(values[model.name]) for key, values in differing.items()}
        for model in report.variants
        if differing
    ]


def value_rows(header: str, values: dict[str, JsonScalar] | dict[str, str]) -> list[Row]:
    """A flat mapping as a table of two columns."""
    return [{header: key, "Value": show.setting(value)} for key, value in values.items()]


def differing_rows(header: str, values: Mapping[str, Mapping[str, JsonScalar]]) -> list[Row]:
    """The keys whose values differ between models (columns)."""
    keys = dict.fromkeys(key for mapping in values.values() for key in mapping)
    return [
        {header: key} | {name: show.setting(of.get(key)) for name, of in values.items()}
        for key in keys
        if len({repr(of.get(key)) for of in values.values()}) > 1
    ]


def generation_rows(report: Report) -> list[Row]:
    """Settings of generation that differ between models."""
    return differing_rows("Setting", {m.name: m.generation for m in report.models if m.generation})


def version_rows(report: Report) -> list[Row]:
    """Versions of libraries that differ between the variants' trainings."""
    return differing_rows("Library", {m.name: m.versions for m in report.variants if m.versions})


def device_rows(report: Report) -> list[Row]:
    """The device on which each model was trained and asked, where devices differ."""
    used = {device for m in report.models for device in (m.device, m.measured_on) if device}
    if len(used) < 2:
        return []
    return [
        {
            "Model": model.name,
            "Trained on": of_training(show.device(model.device), model),
            "Asked on": show.device(model.measured_on),
        }
        for model in report.models
    ]


def _reduced_rows(model: Model) -> Row:
    return {
        "Rows left out": show.counts(model.rows_left_out or {}),
        "Rows cut": show.count(model.rows_cut),
    }


def _account(row: RowAccountRow) -> Row:
    return {
        "Data": row.name,
        "Step": translate(row.step),
        "Read": show.count(row.read),
        "Kept": show.count(row.kept),
        "Dropped": show.counts(row.dropped),
        "Kept but flagged": show.counts(row.flagged),
    }


def _turns(turns: TurnAccountRow | None) -> str:
    if turns is None:
        return show.MISSING
    return translate(
        "{kept} of {read}, {replies}",
        kept=f"{turns.kept:,}",
        read=f"{turns.read:,}",
        replies=counted(turns.replies, "reply", "replies"),
    )
