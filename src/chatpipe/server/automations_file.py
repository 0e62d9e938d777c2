"""Read deployments/automations/*.yaml strictly: Prefect ignores unknown keys and uses defaults."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from prefect.events.schemas.automations import AutomationCore
from pydantic import BaseModel, RootModel, ValidationError

from chatpipe.config.validation import fault_sentences
from chatpipe.config.yaml_files import read_mapping
from chatpipe.errors import ConfigError
from chatpipe.study.files import deployments_dir


def load_automations() -> list[AutomationCore]:
    """Return all automations; ConfigError has the faults of all files."""
    automations, faults = [], []
    for path in sorted((deployments_dir() / "automations").glob("*.yaml")):
        try:
            automations.append(load_automation(path))
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    return automations


def load_automation(path: Path) -> AutomationCore:
    """Return the automation of a file."""
    raw = read_mapping(path)
    try:
        automation = AutomationCore.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(fault_sentences(error, str(path), AutomationCore)) from None
    unknown = _unknown_keys(raw, automation, "")
    if unknown:
        raise ConfigError([f"{path}: {fault}" for fault in unknown])
    return automation


def _unknown_keys(raw: Any, parsed: Any, key: str) -> list[str]:
    """Return a sentence for each key of `raw` that the model parsed from it does not have."""
    if isinstance(raw, list) and isinstance(parsed, list | tuple):
        pairs = enumerate(zip(raw, parsed, strict=False))
        return [fault for n, (old, new) in pairs for fault in _unknown_keys(old, new, f"{key}{n}.")]
    if (
        not isinstance(raw, dict)
        or not isinstance(parsed, BaseModel)
        or isinstance(parsed, RootModel)
    ):
        return []
    keys = {*type(parsed).model_fields, "type"}
    faults = []
    for name, value in raw.items():
        if name in keys:
            faults += _unknown_keys(value, getattr(parsed, name, None), f"{key}{name}.")
        else:
            close = difflib.get_close_matches(name, keys, 1)
            hint = (
                f"did you mean {close[0]}?" if close else f"known keys: {', '.join(sorted(keys))}."
            )
            faults.append(f"{key}{name}: unknown key; {hint}")
    return faults
