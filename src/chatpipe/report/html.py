"""The report as one self-contained HTML page that loads nothing."""

from __future__ import annotations

import re

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from chatpipe.report import charts, findings, formatting, tables
from chatpipe.report.schema import Report

NUMBER = re.compile(
    rf"[+{formatting.MINUS}]?(\d[\d,]*(\.\d+)?|∞|{formatting.MISSING})"
    r"( ?[\[†].*| (s|min|h|GiB)\b.*)?$"
)


def render_html(report: Report) -> str:
    """The page; everything that is not ours is escaped by the template engine."""
    return (
        environment()
        .get_template("template.html.j2")
        .render(
            report=report,
            findings=findings,
            tables=tables,
            heatmap=Markup(charts.heatmap(report)),  # charts escape their own text
            loss_curves=Markup(charts.loss_curves(report)),
        )
    )


def environment() -> Environment:
    """The template engine of our pages, with what their tables need."""
    made = Environment(
        loader=PackageLoader("chatpipe.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        marked=_marked,
        moment=formatting.moment,
        count=formatting.count,
        number_column=_is_number_column,
    )
    return made


def _marked(cell: str) -> Markup:
    """A cell with its †n as a link to the footnote and its interval on a line of its own."""
    link = r'<a class="seen" href="#seen" title="rows seen in training">†\1</a>'
    text = re.sub(r"†([\d,]+)", link, str(escape(cell)))
    return Markup(re.sub(r" (\[[^]]*\])$", r' <span class="interval">\1</span>', text))


def _is_number_column(rows: list[tables.Row], header: str) -> bool:
    """Whether a column reads better flush right: numbers, with interval, mark or unit."""
    return all(NUMBER.match(row[header]) for row in rows)
