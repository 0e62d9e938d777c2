"""`chatpipe report`: where a report is, and the same report in Chinese."""

import pytest

from chatpipe.store.artifact import Artifact
from chatpipe.study.export import export_report, report_directory
from tests.report.test_report import example
from tests.support.commands import invoke


@pytest.fixture
def directory(chatpipe_home):
    """Where the report of the packaged study would be."""
    directory = report_directory("demo")
    directory.mkdir(parents=True)
    (directory / "report.json").write_text(example().model_dump_json(), "utf-8")
    return directory


def test_a_stored_report_is_written_in_chinese_beside_the_english_one(directory):
    english = invoke("report", "demo")
    assert english.stdout == f"report: {directory / 'report.html'}\n"
    chinese = invoke("report", "demo", "--lang", "zh")
    assert chinese.stdout == f"report: {directory / 'report.zh.html'}\n", chinese.stderr
    assert "困惑度" in (directory / "report.zh.md").read_text("utf-8")


def test_a_new_report_renews_its_chinese_copy(directory, tmp_path, monkeypatch):
    invoke("report", "demo", "--lang", "zh")
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "report.json").write_text(example(notes=["NEW"]).model_dump_json(), "utf-8")
    monkeypatch.setattr(Artifact, "path", property(lambda self: newer))
    export_report(Artifact(kind="report", key="k", digest="d"), "demo")
    assert "NEW" in (directory / "report.zh.html").read_text("utf-8")


def test_what_has_no_report_is_refused(chatpipe_home):
    for command, sentence in (
        (("report", "demo"), "demo: has no report yet; run `chatpipe compare demo` first."),
        (("report", "smol-merge"), "run `chatpipe run smol-merge` first."),
        (("report", "dmo"), "did you mean demo?"),
        (("run", "smol-merge", "--deployment", "--lang", "zh"), "--lang: goes without"),
    ):
        refused = invoke(*command)
        assert refused.exit_code == 2 and sentence in refused.stderr, refused.stderr
