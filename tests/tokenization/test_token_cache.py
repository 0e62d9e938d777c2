"""A token file that is torn, changed or cannot be written never blocks a run and is never used."""

import fcntl
import os
from pathlib import Path

import pyarrow as pa
import pytest

from chatpipe.config.prompts import template
from chatpipe.errors import ArtifactError
from chatpipe.models.loading import load_tokenizer
from chatpipe.store.paths import home
from chatpipe.tokenization import token_cache
from chatpipe.tokenization.encoder import Encoder
from tests.support.rows import alpaca_rows

ROWS = pa.Table.from_pylist(alpaca_rows(20))


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    return load_tokenizer(tiny_model_dir)


@pytest.fixture(autouse=True)
def _home(chatpipe_home):
    return chatpipe_home


def encoded(tokenizer):
    return Encoder(tokenizer, template("alpaca"), "every_reply", 2048).encode(ROWS).examples


def the_file() -> Path:
    [path] = token_cache.tokens_folder().glob("*.arrow")
    return path


def test_a_byte_flipped_anywhere_is_found_and_the_file_is_written_anew(tokenizer):
    rows = encoded(tokenizer)
    whole = the_file().read_bytes()
    for place in range(0, len(whole), len(whole) // 20):
        content = bytearray(whole)
        content[place] ^= 4
        the_file().write_bytes(content)
        with pytest.raises(ArtifactError, match="tokens are damaged"):
            token_cache.check_token_file(the_file())
        assert encoded(tokenizer) == rows
        assert the_file().read_bytes() == whole


@pytest.mark.parametrize("size", [0, 1, 60, 1000, -1])
def test_a_torn_file_is_written_anew(tokenizer, size):
    rows = encoded(tokenizer)
    whole = the_file().read_bytes()
    the_file().write_bytes(whole[:size])
    assert encoded(tokenizer) == rows
    assert the_file().read_bytes() == whole


def test_what_a_killed_process_left_unfinished_goes_and_what_is_being_written_stays(tokenizer):
    encoded(tokenizer)
    path = the_file()
    left, running, foreign = (path.with_suffix(f".{name}") for name in ("a" * 32, "b" * 32, "txt"))
    for file in (left, running, foreign):
        file.write_bytes(b"half")
    path.unlink()
    with running.open("rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        encoded(tokenizer)
    assert set(path.parent.iterdir()) == {path, running, foreign}


def test_a_file_from_before_digests_is_written_anew(tokenizer):
    rows = encoded(tokenizer)
    whole = the_file().read_bytes()
    the_file().write_bytes(whole[: -token_cache.TRAILER_BYTES])
    assert encoded(tokenizer) == rows
    assert the_file().read_bytes() == whole


@pytest.mark.parametrize("damage", ["directory", "link to nowhere", "no folder"])
def test_what_lies_in_the_way_costs_no_run(tokenizer, damage, caplog):
    rows = encoded(tokenizer)
    path = the_file()
    path.unlink()
    if damage == "directory":
        path.mkdir()
    elif damage == "link to nowhere":
        path.symlink_to("/nowhere/at/all")
    else:
        path.parent.rmdir()
        path.parent.write_text("a file")
    assert encoded(tokenizer) == rows
    assert (damage == "link to nowhere") or "tokens are kept in memory" in caplog.text


def test_a_file_is_marked_as_used_at_most_once_a_day(tokenizer):
    encoded(tokenizer)
    hour_ago = the_file().stat().st_mtime - 3600
    os.utime(the_file(), (hour_ago, hour_ago))
    encoded(tokenizer)
    assert the_file().stat().st_mtime == hour_ago
    assert home() in the_file().parents
