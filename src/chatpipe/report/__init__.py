"""The report: its data (`Report`), rendered as JSON, Markdown and a self-contained HTML page."""

from chatpipe.report.html import render_html
from chatpipe.report.markdown import markdown_table, render_markdown
from chatpipe.report.schema import (
    Answer,
    BitsPerByte,
    Difference,
    HeldoutSet,
    JsonScalar,
    LossPoint,
    Model,
    PaperRow,
    RankedVariant,
    Report,
    RowAccountRow,
    ScoreCell,
    TaskScore,
    TemplateGain,
    Verdict,
    json_schema,
    read_report,
)
from chatpipe.report.tables import (
    account_rows,
    bits_rows,
    headline_rows,
    template_rows,
    transfer_rows,
)

__all__ = [
    "Answer",
    "BitsPerByte",
    "Difference",
    "HeldoutSet",
    "JsonScalar",
    "LossPoint",
    "Model",
    "PaperRow",
    "RankedVariant",
    "Report",
    "RowAccountRow",
    "ScoreCell",
    "TaskScore",
    "TemplateGain",
    "Verdict",
    "account_rows",
    "bits_rows",
    "headline_rows",
    "json_schema",
    "markdown_table",
    "read_report",
    "render_html",
    "render_markdown",
    "template_rows",
    "transfer_rows",
]
