"""What the user names as a source is only ever read: its bytes, times and names stay."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chatpipe.config.schema import BaseModelRef, Dataset
from chatpipe.errors import SourceError
from chatpipe.sources.fetch import FetchDataset, FetchModel
from chatpipe.sources.model_directory import check_model_directory
from chatpipe.store.manifest import MANIFEST
from chatpipe.store.store import store
from chatpipe.utils.atomic_writes import write_atomically
from tests.support.rows import alpaca_rows, write_jsonl


@pytest.fixture(autouse=True)
def _home(chatpipe_home):
    return chatpipe_home


@pytest.fixture
def model(tmp_path, tiny_model_dir):
    """A model directory with what chatpipe exported beside it, and notes of the user's."""
    path = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    (path / MANIFEST).write_text('{"the user\'s": "own"}')
    (path / "prefect-record").write_text("the user's own")
    (path / "README.md").write_text("the user's own")
    (path / "adapter_config.json").write_text("{}")
    (path / "adapter_model.safetensors").write_bytes(b"weights")
    (path / "notes.json").write_text("{}")
    (path / "requirements.txt").write_text("torch")
    return path


def contents(*roots):
    """Every path under these, with its bytes and times."""
    return {
        str(path): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for root in roots
        for path in [root, *root.rglob("*")]
    }


def test_a_base_is_linked_without_writing_through_a_link(model):
    before = contents(model)
    made = store().get_or_build(FetchModel.of(BaseModelRef(repo=str(model))))
    assert contents(model) == before
    assert json.loads((made.path / MANIFEST).read_text())["kind"] == "base-model"
    assert not (made.path / MANIFEST).is_symlink()


def test_only_what_a_base_is_loaded_from_is_linked_and_an_adapter_is_left_out(
    model, tiny_model_dir
):
    made = store().get_or_build(FetchModel.of(BaseModelRef(repo=str(model))))
    expected = {path.name for path in tiny_model_dir.iterdir()}
    assert {path.name for path in made.path.iterdir()} - {MANIFEST} == expected
    left_out = made.details()["adapter_files_left_out"]
    assert left_out == ["adapter_config.json", "adapter_model.safetensors"]
    plain = store().get_or_build(FetchModel.of(BaseModelRef(repo=str(tiny_model_dir))))
    assert plain.digest == made.digest


def test_an_adapter_alone_is_no_weights(model):
    (model / "model.safetensors").unlink()
    with pytest.raises(SourceError, match=r"lacks weights"):
        check_model_directory(model)


def test_notes_in_a_model_directory_change_no_key(model):
    key = FetchModel.of(BaseModelRef(repo=str(model))).key()
    (model / "notes.json").write_text('{"more": "notes"}')
    assert FetchModel.of(BaseModelRef(repo=str(model))).key() == key


def test_a_file_of_our_names_in_a_data_set_is_copied_as_rows(tmp_path):
    write_jsonl(tmp_path / MANIFEST, [])
    (tmp_path / MANIFEST).write_text(json.dumps(alpaca_rows(3)))
    before = contents(tmp_path / MANIFEST)
    store().get_or_build(FetchDataset.of(Dataset(name="rows", path=str(tmp_path / MANIFEST))))
    assert contents(tmp_path / MANIFEST) == before


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path):
    target = tmp_path / "target"
    target.write_text("kept")
    (tmp_path / "link").symlink_to(target)
    write_atomically(tmp_path / "link", b"new")
    assert target.read_text() == "kept" and not (tmp_path / "link").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"link", "target"}


def test_files_that_change_while_they_are_read_are_refused(tmp_path, model):
    rows = write_jsonl(tmp_path / "rows.jsonl", alpaca_rows(3))
    dataset = FetchDataset.of(Dataset(name="rows", path=str(rows)))
    base = FetchModel.of(BaseModelRef(repo=str(model)))
    write_jsonl(rows, alpaca_rows(4))
    (model / "config.json").write_text("{}")
    for request in (dataset, base):
        with pytest.raises(SourceError, match="changed while it was being read"):
            store().get_or_build(request)


def test_finetune_copies_no_adapter_into_the_base_models_directory(tmp_path, model):
    from chatpipe.cli.app import app

    rows = write_jsonl(tmp_path / "rows.jsonl", alpaca_rows(40))
    (tmp_path / "link").symlink_to(model)
    before = contents(model)
    for target in (model / "adapter", tmp_path / "link/deep/adapter"):
        arguments = ["--base-model", model, "--dataset", rows, "--adapter", target]
        done = CliRunner().invoke(app, ["finetune", *map(str, arguments)])
        assert (
            done.exit_code == 2 and f"{target}: lies in {model}, which is a source" in done.output
        )
    assert contents(model) == before
