"""Copies of artifacts where people look for them: reports/NAME, an adapter directory."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from chatpipe.artifacts import Artifact, home
from chatpipe.config import Variant
from chatpipe.yaml_files import to_yaml


def report_directory(name: str) -> Path:
    """Where people find the report of that study or variant."""
    return home() / "reports" / name


def export_report(report: Artifact, name: str) -> Path:
    """Copy a report to `<home>/reports/<name>/`, replacing an older one file by file."""
    target = report_directory(name)
    target.mkdir(parents=True, exist_ok=True)
    for source in report.path.glob("report.*"):
        partial = target / f".{source.name}.{uuid.uuid4().hex}"
        shutil.copyfile(source, partial)
        partial.replace(target / source.name)
    return target


def saved_variant(name: str) -> Path:
    """Where the settings of a run without a file of its own are kept."""
    return report_directory(name) / f"{name}.yaml"


def export_variant(variant: Variant) -> Path:
    """Write `<home>/reports/<name>/<name>.yaml`, so that what was asked for without a file can
    be run, asked and chatted with again."""
    target = saved_variant(variant.name)
    text = to_yaml(variant.model_dump(mode="json"))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, "utf-8")
    return target


def export_directory(source: Path, target: Path) -> None:
    """Copy a sealed artifact; the target appears whole or not at all."""
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    shutil.copytree(source, partial, ignore=shutil.ignore_patterns("prefect-record"))
    if target.exists():
        target.rmdir()  # the caller made sure that it is empty
    partial.rename(target)
