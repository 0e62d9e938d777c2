"""The command `report`: a stored report's page, in English or Chinese."""

from __future__ import annotations

from pathlib import Path

import typer

from chatpipe.cli.errors import exit_on_error
from chatpipe.cli.options import Lang, VariantOrStudy
from chatpipe.errors import ConfigError
from chatpipe.utils.visible_text import visible_line

REPORT = "report.json"


def report(name: VariantOrStudy, lang: Lang = "en") -> None:
    """Print where the report of a variant or a study is; --lang zh writes it in Chinese first."""
    with exit_on_error():
        from chatpipe.study.export import translate_report, translation

        directory = _directory(name)
        page = translation(directory, lang) if lang == "en" else translate_report(directory, lang)
        typer.echo(f"report: {visible_line(str(page))}")


def _directory(name: str) -> Path:
    """Return the directory of the report; ConfigError where there is none."""
    from chatpipe.study.export import report_directory
    from chatpipe.study.studies import is_study, load_study, load_variants

    directory = report_directory(name)
    if (directory / REPORT).is_file():
        return directory
    study = is_study(name)
    report_name = load_study(name).name if study else load_variants(name, must_exist=False)[0].name
    directory = report_directory(report_name)
    if not (directory / REPORT).is_file():
        command = "compare" if study else "run"
        raise ConfigError([f"{name}: has no report yet; run `chatpipe {command} {name}` first."])
    return directory
