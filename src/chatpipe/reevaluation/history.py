"""The append-only history of evaluations: every figure, when it was checked, what was accepted.

It is a directory of small Parquet files, `<home>/history/` (`store/parquet_log.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from chatpipe.config.prompt_schema import PromptTemplate
from chatpipe.config.schema import Variant
from chatpipe.errors import ConfigError
from chatpipe.report.measured import Measured
from chatpipe.report.score_cells import figures
from chatpipe.store.artifact import Artifact
from chatpipe.store.parquet_log import append_rows, files, read_file
from chatpipe.store.paths import home

Figure = tuple[str, str, str]  # variant, held-out set, metric

SCHEMA = pa.schema(
    [
        pa.field("record", pa.string(), nullable=False),
        pa.field("checked_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("model_digest", pa.string(), nullable=False),
        pa.field("heldout", pa.string(), nullable=False),
        pa.field("heldout_digest", pa.string(), nullable=False),
        pa.field("answers_digest", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("seen", pa.int64()),
        pa.field("scored", pa.string(), nullable=False),
        pa.field("settings", pa.string()),
    ]
)


class Entry(BaseModel):
    """One figure at one time. record: a check, or the acceptance of a checked figure.

    low, high: 95 % bootstrap interval over rows. heldout: a data set, or a union "a + b", whose
    digests are joined alike. seen: rows of the set that are also in the model's training data;
    None where that is not known, as it was trained elsewhere.
    scored: whether the nats were computed in that check, or were there unchanged. settings: those
    that the rows were scored with, as JSON; None in what an earlier edition wrote.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    record: Literal["evaluated", "accepted"]
    checked_at: datetime
    variant: str
    model_digest: str
    heldout: str
    heldout_digest: str
    answers_digest: str
    metric: str
    value: float
    low: float | None
    high: float | None
    tokens: int
    rows: int
    seen: int | None
    scored: Literal["built", "unchanged"]
    settings: str | None = None

    @property
    def figure(self) -> Figure:
        """The variant, the held-out set and the metric."""
        return (self.variant, self.heldout, self.metric)


def folder() -> Path:
    """Return the directory of the history."""
    return home() / "history"


def append(entries: Sequence[Entry]) -> Path:
    """Write the entries as one file, complete or not at all, and return its path."""
    return append_rows(folder(), [entry.model_dump() for entry in entries], SCHEMA)


def read(variant: str | None = None) -> list[Entry]:
    """Read all entries (of one variant), oldest first; ArtifactError names a damaged file."""
    tables = [read_file(file) for file in files(folder())]
    if not tables:
        return []
    rows = pa.concat_tables(tables, promote_options="default").to_pylist()
    entries = [Entry(**row) for row in rows if variant in (None, row["variant"])]
    return sorted(entries, key=lambda entry: entry.checked_at)


def last_accepted(entries: Iterable[Entry]) -> dict[Figure, Entry]:
    """The newest acceptance of every figure; entries are given oldest first."""
    return {entry.figure: entry for entry in entries if entry.record == "accepted"}


def newest(entries: Sequence[Entry]) -> list[Entry]:
    """The figures of every variant's newest check; entries are given oldest first."""
    last = {e.variant: e.checked_at for e in entries if e.record == "evaluated"}
    return [e for e in entries if e.record == "evaluated" and e.checked_at == last.get(e.variant)]


def accepted(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries as accepted at this time."""
    now = datetime.now(UTC)
    return [entry.model_copy(update={"record": "accepted", "checked_at": now}) for entry in entries]


def accept(variant: str) -> list[Entry]:
    """Accept the figures of the variant's newest check: the gate compares with them from now on."""
    evaluated = newest(read(variant))
    if not evaluated:
        raise ConfigError(
            [f"{variant}: was never evaluated; run `chatpipe reevaluate {variant}` first."]
        )
    entries = accepted(evaluated)
    append(entries)
    return entries


def entries_of(
    models: Sequence[Measured], heldout: Mapping[str, Artifact], unchanged: Collection[str]
) -> list[Entry]:
    """Return an entry for every figure of the models.

    Args:
        models: The models with their scores and answers.
        heldout: Data set → its held-out rows.
        unchanged: Keys of the scores that were stored before this check.
    """
    by_name = {model.name: model for model in models}
    now = datetime.now(UTC)
    entries = []
    for cell in figures(models, heldout):
        model, parts = by_name[cell.model], cell.heldout.split(" + ")
        assert model.adapter is not None
        scores = [model.scores[part] for part in parts]
        entries.append(
            Entry(
                record="evaluated",
                checked_at=now,
                variant=cell.model,
                model_digest=model.adapter.digest,
                heldout=cell.heldout,
                heldout_digest=" + ".join(heldout[part].digest for part in parts),
                answers_digest=model.generations.digest,
                metric=cell.metric,
                value=cell.value,
                low=cell.low,
                high=cell.high,
                tokens=cell.tokens,
                rows=cell.rows,
                seen=cell.seen_in_training,
                scored="unchanged" if all(s.key in unchanged for s in scores) else "built",
                settings=scoring_settings(model.variant),
            )
        )
    return entries


def scoring_settings(variant: Variant) -> str:
    """Return the settings that decide which rows are scored, and as which text, as JSON."""
    template = variant.prompt_template
    if isinstance(template, PromptTemplate):
        texts = hashlib.sha256(f"{template.with_input}\0{template.without_input}".encode())
    else:
        texts = hashlib.sha256(template.model_dump_json(exclude={"name"}).encode())
    settings = {
        "prompt_template": f"{template.name} {texts.hexdigest()[:8]}",
        "evaluation.max_length": variant.evaluation.max_length,
    }
    for key, value in variant.quantization:
        settings[f"quantization.{key}"] = value
    return json.dumps(settings)
