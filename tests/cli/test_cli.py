"""The command as a stranger meets it: bad input ends in sentences, exit code 2, no traceback."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml

from chatpipe.config.run_names import name_of_file
from chatpipe.config.schema import Dataset, Variant
from chatpipe.data import reading
from chatpipe.errors import ConfigError
from chatpipe.planning.checks import check_variant
from chatpipe.study.loading import load_variant
from tests.support.commands import chatpipe
from tests.support.rows import alpaca_rows, write_jsonl


def refused(*arguments):
    """The sentences of a refusal (0.3 to 0.6 s each, because nothing heavy is imported)."""
    done = chatpipe(*arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and not done.stdout
    return done.stderr


@pytest.fixture
def rows(tmp_path):
    return write_jsonl(tmp_path / "rows.jsonl", alpaca_rows(10))


@pytest.fixture
def yaml_file(tmp_path):
    def written(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return written


def test_help_teaches_and_lists_every_command():
    done = chatpipe("--help")
    assert done.returncode == 0
    for command in (
        "demo",
        "run",
        "compare",
        "finetune",
        "validate",
        "plan",
        "show",
        "forget",
        "ask",
        "chat",
    ):
        assert command in done.stdout


def test_version_is_that_of_the_installed_package():
    done = chatpipe("--version")
    assert (done.returncode, done.stdout) == (0, f"chatpipe {version('chatpipe')}\n")


def test_neither_help_nor_a_refusal_imports_what_is_heavy(yaml_file):
    code = (
        "import sys; from chatpipe.cli.app import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'prefect', 'pandas'}\n"
        "heavy |= {'pydantic', 'yaml'} if '--help' in sys.argv else set()\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    path = yaml_file("datasets: [nope]")
    for arguments in (["--help"], ["run", str(path)]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True
        )
        assert done.stdout.splitlines()[-1] == "[]", done.stdout


def test_flows_are_imported_without_what_only_models_need():
    """A run whose steps are all stored would wait for it: torch alone takes seconds."""
    code = (
        "import sys, flows.compare, flows.finetune, chatpipe.cli.console\n"
        "heavy = {'torch', 'transformers', 'bitsandbytes', 'peft', 'datasets', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr


def test_an_unknown_variant_or_study():
    assert "did you mean smol-merge?" in refused("run", "smol-mergee")
    assert "did you mean demo?" in refused("compare", "demos")


def test_all_faults_of_a_file_at_once(yaml_file):
    path = yaml_file("{datasets: [sample-alpaca], lora: {rank: 0, aplha: 3}, trainin: {}}")
    said = refused("run", path)
    assert len(said.splitlines()) == 3 and said.count(str(path)) == 3


def test_a_model_directory_that_is_none(tmp_path, rows):
    (tmp_path / "model").mkdir()
    said = refused(
        "finetune",
        *("--base-model", tmp_path / "model", "--dataset", rows, "--adapter", tmp_path / "out"),
    )
    assert "model: not a model directory; it lacks config.json" in said


def test_a_base_that_is_neither_directory_nor_hub_id(tmp_path, rows):
    options = ("--base-model", "no/such/dir", "--dataset", rows, "--adapter", tmp_path / "out")
    assert "neither a directory nor a hub id" in refused("finetune", *options)


def test_a_name_that_is_almost_one_of_ours_is_none_of_the_hub(tmp_path, rows, yaml_file):
    options = ("--dataset", rows, "--adapter", tmp_path / "out")
    for name in ("smollm2-135m-instrct", "SmolLM2-135M", "smollm"):
        said = refused("finetune", "--base-model", name, *options)
        assert f"there is no {name}; did you mean smollm2-135m-instruct?" in said
    taken = rows.rename(tmp_path / "demo.jsonl")
    said = refused("finetune", "--base-model", "no/such/dir", "--dataset", taken, *options[2:])
    assert "the name demo is that of a variant or a study; this run is called demo-" in said
    path = yaml_file(
        "{base_model: {repo: smolm2-135m-instruct},"
        " datasets: [{name: a, repo: sample-alpca, format: alpaca}]}"
    )
    for command in ("plan", "validate"):
        said = refused(command, path)
        assert "mean smollm2-135m-instruct?" in said and "did you mean sample-alpaca?" in said


def test_an_adapter_that_could_not_be_written_is_refused_before_the_training(rows):
    base = ("--base-model", "smollm2-135m-instruct", "--dataset", rows)
    said = refused("finetune", *base, "--adapter", "/proc/out")
    assert "/proc/out: nothing can be written in /proc (" in said


def test_bad_rows_are_named_one_by_one(tmp_path, rows):
    with rows.open("a") as file:
        file.write('{"instruction": "x", "output": ""}\n{"instruction": "", "output": "y"}\nno\n')
    out = tmp_path / "out"
    options = ("--base-model", "smollm2-135m-instruct", "--dataset", rows, "--adapter", out)
    said = refused("finetune", *options)
    assert "row 11: empty output" in said and "row 12: empty instruction" in said
    assert "row 13: undecodable" in said and "--drop-bad-rows" in said
    assert "row 11: empty output" in refused("validate", rows)


def variant_of(path, **dataset):
    """A variant's file, beside its rows."""
    described = {"name": "mine", "path": path.name, "format": "alpaca", **dataset}
    content = {"base_model": {"repo": "smollm2-135m-instruct"}, "datasets": [described]}
    file = path.with_name("mine.yaml")
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"dataset": {"revision": "v1"}}, "datasets.rows.revision: {rows} is no repository"),
        (
            {"dataset": {"fallbacks": [{"repo": "a/b", "files": ["*"]}]}},
            "datasets.rows.fallbacks: {rows} is on this machine, and nothing is read in its place",
        ),
        ({"dataset": {"files": ["*.csv"]}}, "datasets.rows.files: {rows} is one file, all of"),
        ({"repo": {"revision": "v1"}}, "datasets.rows.revision: {folder} is no repository"),
        (
            {"base": {"repo": "smollm2-135m-instruct", "revision": "v1"}},
            "base_model.revision: smollm2-135m-instruct is no repository",
        ),
    ],
)
def test_a_setting_without_effect_on_its_source_is_refused(tmp_path, rows, settings, sentence):
    dataset = {"name": "rows", "path": str(rows), **settings.get("dataset", {})}
    if "repo" in settings:
        dataset = {"name": "rows", "repo": str(tmp_path), **settings["repo"]}
    raw = {"name": "mine", "datasets": [dataset], "base_model": settings.get("base", {})}
    with pytest.raises(ConfigError) as error:
        check_variant(Variant.model_validate(raw))
    [fault] = error.value.faults
    assert fault.startswith(f"mine: {sentence.format(rows=rows, folder=tmp_path)}")


def test_a_line_break_in_a_name_breaks_no_sentence(tmp_path):
    folder = tmp_path / "a\nb\u2028c"
    folder.mkdir()
    rows = write_jsonl(folder / "rows\r\x1b[2J.jsonl", alpaca_rows(20))
    shown = str(tmp_path / "a\\nb\\u2028c")
    for path in (folder / "none.yaml", folder):
        said = refused("validate", path)
        assert said.startswith(f"{shown}") and said.count("\n") == 1
    done = chatpipe("validate", rows)
    assert done.returncode == 0 and done.stdout.splitlines()[-1].startswith(f"{shown}/rows\\x0d")
    with rows.open("a") as file:
        file.write("no\n")
    said = refused("validate", rows)
    faulty = f"{shown}/rows\\x0d\\x1b[2J.jsonl: "
    assert all(line.startswith(faulty) for line in said.splitlines())


def test_a_variant_whose_rows_have_other_columns_is_refused_with_the_cure(tmp_path):
    rows = [{"question": f"x {number}", "answer": "y"} for number in range(40)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    said = refused("validate", variant_of(path))
    assert str(path) in said and "columns: {instruction: question, output: answer}" in said
    columns = {"instruction": "question", "output": "answer"}
    assert chatpipe("validate", variant_of(path, columns=columns)).returncode == 0


def test_a_variant_whose_file_is_blank_is_refused(tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n\n")
    assert "rows.jsonl: has no rows" in refused("validate", variant_of(tmp_path / "rows.jsonl"))


def test_validate_names_the_rows_that_a_run_of_the_variant_sets_aside(rows):
    assert chatpipe("validate", variant_of(rows)).stdout.endswith("mine.yaml: fine.\n")
    with rows.open("a") as file:
        file.write("no\n")
    done = chatpipe("validate", variant_of(rows))
    assert done.returncode == 0
    assert "row 11: undecodable" in done.stdout and "sets these rows aside" in done.stdout


def test_a_pipe_and_a_name_that_would_rule_the_terminal(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "pipe.jsonl: is no regular file" in refused("validate", tmp_path / "pipe.jsonl")
    (tmp_path / "\x1b[31m.jsonl").write_text("no\n")
    assert r"\x1b[31m.jsonl: none of 1 row can" in refused("validate", tmp_path / "\x1b[31m.jsonl")


def test_a_variant_of_which_no_row_can_be_used_is_refused(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"instruction": "", "output": "y"}\nno\n')
    said = refused("validate", variant_of(tmp_path / "rows.jsonl"))
    assert "row 1: empty instruction" in said and "row 2: undecodable" in said
    assert "none of 2 rows can be used" in said


def test_a_file_without_rows_among_others_is_no_fault(tmp_path):
    (tmp_path / "rows").mkdir()
    write_jsonl(tmp_path / "rows" / "a.jsonl", alpaca_rows(10))
    (tmp_path / "rows" / "b.csv").write_text("instruction,output\n")
    file = variant_of(tmp_path / "rows", files=["*.jsonl", "*.csv"])
    assert chatpipe("validate", file).stdout.endswith("mine.yaml: fine.\n")


def test_a_column_that_only_later_rows_have_is_not_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK_BYTES", 10)
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"instruction": "x"}, *alpaca_rows(3)])
    check_variant(load_variant(str(variant_of(rows))))


def test_files_of_no_known_layout(tmp_path, rows):
    for name, text in (("a.txt", "x"), ("a.jsonl", '{"question": "x"}\n'), ("a.json", "[")):
        (tmp_path / name).write_text(text)
        assert name in refused("validate", tmp_path / name)
    (tmp_path / "empty.jsonl").write_text("")
    assert "empty.jsonl" in refused("validate", tmp_path / "empty.jsonl")


def test_an_adapter_directory_that_is_not_empty(tmp_path, rows):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/file").write_text("x")
    options = ("--base-model", "smollm2-135m-instruct", "--dataset", rows)
    assert "is not empty" in refused("finetune", *options, "--adapter", tmp_path / "out")


def test_a_fine_file_is_said_to_be_fine(rows, yaml_file):
    done = chatpipe("validate", rows)
    assert done.returncode == 0 and "every row can be used (alpaca)" in done.stdout
    assert chatpipe("validate", yaml_file("datasets: [sample-dialog]")).returncode == 0


def test_asking_what_was_not_trained_says_what_to_run_first():
    done = chatpipe("ask", "smol-merge", "Hello?")
    assert done.returncode == 1 and "run `chatpipe run smol-merge` first" in done.stderr


def test_forgetting_nothing_in_particular_is_refused():
    assert "name a variant or a study, or give --all" in refused("forget")
    assert "--kind everything: expected one of" in refused(
        "forget", "smol-merge", "--kind", "everything"
    )


def test_show_prints_json_for_a_machine():
    listed = json.loads(chatpipe("show", "--json").stdout)
    assert "smol-merge" in listed["variants"] and "demo" in listed["studies"]
    shown = json.loads(chatpipe("show", "smol-merge", "--json").stdout)
    assert shown["lora"]["rank"] == 16 and "missing" in shown["adapter"]


def test_a_full_disk_refuses_nothing_until_something_is_to_be_made(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    check_variant(load_variant("smol-merge"))


@pytest.fixture(scope="module")
def prefect_home(tmp_path_factory):
    """Where servers of commands' own find the database that the first of them has made."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture
def training(rows, tiny_model_dir, tmp_path, prefect_home):
    """A command that trains for long, in a process group of its own, as a terminal has it."""
    command = ["finetune", "--base-model", tiny_model_dir, "--dataset", rows]
    long = ("--set", "training.epochs=100", "--set", "training.global_batch_size=1")
    more = [*long, "--adapter", tmp_path / "made"]
    places = {"CHATPIPE_HOME": tmp_path / "home", "PREFECT_HOME": prefect_home}
    plain = {name: of for name, of in os.environ.items() if not name.startswith("PREFECT_")}
    running = psutil.Popen(
        [sys.executable, "-m", "chatpipe", *map(str, command + more)],
        env={**plain, **{name: str(place) for name, place in places.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    yield running
    if running.poll() is None:
        for process in (*running.children(recursive=True), running):
            process.kill()
    running.stdout.close()


def until(said, running):
    for line in running.stdout:
        if said in line:
            return
    raise AssertionError(f"it never said {said!r}")


@pytest.mark.slow
def test_a_terminated_command_takes_the_server_of_its_own_with_it(training):
    until("fine-tune", training)
    servers = [child for child in training.children() if is_server(child)]
    assert servers
    deadline = time.monotonic() + 60
    while not any(is_worker(child) for child in training.children()):  # which makes the plan
        assert time.monotonic() < deadline
        time.sleep(0.1)
    training.terminate()
    output = training.stdout.read()
    assert training.wait(60) == 128 + signal.SIGTERM
    assert output.endswith("stopped; run the same command again to go on.\n")
    assert "aborted" not in output
    assert not psutil.wait_procs(servers, timeout=10)[1]


@pytest.mark.slow
def test_ctrl_c_ends_a_command_and_all_that_it_started_in_a_sentence(training, tmp_path):
    """A terminal sends it to the whole process group."""
    until(" steps, loss", training)
    started = training.children(recursive=True)
    assert any(map(is_server, started))
    asked = time.monotonic()
    os.killpg(training.pid, signal.SIGINT)
    said = training.stdout.read()
    assert training.wait(60) == 130
    assert time.monotonic() - asked < 60
    lines = [line for line in said.splitlines() if "steps, loss" not in line]
    assert lines == [
        "saving a checkpoint; press Ctrl-C again to stop at once",
        "stopped; run the same command again to go on.",
    ]
    assert not psutil.wait_procs(started, timeout=10)[1]
    assert list((tmp_path / "home").glob("store/.work/adapter-*/checkpoint-*/checkpoint.json"))


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_command_at_once(training):
    until(" steps, loss", training)
    started = [child for child in training.children(recursive=True) if not is_server(child)]
    for child in started:
        child.suspend()  # a step that does not end
    os.killpg(training.pid, signal.SIGINT)
    time.sleep(0.5)
    assert training.is_running()
    os.killpg(training.pid, signal.SIGINT)
    assert training.wait(30) == -signal.SIGINT  # saving a checkpoint may last longer
    assert not psutil.wait_procs(started, timeout=30)[1]


def is_server(process):
    return "uvicorn" in command_line(process)


def is_worker(process):
    return "chatpipe.runtime.worker" in command_line(process)


def command_line(process):
    """Python's own children (`file`, which says what machine this is) come and go before it."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


@pytest.mark.parametrize(
    "stem", ["rows", "Мои данные", "日本語", "x" * 150, "a.b c", "---", "naïve"]
)
def test_every_file_name_gives_a_name_that_a_data_set_can_have(stem, tmp_path):
    name = name_of_file(Path(f"{stem}.csv"))
    assert Dataset(name=name, path="x").name == name
    others = (name_of_file(Path(f"{other}.csv")) for other in (f"{stem}2", f"r{stem}"))
    assert name not in others
