"""Two machines, one shared store: what one has made, the other fetches. A directory stands for
the object store in fast tests, and a real S3 server on loopback in slow ones."""

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest

from chatpipe.errors import ArtifactError, ConfigError, SharedStoreError
from chatpipe.store.artifact import Artifact, Request
from chatpipe.store.manifest import MANIFEST
from chatpipe.store.remote import ADDRESS, shared_store
from chatpipe.store.store import store
from tasks.caching import VerifiedArtifact


class Note(Request):
    """A step whose product is two files."""

    kind: ClassVar[str] = "note"
    version: ClassVar[int] = 1

    text: str
    after: Artifact | None = None

    def build(self, into: Path) -> dict[str, Any]:
        (into / "folder").mkdir()
        (into / "folder" / "note.txt").write_text(self.text)
        (into / "other.txt").write_text("other")
        return {"letters": len(self.text)}


def never(into: Path) -> dict[str, Any]:
    raise AssertionError("built, where it was to be fetched")


@pytest.fixture
def on_machine(tmp_path, monkeypatch):
    """Go to a machine: a home of its own, the same shared store."""

    def go(name: str) -> None:
        monkeypatch.setenv("CHATPIPE_HOME", str(tmp_path / name))

    monkeypatch.setenv(ADDRESS, str(tmp_path / "bucket"))
    go("one")
    return go


def test_what_one_machine_made_another_fetches(on_machine):
    made = store().get_or_build(Note(text="hello"))
    on_machine("two")
    found = store().get_or_build(Note(text="hello"), never)
    assert found == made
    assert (found.path / "folder/note.txt").read_text() == "hello"
    assert found.details() == {"letters": 5}


def test_what_only_the_shared_store_has_is_known_by_its_seal_and_not_fetched(on_machine):
    made = store().get_or_build(Note(text="hello"))
    after = store().get_or_build(Note(text="an answer", after=made))
    described = made.details(), made.size(), after.lineage()
    on_machine("two")
    held = store().lookup(Note(text="hello"))
    assert held == made
    assert (held.details(), held.size(), after.lineage()) == described
    assert not held.path.exists() and not after.path.exists()


def test_what_was_made_anew_elsewhere_is_described_by_its_own_seal(on_machine):
    """Damaged here, and another one there since then."""
    first = store().get_or_build(Note(text="hello"))
    store().forget(first.path)

    def another(into: Path) -> dict[str, Any]:
        (into / "note.txt").write_text("another")
        return {"letters": 7}

    made_anew = store().get_or_build(Note(text="hello"), another)
    on_machine("two")
    shutil.move(made_anew.path.parents[3] / "bucket", made_anew.path.parents[3] / "later")
    first = store().get_or_build(Note(text="hello"))
    shutil.rmtree(first.path.parents[3] / "bucket")
    shutil.move(first.path.parents[3] / "later", first.path.parents[3] / "bucket")
    (first.path / "other.txt").unlink()
    held = store().lookup(Note(text="hello"))
    assert held == made_anew != first
    assert held.details() == {"letters": 7}


def test_what_was_forgotten_everywhere_has_no_details(on_machine):
    made = store().get_or_build(Note(text="hello"))
    store().forget(made.path)
    with pytest.raises(ArtifactError, match="no whole artifact is there"):
        made.details()


def test_what_was_made_before_there_was_a_shared_store_is_shared_when_it_is_next_used(
    on_machine, monkeypatch
):
    address = shared_store().address
    monkeypatch.delenv(ADDRESS)
    made = store().get_or_build(Note(text="early"))
    monkeypatch.setenv(ADDRESS, address)
    assert not store().shared(made.path)
    store().get_or_build(Note(text="early"), never)
    assert store().shared(made.path)
    on_machine("two")
    assert store().get_or_build(Note(text="early"), never) == made


def test_prefect_s_record_is_no_hit_before_the_artifact_is_shared(on_machine, monkeypatch):
    address = shared_store().address
    monkeypatch.delenv(ADDRESS)
    made = store().get_or_build(Note(text="early"))
    record = VerifiedArtifact()
    assert record.loads(record.dumps(made)) == made
    monkeypatch.setenv(ADDRESS, address)
    with pytest.raises(ValueError, match="not in the shared store yet"):
        record.loads(record.dumps(made))
    store().get_or_build(Note(text="early"), never)
    assert record.loads(record.dumps(made)) == made


def test_of_two_machines_that_made_the_same_the_first_one_s_is_taken(on_machine):
    def differently(into: Path) -> dict[str, Any]:
        (into / "note.txt").write_text("as trained on the second machine")
        return {}

    def meanwhile(into: Path) -> dict[str, Any]:
        on_machine("one")
        store().get_or_build(Note(text="x"))
        on_machine("two")
        return differently(into)

    on_machine("two")
    late = store().get_or_build(Note(text="x"), meanwhile)
    on_machine("one")
    assert store().get_or_build(Note(text="x"), never) == late


def test_of_two_uploads_at_once_the_one_that_is_sealed_first_is_taken(on_machine):
    """The other machine uploads its own after this one has begun its upload."""

    def differently(into: Path) -> dict[str, Any]:
        (into / "note.txt").write_text("as made on the second machine")
        return {}

    class Slow(type(shared_store())):
        def offer(self, kind, key, path):
            on_machine("two")
            store().get_or_build(Note(text="x"), differently)
            on_machine("one")
            return super().offer(kind, key, path)

    key = Note(text="x").key()
    shared = Slow(shared_store().address)
    made = store()._build(Note(text="x"), key, Note(text="x").build)
    taken = store()._share(shared, made)
    assert taken.digest == shared.manifest("note", key)["digest"] != made.digest
    assert store().find("note", key) == taken
    assert len(list(Path(shared.address).glob("note/*/*/"))) == 1


class Copy(Request):
    """A step that is made from another one's product."""

    kind: ClassVar[str] = "copy"
    version: ClassVar[int] = 1

    of: Artifact

    def build(self, into: Path) -> dict[str, Any]:
        (into / "note.txt").write_text((self.of.path / "note.txt").read_text())
        return {}


def noted(text):
    def build(into: Path) -> dict[str, Any]:
        (into / "note.txt").write_text(text)
        return {}

    return build


@pytest.fixture
def made_anew(on_machine):
    """What machine one has of a note, and what machine two has made anew of it since."""
    first = store().get_or_build(Note(text="x"), noted("first"))
    on_machine("two")
    store().forget(store().get_or_build(Note(text="x"), never).path)
    return first, store().get_or_build(Note(text="x"), noted("anew"))


def test_what_another_machine_made_anew_replaces_what_is_here(made_anew, on_machine):
    first, anew = made_anew
    on_machine("one")
    record = VerifiedArtifact()
    assert first != anew
    with pytest.raises(ValueError, match="not in the shared store"):
        record.loads(record.dumps(first))
    assert store().get_or_build(Note(text="x"), never) == anew


def test_a_step_on_what_another_machine_made_anew_is_built_on_that(made_anew, on_machine):
    _, anew = made_anew
    on_machine("one")
    copy = store().get_or_build(Copy(of=anew))
    assert (copy.path / "note.txt").read_text() == "anew"


def test_an_upload_that_was_cut_is_no_artifact(on_machine, monkeypatch):
    shared = shared_store()

    def cut(*args, **kwargs):
        raise OSError("connection reset")

    monkeypatch.setattr(type(shared._files), "pipe_file", cut)
    with pytest.raises(SharedStoreError, match=r"connection reset.*goes on from it"):
        store().get_or_build(Note(text="hello"))
    monkeypatch.undo()
    monkeypatch.setenv(ADDRESS, shared.address)
    on_machine("two")
    assert shared.manifest("note", Note(text="hello").key()) is None
    on_machine("one")
    store().get_or_build(Note(text="hello"), never)  # it was made; now it is uploaded
    on_machine("two")
    store().get_or_build(Note(text="hello"), never)


def test_a_damaged_upload_is_refused_and_named(on_machine):
    made = store().get_or_build(Note(text="hello"))
    (file,) = Path(shared_store().address).glob("note/*/*/folder/note.txt")
    file.write_text("hellO")
    on_machine("two")
    with pytest.raises(ArtifactError, match=f"bucket/note/{made.key} is damaged.*note.txt"):
        store().get_or_build(Note(text="hello"), never)
    assert not list(store().all())


def test_forgotten_is_forgotten_everywhere(on_machine):
    made = store().get_or_build(Note(text="hello"))
    store().forget(made.path)
    assert shared_store().manifest("note", made.key) is None
    assert not list(Path(shared_store().address).rglob("note.txt"))
    with pytest.raises(AssertionError, match="built"):
        store().get_or_build(Note(text="hello"), never)


def test_a_relative_directory_is_the_same_one_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(ADDRESS, "bucket")
    assert shared_store().address == str(tmp_path / "bucket")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://name:secret@bucket/x", "holds a password"),
        ("nonsense://bucket", "Protocol not known: nonsense"),
    ],
)
def test_a_wrong_address_is_one_sentence_without_secrets(monkeypatch, address, said):
    monkeypatch.setenv(ADDRESS, address)
    with pytest.raises(ConfigError, match=said) as refused:
        shared_store()
    assert "secret" not in str(refused.value)


@pytest.mark.slow
def test_an_s3_bucket(on_machine, monkeypatch):
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        options = {"endpoint_url": f"http://{host}:{port}", "key": "k", "secret": "hidden"}
        monkeypatch.setitem(_fsspec_settings(), "s3", options)
        monkeypatch.setenv(ADDRESS, "s3://chatpipe-tests/lab")
        shared_store()._files.mkdir("chatpipe-tests")
        made = store().get_or_build(Note(text="hello"))
        on_machine("two")
        assert store().get_or_build(Note(text="hello"), never) == made
        manifest = (made.path / MANIFEST).read_text()
        assert "hidden" not in manifest and json.loads(manifest)["digest"] == made.digest
        on_machine("three")
        late = store()._build(Note(text="hello"), made.key, noted("hello, later"))
        assert not shared_store().offer("note", made.key, late.path)
        assert shared_store().manifest("note", made.key)["digest"] == made.digest
        on_machine("two")
        store().forget(made.path)
        assert shared_store().manifest("note", made.key) is None
    finally:
        server.stop()


def _fsspec_settings() -> dict[str, Any]:
    from fsspec.config import conf

    return conf
