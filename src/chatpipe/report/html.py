"""The report as one self-contained HTML page that loads no other file."""

from __future__ import annotations

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from chatpipe.config.run_names import short_cell_name
from chatpipe.report import (
    answer_text,
    cells,
    charts,
    comparison_tables,
    findings,
    first_lines,
    formatting,
    ratings_text,
    study_charts,
    tables,
    task_text,
    training_tables,
    verdict_text,
)
from chatpipe.report.names import with_short_names
from chatpipe.report.notes_text import translated_note
from chatpipe.report.schema import Report
from chatpipe.utils.texts import Language, counted, html_language, in_language, translate
from chatpipe.utils.visible_text import visible

NUMBER = re.compile(
    rf"[+{formatting.MINUS}]?(\d[\d,]*(\.\d+)?|∞|{formatting.MISSING})( %)?"
    r"( ?[\[†‡§(（].*| (s|min|h|GiB)\b.*| (秒|分|小时).*)?$"
)
MOST_IN_ONE_CHART = 6  # curves of loss; of more, each configuration has its own chart
MARKS = (
    (formatting.SEEN, "seen", "rows seen in training"),
    (formatting.LEFT_OUT, "left-out", "rows left out"),
)


def render_html(report: Report, language: Language = "en") -> str:
    """Return the page; the template engine escapes all text of the report."""
    with in_language(language):
        return _page(report)


def _page(report: Report) -> str:
    listed = cells.cells(report)
    anchors = cells.anchors(listed)
    page = (
        environment()
        .get_template("template.html.j2")
        .render(
            report=report,
            cells=listed,
            anchors=anchors,
            findings=findings,
            first_lines=first_lines,
            tables=tables,
            training_tables=training_tables,
            answer_text=answer_text,
            verdict_text=verdict_text,
            comparison_tables=comparison_tables,
            task_text=task_text,
            ratings_text=ratings_text,
            heatmap=Markup(charts.heatmap(report, anchors)),  # charts escape their own text
            fronts=[Markup(study_charts.front_chart(report, each)) for each in report.fronts],
            curves=[
                (curve, Markup(study_charts.curve_chart(curve, f"curve-{place}")))
                for place, curve in enumerate(report.curves)
            ],
            losses=_losses(report),
        )
    )
    return with_short_names(page, report)


def _losses(report: Report) -> list[tuple[str, Markup]]:
    """(name, chart) of the training loss: one chart of few variants, else one of each
    configuration."""
    if len(report.variants) <= MOST_IN_ONE_CHART or not report.configurations:
        chart = charts.loss_curves(report)
        return [("", Markup(chart))] if chart else []
    return [(name, Markup(chart)) for name, chart in study_charts.loss_charts(report).items()]


def environment() -> Environment:
    """Return the template engine of our pages, with the filters of their tables."""
    engine = Environment(
        loader=PackageLoader("chatpipe.report", "."),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    engine.globals.update(
        translate=translate,
        counted=counted,
        translated_note=translated_note,
        html_language=html_language(),
    )
    engine.filters.update(
        marked=_marked,
        breakable=_breakable,
        key=_key,
        row_heading=_row_heading,
        device=formatting.device,
        moment=formatting.moment,
        count=formatting.count,
        number_column=_is_number_column,
    )
    return engine


def _visible(value: Any) -> Any:
    """Make control characters in printed text visible; markup was made of visible text."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _marked(cell: str) -> Markup:
    """Return a cell with †n and ‡n as links to footnotes, and its interval on its own line."""
    text = str(escape(visible(cell)))
    for mark, target, title in MARKS:
        link = rf'<a class="seen" href="#{target}" title="{translate(title)}">{mark}\1</a>'
        text = re.sub(rf"{mark}([\d,]+)", link, text)
    unknown = f"{formatting.SEEN}?"
    title = translate("whether rows were seen in training is not known")
    text = text.replace(unknown, f'<span class="seen" title="{title}">{unknown}</span>')
    return Markup(re.sub(r" (\[[^]]*\])$", r' <span class="interval">\1</span>', text))


def _breakable(name: str) -> Markup:
    """Return a run's name that may be broken before each of its settings."""
    return Markup(re.sub(r"([+/])", r"<wbr>\1", str(escape(visible(short_cell_name(name))))))


def _key(header: str) -> Markup:
    """Return a column's header, which may be broken within a setting's dotted key."""
    return Markup(re.sub(r"(?<=\w)([._])(?=\w)", r"\1<wbr>", str(escape(visible(header)))))


def _row_heading(cell: str) -> Markup:
    """Return a row's heading, marked, which may be broken within a setting's dotted key."""
    return Markup(re.sub(r"(?<=[a-z])([._])(?=[a-z])", r"\1<wbr>", str(_marked(cell))))


def _is_number_column(rows: list[tables.Row], header: str) -> bool:
    """Return whether a column has only numbers (with interval, mark or unit); these align right."""
    return all(NUMBER.match(row[header]) for row in rows)
