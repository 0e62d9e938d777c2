"""What disks, kills and strangers' files do to the store: a sentence, and nothing half."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from chatpipe.cli.app import app
from chatpipe.errors import ArtifactError, ConfigError, DiskError
from chatpipe.server.prefect_disk import check_room
from chatpipe.store.disk_errors import as_disk_error, disk_errors
from chatpipe.store.manifest import MANIFEST, RECORD, unexpected_file_fault
from chatpipe.store.store import store
from chatpipe.store.unfinished import LEFT_OVER_AFTER_S
from chatpipe.study import verification
from chatpipe.study.export import check_target, export_directory, export_variant
from chatpipe.study.loading import load_variant
from chatpipe.training.checkpoints import newest_checkpoint, write_checkpoint_manifest
from tests.store.test_store import BUILDER, Note, no_build
from tests.support.commands import chatpipe
from tests.support.disks import fill, make_read_only, small_disk

PAGE = 4096


@pytest.fixture
def small_home(tmp_path, monkeypatch):
    """A home on a disk of 1 MiB."""
    with small_disk(tmp_path / "small", "1m") as home:
        monkeypatch.setenv("CHATPIPE_HOME", str(home))
        yield home


def test_a_full_disk_at_any_stage_is_a_sentence_and_leaves_nothing_half(small_home):
    made = store().get_or_build(Note(text="first"))
    room = 0
    while room < 64 * PAGE:  # the lock, the temporary directory, each file, the manifest
        fill(small_home, room)
        try:
            store().get_or_build(Note(text="second" * PAGE))
        except DiskError as error:
            assert str(error).startswith(str(small_home))
            assert "no space is left on this disk; make room" in str(error)
        else:
            break
        assert list(store().all()) == [made.path]
        assert store().get_or_build(Note(text="first"), no_build) == made
        assert not any((store().root / ".tmp").iterdir())
        (small_home / "ballast").unlink()
        room += PAGE
    assert room > 0 and len(list(store().all())) == 2


def test_a_read_only_store_gives_what_it_has_and_a_sentence_for_the_rest(small_home):
    made = store().get_or_build(Note(text="first"))
    make_read_only(small_home)
    assert store().get_or_build(Note(text="first"), no_build) == made
    assert store().fetch(made) == made
    for refused in (
        lambda: store().get_or_build(Note(text="second")),
        lambda: store().forget(made.path),
        lambda: store().work_path("note", "key"),
        lambda: export_variant(load_variant("smol-merge")),
        lambda: export_directory(made.path, small_home / "copy"),
    ):
        with pytest.raises(DiskError, match=r"this disk is read-only; mount it for writing"):
            refused()


def test_an_export_onto_a_full_disk_is_a_sentence_and_leaves_nothing(small_home, tmp_path):
    made = store().get_or_build(Note(text="first" * PAGE))
    fill(small_home, 0)
    with pytest.raises(DiskError, match="no space is left"):
        export_directory(made.path, small_home / "copy")
    assert {path.name for path in small_home.iterdir()} <= {"store", "ballast"}


def test_what_torch_could_not_write_is_said_of_the_disk(small_home):
    import torch

    state = {f"weight {number}": torch.zeros(3000) for number in range(20)}
    for pages in range(0, 64, 3):  # it ends in other words at other places of the file
        fill(small_home, pages * PAGE)
        with contextlib.suppress(DiskError), disk_errors(small_home):
            torch.save(state, small_home / "optimizer.pt")
        (small_home / "optimizer.pt").unlink(missing_ok=True)
        (small_home / "ballast").unlink()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/a/file"),
            r"^/a/file: no space is left",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/a/file"), r"^/a/file: your quota"),
        (OSError(errno.EROFS, "Read-only file system", "/a/file"), r"^/a/file: .* read-only"),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), r"^/a: this user may not"),
        (OSError(errno.EIO, "Input/output error"), r"^/home: the disk fails"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), r"^/home: no space"),
        (pa.ArrowException("[errno 122] Disk quota exceeded"), r"^/home: your quota"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/a"), r"^/a: a file is in the way"),
    ],
)
def test_what_a_disk_refuses_is_one_sentence_whoever_says_it(error, sentence, tmp_path):
    with pytest.raises(DiskError, match=sentence), disk_errors(tmp_path.__class__("/home")):
        raise error
    wrapped = RuntimeError("saving failed")
    wrapped.__cause__ = error
    assert str(as_disk_error(wrapped, tmp_path.__class__("/home")))


def test_other_errors_are_left_as_they_are(tmp_path):
    for error in (
        ValueError("Permission denied, says a row"),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        FileNotFoundError(errno.ENOENT, "No such file", "/a"),
        ArtifactError("/a: no space left on device"),
    ):
        with pytest.raises(type(error)), disk_errors(tmp_path):
            raise error


def test_files_of_others_in_the_store_are_left_alone(chatpipe_home):
    made = store().get_or_build(Note(text="first"))
    long_ago = time.time() - LEFT_OVER_AFTER_S - 10
    unexpected_files = [
        store().root / place / ".DS_Store" for place in ("", ".tmp", ".locks", "note")
    ]
    unexpected_files += [store().root / ".tmp" / "notes-of-mine.txt"]
    for path in unexpected_files:
        path.write_bytes(b"x")
        os.utime(path, (long_ago, long_ago))
    store().get_or_build(Note(text="second"))
    assert store().find("note", made.key) == made
    assert len(list(store().all())) == 2 and all(path.exists() for path in unexpected_files)


def test_a_flipped_seal_is_no_seal(chatpipe_home):
    made = store().get_or_build(Note(text="first"))
    content = (made.path / MANIFEST).read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        (made.path / MANIFEST).write_bytes(damaged)
        found = store().find("note", made.key)
        assert found is None or (found == made and made.details() == {"letters": 5})


def test_an_artifact_under_anothers_key_is_not_taken_for_it(chatpipe_home):
    one, two = (store().get_or_build(Note(text=text)) for text in ("one", "two"))
    store().discard(two.path)
    one.path.rename(two.path)
    with pytest.raises(ArtifactError, match="holds another artifact"):
        store().check("note", two.key)
    assert store().get_or_build(Note(text="two")) == two


def test_a_file_that_was_put_into_an_artifact_is_neither_used_nor_removed_in_silence(
    chatpipe_home,
):
    made = store().get_or_build(Note(text="first"))
    for name in (".DS_Store", "folder/._note.txt", RECORD):
        (made.path / name).write_text("x")
    assert store().find("note", made.key) == made
    stranger = made.path / "folder/adapter_config.json"
    stranger.write_text("{}")
    sentence = rf"^{stranger}: was not there when .*; move it away, or `chatpipe verify --mend`"
    for use in (
        lambda: store().check("note", made.key),
        lambda: store().get_or_build(Note(text="first")),
        lambda: store().get_or_build(Note(text="made of it", after=made)),
    ):
        with pytest.raises(ArtifactError, match=sentence.replace("^", "")):
            use()
    [checked] = verification.check_all()
    assert [unexpected_file_fault(stranger)] == list(checked.faults)
    assert verification.remove(checked) == [str(stranger)]
    assert store().get_or_build(Note(text="first"), no_build) == made


def test_verify_reads_checkpoints_too(chatpipe_home):
    work = store().work_path("adapter", "key")
    for step in (1, 2, 3):
        (work / f"checkpoint-{step}").mkdir()
        (work / f"checkpoint-{step}/optimizer.pt").write_text("some")
        if step < 3:  # the last one is being written, or was when its process was killed
            write_checkpoint_manifest(work / f"checkpoint-{step}", 1.0)
    (work / "checkpoint-2/optimizer.pt").write_text("sOme")
    with store().unfinished.locked("adapter", "key", wait=False):
        assert not list(verification.check_all())  # another process goes on with them
    done = CliRunner().invoke(app, ["verify"])
    name = ".work/adapter-key/checkpoint-2"
    assert done.exit_code == 1 and done.output.splitlines() == [
        f"damaged: {name}: {work}/checkpoint-2/optimizer.pt: is not as it was written.",
        "2 checked (454 B), 1 damaged",
    ]
    mended = CliRunner().invoke(app, ["verify", "--mend"]).output
    assert f"removed: {name}; the next run goes on from the one before it" in mended
    assert newest_checkpoint(work).step == 1 and not (work / "checkpoint-2").exists()


def test_a_copy_that_somebody_made_in_the_store_is_left_alone(chatpipe_home):
    made = store().get_or_build(Note(text="first"))
    copy = made.path.with_name(f"{made.key}.bak")
    shutil.copytree(made.path, copy)
    assert list(store().all()) == [made.path]
    done = CliRunner().invoke(app, ["verify", "--mend"])
    assert done.exit_code == 0 and done.output.startswith("1 checked")
    assert CliRunner().invoke(app, ["forget", "--all", "--yes"]).exit_code == 0
    assert copy.is_dir() and not made.path.exists()


def test_verify_removes_nothing_that_it_could_not_read(chatpipe_home, monkeypatch):
    made = store().get_or_build(Note(text="first"))

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied", str(made.path / "folder/note.txt"))

    monkeypatch.setattr(verification, "faults", refuse)  # root may read everything
    done = CliRunner().invoke(app, ["verify", "--mend"])
    assert done.exit_code == 1 and done.output.splitlines()[0].startswith(
        f"unreadable: note/{made.key}: {made.path}/folder/note.txt: this user may not do that here"
    )
    assert done.output.endswith("1 checked (0 B), 0 damaged, 1 unreadable\n")
    assert store().get_or_build(Note(text="first"), no_build) == made


def test_another_home_is_no_remedy_for_a_source(tmp_path, monkeypatch):
    monkeypatch.setenv("CHATPIPE_HOME", str(tmp_path / "home"))
    for path, is_ours in ((tmp_path / "home/store/a", True), (tmp_path / "source/a", False)):
        sentence = str(as_disk_error(PermissionError(errno.EACCES, "no", str(path)), tmp_path))
        assert sentence.startswith(f"{path}: this user may not do that here; change the rights")
        assert ("CHATPIPE_HOME" in sentence) is is_ours


def test_a_step_is_not_built_from_what_is_damaged(chatpipe_home):
    source = store().get_or_build(Note(text="source"))
    (source.path / "folder/note.txt").write_text("sourcE")
    with pytest.raises(ArtifactError, match=rf"note is made from note/{source.key}: .*content"):
        store().get_or_build(Note(text="made of it", after=source), no_build)


@pytest.mark.parametrize("count", [2, 8])
def test_builders_at_once_of_which_the_building_one_is_killed(chatpipe_home, tmp_path, count):
    log = tmp_path / "log"

    def start(seconds):
        command = [sys.executable, "-c", BUILDER, str(log), str(seconds)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    first = start(60)
    while not log.exists():
        assert first.poll() is None
        time.sleep(0.01)
    others = [start(0) for _ in range(count - 1)]
    time.sleep(0.3)
    first.send_signal(signal.SIGKILL)
    first.wait()
    digests = {other.communicate(timeout=60)[0].strip() for other in others}
    assert digests == {store().get_or_build(Note(text="x"), no_build).digest}
    assert log.read_text() == "built\n" * 2
    assert len(list(store().all())) == 1


def test_nothing_is_exported_into_a_source(chatpipe_home, tmp_path, tiny_model_dir):
    variant = load_variant("smol-merge", [f"base_model.repo={tiny_model_dir}"])
    check_target(tmp_path / "elsewhere", variant)
    link = tmp_path / "link"
    link.symlink_to(tiny_model_dir)
    for target in (tiny_model_dir / "adapter", link / "deep/adapter"):
        with pytest.raises(ConfigError, match="which is a source"):
            check_target(target, variant)


def test_a_disk_that_prefect_cannot_use_is_said_before_a_server_is_started(tmp_path, monkeypatch):
    from prefect.settings import PREFECT_HOME, temporary_settings

    with (
        small_disk(tmp_path / "prefect", "1m") as place,
        temporary_settings({PREFECT_HOME: place}),
    ):
        with pytest.raises(DiskError, match=r"records need 16 MiB, 1\.0 MiB are free; make room"):
            check_room()
        fill(place, 0)
        with pytest.raises(DiskError, match=r"cannot be written there \(No space left"):
            check_room()
        make_read_only(place)
        with pytest.raises(
            DiskError, match=r"\(Read-only file system\); set PREFECT_HOME to a directory that can"
        ):
            check_room()


def test_a_prefect_home_that_cannot_be_made_is_said_by_every_command_that_needs_it(
    tmp_path, chatpipe_home, monkeypatch
):
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "prefect"
    reason = f"PREFECT_HOME: {place}: Prefect's records cannot be written there (Not a directory)"
    remedy = "set PREFECT_HOME to a directory that can be made and written to."
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    for command in (("up", "--port", "4299"), ("demo",)):
        ended = chatpipe(*command, PREFECT_HOME=place)
        assert ended.returncode == 1
        assert ended.stderr.strip().splitlines()[-1] == f"{reason}; {remedy}"
    doctor = chatpipe("doctor", PREFECT_HOME=place).stdout
    assert reason.removeprefix("PREFECT_HOME: ") in " ".join(doctor.split())
