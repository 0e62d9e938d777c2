"""Sentences on how far the figures of a report can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from chatpipe.report import formatting as show
from chatpipe.report.findings import template_sentences
from chatpipe.report.schema import FEW_ROWS, JsonScalar, Report
from chatpipe.report.verdict_text import verdict_sentences
from chatpipe.tokenization.encoder import RESPONSE_CUT_AWAY, TOO_LONG

MOST_NAMED = 6  # variants; of more, only the smallest and the largest value is named
OF_THE_BUDGET = ("training.epochs", "training.global_batch_size")
OF_LENGTH = (TOO_LONG, RESPONSE_CUT_AWAY)  # reasons for which a row is left out
OF_THE_INTERVALS = ("evaluation.bootstrap_samples", "evaluation.seed")
# Figures with different values of these are of other texts or other rows.
OF_THE_FIGURES = ("base_model", "prompt_template", "evaluation.max_length")

Values = Mapping[str, JsonScalar]


def statements(report: Report) -> list[str]:
    """Return what a reader has to know before comparing two figures, one sentence each."""
    return [
        *verdict_sentences(report),
        *template_sentences(report),
        *_training_budget(report),
        *_training_rows(report),
        *_settings(report),
        *_tokenizers(report),
        *_few_rows(report),
        *_unequal_rows(report),
    ]


def _training_budget(report: Report) -> Iterator[str]:
    """Say in which respects all variants had the same training budget."""
    if len(report.variants) < 2:
        return
    budget: dict[str, Values] = {
        "epochs": {m.name: m.epochs or _setting(report, m.name, 0) for m in report.variants},
        "optimizer steps": {m.name: m.optimizer_steps for m in report.variants},
        "rows per optimizer step": {m.name: _setting(report, m.name, 1) for m in report.variants},
        "scored tokens": {m.name: m.scored_tokens for m in report.variants},
    }
    complete = {key: values for key, values in budget.items() if None not in values.values()}
    same = [f"{key} ({_one(v)})" for key, v in complete.items() if len(set(v.values())) == 1]
    unlike = [f"{key} ({_each(v)})" for key, v in complete.items() if len(set(v.values())) > 1]
    if same and unlike:
        yield (
            f"All variants were trained with the same {_listed(same)}, but not with the same "
            f"{_listed(unlike)}."
        )
    elif same:
        yield f"All variants were trained with the same {_listed(same)}."
    elif unlike:
        yield f"The variants were not trained with the same {_listed(unlike)}."


def _training_rows(report: Report) -> Iterator[str]:
    """Say how many training rows were left out or cut."""
    parts = []
    for model in report.variants:
        reasons = model.rows_left_out or {}
        left_out = sum(rows for reason, rows in reasons.items() if reason in OF_LENGTH)
        cut = model.rows_cut or 0
        counts = [f"{left_out:,} left out"] * bool(left_out) + [f"{cut:,} cut"] * bool(cut)
        if counts:
            parts.append(f"{model.name} {_listed(counts)}")
    if parts:
        yield f"Training rows longer than training.max_length: {', '.join(parts)}."
    others = [
        f"{model.name} {rows:,} ({reason})"
        for model in report.variants
        for reason, rows in (model.rows_left_out or {}).items()
        if reason not in OF_LENGTH
    ]
    if others:
        yield f"Training rows that the template cannot write: {', '.join(others)}."


def _settings(report: Report) -> Iterator[str]:
    keys = dict.fromkeys(_section(key) for key in report.differing_settings())
    others = [key for key in keys if key not in ("datasets", *OF_THE_BUDGET, *OF_THE_INTERVALS)]
    if others:
        yield f"Settings that differ between variants: {', '.join(others)}."
    figures = [key for key in keys if key in OF_THE_FIGURES]
    if figures:
        yield (
            f"Variants that differ in {' or '.join(figures)} can be compared with their own base, "
            "which was measured in the same way, but not with each other."
        )
    intervals = [key for key in keys if key in OF_THE_INTERVALS]
    if intervals:
        yield (
            f"Intervals were computed with different {' and '.join(intervals)}; those of a base, "
            "with the settings of its first variant."
        )


def _tokenizers(report: Report) -> Iterator[str]:
    if report.tokenizers:
        groups = "; ".join(", ".join(group) for group in report.tokenizers)
        yield (
            f"The bases have different tokenizers ({groups}): compare perplexities only within "
            "one of these groups, and bits per byte between them."
        )


def _few_rows(report: Report) -> Iterator[str]:
    rows = {heldout.name: heldout.rows for heldout in report.heldout if heldout.rows < FEW_ROWS}
    for cell in report.scores:
        if cell.rows < FEW_ROWS and cell.heldout not in rows:
            rows[f"{cell.model} on {cell.heldout}"] = cell.rows
    if rows:
        counts = ", ".join(f"{name} {count}" for name, count in rows.items())
        yield (
            f"Fewer than {FEW_ROWS} held-out rows ({counts}): intervals over so few are too "
            "narrow; hold out a larger share (split.heldout) or add rows."
        )


def _unequal_rows(report: Report) -> Iterator[str]:
    for heldout in report.heldout:
        cells = [c for c in report.scores if c.heldout == heldout.name and c.metric == "perplexity"]
        counts: dict[str, JsonScalar] = {cell.model: cell.rows for cell in cells}
        if len(set(counts.values())) > 1:
            yield (
                f"On {heldout.name}, not all models were scored on the same rows, because some "
                f"were left out ({show.LEFT_OUT}): {_each(counts)}."
            )


def _setting(report: Report, model: str, index: int) -> JsonScalar:
    return report.settings.get(model, {}).get(OF_THE_BUDGET[index])


def _section(key: str) -> str:
    """Return the section of a key whose section counts as one setting, else the key."""
    section = key.partition(".")[0]
    return section if section in (*OF_THE_FIGURES, "panel") else key


def _each(values: Values) -> str:
    if len(values) <= MOST_NAMED:
        return ", ".join(f"{name} {_number(value)}" for name, value in values.items())
    numbers = [value for value in values.values() if isinstance(value, int | float)]
    return f"{_number(min(numbers))} to {_number(max(numbers))}"


def _one(values: Values) -> str:
    return _number(next(iter(values.values())))


def _number(value: JsonScalar) -> str:
    return f"{value:,}" if isinstance(value, int) else show.setting(value)


def _listed(parts: list[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
