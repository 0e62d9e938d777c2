"""Ratings as they are stored: appended to `<home>/ratings/STUDY/`, never changed.

An entry has the texts that were rated, so that it means the same after a model was trained again.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from chatpipe.store.parquet_log import append_rows, files, read_file
from chatpipe.store.paths import home

Verdict = Literal["a", "b", "tie", "both_bad"]
Kind = Literal["person", "model"]
Entries = list["Entry"]

_TEXT = pa.string()
_NUMBER = pa.int8()
SCHEMA = pa.schema(
    [
        pa.field("record", _TEXT, nullable=False),
        pa.field("id", _TEXT, nullable=False),
        pa.field("at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("rater", _TEXT, nullable=False),
        pa.field("kind", _TEXT, nullable=False),
        pa.field("pair", _TEXT, nullable=False),
        pa.field("prompt", _TEXT, nullable=False),
        *(pa.field(name, _TEXT, nullable=False) for name in ("model_a", "model_b")),
        *(pa.field(name, _TEXT, nullable=False) for name in ("identity_a", "identity_b")),
        *(pa.field(name, _TEXT, nullable=False) for name in ("system", "history")),
        *(pa.field(name, _TEXT, nullable=False) for name in ("instruction", "input")),
        *(pa.field(name, _TEXT, nullable=False) for name in ("answer_a", "answer_b")),
        *(pa.field(name, _TEXT) for name in ("verdict", "verdict_first", "verdict_swapped")),
        pa.field("correct_a", _NUMBER),
        pa.field("correct_b", _NUMBER),
        pa.field("remark", _TEXT, nullable=False),
        pa.field("undoes", _TEXT),
        pa.field("settings", _TEXT),
    ]
)


class Entry(BaseModel):
    """A rating, the undoing of one, or a judge's failure. a, b: as the answers were shown, first
    and second.

    identity_a, identity_b: the digest of the adapter; of a base, its name. history: earlier turns
    as JSON. verdict_first, verdict_swapped: a judge's verdicts with the answers in this order and
    in the other one, both in the names of this one. correct_a, correct_b: 1 to 5. remark: a
    person's; a judge's reply, or why there is none. undoes: the id of the rating. settings: of a
    judge, the endpoint, model and prompt as JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    record: Literal["rated", "undone", "failed"] = "rated"
    id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    rater: str
    kind: Kind = "person"
    pair: str
    prompt: str
    model_a: str
    model_b: str
    identity_a: str
    identity_b: str
    system: str
    history: str
    instruction: str
    input: str
    answer_a: str
    answer_b: str
    verdict: Verdict | None = None
    verdict_first: Verdict | None = None
    verdict_swapped: Verdict | None = None
    correct_a: int | None = Field(None, ge=1, le=5)
    correct_b: int | None = Field(None, ge=1, le=5)
    remark: str = ""
    undoes: str | None = None
    settings: str | None = None

    @property
    def models(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """(name, identity) of both models."""
        return (self.model_a, self.identity_a), (self.model_b, self.identity_b)

    @property
    def answers(self) -> tuple[str, str]:
        return self.answer_a, self.answer_b

    @property
    def judge(self) -> tuple[tuple[str, object], ...]:
        """What tells a judge from another one of the same name; nothing of a person. Before
        judges had names of their own, a judge's name was its model's."""
        if self.settings is None:
            return ()
        return tuple(sorted({"model": self.rater, **json.loads(self.settings)}.items()))

    def undone(self) -> Entry:
        """Return the entry that takes this rating back."""
        values = self.model_dump(exclude={"id", "at", "record"})
        return Entry(**{**values, "record": "undone", "undoes": self.id})


class RatingLog:
    """The entries of a study; those of other processes are seen, too."""

    def __init__(self, study: str) -> None:
        self.folder = ratings_folder(study)
        self._read: dict[Path, Entries] = {}

    def append(self, entry: Entry) -> None:
        """Store an entry as a file of its own."""
        append_rows(self.folder, [entry.model_dump()], SCHEMA)

    def entries(self) -> Entries:
        """Return all entries, the oldest first; ArtifactError names a damaged file."""
        for file in files(self.folder):
            if file not in self._read:
                self._read[file] = [Entry(**row) for row in read_file(file).to_pylist()]
        every = (entry for of_file in self._read.values() for entry in of_file)
        return sorted(every, key=lambda entry: (entry.at, entry.id))


def ratings_folder(study: str) -> Path:
    """Return the directory of a study's ratings."""
    return home() / "ratings" / study


def valid_ratings(entries: Iterable[Entry]) -> Entries:
    """Return the newest rating of every rater and pair that was not taken back; entries are given
    the oldest first. Two judges of one name are two raters."""
    ratings: dict[tuple[object, ...], Entry] = {}
    for entry in entries:
        key = (entry.kind, entry.rater, entry.judge, entry.pair)
        if entry.record == "rated":
            ratings.pop(key, None)  # the newest one is the last
            ratings[key] = entry
        elif entry.record == "undone" and key in ratings and ratings[key].id == entry.undoes:
            del ratings[key]
    return list(ratings.values())


def failures(entries: Sequence[Entry]) -> Entries:
    """Return the newest failure of every judge and pair that was not rated since."""
    failed: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        if entry.kind == "model":
            failed.pop((entry.rater, entry.pair), None)
            if entry.record == "failed":
                failed[entry.rater, entry.pair] = entry
    return list(failed.values())
