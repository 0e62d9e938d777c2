"""Charts as images that need no page around them: for Prefect's artifacts and for Markdown."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from functools import cache

from chatpipe.report import charts
from chatpipe.report.html import environment
from chatpipe.report.markdown import escape
from chatpipe.report.schema import Report

Picture = tuple[str, str]  # a title and inline SVG


def report_pictures(report: Report) -> dict[str, Picture]:
    """Return a short name and the picture for each chart that this report has."""
    drawn = {
        "matrix": ("Perplexity of every model on every held-out set", charts.heatmap(report)),
        "loss": ("Training loss of every variant over epochs", charts.loss_curves(report)),
    }
    return {name: (title, svg) for name, (title, svg) in drawn.items() if svg}


def image_uri(svg: str) -> str:
    """Return an inline chart as a `data:` address, with the page's style and background.

    An image loads nothing and runs no script, so it shows the same wherever it is opened.
    """
    opening, _, body = svg.partition(">")
    opening = opening.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    background = '<rect width="100%" height="100%" fill="var(--page)"/>'
    image = f"{opening}>{_style()}{background}{body}"
    return "data:image/svg+xml;base64," + base64.b64encode(image.encode()).decode()


def markdown_pictures(pictures: Iterable[Picture]) -> str:
    """Return charts as images in Markdown."""
    return "\n\n".join(f"![{escape(title)}]({image_uri(svg)})" for title, svg in pictures)


@cache
def _style() -> str:
    engine = environment()
    rules = (engine.get_template(name).render() for name in ("colours.css.j2", "charts.css.j2"))
    return "<style>" + "".join(rules) + "</style>"
