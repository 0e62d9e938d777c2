"""Ratings stand in the report, change no other key, and are exported and printed by the command."""

import json
import os
import re
import signal
import subprocess
import sys

import httpx2
import pytest

from chatpipe import report as contract
from chatpipe.config.schema import Dataset
from chatpipe.config.yaml_files import read_value
from chatpipe.data.detection import detected_format
from chatpipe.errors import DataError
from chatpipe.planning.row_checks import checked_rows
from chatpipe.rating.entries import ratings_folder
from chatpipe.rating.pairs import Model, make_pairs, models_of
from chatpipe.rating.results import study_ratings
from chatpipe.rating.session import Judgement, Session
from chatpipe.report.build import build_report
from chatpipe.report.ratings_text import sections
from chatpipe.report.schema.ratings import RatedConfiguration
from chatpipe.statistics.shares import wilson
from chatpipe.study.export import report_directory
from tests.support.commands import invoke
from tests.support.synthetic_study import synthetic_study


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    """A report of a base and three variants, whose answers two people have rated."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("CHATPIPE_HOME", str(home))
        request = synthetic_study(3)
        report = build_report(request)
        session = Session(request.study, make_pairs(models_of(report), report.answers, 0))
        for rater in ("Ada", "<b>Grace</b>"):
            while pair := session.state(rater).get("pair"):
                verdict = "b" if "answer of base" in pair["a"] else "a"
                judgement = Judgement(token=pair["token"], verdict=verdict, correct_a=3)
                session.rate(rater, judgement)
        models = [
            Model(m.name, m.adapter.digest if m.adapter else m.base_model) for m in request.models
        ]
        assert set(models) == set(models_of(report).values())
        yield request, study_ratings(request.study, models, report.answers, {})


def test_the_report_has_a_section_of_ratings_where_there_are_any(rated):
    request, ratings = rated
    before = build_report(request)
    report = build_report(request.model_copy(update={"ratings": ratings}))
    html, markdown = contract.render_html(report), contract.render_markdown(report)
    for text in (html, markdown):
        assert "Ratings by people" in text and "24 ratings of 12 pairs on 2 prompts" in text
        assert "Krippendorff&#39;s alpha" in text or "Krippendorff's alpha" in text
        assert "With 2 prompts, these intervals say little of other prompts." in text
        assert "<b>Grace" not in text
    assert "Ratings by" not in contract.render_html(before) + contract.render_markdown(before)
    text = report.model_dump_json()
    assert contract.Report.model_validate_json(text) == report
    old = json.loads(before.model_dump_json())
    del old["ratings"]  # as version 2 was written before
    assert contract.Report.model_validate(old) == before
    base = next(model for model in ratings.people.models if model.model == "base")
    assert base.win_rate == 0 and base.losses == 12
    assert base.low == 0 and base.high == pytest.approx(wilson(0, 2)[1])
    assert base.strength_low is None and base.strength < 0
    assert "0 % [0, 66]" in re.sub(r"<[^>]+>", "", html), re.findall(r".*66.*", html)
    strength = next(row for row in next(sections(report)).rows if row["Model"] == "base")
    assert "[" not in strength["Strength"]
    [reason] = [line for line in next(sections(report)).sentences if "of the strength" in line]
    assert reason.startswith(
        "Without an interval of the strength, as every prompt has the same win"
    )
    assert "base" in reason and "Without an interval of the strength" in html


def test_a_model_that_nobody_rated_is_in_the_table(rated):
    request, ratings = rated
    people = ratings.people.model_copy(update={"models": ratings.people.models[:-1]})
    of_some = ratings.model_copy(update={"people": people})
    rows = next(sections(build_report(request.model_copy(update={"ratings": of_some})))).rows
    assert [row["Ratings"] for row in rows][-1] == "0" and rows[-1]["Win rate"] == "—"
    assert len(rows) == len(ratings.people.models) and rows[-1].keys() == rows[0].keys()


def test_pooled_seeds_stand_before_the_models(rated):
    request, ratings = rated
    pooled = [
        RatedConfiguration(**{**model.model_dump(), "model": f"pool-{place}"}, models=2)
        for place, model in enumerate(ratings.people.models)
    ]
    people = ratings.people.model_copy(update={"configurations": pooled})
    with_pools = ratings.model_copy(update={"people": people})
    report = build_report(request.model_copy(update={"ratings": with_pools}))
    first, second = sections(report)
    assert [row["Model"] for row in first.rows] == [each.model for each in pooled]
    assert {row["Seeds"] for row in first.rows} == {"2"} and "Seeds" not in second.rows[0]
    assert first.title == "Ratings by people, seeds of a variant pooled"
    for page in (contract.render_html(report), contract.render_markdown(report)):
        assert first.title in page and first.sentences[0] in page
    assert [section.title for section in sections(build_report(request))] == []


def test_a_request_without_ratings_has_the_key_that_it_had(rated):
    request, ratings = rated
    assert "ratings" in type(request).hash_exclude_at_default
    with_ratings = request.model_copy(update={"ratings": ratings})
    assert with_ratings.key() != request.key()
    assert request.model_copy(update={"ratings": None}).key() == request.key()


@pytest.fixture
def demo(rated, tmp_path, monkeypatch):
    """The ratings and the report as those of the study demo, in a directory of its own."""
    request, _ = rated
    report = build_report(request)
    source = ratings_folder(request.study)
    monkeypatch.setenv("CHATPIPE_HOME", str(tmp_path))
    report_directory("demo").mkdir(parents=True)
    (report_directory("demo") / "report.json").write_text(report.model_dump_json(), "utf-8")
    ratings_folder("demo").parent.mkdir()
    ratings_folder("demo").symlink_to(source)
    return tmp_path


def test_the_command_prints_the_figures_and_writes_rows_that_our_readers_know(demo):
    printed = invoke("rate", "demo", "--results", "--json")
    ratings = contract.Ratings.model_validate_json(printed.stdout)
    assert ratings.people and ratings.people.ratings == 24
    assert "24 ratings of 12 pairs" in invoke("rate", "demo", "--results").stdout
    file = demo / "pairs.jsonl"
    exported = invoke("rate", "demo", "--export", file)
    assert exported.exit_code == 0
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert len(rows) + exported.stdout.count("left out") >= 6
    with pytest.raises(DataError, match="Say which is which, in a variant: ") as advice:
        detected_format(file, {})
    settings = str(advice.value).partition("in a variant: ")[2].partition("; or to finetune: ")[0]
    dataset = Dataset.model_validate(read_value(f"{{name: pairs, path: x, {settings}}}"))
    checked = checked_rows(file, dataset.format, dataset.columns)
    assert checked.bad == 0 and checked.rows == len(rows)
    assert any("rejected is not trained on" in warning for warning in checked.warnings)


def test_a_study_that_was_run_from_a_file_is_rated_by_its_name(demo):
    for folder in (report_directory("demo").parent, ratings_folder("demo").parent):
        (folder / "demo").rename(folder / "of-a-file")
    assert "24 ratings of 12 pairs" in invoke("rate", "of-a-file", "--results").stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_ends_by_a_signal_with_what_was_rated(demo, number):
    command = [sys.executable, "-m", "chatpipe", "rate", "demo", "--port", "0"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CHATPIPE_HOME": str(demo), "PYTHONUNBUFFERED": "1"},
    )
    try:
        pairs, address = process.stdout.readline(), process.stdout.readline().split()[0]
        assert pairs.startswith("12 pairs") and httpx2.get(address).status_code == 200
        process.send_signal(number)
        out, log = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, log) == (0, "")
    assert "Ada: 12 of 12 pairs rated" in out and "--results" in out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["nothing"], "is no variant and no study"),
        (["rates"], "has no answers to rate yet; run `chatpipe compare rates` first."),
        (["demo", "--judge", "http://x/v1"], "go together; add --judge-model NAME"),
        (["demo", "--judge-name", "b"], "--judge-name goes with --judge"),
        (["demo", "--rater", " "], "--rater: the name is empty"),
        (["demo", "--host", "0.0.0.0"], "so a key is required; set CHATPIPE_API_KEY"),
        (["demo", "--host", "192.0.2.1", "--port", "8000"], "192.0.2.1"),
        (["demo", "--export", "rows.jsonl", "--rater", "Eve"], "has no ratings by Eve"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(demo, options, sentence):
    ended = invoke("rate", *options)
    assert ended.exit_code in (1, 2) and sentence in ended.output
