"""Sentences on how far the figures of a report can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from chatpipe.report import formatting as show
from chatpipe.report.configuration_marks import (
    OTHERWISE_USED,
    USED_WITH_MODEL,
    section,
    used_otherwise,
)
from chatpipe.report.findings import template_sentences
from chatpipe.report.schema import FEW_ROWS, NOT_KNOWN, JsonScalar, Report
from chatpipe.report.verdict_text import verdict_sentences
from chatpipe.tokenization.encoder import RESPONSE_CUT_AWAY, TOO_LONG
from chatpipe.utils.texts import join, translate

MOST_NAMED = 6  # variants; of more, only the smallest and the largest value is named
OF_THE_BUDGET = ("training.epochs", "training.global_batch_size")
OF_LENGTH = (TOO_LONG, RESPONSE_CUT_AWAY)  # reasons for which a row is left out
OF_THE_INTERVALS = ("evaluation.bootstrap_samples", "evaluation.seed")

Values = Mapping[str, JsonScalar]


def statements(report: Report) -> list[str]:
    """Return what a reader has to know before comparing two figures, one sentence each."""
    return [
        *verdict_sentences(report),
        *template_sentences(report),
        *_training_budget(report),
        *_training_rows(report),
        *_settings(report),
        *whole_differences(report),
        *_tokenizers(report),
        *few_rows(report),
        *_unequal_rows(report),
    ]


def _training_budget(report: Report) -> Iterator[str]:
    """Say in which respects all variants had the same training budget."""
    if len(report.variants) < 2 or report.elsewhere():  # whose budget is not known
        return
    budget: dict[str, Values] = {
        "epochs": {m.name: m.epochs or _setting(report, m.name, 0) for m in report.variants},
        "optimizer steps": {m.name: m.optimizer_steps for m in report.variants},
        "rows per optimizer step": {m.name: _setting(report, m.name, 1) for m in report.variants},
        "scored tokens": {m.name: m.scored_tokens for m in report.variants},
    }
    complete = {key: values for key, values in budget.items() if None not in values.values()}
    equal = {key: len(set(values.values())) == 1 for key, values in complete.items()}
    same = [_named(key, _one(v)) for key, v in complete.items() if equal[key]]
    unlike = [_named(key, _each(v)) for key, v in complete.items() if not equal[key]]
    if same and unlike:
        text = "All variants were trained with the same {same}, but not with the same {unlike}."
    elif same:
        text = "All variants were trained with the same {same}."
    elif unlike:
        text = "The variants were not trained with the same {unlike}."
    else:
        return
    yield translate(text, same=_listed(same), unlike=_listed(unlike))


def _training_rows(report: Report) -> Iterator[str]:
    """Say how many training rows were left out or cut."""
    parts = []
    for model in report.variants:
        reasons = model.rows_left_out or {}
        left_out = sum(rows for reason, rows in reasons.items() if reason in OF_LENGTH)
        cut = model.rows_cut or 0
        counts = [translate("{number} left out", number=f"{left_out:,}")] * bool(left_out)
        counts += [translate("{number} cut", number=f"{cut:,}")] * bool(cut)
        if counts:
            parts.append(f"{model.name} {_listed(counts)}")
    if parts:
        yield translate(
            "Training rows longer than training.max_length: {counts}.", counts=join(parts)
        )
    others = [
        _named(f"{model.name} {rows:,}", translate(reason))
        for model in report.variants
        for reason, rows in (model.rows_left_out or {}).items()
        if reason not in OF_LENGTH
    ]
    if others:
        yield translate(
            "Training rows that the template cannot write: {counts}.", counts=join(others)
        )


def _settings(report: Report) -> Iterator[str]:
    differing = report.differing_settings().items()
    keys = dict.fromkeys(
        section(key, (*USED_WITH_MODEL, "panel"))
        for key, of in differing
        if _is_known_to_differ(of)
    )
    others = [key for key in keys if key not in ("datasets", *OF_THE_BUDGET, *OF_THE_INTERVALS)]
    if others:
        yield translate("Settings that differ between variants: {names}.", names=join(others))
    intervals = [key for key in keys if key in OF_THE_INTERVALS]
    if intervals:
        yield translate(
            "Intervals were computed with different {names}; those of a base, with the settings of "
            "its first variant.",
            names=_listed(intervals),
        )


def whole_differences(report: Report) -> Iterator[str]:
    """Say what is compared where variants are used with other settings, and in which tables."""
    names = used_otherwise(report, *(model.name for model in report.variants))
    if not names:
        return
    yield translate(
        "Where two variants differ in {names} ({mark}), their difference is that of training and "
        "{names} together, on the same replies.",
        names=_listed(names),
        mark=OTHERWISE_USED,
    )
    unlike = [
        heldout.name for heldout in report.heldout if not _tables_compare(report, heldout.name)
    ]
    if unlike:
        yield translate(
            "On {sets}, variants were scored on other rows, or their replies have other numbers of "
            "tokens: the perplexities of the tables do not compare between them there; the "
            "differences of pairs do.",
            sets=join(unlike),
        )


def _tables_compare(report: Report, heldout: str) -> bool:
    """Whether the variants' perplexities are of the same rows and as many tokens."""
    cells = [report.score(model.name, heldout) for model in report.variants]
    sizes = {(cell.rows, cell.tokens) for cell in cells if cell}
    units = {item.unit for item in report.ranking if item.heldout == heldout}
    return len(sizes) < 2 and "bytes" not in units


def _tokenizers(report: Report) -> Iterator[str]:
    if report.tokenizers:
        yield translate(
            "The bases have different tokenizers ({groups}): compare perplexities only within one "
            "of these groups, and bits per byte between them.",
            groups=translate("; ").join(map(join, report.tokenizers)),
        )


def few_rows(report: Report) -> Iterator[str]:
    """Name the held-out sets of few rows."""
    rows = {heldout.name: heldout.rows for heldout in report.heldout if heldout.rows < FEW_ROWS}
    for cell in report.scores:
        if cell.rows < FEW_ROWS and cell.heldout not in rows:
            name = translate("{model} on {heldout}", model=cell.model, heldout=cell.heldout)
            rows[name] = cell.rows
    if rows:
        yield translate(
            "Fewer than {few} held-out rows ({counts}): intervals over so few are too narrow; hold "
            "out a larger share (split.heldout) or add rows.",
            few=FEW_ROWS,
            counts=join([f"{name} {count}" for name, count in rows.items()]),
        )


def _unequal_rows(report: Report) -> Iterator[str]:
    for heldout in report.heldout:
        cells = [c for c in report.scores if c.heldout == heldout.name and c.metric == "perplexity"]
        counts: dict[str, JsonScalar] = {cell.model: cell.rows for cell in cells}
        if len(set(counts.values())) > 1:
            yield translate(
                "On {heldout}, not all models were scored on the same rows, because some were left "
                "out ({mark}): {counts}.",
                heldout=heldout.name,
                mark=show.LEFT_OUT,
                counts=_each(counts),
            )


def _is_known_to_differ(values: Values) -> bool:
    """Whether variants of which the setting is known differ in it."""
    return len({repr(value) for value in values.values() if value != NOT_KNOWN}) > 1


def _setting(report: Report, model: str, index: int) -> JsonScalar:
    return report.settings.get(model, {}).get(OF_THE_BUDGET[index])


def _each(values: Values) -> str:
    if len(values) <= MOST_NAMED:
        return join([f"{name} {_number(value)}" for name, value in values.items()])
    numbers = [value for value in values.values() if isinstance(value, int | float)]
    return translate("{low} to {high}", low=_number(min(numbers)), high=_number(max(numbers)))


def _one(values: Values) -> str:
    return _number(next(iter(values.values())))


def _number(value: JsonScalar) -> str:
    return f"{value:,}" if isinstance(value, int) else show.setting(value)


def _named(name: str, values: str) -> str:
    return translate("{name} ({values})", name=translate(name), values=values)


def _listed(parts: list[str]) -> str:
    *first, last = parts or [""]
    return translate(" and ").join([join(first), last]) if first else last
