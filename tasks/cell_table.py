"""The table of a study's models in the dashboard, updated while the run goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from uuid import UUID

from prefect.artifacts import create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from tasks.showing import artifact_key

Cell = str | float
UPDATE_EVERY_S = 2.0  # a hundred stored models come within seconds


class CellTable:
    """A Prefect table artifact with a row for each model of a study. It never fails a run."""

    def __init__(self, study: str, names: Iterable[str]) -> None:
        self._rows: dict[str, dict[str, Cell]] = {name: {"state": "waiting"} for name in names}
        self._artifact: UUID | None = None
        self._updated = time.monotonic()
        with suppress(Exception):
            created = create_table_artifact(
                self.rows(),
                key=artifact_key(study, "cells"),
                description="Every model of the study, updated when one of its steps ends",
            )
            self._artifact = created if isinstance(created, UUID) else None

    def update(self, name: str, **cells: Cell) -> None:
        """Set cells in the row of that model; a model without a row gets one at the end."""
        self._rows.setdefault(name, {}).update(cells)
        if time.monotonic() - self._updated > UPDATE_EVERY_S:
            self.show()

    def show(self) -> None:
        """Send the table as it is to the dashboard."""
        if self._artifact is None:
            return
        self._updated = time.monotonic()
        with suppress(Exception), get_client(sync_client=True) as client:
            client.update_artifact(self._artifact, ArtifactUpdate(data=json.dumps(self.rows())))

    def rows(self) -> list[dict[str, Cell]]:
        """Return the table. Every row has the same columns, as the dashboard shows those of the
        first row."""
        columns = list(dict.fromkeys(column for row in self._rows.values() for column in row))
        return [
            {"model": name, **{column: row.get(column, "") for column in columns}}
            for name, row in self._rows.items()
        ]
