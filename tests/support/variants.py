"""The settings of a variant that a tiny model trains, scores and answers in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ALPACA = {"name": "a", "path": "a.jsonl"}
DIALOGUES = {"name": "d", "path": "d.jsonl", "format": "dialogues"}


def small_variant(model: Path, *datasets: dict[str, str], **sections: Any) -> dict[str, Any]:
    """Return the content of the variant's YAML file; `sections` replace the defaults here."""
    return {
        "base_model": {"repo": str(model)},
        "datasets": list(datasets),
        "split": {"heldout": 0.3},
        "training": {"epochs": 1, "learning_rate": 0.01},
        "evaluation": {"bootstrap_samples": 100, "panel_rows": 0},
        "generation": {"max_new_tokens": 4},
        **sections,
    }


def write_settings(path: Path, settings: dict[str, Any]) -> Path:
    """Write the settings as YAML; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(settings, allow_unicode=True), "utf-8")
    return path
