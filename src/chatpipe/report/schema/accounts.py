"""What the steps did with the rows of the data sets."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from chatpipe.report.schema.base import Contract


class TurnAccountRow(Contract):
    """Turns of conversations, system texts among them: read; kept, as a part of an example; and the
    assistant's among those that are kept."""

    read: int
    kept: int
    replies: int


class SharedWords(Contract):
    """How many texts share a run of words with training rows. heldout: the data set whose held-out
    rows they are; None: they are the prompts of the panel."""

    heldout: str | None
    texts: int
    sharing: int


class Contamination(Contract):
    """Held-out rows and prompts that share `words` words in a row with the rows that these models
    were trained on. They are scored like the others."""

    models: list[str]
    words: int
    counts: list[SharedWords]


class RowAccountRow(Contract):
    """What one step did with its rows: read = kept + dropped; flagged: kept but counted. turns:
    those of the rows, where these are conversations."""

    name: str
    step: Literal["normalize", "merge"]
    read: int
    kept: int
    dropped: dict[str, int]
    flagged: dict[str, int]
    turns: TurnAccountRow | None = None

    @model_validator(mode="after")
    def _every_row_is_accounted_for(self) -> Self:
        dropped = sum(self.dropped.values())
        if self.read != self.kept + dropped:
            raise ValueError(
                f"row account {self.name} ({self.step}): read {self.read} rows, "
                f"but kept {self.kept} + dropped {dropped} = {self.kept + dropped}"
            )
        return self
