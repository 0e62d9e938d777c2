"""A study's configurations and their cost, what is missing, and where figures come from."""

from __future__ import annotations

from typing import Literal

from chatpipe.report.schema.base import Contract, JsonScalar


class Cost(Contract):
    """What the trainings of a configuration took.

    trainings: how many there were. wall_s, trained_tokens: mean seconds and mean tokens of one.
    peak_memory_bytes: of the largest. None where it was not recorded. Adapters that were trained
    elsewhere have no trainings here.
    """

    trainings: int
    wall_s: float | None
    trained_tokens: float | None
    peak_memory_bytes: int | None


class Configuration(Contract):
    """Fine-tuned models that differ by the seed of training alone.

    models: their names. seeds: theirs, in the same order. settings: dotted setting → value, of the
    settings in which the study's configurations differ.
    """

    name: str
    models: list[str]
    seeds: list[int | None]
    settings: dict[str, JsonScalar]
    cost: Cost


class MissingCell(Contract):
    """A variant or base of the study without figures. reason: in a sentence."""

    name: str
    reason: str


class Manifest(Contract):
    """An artifact that a model's figures come from; its manifest is STORE/kind/key/artifact.json.

    model: None for the rows, which all models share. step: what built it. data: the data set that
    it is of, if it is of one.
    """

    model: str | None
    step: Literal["fine-tune", "import", "score", "generate", "merge", "normalize", "held-out rows"]
    data: str | None
    kind: str
    key: str

    @property
    def path(self) -> str:
        """The manifest's file, in the store."""
        return f"{self.kind}/{self.key}/artifact.json"
