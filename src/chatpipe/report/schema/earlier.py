"""Reports of earlier versions of the schema, read as the newest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def upgrade(values: Any) -> Any:
    """Return the values of a report of version 1 as version 2 has them; others as they are.

    Version 1 had the models of a configuration, and their seconds, in every entry of the ranking.
    What it did not record is None.
    """
    if not (isinstance(values, Mapping) and values.get("schema_version") == 1):
        return values
    ranking = values.get("ranking", [])
    bases = {model["name"] for model in values.get("models", []) if model["is_base"]}
    configurations = {
        item["configuration"]: _configuration(item)
        for item in ranking
        if item["configuration"] not in bases
    }
    return {
        **values,
        "schema_version": 2,
        "configurations": list(configurations.values()),
        "ranking": [
            {key: value for key, value in item.items() if key not in {"models", "wall_s"}}
            for item in ranking
        ],
    }


def _configuration(item: Mapping[str, Any]) -> dict[str, Any]:
    models = item["models"]
    return {
        "name": item["configuration"],
        "models": models,
        "seeds": [None] * len(models),
        "settings": {},
        "cost": {
            "trainings": len(models),
            "wall_s": item["wall_s"],
            "trained_tokens": None,
            "peak_memory_bytes": None,
        },
    }
