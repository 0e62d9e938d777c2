"""Steps in processes of their own: one process for many requests, and what becomes of its end."""

import os
import signal
import subprocess
import sys
from threading import Timer

import psutil
import pytest

from chatpipe import progress
from chatpipe.artifacts import store
from chatpipe.child import SharedChild
from chatpipe.config import Generation, Prompt, Quantization
from chatpipe.errors import ConfigError, SourceError, StepProcessError, named
from chatpipe.generation import Ask
from chatpipe.prompts import template
from chatpipe.sources import BaseModelRef, FetchModel

pytestmark = pytest.mark.slow


@pytest.fixture
def ask(chatpipe_home, tiny_model_dir):
    base = store().obtain(FetchModel.of(BaseModelRef(repo=str(tiny_model_dir))))
    return Ask(
        base=base,
        adapter=None,
        prompt_template=template("alpaca"),
        quantization=Quantization(method="none", compute_dtype="float32"),
        panel=(Prompt(id="hello", instruction="Hello?"),),
        generation=Generation(max_new_tokens=3),
        asked=("template",),
    )


def built(child, request, into, heard):
    into.mkdir()
    return child.build(request, into, heard.append, lambda line: None)


def test_requests_share_a_process_which_survives_a_refused_one(ask, tmp_path):
    child, heard = SharedChild(), []
    with child.kept():
        built(child, ask, tmp_path / "1", heard)
        process = child._child._process
        with pytest.raises(SourceError, match="nothing-here"):
            built(child, FetchModel(path=str(tmp_path / "nothing-here")), tmp_path / "2", heard)
        details = built(child, ask, tmp_path / "3", heard)
        assert child._child._process is process and process.poll() is None
    assert process.poll() == 0
    assert details["device"]
    assert (tmp_path / "1/answers.json").read_text() == (tmp_path / "3/answers.json").read_text()
    assert heard[-1].done == heard[-1].total == 3


def test_what_was_asked_wrongly_comes_out_of_the_process_as_all_its_faults():
    refused = named("ConfigError", str(ConfigError(["one fault.", "another."])))
    assert isinstance(refused, ConfigError)
    assert refused.faults == ["one fault.", "another."]


def test_an_event_is_found_behind_what_a_library_did_not_end():
    event = '{"details": {"a": 1}}'
    assert progress.parse(f"50% done@chatpipe {event}\n", print) == {"details": {"a": 1}}
    assert progress.parse("mail me @chatpipe today\n", print) is None


def test_a_killed_process_is_a_typed_error_and_the_next_request_gets_a_new_one(ask, tmp_path):
    child = SharedChild()
    with child.kept():
        built(child, ask, tmp_path / "1", [])
        pid = child._child._process.pid
        os.kill(pid, signal.SIGSTOP)  # so that it cannot answer before it is killed
        Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
        with pytest.raises(StepProcessError, match="SIGKILL; the machine ran out of memory"):
            built(child, ask, tmp_path / "2", [])
        assert built(child, ask, tmp_path / "3", [])


def test_an_error_nobody_foresaw_ends_with_its_last_line(ask, tmp_path):
    broken = ask.model_copy(update={"base": ask.base.model_copy(update={"key": "gone"})})
    with pytest.raises(StepProcessError, match=r"exit code 1: \w*Error: .*gone"):
        built(SharedChild(), broken, tmp_path / "1", [])


ORPHAN = """
import sys
from pathlib import Path
from chatpipe.child import SharedChild
from chatpipe.generation import Ask
child = SharedChild()
with child.kept():
    into = Path(sys.argv[2])
    into.mkdir()
    child.build(Ask.model_validate_json(sys.argv[1]), into, print, print)
    print("child", child._child._process.pid, flush=True)
    sys.stdin.read()
"""


def test_a_child_does_not_outlive_a_parent_that_was_killed(ask, tmp_path):
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, ask.model_dump_json(), str(tmp_path / "into")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    pid = next(int(line.split()[1]) for line in parent.stdout if line.startswith("child"))
    assert psutil.pid_exists(pid)
    orphan = psutil.Process(pid)
    parent.kill()
    parent.wait()
    psutil.wait_procs([orphan], timeout=10)
    assert not psutil.pid_exists(pid) or orphan.status() == psutil.STATUS_ZOMBIE
