"""Steps in processes of their own: one process for many requests, and what becomes of its end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer

import psutil
import pytest

from chatpipe.config.prompt_schema import Prompt
from chatpipe.config.prompts import template
from chatpipe.config.schema import Generation, Quantization
from chatpipe.errors import (
    ChatpipeError,
    ConfigError,
    SourceError,
    StepProcessError,
    error_from_name,
)
from chatpipe.generation.ask import Ask
from chatpipe.runtime import parent_death, progress
from chatpipe.runtime.worker import SharedWorker
from chatpipe.sources.fetch import BaseModelRef, FetchModel
from chatpipe.store.artifact import request_class
from chatpipe.store.store import store

pytestmark = pytest.mark.slow


@pytest.fixture
def ask(chatpipe_home, tiny_model_dir):
    base = store().get_or_build(FetchModel.of(BaseModelRef(repo=str(tiny_model_dir))))
    return Ask(
        base=base,
        adapter=None,
        prompt_template=template("alpaca"),
        quantization=Quantization(method="none", compute_dtype="float32"),
        panel=(Prompt(id="hello", instruction="Hello?"),),
        generation=Generation(max_new_tokens=3),
        asked=("template",),
    )


def built(worker, request, into, heard):
    into.mkdir()
    return worker.build(request, into, heard.append, lambda line: None)


def test_requests_share_a_process_which_survives_a_refused_one(ask, tmp_path):
    worker, heard = SharedWorker(), []
    with worker.keep_alive():
        built(worker, ask, tmp_path / "1", heard)
        process = worker._worker._process
        with pytest.raises(SourceError, match="nothing-here"):
            built(worker, FetchModel(path=str(tmp_path / "nothing-here")), tmp_path / "2", heard)
        details = built(worker, ask, tmp_path / "3", heard)
        assert worker._worker._process is process and process.poll() is None
    assert process.poll() == 0
    assert details["device"]
    assert (tmp_path / "1/answers.json").read_text() == (tmp_path / "3/answers.json").read_text()
    assert heard[-1].done == heard[-1].total == 3


def test_what_was_asked_wrongly_comes_out_of_the_process_as_all_its_faults():
    refused = error_from_name("ConfigError", str(ConfigError(["one fault.", "another."])))
    assert isinstance(refused, ConfigError)
    assert refused.faults == ["one fault.", "another."]


def test_an_event_is_found_behind_what_a_library_did_not_end():
    event = '{"details": {"a": 1}}'
    assert progress.parse(f"50% done@chatpipe {event}\n", print) == {"details": {"a": 1}}
    assert progress.parse("mail me @chatpipe today\n", print) is None


def test_a_killed_process_is_a_typed_error_and_the_next_request_gets_a_new_one(ask, tmp_path):
    worker, refused = SharedWorker(), FetchModel(path=str(tmp_path / "nothing-here"))
    with worker.keep_alive():
        with pytest.raises(SourceError):
            built(worker, refused, tmp_path / "1", [])
        pid = worker._worker._process.pid
        os.kill(pid, signal.SIGSTOP)  # so that it cannot answer before it is killed
        Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
        with pytest.raises(StepProcessError, match="SIGKILL; the machine ran out of memory"):
            built(worker, ask, tmp_path / "2", [])
        with pytest.raises(SourceError):
            built(worker, refused, tmp_path / "3", [])
        assert worker._worker._process.pid != pid


BROKEN = """
import builtins, sys
from pathlib import Path
from chatpipe.generation import ask
from chatpipe.runtime import worker
class Broken(ask.Ask):
    def build(self, into):
        raise ERROR
ask.Ask = Broken
worker.main()
"""


@pytest.fixture
def breaking(monkeypatch, tmp_path):
    """Return a function that makes a worker whose step raises the error."""

    def broken_worker(error):
        file = tmp_path / "broken.py"
        file.write_text(BROKEN.replace("ERROR", error))
        monkeypatch.setattr(
            "chatpipe.runtime.parent_death.command", lambda *_: [sys.executable, str(file)]
        )
        return SharedWorker()

    return broken_worker


SECRET = "hf_NotARealTokenButAsLong"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("KeyError('weight')", "the generations step failed: KeyError: 'weight'; the traceback"),
        ("ValueError('no such layer.')", "the generations step failed: no such layer; the traceba"),
        (f"RuntimeError('at https://me:pw@host/x {SECRET}')", "RuntimeError: at https://***@host"),
        ("RuntimeError('x' * 5000)", "xxx …; the traceback is in"),
        ("OSError(28, 'No space left on device', '/big/disk')", "/big/disk: no space is left on "),
    ],
)
def test_an_error_nobody_foresaw_is_a_sentence_that_names_the_file_with_its_traceback(
    ask, tmp_path, breaking, error, sentence, monkeypatch
):
    monkeypatch.setenv("MY_API_TOKEN", "planted-secret")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    with pytest.raises(ChatpipeError) as caught:
        built(breaking(error), ask, tmp_path / "1", [])
    message = str(caught.value)
    assert sentence in message and "\n" not in message and len(message) < 1000
    note = "\n".join(caught.value.__notes__)
    assert "Traceback (most recent call last)" in note and "broken.py" in note
    logs = list((tmp_path / "logs").iterdir()) if (tmp_path / "logs").exists() else []
    assert len(logs) == ("the traceback is in" in message)
    for log in logs:
        assert str(log) in message and "broken.py" in log.read_text()
        assert not {"planted-secret", SECRET, "me:pw"} & set(log.read_text().split())
    for text in [message, note, *(log.read_text() for log in logs)]:
        assert SECRET not in text and "me:pw" not in text


def test_a_process_that_ends_itself_leaves_what_it_wrote_in_a_file(ask, tmp_path, breaking):
    error = "SystemExit(print('the library was here') or 3)"
    with pytest.raises(StepProcessError, match="exit code 3: the library was here; the traceback"):
        built(breaking(error), ask, tmp_path / "1", [])
    error = "RuntimeError(__import__('ctypes').string_at(0))"
    with pytest.raises(StepProcessError, match="ended by SIGSEGV; the traceback is in") as caught:
        built(breaking(error), ask, tmp_path / "2", [])
    log = Path(str(caught.value).partition(" is in ")[2].rstrip("."))
    assert "Fatal Python error: Segmentation fault" in log.read_text()


@pytest.mark.parametrize("path", ["os:system", "chatpipe.errors:DataError", "chatpipe.config:No"])
def test_a_message_can_name_only_requests_of_chatpipe(path):
    with pytest.raises(ValueError, match=path):
        request_class(path)


STARTS_A_WORKER = """
import sys, time
from pathlib import Path
from chatpipe.runtime import worker
from chatpipe.generation.ask import Ask
process = worker.WorkerProcess()._process
request = Ask.model_validate_json(sys.argv[1])
process.stdin.write(worker._message(request, Path(sys.argv[2])) + "\\n")
process.stdin.flush()
print(process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.2])
def test_a_worker_that_just_started_does_not_outlive_its_parent(ask, tmp_path, after_s):
    into = tmp_path / "into"
    into.mkdir()
    arguments = [ask.model_dump_json(), str(into)]
    parent = subprocess.Popen(
        [sys.executable, "-c", STARTS_A_WORKER, *arguments], stdout=subprocess.PIPE, text=True
    )
    worker = psutil.Process(int(parent.stdout.readline()))
    time.sleep(after_s)
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs([worker], timeout=2)
    assert not alive
    assert not list(into.iterdir())


def test_a_process_whose_parent_is_another_one_does_nothing():
    command = parent_death.command("chatpipe.runtime.worker")
    command[command.index(str(os.getpid()))] = "1"
    assert subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode == 1


ORPHAN = """
import sys
from pathlib import Path
from chatpipe.runtime.worker import SharedWorker
from chatpipe.generation.ask import Ask
worker = SharedWorker()
with worker.keep_alive():
    into = Path(sys.argv[2])
    into.mkdir()
    worker.build(Ask.model_validate_json(sys.argv[1]), into, print, print)
    print("worker", worker._worker._process.pid, flush=True)
    sys.stdin.read()
"""


def test_a_worker_does_not_outlive_a_parent_that_was_killed(ask, tmp_path):
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, ask.model_dump_json(), str(tmp_path / "into")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    pid = next(int(line.split()[1]) for line in parent.stdout if line.startswith("worker"))
    assert psutil.pid_exists(pid)
    orphan = psutil.Process(pid)
    parent.kill()
    parent.wait()
    psutil.wait_procs([orphan], timeout=10)
    assert not psutil.pid_exists(pid) or orphan.status() == psutil.STATUS_ZOMBIE
