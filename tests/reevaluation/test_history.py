"""The history: appended to by several processes, never rewritten, never half read."""

import math
import os
import signal
import subprocess
import sys
import time

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from chatpipe.config.schema import Variant
from chatpipe.errors import ArtifactError, ConfigError
from chatpipe.reevaluation import history
from tests.support.entries import entry

pytestmark = pytest.mark.usefixtures("chatpipe_home")
APPENDING = """
import sys
from chatpipe.reevaluation import history
from tests.support.entries import entry
for number in range(int(sys.argv[2])):
    history.append([entry(variant=sys.argv[1], value=float(number + 1))])
"""


def test_what_is_appended_is_read_back_oldest_first():
    later, earlier = entry(11.0, day=2), entry(10.0, day=1, low=None, high=None, scored="built")
    history.append([later])
    history.append([earlier])
    assert history.read() == [earlier, later]


def test_an_append_is_one_file_that_any_reader_of_parquet_takes_as_a_data_set():
    paths = [history.append([entry(day=day), entry(day=day, metric="other")]) for day in range(3)]
    assert len(set(paths)) == 3
    table = ds.dataset(paths, format="parquet").to_table()
    assert table.num_rows == 6 and table.schema.equals(history.SCHEMA)


def test_a_figure_that_is_not_finite_is_kept_as_it_is():
    history.append([entry(math.inf, high=math.inf)])
    [found] = history.read()
    assert math.isinf(found.value) and '"value":"Infinity"' in found.model_dump_json()


def test_one_variants_history_holds_no_other():
    history.append([entry(variant="v"), entry(variant="w")])
    assert {found.variant for found in history.read("w")} == {"w"}


def test_nothing_was_recorded_before_the_first_append():
    assert history.read() == []


def test_two_writers_at_once_lose_nothing():
    writers = [
        subprocess.Popen([sys.executable, "-c", APPENDING, name, "20"], env=os.environ)
        for name in ("v", "w")
    ]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    for name in ("v", "w"):
        assert {found.value for found in history.read(name)} == {float(n + 1) for n in range(20)}


def test_a_writer_killed_at_any_moment_leaves_whole_files_only():
    writer = subprocess.Popen([sys.executable, "-c", APPENDING, "v", "100000"], env=os.environ)
    deadline = time.monotonic() + 120
    while len(list(history.folder().glob("*.parquet"))) < 5:
        assert writer.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    values = [found.value for found in history.read()]
    assert sorted(values) == [float(n + 1) for n in range(len(values))]


def test_a_half_written_file_under_a_hidden_name_is_not_read():
    whole = history.append([entry()])
    half = whole.with_name(f".{whole.name}.partial")
    half.write_bytes(whole.read_bytes()[:100])
    assert len(history.read()) == 1


def test_a_damaged_file_is_named_and_not_passed_over():
    path = history.append([entry()])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match=path.name):
        history.read()


def test_a_failed_append_leaves_nothing(monkeypatch):
    def full(handle):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        history.append([entry()])
    assert list(history.folder().iterdir()) == []


def test_accepting_takes_the_newest_check_and_stands_in_the_history():
    history.append([entry(10.0, day=1), entry(20.0, day=1, heldout="b")])
    history.append([entry(12.0, day=2), entry(21.0, day=2, heldout="b")])
    before = history.read()
    assert [found.value for found in history.accept("v")] == [12.0, 21.0]
    after = history.read()
    assert after[: len(before)] == before
    marks = history.last_accepted(after)
    assert marks[("v", "a", "perplexity")].value == 12.0
    assert marks[("v", "b", "perplexity")].value == 21.0


def test_a_variant_that_was_never_evaluated_cannot_be_accepted():
    history.append([entry(variant="w")])
    with pytest.raises(ConfigError, match="chatpipe reevaluate v"):
        history.accept("v")


def test_a_file_of_an_edition_without_settings_is_read_among_others():
    path = history.append([entry(10.0)])
    table = pq.read_table(path).drop_columns(["settings"])
    pq.write_table(table, path)
    history.append([entry(11.0, day=1, settings="{}")])
    assert [(e.value, e.settings) for e in history.read()] == [(10.0, None), (11.0, "{}")]


def test_the_settings_of_scoring_are_told_apart():
    def settings(**changes):
        plain = {"name": "v", "datasets": [{"name": "a", "path": "a.jsonl"}], **changes}
        return history.scoring_settings(Variant.model_validate(plain))

    assert settings() == settings(training={"epochs": 1}, evaluation={"seed": 1})
    other = {"with_input": "{instruction}{input}### Response:", "without_input": "{instruction}"}
    other["without_input"] += "### Response:"
    unlike = [
        settings(prompt_template="short"),
        settings(prompt_template={"name": "alpaca", **other}),
        settings(evaluation={"max_length": 512}),
        settings(quantization={"method": "none"}),
    ]
    assert len({settings(), *unlike}) == 5


@pytest.mark.parametrize(
    ("arguments", "subject"), [([], "nothing was"), (["smol-merge"], "smol-merge was not")]
)
def test_a_history_without_an_entry_is_said(arguments, subject):
    from typer.testing import CliRunner

    from chatpipe.cli.app import app

    if arguments:
        history.append([entry(variant="w")])
    done = CliRunner().invoke(app, ["history", *arguments])
    assert done.output == f"{subject} evaluated yet; start with: chatpipe reevaluate\n"
