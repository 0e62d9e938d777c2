"""Read deployments/automations/*.yaml strictly: Prefect ignores unknown keys and uses defaults.

A notification names its block as `block: TYPE/NAME`, which the server's id then stands for.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from pydantic import BaseModel, RootModel, ValidationError

from chatpipe.config.validation import fault_sentences
from chatpipe.config.yaml_files import read_mapping
from chatpipe.errors import ConfigError
from chatpipe.study.files import deployments_dir

FindBlock = Callable[[str], UUID]  # "type/name" -> the block's id; ConfigError without a file


def load_automations(find_block: FindBlock) -> list[AutomationCore]:
    """Return all automations; ConfigError has the faults of all files."""
    automations, faults = [], []
    for path in sorted((deployments_dir() / "automations").glob("*.yaml")):
        try:
            automations.append(load_automation(path, find_block))
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    return automations


def load_automation(path: Path, find_block: FindBlock) -> AutomationCore:
    """Return the automation of a file."""
    raw = _with_block_ids(read_mapping(path), path, find_block)
    try:
        automation = AutomationCore.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(fault_sentences(error, str(path), AutomationCore)) from None
    unknown = _unknown_keys(raw, automation, "")
    if unknown:
        raise ConfigError([f"{path}: {fault}" for fault in unknown])
    return automation


def find_notification_block(client: SyncPrefectClient, name: str) -> UUID:
    """Return the id of the notification block TYPE/NAME on the server; ConfigError without it."""
    block_type, _, block_name = name.partition("/")
    try:
        block = client.read_block_document_by_name(block_name, block_type, include_secrets=False)
    except ObjectNotFound:
        raise ConfigError(
            [
                f"the server has no block {name}; make it in the dashboard (Blocks, +) and deploy "
                "again, or name another one: `prefect block ls` prints them in the column Slug."
            ]
        ) from None
    if block.block_schema is None or "notify" not in block.block_schema.capabilities:
        raise ConfigError([f"{name} is no notification block."])
    return block.id


def _with_block_ids(raw: dict[str, Any], path: Path, find_block: FindBlock) -> dict[str, Any]:
    """Return the mapping with `block_document_id` where a notification has `block`."""
    actions = raw.get("actions")
    if not isinstance(actions, list):
        return raw
    replaced = []
    for number, action in enumerate(actions):
        is_named = isinstance(action, dict) and "block" in action
        if is_named and action.get("type") == "send-notification":
            others = {key: value for key, value in action.items() if key != "block"}
            try:
                action = {**others, "block_document_id": str(find_block(str(action["block"])))}
            except ConfigError as error:
                key = f"{path}: actions.{number}.block"
                raise ConfigError([f"{key}: {fault}" for fault in error.faults]) from None
        replaced.append(action)
    return {**raw, "actions": replaced}


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
