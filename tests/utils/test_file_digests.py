"""A large file is read once for as long as it stays as it is; a changed one is always read."""

import os
import time

import pytest

from chatpipe.utils import file_digests
from chatpipe.utils.file_digests import REMEMBERED_BYTES, FileDigests, file_digest


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"w" * REMEMBERED_BYTES)
    return path


@pytest.fixture
def reads(monkeypatch):
    """The names of the files that were read; all count as settled."""
    names = []

    def read(path):
        names.append(path.name)
        return file_digest(path)

    monkeypatch.setattr(file_digests, "SETTLED_S", -1e9)
    return names, read


def test_a_large_file_is_read_once_in_all_processes_and_again_when_it_changed(
    tmp_path, large, reads
):
    names, read = reads

    def digest():
        return FileDigests(tmp_path / "digests", read).sha256(large)  # as a new process has it

    first = digest()
    assert digest() == first and names == ["weights"]
    times = large.stat()
    with large.open("r+b") as file:
        file.seek(1000)
        file.write(b"x")
    os.utime(large, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if nothing had happened
    assert digest() == file_digest(large) != first
    link = tmp_path / "link"
    link.symlink_to(large)
    assert FileDigests(tmp_path / "digests", read).sha256(link) == file_digest(large)
    assert names == ["weights"] * 2


def test_a_file_that_has_just_changed_is_not_remembered(tmp_path, large):
    digests = FileDigests(tmp_path / "digests")
    assert time.time() - large.stat().st_ctime < file_digests.SETTLED_S
    digests.sha256(large)
    assert not (tmp_path / "digests").exists()


@pytest.mark.parametrize("content", [b"", b"{", b'{"files": [1]}', b'{"files": {"weights": 7}}'])
def test_a_damaged_record_costs_a_reading(tmp_path, large, reads, content):
    names, read = reads
    first = FileDigests(tmp_path / "digests", read).sha256(large)
    [record] = (tmp_path / "digests").iterdir()
    record.write_bytes(content)
    assert FileDigests(tmp_path / "digests", read).sha256(large) == first
    assert names == ["weights"] * 2


def test_where_no_record_can_be_written_the_digest_is_computed(tmp_path, large, reads):
    (tmp_path / "digests").write_text("in the way")
    assert FileDigests(tmp_path / "digests", reads[1]).sha256(large) == file_digest(large)
