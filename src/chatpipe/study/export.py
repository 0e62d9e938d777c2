"""Copies of artifacts where people look for them: reports/NAME, an adapter directory; and a report
in another language."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from chatpipe.config.schema import Variant
from chatpipe.config.yaml_files import to_yaml
from chatpipe.errors import ConfigError
from chatpipe.report import read_report, render_html, render_markdown
from chatpipe.sources.local_paths import source_directories
from chatpipe.store.artifact import Artifact
from chatpipe.store.disk_errors import disk_errors
from chatpipe.store.manifest import RECORD
from chatpipe.store.new_directory import new_directory
from chatpipe.store.paths import home
from chatpipe.utils.atomic_writes import write_atomically
from chatpipe.utils.texts import Language


def report_directory(name: str) -> Path:
    """Where people find the report of that study or variant."""
    return home() / "reports" / name


def export_report(report: Artifact, name: str) -> Path:
    """Copy a report to `<home>/reports/<name>/`, replacing an older one file by file; what is there
    already is left alone. A Chinese one beside the older one is made anew."""
    target = report_directory(name)
    with disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        for source in report.path.glob("report.*"):
            content, copy = source.read_bytes(), target / source.name
            if not (copy.is_file() and copy.read_bytes() == content):
                write_atomically(copy, content)
    if translation(target, "zh").is_file():
        translate_report(target, "zh")
    return target


def translation(directory: Path, language: Language) -> Path:
    """Where the page of a report in that language is."""
    suffix = "" if language == "en" else f".{language}"
    return directory / f"report{suffix}.html"


def translate_report(directory: Path, language: Language) -> Path:
    """Write the page, and the Markdown, of the report in that directory in another language; return
    the page's path."""
    report = read_report(directory)
    page = translation(directory, language)
    with disk_errors(page):
        write_atomically(page, render_html(report, language).encode())
        write_atomically(page.with_suffix(".md"), render_markdown(report, language).encode())
    return page


def saved_variant(name: str) -> Path:
    """Where the settings of a run without a file of its own are kept."""
    return report_directory(name) / f"{name}.yaml"


def saved_names() -> list[str]:
    """Names of the runs whose settings are kept."""
    files = report_directory("").glob("*/*.yaml")
    return sorted(file.stem for file in files if file.stem == file.parent.name)


def export_variant(variant: Variant) -> Path:
    """Write `<home>/reports/<name>/<name>.yaml`, so that what was asked for without a file can
    be run, asked and chatted with again."""
    target = saved_variant(variant.name)
    text = to_yaml(variant.model_dump(mode="json"))
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, text.encode())
    return target


def check_target(target: Path, variant: Variant) -> None:
    """ConfigError where `target` lies in a directory that is read as a source."""
    for directory in source_directories(variant):
        if target.resolve().is_relative_to(directory):
            raise ConfigError(
                [f"{target}: lies in {directory}, which is a source; name a place outside of it."]
            )


def export_directory(
    source: Path, target: Path, finish: Callable[[Path], None] | None = None
) -> None:
    """Copy an artifact, and have `finish` change the copy; the target, which may be an empty
    directory, appears complete or not at all."""
    with new_directory(target) as partial:
        ignored = shutil.ignore_patterns(RECORD)
        shutil.copytree(source, partial, ignore=ignored, dirs_exist_ok=True)
        if finish:
            finish(partial)
        if target.is_dir():
            target.rmdir()  # the caller made sure that it is empty
