"""What a command says of a report."""

import logging
import re

import pytest

from chatpipe.cli.console import _is_shown, print_ratings, print_report
from chatpipe.report import Report, render_html
from chatpipe.report.schema.ratings import JudgesRatings, RatedModel, Ratings
from tests.report.test_report import BASE, example


def test_it_tells_of_rows_that_were_set_aside(capsys):
    print_report(example())
    told = [line for line in capsys.readouterr().out.splitlines() if "set aside" in line]
    assert told == ["sample-alpaca: 8 of 400 rows set aside: 2 duplicate, 6 empty output"]


def test_names_are_text_whatever_they_hold(capsys):
    plain = example().model_dump_json().replace(BASE, "[red]b[/]\\u001b[31m")
    print_report(Report.model_validate_json(plain))
    told = capsys.readouterr().out
    assert "[red]b[/]" in told and "\x1b" not in told


def test_it_says_how_long_each_variant_was_trained(capsys):
    print_report(example())
    told = " ".join(capsys.readouterr().out.split())
    assert "All variants were trained with the same optimizer steps (96)." in told


@pytest.mark.parametrize(
    ("level", "text", "is_shown"),
    [
        (
            logging.ERROR,
            "Finished in state Failed('Task run encountered an exception X: y')",
            False,
        ),
        (logging.ERROR, "Task run failed with exception: X('y') - Retry 1/3 will start", True),
        (logging.WARNING, "no plan could be made, the run goes on without: y", True),
        (logging.INFO, "Finished in state Completed()", False),
        (logging.INFO, "fine-tune one: 3/18 steps", True),
    ],
)
def test_a_failure_is_said_once_as_the_last_sentence_of_the_command(level, text, is_shown):
    record = logging.LogRecord("prefect.task_runs", level, "file", 1, text, None, None)
    assert _is_shown(record) is is_shown


def test_long_names_that_begin_alike_are_written_out(capsys):
    plain, long = example().model_dump_json(), f"smol-alpaca+{'training.epochs=2+' * 3}"
    print_report(Report.model_validate_json(plain.replace('"smol-alpaca"', f'"{long}x"')))
    shown = capsys.readouterr().out
    assert "…" not in shown and shown.count("x") > 1


def test_names_are_those_of_the_reports_page_and_of_plan(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    name = "smol-alpaca+training.learning_rate=0.0003+training.seed=1"
    plain = example().model_dump_json().replace('"smol-alpaca"', f'"{name}"')
    report = Report.model_validate_json(plain)
    print_report(report)
    shown = capsys.readouterr().out
    short = "smol-alpaca/lr=0.0003/seed=1"
    assert shown.count(short) == 2 and "+training" not in shown
    assert short in re.sub(r"<wbr>|<[^>]*>", "", render_html(report))


@pytest.mark.parametrize(("width", "has_counts"), [(80, False), (140, True)])
def test_ratings_have_whole_names_in_80_columns(width, has_counts, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    names = ["smol-merge", "smollm2-135m-instruct", "smol-dialog+training.seed=2"]
    figures = {"wins": 5, "losses": 3, "ties": 0, "both_bad": 0, "win_rate": 0.625, "low": 0.375}
    figures |= {"high": 0.8, "strength": 0.6, "strength_low": -0.1, "strength_high": 1.3}
    models = [RatedModel(model=name, ratings=8, **figures) for name in names]
    judge = JudgesRatings(
        judge="judge", ratings=8, prompts=9, flipped=1, failed={}, models=models, position=None,
        agreed=0, compared=0, kappa=None,
    )  # fmt: skip
    print_ratings(example().model_copy(update={"ratings": Ratings(judges=[judge])}))
    shown = capsys.readouterr().out
    assert all(f" {name} " in shown for name in names)
    assert "63 %" in shown and "[38, 80]" in shown
    assert ("Losses" in shown) is has_counts
