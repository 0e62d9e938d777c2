"""The report as one self-contained HTML page that loads no other file."""

from __future__ import annotations

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from chatpipe.report import (
    charts,
    comparability,
    comparison_tables,
    findings,
    formatting,
    tables,
    task_text,
    verdict_text,
)
from chatpipe.report.schema import Report
from chatpipe.utils.visible_text import visible

NUMBER = re.compile(
    rf"[+{formatting.MINUS}]?(\d[\d,]*(\.\d+)?|∞|{formatting.MISSING})"
    r"( ?[\[†‡(].*| (s|min|h|GiB)\b.*)?$"
)
MARKS = (
    (formatting.SEEN, "seen", "rows seen in training"),
    (formatting.LEFT_OUT, "left-out", "rows left out"),
)


def render_html(report: Report) -> str:
    """Return the page; the template engine escapes all text of the report."""
    return (
        environment()
        .get_template("template.html.j2")
        .render(
            report=report,
            findings=findings,
            statements=comparability.statements(report),
            tables=tables,
            verdict_text=verdict_text,
            comparison_tables=comparison_tables,
            task_text=task_text,
            heatmap=Markup(charts.heatmap(report)),  # charts escape their own text
            loss_curves=Markup(charts.loss_curves(report)),
        )
    )


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
    engine.filters.update(
        marked=_marked,
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
        link = rf'<a class="seen" href="#{target}" title="{title}">{mark}\1</a>'
        text = re.sub(rf"{mark}([\d,]+)", link, text)
    return Markup(re.sub(r" (\[[^]]*\])$", r' <span class="interval">\1</span>', text))


def _is_number_column(rows: list[tables.Row], header: str) -> bool:
    """Return whether a column has only numbers (with interval, mark or unit); these align right."""
    return all(NUMBER.match(row[header]) for row in rows)
