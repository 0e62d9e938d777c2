"""Figures that are worse than accepted and wait for a person's decision."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from chatpipe.errors import ArtifactError
from chatpipe.reevaluation import history, trend
from chatpipe.reevaluation.gate import Verdict
from chatpipe.reevaluation.history import Entry
from chatpipe.report import markdown_table
from chatpipe.report.markdown import escape

COLUMNS = ("Variant", "Held-out set", "Measure", "Accepted", "Now", "Change", "Since accepted")


class PendingDecision(BaseModel):
    """What is decided on; it is kept on the server while the run is suspended.

    Attributes:
        key: Identifies the question, so that a later check of the same run asks again.
        sentences: What is worse than accepted, a sentence for each figure.
        entries: All figures of the check of each variant with one that is worse.
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    key: str = Field(default_factory=lambda: uuid.uuid4().hex)
    sentences: tuple[str, ...]
    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, verdicts: Sequence[Verdict]) -> PendingDecision:
        """Return the decision on the variants that have a figure worse than accepted."""
        regressed = [verdict for verdict in verdicts if verdict.regressions]
        return cls(
            sentences=tuple(str(r) for verdict in regressed for r in verdict.regressions),
            entries=tuple(entry for verdict in regressed for entry in verdict.entries),
        )

    def variants(self) -> list[str]:
        """Return the names of the variants that are decided on."""
        return list(dict.fromkeys(entry.variant for entry in self.entries))

    def description(self) -> str:
        """Return what the person reads beside the form: sentences and figures, as Markdown."""
        rows = [
            {column: row[column] for column in COLUMNS}
            for row in trend.rows_of(self.entries, history.last_accepted(history.read()))
        ]
        consequence = (
            "`accept` makes all these figures the ones that later checks compare with, as "
            "`chatpipe accept` does; `refuse` fails the run. To accept only some variants, refuse, "
            "then `chatpipe accept NAME`."
        )
        sentences = "\n".join(f"- {escape(sentence)}" for sentence in self.sentences)
        return "\n\n".join((sentences, markdown_table(rows), consequence))

    def accept(self) -> None:
        """Append the figures to the history as accepted.

        Raises:
            ArtifactError: The check that measured them is not in this machine's history.
        """
        recorded = {(e.checked_at, e.figure) for e in history.read() if e.record == "evaluated"}
        if any((entry.checked_at, entry.figure) not in recorded for entry in self.entries):
            raise ArtifactError(
                f"{history.folder()}: has no record of the check that this decision is about; "
                "workers that take the same runs must share CHATPIPE_HOME, or only its history. "
                "Nothing was accepted."
            )
        history.append(history.accepted(self.entries))
