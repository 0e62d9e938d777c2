"""Reports read from their files, and the schema of these files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chatpipe.report.schema.report import Report


def json_schema() -> dict[str, Any]:
    """Return the report's JSON Schema, as in schema_v2.json."""
    return Report.model_json_schema(mode="serialization")


def read_report(folder: Path) -> Report:
    """Return the report of which report.json is in that folder."""
    return Report.model_validate_json((folder / "report.json").read_text("utf-8"))
