"""Artifacts and their keys: a part of an artifact is never read as one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field

from chatpipe.errors import ArtifactError
from chatpipe.store.artifact import Artifact, Request
from chatpipe.store.manifest import MANIFEST
from chatpipe.store.store import store, verify


class Note(Request):
    """A step whose product is one file."""

    kind: ClassVar[str] = "note"
    version: ClassVar[int] = 1
    hash_exclude: ClassVar[frozenset[str]] = frozenset({"path"})

    text: str
    path: str = ""
    after: Artifact | None = None
    settings: dict[str, Any] = Field({})

    def build(self, into: Path) -> dict[str, Any]:
        (into / "folder").mkdir()
        (into / "folder" / "note.txt").write_text(self.text)
        (into / "README.md").write_text(f"written at {time.time()}")
        return {"letters": len(self.text)}


@pytest.fixture(autouse=True)
def _home(chatpipe_home):
    return chatpipe_home


def no_build(into):
    raise AssertionError("built again")


def test_what_was_asked_for_is_built_once_and_then_found():
    made = store().get_or_build(Note(text="hello"))
    assert (made.path / "folder/note.txt").read_text() == "hello"
    assert made.details() == {"letters": 5}
    assert store().get_or_build(Note(text="hello"), no_build) == made


def test_the_digest_is_of_the_content_and_not_of_notes_and_times():
    first = store().get_or_build(Note(text="hello", settings={"a": 1}))
    second = store().get_or_build(Note(text="hello", settings={"a": 2}))
    assert first.key != second.key and first.digest == second.digest
    assert store().get_or_build(Note(text="other")).digest != first.digest


def test_the_key_holds_what_was_asked_and_not_where():
    key = Note(text="x").key()
    assert Note(text="x", path="/elsewhere").key() == key
    assert Note(text="y").key() != key
    assert Note(text="x", settings={"b": 1, "a": 2}).key() == (
        Note(text="x", settings={"a": 2, "b": 1}).key()
    )


def test_the_version_of_a_step_is_in_its_key(monkeypatch):
    key = Note(text="x").key()
    monkeypatch.setattr(Note, "version", 2)
    assert Note(text="x").key() != key


def test_upstream_counts_by_what_came_out_not_by_how_it_was_asked_for():
    one, two = (store().get_or_build(Note(text="same", settings={"n": n})) for n in (1, 2))
    assert Note(text="x", after=one).key() == Note(text="x", after=two).key()
    other = store().get_or_build(Note(text="different"))
    assert Note(text="x", after=other).key() != Note(text="x", after=one).key()


def test_the_key_is_the_same_in_every_process():
    code = (
        "from tests.store.test_store import Note;"
        "print(Note(text='é', settings={'b': [1, 2.5, None], 'a': True}).key())"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert keys == {Note(text="é", settings={"a": True, "b": [1, 2.5, None]}).key() + "\n"}


def test_a_value_without_a_stable_form_is_refused():
    with pytest.raises(TypeError, match="a set has no stable form"):
        Note(text="x", settings={"a": {1, 2}}).key()
    with pytest.raises(ValueError, match="not JSON compliant"):
        Note(text="x", settings={"a": float("nan")}).key()


def test_a_failed_build_leaves_nothing():
    def fail(into):
        (into / "half.txt").write_text("half")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        store().get_or_build(Note(text="x"), fail)
    assert not [path for path in store().root.rglob("*") if path.name in {"half.txt", MANIFEST}]


@pytest.mark.parametrize("damage", ["truncate", "remove", "unseal"])
def test_a_damaged_artifact_is_named_and_built_again(damage):
    made = store().get_or_build(Note(text="hello"))
    file = made.path / "folder/note.txt"
    if damage == "truncate":
        file.write_text("hell")
    elif damage == "remove":
        file.unlink()
    else:
        (made.path / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match=MANIFEST if damage == "unseal" else "note.txt"):
        verify(made.path)
    assert store().get_or_build(Note(text="hello")) == made
    assert file.read_text() == "hello"


@pytest.mark.parametrize("deep", [False, True])
def test_a_change_that_keeps_the_size_is_found(deep):
    made = store().get_or_build(Note(text="hello"))
    (made.path / "folder/note.txt").write_text("jello")
    with pytest.raises(ArtifactError, match=r"note\.txt: content differs"):
        verify(made.path, deep)


def test_the_seal_is_the_last_file_that_is_written():
    made = store().get_or_build(Note(text="hello"))
    manifest = (made.path / MANIFEST).stat().st_mtime_ns
    assert all(p.stat().st_mtime_ns <= manifest for p in made.path.rglob("*") if p.is_file())
    assert MANIFEST not in json.loads((made.path / MANIFEST).read_text())["files"]


BUILDER = """
import sys, time
from pathlib import Path
from chatpipe.store.store import store
from tests.store.test_store import Note
def build(into):
    Path(sys.argv[1]).open("a").write("built\\n")
    time.sleep(float(sys.argv[2]))
    return Note(text="x").build(into)
print(store().get_or_build(Note(text="x"), build).digest, flush=True)
"""


def builder(log, seconds):
    command = [sys.executable, "-c", BUILDER, str(log), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)


def wait_for(path):
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_processes_at_once_build_one_artifact(tmp_path):
    log = tmp_path / "log"
    processes = [builder(log, 0.5) for _ in range(3)]
    digests = {process.communicate(timeout=60)[0] for process in processes}
    assert len(digests) == 1 and log.read_text() == "built\n"


def test_a_killed_builder_leaves_no_lock_no_artifact_and_after_the_next_one_nothing(tmp_path):
    log = tmp_path / "log"
    first = builder(log, 60)
    wait_for(log)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert store().find("note", Note(text="x").key()) is None
    assert any((store().root / ".tmp").iterdir())
    assert builder(log, 0).communicate(timeout=30)[0].strip()
    assert not any((store().root / ".tmp").iterdir())


def test_what_a_killed_build_left_is_no_artifact_and_goes_after_a_day(tmp_path):
    log = tmp_path / "log"
    killed, running = builder(log, 60), store().root / ".tmp"
    wait_for(log)
    [left] = running.iterdir()
    (left / MANIFEST).write_text("{}")
    long_ago = time.time() - 25 * 3600
    os.utime(left, (long_ago, long_ago))
    store().get_or_build(Note(text="another"))
    assert left.exists()  # it is old, but still being built
    killed.kill()
    killed.wait()
    assert left not in store().all()
    store().get_or_build(Note(text="a third"))
    assert not left.exists()


def test_lineage_lists_all_that_an_artifact_was_made_from_sources_first():
    source = store().get_or_build(Note(text="source"))
    middle = store().get_or_build(Note(text="middle", after=source))
    last = store().get_or_build(Note(text="last", settings={"of": 2}, after=middle))
    found = last.lineage()
    assert [item["details"]["letters"] for item in found] == [6, 6, 4]
    assert [item["digest"] for item in found] == [source.digest, middle.digest, last.digest]
    store().forget(source.path)
    assert last.lineage()[0] == source.model_dump() | {"details": None}
