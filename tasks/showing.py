"""What a person sees of a run: progress lines, Prefect artifacts; none of it can fail a run."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.logging import get_run_logger

from chatpipe.reevaluation import trend
from chatpipe.reevaluation.history import Entry
from chatpipe.report import (
    Report,
    account_rows,
    headline_rows,
    render_markdown,
    template_rows,
    transfer_rows,
)
from chatpipe.report.build import MakeReport, build_report
from chatpipe.report.pictures import Picture, image_uri, markdown_pictures, report_pictures
from chatpipe.runtime.progress import Progress

Shown = tuple[Callable[[Progress], None], Callable[[str], None]]
LINE_EVERY_S = 5.0


@contextmanager
def progress_shown(label: str) -> Iterator[Shown]:
    """Yield handlers of a worker process's progress and output.

    They write log lines with the time left, and a progress artifact.
    """
    logger = get_run_logger()
    logger.info("%s …", label)
    started = time.monotonic()
    artifact: UUID | None = None
    reported = started
    with suppress(Exception):
        created = create_progress_artifact(
            0.0, key=artifact_key("progress", label), description=label
        )
        artifact = created if isinstance(created, UUID) else None

    def on_progress(event: Progress) -> None:
        nonlocal reported
        now = time.monotonic()
        if now - reported < LINE_EVERY_S:
            return
        reported = now
        logger.info("%s: %s", label, in_words(event))
        if artifact:
            with suppress(Exception):
                update_progress_artifact(artifact, progress=100.0 * event.done / event.total)

    yield on_progress, logger.debug
    logger.info("%s: done in %.0f s", label, time.monotonic() - started)
    if artifact:
        with suppress(Exception):
            update_progress_artifact(artifact, progress=100.0)


def in_words(event: Progress) -> str:
    """'12/40 steps, loss 2.31, 1:05 left'."""
    words = f"{event.done}/{event.total} {event.unit}"
    if event.loss is not None:
        words += f", loss {event.loss:.3f}"
    if event.eta_s is not None:
        minutes, seconds = divmod(round(event.eta_s), 60)
        words += f", {minutes}:{seconds:02d} left"
    return words


def show_report(report: Report, pages: Path) -> None:
    """The report's tables, its charts, and all of it as one page, as Prefect artifacts.

    The dashboard itself shows them, so they are wherever it is opened; no other server is needed.
    """
    tables = {
        ("perplexity", "Perplexity and runtime of every model"): headline_rows(report),
        ("transfer", "Response perplexity of every model on every held-out set"): (
            transfer_rows(report)
        ),
        ("rows", "Rows read, kept and set aside"): account_rows(report),
    }
    if gains := template_rows(report):
        tables["template", "What of each variant's gain is the template"] = gains

    for (name, description), rows in tables.items():
        with suppress(Exception):
            create_table_artifact(
                [dict(row) for row in rows],
                key=artifact_key(report.study, name),
                description=description,
            )
    with suppress(Exception):
        pictures = report_pictures(report)
        for name, (title, svg) in pictures.items():
            create_image_artifact(
                image_uri(svg), key=artifact_key(report.study, name), description=title
            )
        create_markdown_artifact(
            render_markdown(report) + _charts(pictures.values()),
            key=artifact_key(report.study, "report"),
            description=f"The whole report. {_page_note(pages / 'report.html')}",
        )


def show_early(request: MakeReport) -> None:
    """The figures of a study's first seeds, before the others are trained."""
    with suppress(Exception):
        create_table_artifact(
            [dict(row) for row in transfer_rows(build_report(request))],
            key=artifact_key(request.study, "early"),
            description="Response perplexity after the first seed of each variant",
        )


def show_trend(entries: Sequence[Entry], page: Path) -> None:
    """The newest figures beside those accepted, and the page of the trend, as Prefect artifacts."""
    with suppress(Exception):
        create_table_artifact(
            [dict(row) for row in trend.trend_rows(entries)],
            key="reevaluation",
            description="The newest figures beside those accepted",
        )
    with suppress(Exception):
        create_markdown_artifact(
            page.with_suffix(".md").read_text("utf-8") + _charts(trend.trend_charts(entries)),
            key="reevaluation-page",
            description=f"The trend. {_page_note(page)}",
        )


def _charts(pictures: Iterable[Picture]) -> str:
    """Return a section of Markdown with these pictures, empty if there are none."""
    images = markdown_pictures(pictures)
    return f"\n## Charts\n\n{images}\n" if images else ""


def _page_note(page: Path) -> str:
    return f"As a page of its own: {page} on {socket.gethostname()}."


def artifact_key(*parts: str) -> str:
    """Prefect allows lowercase letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")
