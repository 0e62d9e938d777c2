"""All figures of a report in one table, a line each: for a spreadsheet or a data frame."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from chatpipe.report.schema import BitsPerByte, JsonScalar, Model, Report

# A line has the columns that apply to its figure.
COLUMNS = {
    "figure": pa.string(),
    "unit": pa.string(),
    "heldout": pa.string(),
    "configuration": pa.string(),
    "model": pa.string(),
    "compared_with": pa.string(),
    "value": pa.float64(),
    "low": pa.float64(),
    "high": pa.float64(),
    "rows": pa.int64(),
    "corrected_p": pa.float64(),
    "verdict": pa.string(),
}
COSTS = {
    "wall_s": "seconds",
    "trained_tokens": "tokens",
    "scored_tokens": "tokens",
    "tokens_per_s": "tokens per second",
    "peak_memory_bytes": "bytes",
    "optimizer_steps": "steps",
    "epochs": "epochs",
    "rows_trained": "rows",
}
UNITS = {"tokens": "nats per token", "bytes": "bits per byte"}

Line = dict[str, Any]


def write_figures(report: Report, folder: Path) -> None:
    """Write report.csv and report.parquet."""
    table = figures_table(report)
    csv.write_csv(table, folder / "report.csv")
    pq.write_table(table, folder / "report.parquet")


def figures_table(report: Report) -> pa.Table:
    """Return every figure, with a column for each setting that varies."""
    lines = list(_lines(report))
    columns = {
        name: pa.array([line.get(name) for line in lines], kind) for name, kind in COLUMNS.items()
    }
    return pa.table(columns | _settings(report, [line.get("configuration") for line in lines]))


def _lines(report: Report) -> Iterator[Line]:
    groups = {name: each.name for each in report.configurations for name in each.models}
    for line in (*_scores(report), *_costs(report)):
        yield {"configuration": groups.get(line["model"]), **line}
    yield from _comparisons(report)
    yield from _studied(report)
    for score in report.task_scores:
        yield {
            "figure": score.metric,
            "unit": score.source,
            "heldout": score.task,
            "compared_with": score.base,
            **_columns(score, "configuration", "value", "low", "high", "rows", "verdict"),
        }


def _scores(report: Report) -> Iterator[Line]:
    """Figures of a model on a set, and its differences from its base."""
    for cell in report.scores:
        line = _columns(cell, "model", "heldout", "value", "low", "high", "rows")
        yield {"figure": cell.metric, "unit": "perplexity", **line}
        if cell.bits_per_byte:
            yield {"figure": "bits_per_byte", **line, **_bits(cell.bits_per_byte)}
    for diff in report.differences:
        line = _columns(diff, "model", "heldout", "value", "low", "high", "rows", "verdict")
        line |= {"figure": "difference_from_base", "compared_with": diff.base}
        yield line | {"unit": "perplexity"}
        if diff.bits_per_byte:
            yield line | {"verdict": None} | _bits(diff.bits_per_byte)
    for gain in report.template_gains:
        line = _columns(gain, "model", "heldout", "rows") | {"compared_with": gain.base}
        parts = {"gain": gain.gain, "template": gain.template, "training": gain.training}
        for name, bits in parts.items():
            yield line | {"figure": f"template_gains.{name}"} | _bits(bits)


def _costs(report: Report) -> Iterator[Line]:
    for model in report.variants:
        yield from _cost(model)


def _cost(model: Model) -> Iterator[Line]:
    for name, unit in COSTS.items():
        value = getattr(model, name)
        if value is not None:
            yield {"figure": name, "unit": unit, "model": model.name, "value": value}


def _comparisons(report: Report) -> Iterator[Line]:
    """The ranking, and pairs of configurations."""
    for item in report.ranking:
        line = _columns(item, "heldout", "configuration")
        ends = _columns(item, "value", "low", "high")
        yield line | ends | {"figure": "ranking", "unit": UNITS[item.unit]}
        value = item.probability_of_best
        yield line | {"figure": "probability_of_best", "unit": "share", "value": value}
    for pair in report.verdicts:
        yield {
            "figure": "difference",
            "unit": UNITS[pair.unit],
            "configuration": pair.first,
            "compared_with": pair.second,
            **_columns(pair, "heldout", "value", "low", "high", "rows", "corrected_p", "verdict"),
        }


def _studied(report: Report) -> Iterator[Line]:
    """Learning curves and selections."""
    for curve in report.curves:
        line = _columns(curve, "heldout", "configuration") | {"rows": curve.rows_scored}
        line |= {"unit": UNITS[curve.unit]}
        changes = {"per_doubling": curve.per_doubling, "at_double": curve.at_double}
        for name, change in changes.items():
            if change:
                yield line | {"figure": name} | _columns(change, "value", "low", "high")
    for chosen in report.selections:
        yield {
            "figure": "selection",
            "unit": UNITS[chosen.unit],
            "configuration": chosen.chosen,
            **_columns(chosen, "heldout", "value", "low", "high", "rows"),
        }


def _columns(part: Any, *names: str) -> Line:
    return {name: getattr(part, name) for name in names}


def _bits(bits: BitsPerByte) -> Line:
    return {"unit": "bits per byte", "value": bits.value, "low": bits.low, "high": bits.high}


def _settings(report: Report, configurations: list[str | None]) -> dict[str, pa.Array]:
    """One column for each setting that varies: numbers where all values are, else text."""
    values = {each.name: each.settings for each in report.configurations}
    keys = report.configurations[0].settings if report.configurations else {}
    columns = {}
    for key in keys:
        of_lines = [values.get(name or "", {}).get(key) for name in configurations]
        if all(_is_number(value) for value in of_lines if value is not None):
            columns[key] = pa.array(of_lines, pa.float64())
        else:
            texts = [None if value is None else str(value) for value in of_lines]
            columns[key] = pa.array(texts, pa.string())
    return columns


def _is_number(value: JsonScalar) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
