"""Commands in odd surroundings: no reader, no letters, no place; and faults of their own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import typer
from typer.testing import CliRunner

from chatpipe.cli.app import app
from chatpipe.cli.chat import MaxNewTokens, Seed, Temperature, TopP
from chatpipe.cli.options import check_is_number
from chatpipe.config.run_names import name_of_file, unique_name
from chatpipe.config.schema import Generation
from chatpipe.runtime.failures import KEPT_LOGS, write_log
from chatpipe.study.export import export_variant
from chatpipe.study.loading import load_variant
from chatpipe.study.variants import is_taken, parse_variant
from tests.support.commands import chatpipe
from tests.support.rows import alpaca_rows, write_jsonl

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]


def shell(line, **environment):
    command = line.replace("chatpipe", f"{sys.executable} -m chatpipe")
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    done = CliRunner().invoke(app, [command, "--help"], terminal_width=30, env={"NO_COLOR": "1"})
    assert done.exit_code == 0 and "--help" in done.stdout and "\x1b" not in done.stdout


TAKE_SET = (
    *("run", "compare", "plan", "preview", "finetune", "ask", "chat", "show", "forget"),
    *("reevaluate", "history", "accept", "verify"),
)


@pytest.mark.parametrize("command", TAKE_SET)
def test_every_command_that_names_a_variant_takes_set(command):
    assert "--set" in CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout


def test_a_reader_that_leaves_ends_nothing_badly():
    for line in ("chatpipe show smol-merge | head -1", "chatpipe show --json | true"):
        done = shell(line)
        assert done.stderr == "", done.stderr
    assert shell("chatpipe show >&-").stderr == ""


@pytest.mark.parametrize(
    "command", ["show", "show --json", "--help", "--version", "history", "validate {rows}"]
)
def test_an_output_that_cannot_be_written_is_blamed_on_the_output(tmp_path, command):
    rows = write_jsonl(tmp_path / "rows.jsonl", alpaca_rows(2))
    done = shell(f"chatpipe {command.format(rows=rows)} > /dev/full", CHATPIPE_HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (
        1,
        "the output, /dev/full, cannot be written: No space left on device; send it elsewhere.\n",
    )


def test_where_nothing_can_be_said_the_exit_code_says_it():
    assert shell("chatpipe show > /dev/full 2>&1").returncode == 1
    assert shell("chatpipe show nope > /dev/full 2>&1").returncode == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("shwo", "chatpipe: no such command 'shwo'; did you mean 'show'?"),
        ("xyzw", "chatpipe: no such command 'xyzw'; see chatpipe --help."),
        ("--nope", "chatpipe: no such option: --nope; see chatpipe --help."),
        ("run", "chatpipe run: missing argument 'variant'; see chatpipe run --help."),
        ("run --nope", "chatpipe run: no such option: --nope; see chatpipe run --help."),
        ("run a b", "chatpipe run: one argument too many: b; see chatpipe run --help."),
        (
            "up --port x",
            "chatpipe up: invalid value for '--port': expected a whole number; "
            "see chatpipe up --help.",
        ),
        ("run a --set", "option '--set' requires an argument; see "),
        ("ask a b --temperature -1", "ask: invalid value for '--temperature': expected at least 0"),
        ("ask a b --temperature nan", "ask: invalid value for '--temperature': expected "),
        ("ask a b --top-p 0", "ask: invalid value for '--top-p': expected at least 0.001"),
        ("ask a b --max-new-tokens 0", "for '--max-new-tokens': expected at least 1"),
        ("ask demo hi", "demo: is a study; name one of its variants (smol-alpaca, smol-dialog, "
         "smol-merge, smol-chat), or have all of them answer a file of prompts: --file "),
    ],
)  # fmt: skip
def test_a_command_line_that_cannot_be_is_one_sentence(words, sentence):
    done = chatpipe(*words.split())
    assert done.returncode == 2 and not done.stdout
    assert sentence in done.stderr and len(done.stderr.splitlines()) == 1


def test_no_command_at_all_is_a_call_for_help():
    done = chatpipe()
    assert done.returncode == 2 and not done.stderr and "Start with: chatpipe demo" in done.stdout


def test_letters_that_the_terminal_lacks_are_printed_all_the_same(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text('{datasets: [sample-dialog], panel: [{id: a, instruction: "Wie schön 你好"}]}')
    for encoding in ("ascii", "latin-1", "utf-8"):
        done = chatpipe("show", path, PYTHONIOENCODING=encoding, LANG="C")
        assert done.returncode == 0 and not done.stderr
    refused = chatpipe("show", "smol-mergë", PYTHONIOENCODING="ascii")
    assert refused.returncode == 2 and "did you mean smol-merge?" in refused.stderr
    assert chatpipe("show", b"\xff".decode(errors="surrogateescape")).returncode == 2


def test_a_home_that_is_a_file_is_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for command in (["show"], ["plan", "smol-merge"], ["history"]):
        done = chatpipe(*command, CHATPIPE_HOME=file)
        assert (done.returncode, done.stderr) == (
            2,
            f"CHATPIPE_HOME={file}: is a file; name a directory.\n",
        )


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("{folder}/file/home", "/file is a file; name a directory."),
        ("{folder}/link", "is a link to nowhere, which is not there; name a directory."),
        ("a" * 300, "no disk can have such a name; name a directory."),
        (
            "/proc/home",
            "no directory can be made in /proc (No such file or directory); name a directory.",
        ),
    ],
)
@pytest.mark.parametrize("variable", ["CHATPIPE_HOME", "CHATPIPE_SHARED_STORE"])
def test_a_place_that_can_be_no_directory_is_refused(tmp_path, variable, place, words):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    done = chatpipe("show", **{variable: place.format(folder=tmp_path)})
    assert done.returncode == 2 and done.stderr.startswith(f"{variable}=")
    assert done.stderr.endswith(f"{words}\n") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("CHATPIPE_SHARDING", "perhaps", "=perhaps: must be auto, always or never."),
        ("CHATPIPE_SHARDING", "Auto", "=Auto: must be auto, always or never."),
        ("CHATPIPE_PROCESSES", "two", "=two: must be a whole number above 0."),
        ("CHATPIPE_PROCESSES", "0", "=0: must be a whole number above 0."),
        ("CHATPIPE_PROCESSES", "-1", "=-1: must be a whole number above 0."),
        ("CHATPIPE_SHADING", "auto", ": chatpipe has no such variable; did you mean CHATPIPE_SHAR"),
    ],
)
def test_a_variable_that_has_no_such_value_is_refused_at_start(variable, value, words):
    done = chatpipe("show", **{variable: value})
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith(f"{variable}{words}") and done.stderr.count("\n") == 1


def test_variables_of_others_are_no_concern():
    assert chatpipe("show", CHATPIPE_OF_MINE="x", CHATPIPE_SHARDING="auto").returncode == 0


def test_a_user_whom_nobody_knows_is_a_part_of_the_path(tmp_path):
    done = chatpipe("show", CHATPIPE_DEPLOYMENTS="~nobody-here/x")
    assert done.returncode == 2 and "is no directory" in done.stderr


def test_waiting_for_a_run_needs_a_deployment():
    done = chatpipe("run", "smol-merge", "--watch")
    assert done.returncode == 2 and "--watch: needs --deployment" in done.stderr


def test_the_newest_logs_are_kept(chatpipe_home):
    logs = chatpipe_home / "logs"
    logs.mkdir()
    (logs / "of-a-user.log").touch()
    for number in range(60):
        (logs / f"chatpipe-20200101T000000.{number:06}-1.log").touch()
    newest = write_log("adapter", ["words"])
    kept = {path.name for path in logs.iterdir()}
    assert newest.name in kept and "of-a-user.log" in kept and len(kept) == KEPT_LOGS + 1
    assert "chatpipe-20200101T000000.000010-1.log" not in kept
    assert "chatpipe-20200101T000000.000011-1.log" in kept


def test_what_is_missing_around_a_command_is_one_sentence(tmp_path):
    for line, words in (
        (f"CHATPIPE_HOME={tmp_path}/empty chatpipe forget --all --kind scores <&-", ""),
        (
            f"mkdir {tmp_path}/x; cd {tmp_path}/x; rmdir ../x; chatpipe show",
            "was removed; change to another",
        ),
        (f"mkfifo {tmp_path}/a.yaml; chatpipe show {tmp_path}/a.yaml", "is a pipe or device"),
        ("chatpipe ask smol-merge ' '", "ask: the prompt is empty;"),
    ):
        done = shell(f"timeout 60 {line}" if line.startswith("chatpipe") else line)
        assert words in done.stderr and done.stderr.count("\n") == bool(words), (line, done.stderr)


FAULT = (
    "from chatpipe.study import inspect\n"
    "from chatpipe.cli import app\n"
    "def list_all(): raise LookupError('with hf_0123456789abcdef in it')\n"
    "inspect.list_all = list_all\n"
    "import sys; sys.argv = ['chatpipe', 'show']\n"
    "app.main()\n"
)


@pytest.mark.parametrize("home", ["home", "home-whose-logs-are-a-file"])
def test_a_fault_of_chatpipe_itself_is_a_sentence_that_names_its_traceback(tmp_path, home):
    (tmp_path / "home-whose-logs-are-a-file").mkdir()
    (tmp_path / "home-whose-logs-are-a-file/logs").touch()
    done = subprocess.run(
        [sys.executable, "-c", FAULT],
        env={**os.environ, "CHATPIPE_HOME": str(tmp_path / home), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and not done.stdout
    [sentence] = done.stderr.splitlines()
    assert sentence.startswith("an error inside chatpipe: LookupError: with *** in it; report it")
    file = Path(sentence.partition("report it with ")[2].partition(", which")[0])
    text = file.read_text()
    assert "Traceback" in text and "in list_all" in text and "chatpipe show" in text
    assert "hf_0123" not in text and file.is_relative_to(tmp_path)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["run", "{folder}"], "is a directory; name a YAML file in it"),
        (["run", "{folder}/rows.jsonl"], "is no YAML file; its name should end in .yaml"),
        (["run", "{folder}/link.yaml"], "is a link to gone.yaml, which is not there"),
        (["run", "{folder}/none.yaml"], "there is no such file"),
        (["run", "{folder}/folder.yaml"], "is a directory"),
        (["validate", "{folder}"], "is a directory"),
        (["compare", "{folder}"], "is a directory"),
        (["compare", "smol-merge"], "smol-merge: is a variant; name a study, or use run"),
        (["run", "demo"], "demo: is a study; name one of its variants"),
        (["plan", "{folder}/rows.jsonl"], "is no YAML file"),
    ],
)
def test_what_is_no_file_of_settings_is_refused(tmp_path, command, words):
    write_jsonl(tmp_path / "rows.jsonl", alpaca_rows(2))
    (tmp_path / "link.yaml").symlink_to("gone.yaml")
    (tmp_path / "folder.yaml").mkdir()
    done = chatpipe(*(part.format(folder=tmp_path) for part in command))
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("adapter", ["file", "file/adapter", "link", "full"])
def test_a_place_for_the_adapter_that_cannot_be_is_refused_first(tmp_path, adapter):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "full/adapter").mkdir(parents=True)
    rows = write_jsonl(tmp_path / "rows.jsonl", alpaca_rows(2))
    options = ("--base-model", "smollm2-135m-instruct", "--dataset", rows)
    done = chatpipe("finetune", *options, "--adapter", tmp_path / adapter)
    assert done.returncode == 2 and f"--adapter {tmp_path / adapter}: " in done.stderr


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("rows", "rows"),
        ("My Rows (2)", "my-rows--2"),
        ("Übungen", "u-bungen-cd799f06"),
        ("数据", "rows-147ee2d1"),
        ("..", "rows"),
        ("a" * 200, "a" * 60 + "-14bee5e9"),
        ("x.y_z-1", "x-y-z-1"),
        ("+a=b", "a-b"),
    ],
)
def test_a_file_of_any_name_has_a_name_of_a_variant(tmp_path, stem, name):
    assert name_of_file(tmp_path / f"{stem}.jsonl") == name
    rows = write_jsonl(tmp_path / f"{stem}.jsonl", alpaca_rows(2)) if stem != ".." else None
    if rows is not None and len(rows.name) < 255:
        dataset = {"name": name, "path": str(rows)}
        assert parse_variant({"name": name, "datasets": [dataset]}, "command line").name == name
    assert load_variant("smol-merge").model_copy(update={"name": unique_name(name, stem)})


def test_a_name_is_taken_by_another_base_or_file_and_by_variants(chatpipe_home):
    rows = write_jsonl(chatpipe_home / "rows.jsonl", alpaca_rows(2))

    def variant(name="rows", path=rows, base="smollm2-135m-instruct"):
        dataset = {"name": "rows", "path": str(path)}
        raw = {"name": name, "base_model": {"repo": base}, "datasets": [dataset]}
        return parse_variant(raw, "command line")

    assert not is_taken(variant())
    export_variant(variant())
    assert not is_taken(variant())
    other = write_jsonl(chatpipe_home / "other.jsonl", alpaca_rows(2))
    assert is_taken(variant(path=other)) and is_taken(variant(base="some/model"))
    assert is_taken(variant("smol-merge")) and is_taken(variant("demo"))
    assert load_variant("rows") == variant()  # by the name that finetune gave it


def test_runs_of_one_plain_name_have_one_base_and_one_file(chatpipe_home):
    """`rows+training.epochs=2` is read as `rows` with a setting, so `rows` has to have its base."""
    rows = write_jsonl(chatpipe_home / "rows.jsonl", alpaca_rows(2))

    def variant(base, *overrides):
        dataset = {"name": "rows", "path": str(rows)}
        raw = {"name": "rows", "base_model": {"repo": base}, "datasets": [dataset]}
        return parse_variant(raw, "command line", overrides)

    export_variant(variant("some/model", "training.epochs=2"))
    assert is_taken(variant("other/model")) and is_taken(variant("other/model", "lora.rank=4"))
    assert not is_taken(variant("some/model")) and not is_taken(variant("some/model", "dedup=near"))
    # A base that the run's name has is no other base of the plain name.
    assert not is_taken(variant("some/model", "base_model.revision=v1"))
    export_variant(variant("some/model", "base_model.revision=v1"))
    assert not is_taken(variant("some/model"))


def test_options_of_generation_have_the_bounds_of_the_settings():
    fields = Generation.model_json_schema()["properties"]
    for annotation, name in ((MaxNewTokens, "max_new_tokens"), (Temperature, "temperature"),
                             (Seed, "seed")):  # fmt: skip
        option = get_args(annotation)[1]
        assert (option.min, option.max) == (fields[name]["minimum"], fields[name]["maximum"])
    assert fields["top_p"]["maximum"] == get_args(TopP)[1].max
    with pytest.raises(typer.BadParameter, match="expected a number"):
        check_is_number(float("nan"))  # of versions of typer whose bounds let it pass
