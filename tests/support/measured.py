"""Models of a study as a report gets them, with likelihoods that a test chooses."""

from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from chatpipe.config.schema import Variant
from chatpipe.report.measured import Measured
from chatpipe.store.artifact import Artifact, Request
from chatpipe.store.store import store

Rows = dict[str, tuple[float, int]]  # id -> (nats, tokens)


class Tables(Request):
    """An artifact of Parquet files with those columns, and of those JSON files."""

    kind: ClassVar[str] = "scores"
    version: ClassVar[int] = 0

    tables: dict[str, dict[str, list[Any]]] = Field({})
    texts: dict[str, str] = Field({})
    details: dict[str, Any] = Field({})

    def build(self, into: Path) -> dict[str, Any]:
        for name, columns in self.tables.items():
            pq.write_table(pa.table(columns), into / name)
        for name, text in self.texts.items():
            (into / name).write_text(text, "utf-8")
        return self.details


def scores(rows: Rows) -> Artifact:
    """Those nats and tokens by both countings, in the order given."""
    columns = {
        "id": [*rows, *rows],
        "labels": ["all"] * len(rows) + ["response"] * len(rows),
        "tokens": [tokens for _, tokens in rows.values()] * 2,
        "nats": [nats for nats, _ in rows.values()] * 2,
    }
    return store().get_or_build(Tables(tables={"nats.parquet": columns}))


def heldout(ids: list[str], replies: dict[str, str] | None = None) -> Artifact:
    """Held-out rows with those ids, and those replies (id -> text) or one that is the same."""
    outputs = [(replies or {}).get(row, "a reply") for row in ids]
    return store().get_or_build(Tables(tables={"heldout.parquet": {"id": ids, "output": outputs}}))


def corpus(ids: list[str]) -> Artifact:
    """A corpus of which the training split has those ids."""
    account = {"account": {"read": len(ids), "kept": len(ids), "dropped": {}, "flagged": {}}}
    return store().get_or_build(Tables(tables={"train.parquet": {"id": ids}}, details=account))


def model(
    name: str, variant: Variant, rows: dict[str, Rows], adapter: dict[str, Any] | None = None
) -> Measured:
    """That variant's model with those rows of each data set; without details of an adapter, its
    base, which must be named `base_model` of others."""
    answers = store().get_or_build(
        Tables(texts={"answers.json": "[]"}, details={"device": "a CPU"})
    )
    return Measured(
        name=name,
        base_model="base" if adapter is not None else name,
        variant=variant,
        adapter=None if adapter is None else store().get_or_build(Tables(details=adapter)),
        corpus=None if adapter is None else corpus(["other"]),
        scores={data: scores(of_set) for data, of_set in rows.items()},
        generations=answers,
        paper_reported=variant.paper_reported if adapter is not None else None,
    )
