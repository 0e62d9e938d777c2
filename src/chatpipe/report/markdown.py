"""The report as Markdown: for a README, a pull request or a Prefect artifact."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence

from chatpipe.report import (
    answer_text,
    comparison_tables,
    findings,
    first_lines,
    formatting,
    ratings_text,
    tables,
    task_text,
    training_tables,
    verdict_text,
)
from chatpipe.report.names import with_short_names
from chatpipe.report.notes_text import translated_note
from chatpipe.report.schema import Answer, Report
from chatpipe.utils.texts import Language, in_language, translate
from chatpipe.utils.visible_text import visible


def render_markdown(report: Report, language: Language = "en") -> str:
    """Return the whole report; text of models is escaped."""
    with in_language(language):
        return _whole(report)


def _whole(report: Report) -> str:
    parts = [
        f"# {escape(report.study)}",
        *map(escape, first_lines.first_lines(report)),
        f"{escape(formatting.moment(report.created))} · {escape(formatting.device(report.device))}",
        *_figures(report),
        *_further(report),
        *_panel(report),
        *_details(report),
    ]
    page = "\n\n".join(part for part in parts if part) + "\n"
    return with_short_names(page, report, escape)


def markdown_table(rows: Sequence[tables.Row]) -> str:
    """Return a pipe table of rows that share their headers; empty if there are no rows."""
    if not rows:
        return ""
    head, *body = [
        " | ".join(escape(cell) for cell in cells)
        for cells in ([*map(translate, rows[0])], *(list(row.values()) for row in rows))
    ]
    lines = [head, " | ".join(["---"] * len(rows[0])), *body]
    return "\n".join(f"| {line} |" for line in lines)


def escape(text: str) -> str:
    """Escape text for Markdown and the HTML in it, on one line."""
    plain = html.escape(visible(text.strip()), quote=False)
    plain = re.sub(r"([\\`*_\[\]|~$])", r"\\\1", plain)
    return "<br>".join(plain.splitlines())


def _figures(report: Report) -> Iterator[str]:
    yield from _section("Headline", tables.headline_rows(report), findings.READING)
    yield escape(translate(findings.PROTOCOL))
    if tables.in_paper(report):
        yield escape(translate(findings.PAPER))
    yield from _section("Transfer: every model on every held-out set", tables.transfer_rows(report))
    yield from _section("Difference from the base", tables.difference_rows(report))
    ranking = comparison_tables.ranking_rows(report)
    yield from _section("Which variant is better", ranking, verdict_text.VERDICTS)
    yield markdown_table(comparison_tables.verdict_rows(report))
    if report.curves:
        yield f"## {translate('Learning curves')}"
        yield "\n".join(f"- {escape(line)}" for line in verdict_text.curve_sentences(report))
    yield from _section("Missing", comparison_tables.missing_rows(report))
    gains = tables.template_rows(report)
    yield from _section("The template's part of the gain", gains, findings.TEMPLATE)
    yield from _section(task_text.TITLE, task_text.task_rows(report), task_text.READING)
    for section in ratings_text.sections(report):
        yield from _section(section.title, section.rows)
        yield from map(escape, section.sentences)
    if report.ratings:
        yield from map(escape, (translate(ratings_text.READING), ratings_text.left_out(report)))
    if report.task_scores:
        yield from map(escape, task_text.worse_sentences(report))
    bits = tables.bits_rows(report)
    yield from _section("Bits per byte: models with different tokenizers", bits, findings.BITS)
    yield from _section("Bits per byte minus the base's", tables.bits_difference_rows(report))
    if report.seen():
        yield escape(translate(findings.SEEN))
        yield "\n".join(f"- {escape(note)}" for note in tables.seen_notes(report))
    if notes := tables.left_out_notes(report):
        yield escape(translate(findings.LEFT_OUT))
        yield "\n".join(f"- {escape(note)}" for note in notes)
    trainings = training_tables.training_rows(report)
    yield from _section("Training", trainings, training_tables.TRAINING)


def _further(report: Report) -> Iterator[str]:
    lines = first_lines.further_lines(report)
    if lines:
        yield f"## {translate(first_lines.FURTHER)}"
        yield "\n".join(f"- {escape(line)}" for line in lines)


def _panel(report: Report) -> Iterator[str]:
    if report.answers:
        yield f"## {translate('The panel: one prompt, every model')}"
    for answers in report.panel():
        first = answers[0]
        asked = " — ".join(part for part in (first.instruction, first.input) if part)
        yield f"### {escape(asked)}"
        if before := answer_text.before_lines(first):
            yield translate("After:") + "\n" + "\n".join(f"- {escape(line)}" for line in before)
        yield translate("Asked {form}.", form=answer_text.asked_note(report, answers))
        yield markdown_table([_answer(answer) for answer in answers])


def _answer(answer: Answer) -> tables.Row:
    return {
        "Model": answer.model,
        "Answer": answer.text.strip() or translate("(empty)"),
        "Length": answer_text.answer_note(answer),
    }


def _details(report: Report) -> Iterator[str]:
    yield from _section("Held-out sets", training_tables.heldout_rows(report))
    yield from _section("Row accounts", training_tables.account_rows(report))
    yield from (escape(translated_note(note)) for note in report.notes)
    yield from _section("Settings that differ", training_tables.setting_rows(report))
    yield from _section("Generation that differs", training_tables.generation_rows(report))
    yield from _section("Generation", training_tables.value_rows("Setting", report.generation))
    yield from _section("The paper's figures", tables.paper_rows(report), findings.PAPER)
    yield from _section("Devices", training_tables.device_rows(report))
    yield from _section("Versions that differ", training_tables.version_rows(report))
    yield from _section("Versions", training_tables.value_rows("Library", report.versions))


def _section(title: str, rows: Sequence[tables.Row], note: str = "") -> Iterator[str]:
    if rows:
        head = f"## {translate(title)}", escape(translate(note) if note else "")
        yield from (*head, markdown_table(rows))
