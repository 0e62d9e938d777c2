"""deployments/automations/*.yaml, strictly: Prefect passes over keys it does not know, and takes
its own defaults instead."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from prefect.events.schemas.automations import AutomationCore
from pydantic import BaseModel, RootModel, ValidationError

from chatpipe.config.validation import fault_sentences
from chatpipe.config.yaml_files import read_mapping
from chatpipe.errors import ConfigError
from chatpipe.study.loading import deployments_dir


def load_automations() -> list[AutomationCore]:
    """All automations; ConfigError has the faults of all files."""
    found, faults = [], []
    for path in sorted((deployments_dir() / "automations").glob("*.yaml")):
        try:
            found.append(load_automation(path))
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    return found


def load_automation(path: Path) -> AutomationCore:
    """The automation of that file."""
    raw = read_mapping(path)
    try:
        made = AutomationCore.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(fault_sentences(error, str(path), AutomationCore)) from None
    unknown = _unknown(raw, made, "")
    if unknown:
        raise ConfigError([f"{path}: {said}" for said in unknown])
    return made


def _unknown(raw: Any, made: Any, key: str) -> list[str]:
    """A sentence for each key of `raw` that the model made of it does not have."""
    if isinstance(raw, list) and isinstance(made, list | tuple):
        pairs = enumerate(zip(raw, made, strict=False))
        return [said for n, (old, new) in pairs for said in _unknown(old, new, f"{key}{n}.")]
    if not isinstance(raw, dict) or not isinstance(made, BaseModel) or isinstance(made, RootModel):
        return []
    known = {*type(made).model_fields, "type"}
    said = []
    for name, value in raw.items():
        if name in known:
            said += _unknown(value, getattr(made, name, None), f"{key}{name}.")
        else:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(known))}."
            said.append(f"{key}{name}: unknown key; {hint}")
    return said
