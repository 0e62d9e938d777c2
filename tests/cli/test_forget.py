"""What is forgotten is all of it, nothing else, and never without being asked for."""

import os
import pty
import re
import shutil
import subprocess
import sys

import pytest

from chatpipe.errors import ArtifactError
from chatpipe.store.store import store
from chatpipe.study import removal
from chatpipe.study.loading import load_variant
from chatpipe.study.lookup import find_adapter
from chatpipe.study.recipe import Recipe
from tests.support.requests import Placeholders
from tests.support.rows import alpaca_rows, write_jsonl


def chatpipe(*arguments, **options):
    command = [sys.executable, "-m", "chatpipe", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def build_all(variant):
    """All artifacts of a run of that variant, of which only the records are right; its adapter."""
    Recipe([variant], Placeholders()).report(variant.name)
    return find_adapter(variant)


@pytest.fixture
def variants(chatpipe_home, tiny_model_dir):
    """Two variants that differ in their data alone."""
    (chatpipe_home / "base").symlink_to(tiny_model_dir)
    loaded = []
    for name in ("mine", "other"):
        write_jsonl(chatpipe_home / f"{name}.jsonl", alpaca_rows(3 + len(name)))
        path = chatpipe_home / f"{name}.yaml"
        path.write_text(
            f"{{base_model: {{repo: {chatpipe_home}/base}}, "
            f"datasets: [{{name: {name}, path: {name}.jsonl}}]}}"
        )
        loaded.append(load_variant(str(path)))
    return loaded


def kinds():
    return sorted(path.parent.name for path in store().all())


# The answers to the panel, and those to prompts of the held-out rows.
OF_ONE = ["adapter", "generations", "generations", "report", "scores"]


def forget(variant, kind="all"):
    removed = removal.remove(removal.artifacts_of(variant, kind))
    return sorted(name.partition("/")[0] for name in removed)


def test_all_of_one_variant_and_nothing_of_another(variants):
    mine, other = variants
    build_all(mine)
    kept = build_all(other)
    assert forget(mine) == OF_ONE
    assert forget(mine) == []
    assert find_adapter(other) == kept
    assert forget(other) == OF_ONE


def test_what_came_of_an_adapter_that_is_gone(variants):
    build_all(variants[0])
    assert forget(variants[0], "adapter") == ["adapter"]
    assert forget(variants[0]) == OF_ONE[1:]


def test_where_the_sources_and_the_adapter_are_gone(variants):
    mine, other = variants
    build_all(mine)
    build_all(other)
    for kind in ("raw", "base", "corpus", "examples", "adapter"):
        for path in store().all(kind):
            shutil.rmtree(path)
    assert forget(mine) == OF_ONE[1:]
    assert forget(other) == OF_ONE[1:]


def test_where_the_directories_of_rows_and_base_are_gone(variants, chatpipe_home):
    build_all(variants[0])
    (chatpipe_home / "mine.jsonl").unlink()
    (chatpipe_home / "base").unlink()
    assert forget(load_variant(str(chatpipe_home / "mine.yaml"), must_exist=False)) == OF_ONE
    shown = chatpipe("show", chatpipe_home / "mine.yaml")
    assert shown.returncode == 0 and "missing:" in shown.stdout


def test_a_damaged_adapter_can_be_forgotten(variants):
    adapter = build_all(variants[0])
    (adapter.path / "file").unlink()
    assert forget(variants[0]) == OF_ONE


def test_checkpoints_of_an_unfinished_training_go_with_it(variants):
    adapter = build_all(variants[0])
    forget(variants[0], "adapter")
    work = store().work_path("adapter", adapter.key)
    (work / "checkpoint-100").mkdir()
    other = store().work_path("adapter", "0" * 40)
    assert removal.remove_checkpoints(variants[0]) == [f".work/adapter-{adapter.key}"]
    assert not work.exists() and other.exists()
    assert removal.remove_checkpoints() and not other.exists()


def test_checkpoints_of_a_training_that_runs_are_left(variants):
    adapter = build_all(variants[0])
    work = store().work_path("adapter", adapter.key)
    with (
        store().unfinished.locked("adapter", adapter.key),
        pytest.raises(ArtifactError, match="another process is building it; stop that one first"),
    ):
        removal.remove_checkpoints(variants[0])
    assert work.exists()


def test_forgetting_everything_is_asked_about(variants, chatpipe_home):
    adapter = build_all(variants[0])
    path = chatpipe_home / "mine.yaml"
    for command in (["--all"], [path, "--kind", "sources"]):
        refused = chatpipe("forget", *command, stdin=subprocess.DEVNULL)
        assert refused.returncode == 2 and adapter.path.is_dir()
        assert re.search(r"artifacts \([\d.]+ [KM]iB\) of .*; add --yes to do so", refused.stderr)
        refused = chatpipe("forget", *command, input="y\n")  # no terminal
        assert refused.returncode == 2 and adapter.path.is_dir()
    assert answered("n\n", "--all").returncode == 2 and adapter.path.is_dir()
    reports = chatpipe("forget", "--all", "--kind", "report", "--yes")
    assert "forgotten: 1 artifact\n" in reports.stdout and adapter.path.is_dir()
    assert chatpipe("forget", path, "--kind", "sources", "--yes").returncode == 0
    assert adapter.path.is_dir() and not {"base", "raw"} & set(kinds())
    assert answered("y\n", "--all").returncode == 0 and not kinds()
    assert chatpipe("forget", "--all", "--yes").returncode == 0


def answered(keys, *command):
    """`chatpipe forget` with a terminal on which these keys are typed."""
    ours, theirs = pty.openpty()
    os.write(ours, keys.encode())
    try:
        return chatpipe("forget", *command, stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)


def test_what_ran_with_other_settings_is_shown_and_forgotten(variants, chatpipe_home):
    path = str(chatpipe_home / "mine.yaml")
    run = build_all(load_variant(path, ["training.epochs=2"]))
    assert "nothing to forget" in chatpipe("forget", path).stderr
    shown = chatpipe("show", path, "--set", "training.epochs=2")
    assert run.digest in shown.stdout and "mine+training.epochs=2" in shown.stdout
    done = chatpipe("forget", path, "--set", "training.epochs=2", "--kind", "all")
    assert done.returncode == 0 and "forgotten: 5 artifacts" in done.stdout
    assert "run `chatpipe run" in chatpipe("ask", path, "x", "--set", "training.epochs=2").stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["forget"], "name a variant or a study, or give --all"),
        (["forget", "smol-merge", "--all"], "name a variant or a study, or give --all"),
        (["forget", "--all", "--set", "a=1", "--yes"], "--set goes with a variant"),
        (["forget", "smol-merge", "--kind", "everything"], "--kind everything: expected one of"),
        (["forget", "--all", "--kind", "everything", "--yes"], "--kind everything: expected one"),
        (["forget", "smol-mergee"], "did you mean smol-merge?"),
        (["show", "smol-mergee"], "did you mean smol-merge?"),
        (["show", "--set", "a=1"], "--set goes with a variant"),
        (["history", "smol-mergee"], "did you mean smol-merge?"),
        (["history", "--set", "a=1"], "--set goes with a variant"),
        (["accept", "smol-mergee"], "did you mean smol-merge?"),
        (["accept", "smol-merge", "--set", "lora.rank=4"], "smol-merge+lora.rank=4: was never"),
        (["ask", "smol-mergee", "x"], "did you mean smol-merge?"),
        (["reevaluate", "--set", "a=1"], "--set goes with variants"),
        (["plan", "smol-mergee+training.epochs=1"], "did you mean smol-merge?"),
        (["run", "smol-merge+training.epoch=1"], "did you mean epochs?"),
    ],
)
def test_what_is_asked_for_amiss_is_one_sentence(arguments, words):
    done = chatpipe(*arguments)
    assert done.returncode == 2 and words in done.stderr
    assert not done.stdout and len(done.stderr.splitlines()) == 1
