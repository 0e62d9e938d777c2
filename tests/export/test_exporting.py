"""Exported models are the trained ones in the template of the training, whole or not at all."""

import json
import os
import shutil
import signal
import subprocess
import sys

import psutil
import pytest
import torch

from chatpipe.config.schema import BaseModelRef, Dataset, Generation, Variant
from chatpipe.errors import ConfigError, DiskError, ExportError
from chatpipe.export import Settings, Source, effect, export, llama_cpp
from chatpipe.models.model_ref import ModelRef
from chatpipe.store.new_directory import new_directory
from chatpipe.store.store import store
from tests.support.requests import finetune_request
from tests.support.tiny import tiny_model

pytestmark = pytest.mark.slow
gguf = pytest.importorskip("gguf")
needs_llama_cpp = pytest.mark.skipif(
    not llama_cpp.is_installed(), reason="the wheel xllamacpp loads GGUF files; it is not installed"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A base with a chat template of its own, and an adapter that was trained on it in `alpaca`."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("CHATPIPE_HOME", str(home))
        base = tiny_model(home / "tiny")
        (base / "chat_template.jinja").write_text("{{ messages[0]['content'] }}</s>the base's own")
        config = json.loads((base / "tokenizer_config.json").read_text())
        (base / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "x"}))
        request = finetune_request(home, base, 24, epochs=4, micro_batch_tokens=300)
        adapter = store().get_or_build(request)
        yield Source(variant_of(base, request), ModelRef(request.base, adapter))


def variant_of(base, request, **changes):
    return Variant(
        **{
            "name": "tiny-alpaca",
            "base_model": BaseModelRef(repo=str(base)),
            "datasets": (Dataset(name="rows", path=str(base), licence="CC-BY-NC-4.0"),),
            "prompt_template": request.prompt_template,
            "quantization": request.quantization,
            "generation": Generation(max_new_tokens=8),
            **changes,
        }
    )


@pytest.mark.parametrize(
    "settings",
    [
        Settings("adapter"),
        Settings("merged"),
        Settings("merged", outtype="f32", into_original=True),
        pytest.param(Settings("gguf"), marks=needs_llama_cpp),
        pytest.param(Settings("gguf", outtype="q8_0"), marks=needs_llama_cpp),
        pytest.param(Settings("gguf-lora", with_base=True), marks=needs_llama_cpp),
    ],
    ids=lambda settings: f"{settings.form}-{settings.outtype}",
)
def test_a_model_is_exported(trained, settings, tmp_path):
    sentences = []
    out = tmp_path / "new" / "out"
    export(trained, out, settings, sentences.append)
    files = {path.name for path in out.iterdir()}
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    card = (out / "README.md").read_text("utf-8")
    assert "Not for commercial use: it was made with data set: rows (CC-BY-NC-4.0)." in card
    assert all(sentence in card for sentence in sentences)
    assert "A reply ends at `</s>`." in card and ".. " not in card
    if settings.form != "adapter":
        assert "% of what the adapter changes" in sentences[0]
        assert "greedy tokens are the same" in sentences[0] and "KL" in sentences[0]
    training = (out / "TRAINING.md").read_text("utf-8")
    assert "## Training data" in training and "## Settings" in training
    # What loads the adapter, and files that are not here, are left out.
    assert "```python" not in training and "artifact.json" not in training
    assert "artifact.json" not in files
    modes = {path.stat().st_mode & 0o777 for path in out.rglob("*") if path.is_file()}
    assert modes == {out.stat().st_mode & 0o666}
    for file in out.glob("*.gguf"):
        licence = gguf.GGUFReader(file).fields["general.license"].contents()
        is_base = file.name.startswith("base-")
        assert ("data set: rows: CC-BY-NC-4.0" in licence) != is_base
    if settings.form in ("adapter", "merged"):
        assert "the base's own" not in (out / "chat_template.jinja").read_text("utf-8")
        assert "chat_template" not in json.loads((out / "tokenizer_config.json").read_text())
    if settings.form == "merged":
        assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == 1
        assert not any(name.startswith("adapter_") for name in files)
    if settings.into_original:
        assert sentences[1].startswith("against the base as it was trained on")
    if settings.form == "gguf-lora":
        assert {"tiny-alpaca-lora.gguf", "base-f16.gguf", "chat_template.jinja"} <= files
    with pytest.raises(ConfigError, match="exists already; name a new directory"):
        export(trained, out, settings, sentences.append)


def exported(source, tmp_path, settings=None):
    export(source, tmp_path / "out", settings or Settings("merged"), lambda sentence: None)


def test_the_bases_own_template_is_not_taken_for_the_trained_one(trained, tmp_path, monkeypatch):
    wrong = Source(trained.variant, trained.model)
    wrong.__dict__["jinja"] = (trained.base / "chat_template.jinja").read_text()
    with pytest.raises(ExportError, match="asked in another way than it was trained"):
        exported(wrong, tmp_path)
    assert not list(tmp_path.iterdir())
    # One that slips in later, beside the files.
    from chatpipe.export import peft_forms

    monkeypatch.setattr(
        peft_forms,
        "write_tokenizer",
        lambda base, into, jinja: shutil.copytree(
            base,
            into,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("*.safetensors", "config*"),
        ),
    )
    with pytest.raises(ExportError, match="the template in the file writes"):
        exported(trained, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_another_is_refused_and_leaves_nothing(trained, tmp_path, monkeypatch):
    from chatpipe.export import merged

    monkeypatch.setattr(
        merged,
        "merged_model",
        lambda base, adapter, quantization: merged._float_base(base, quantization),
    )
    with pytest.raises(ExportError, match="what was written is not the model: "):
        exported(trained, tmp_path)
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written_is_said_first(trained, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, sentence in (
        ("file", "exists already"),
        ("link", "exists already"),
        ("file/out", "is a file; name a new directory"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            export(trained, tmp_path / name, Settings("merged"), print)
    with pytest.raises(ConfigError, match="--outtype q8_0: merged has f16 or bf16 or f32"):
        export(trained, tmp_path / "out", Settings("merged", outtype="q8_0"), print)
    for settings, sentence in (
        (Settings("adapter", into_original=True), "--into original: adapter is merged into no"),
        (Settings("gguf", with_base=True), "--with-base: goes with --to gguf-lora; leave it"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            export(trained, tmp_path / "out", settings, print)
    memory = psutil.virtual_memory()._replace(available=10)
    with monkeypatch.context() as patch:
        patch.setattr(psutil, "virtual_memory", lambda: memory)
        with pytest.raises(ExportError, match=r"merging needs .* KiB of main memory.*10 B are fr"):
            export(trained, tmp_path / "out", Settings("merged"), print)
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DiskError, match=r"out: needs .* KiB, and 10 B are free"):
        export(trained, tmp_path / "out", Settings("merged"), print)


KILLED = """
import sys, time
from pathlib import Path
from chatpipe.store.new_directory import new_directory
with new_directory(Path(sys.argv[1])) as into:
    (into / "file").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path / "out"], stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"ready\n"
    with new_directory(tmp_path / "other"):
        pass
    [running] = tmp_path.glob(".out.*")  # another process's
    with new_directory(tmp_path / "out2"):
        assert running.is_dir()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out").exists()
    with new_directory(tmp_path / "out") as into:
        assert not running.is_dir()
        (into / "file").write_text("whole")
    assert (tmp_path / "out" / "file").read_text() == "whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out", "out2"]


@pytest.fixture(scope="module")
def faint(trained, tmp_path_factory):
    """An adapter that changes less than 8 bits do."""
    from safetensors.torch import load_file, save_file

    copy = tmp_path_factory.mktemp("faint") / "adapter"
    shutil.copytree(trained.adapter, copy)
    weights = load_file(copy / "adapter_model.safetensors")
    small = {name: 0.02 * w if "lora_B" in name else w for name, w in weights.items()}
    save_file(small, copy / "adapter_model.safetensors")

    class Faint(Source):
        @property
        def adapter(self):
            return copy

    return Faint(trained.variant, trained.model)


@needs_llama_cpp
@pytest.mark.parametrize("form", ["gguf", "gguf-lora"])
def test_a_wrong_scale_is_seen_where_8_bits_hide_the_adapter(faint, form, tmp_path, monkeypatch):
    from peft.tuners.lora import LoraLayer

    from chatpipe.export import merged

    settings = Settings(form, outtype="q8_0")
    sentences = []
    export(faint, tmp_path / "right", settings, sentences.append)
    assert "the adapter changes too little" in sentences[0] or "% of what" in sentences[0]
    assert sentences[1].startswith("the same weights in F16, as 8 bits may hide the adapter: ")
    assert " 100.0 % of what the adapter changes" in sentences[1]
    adapted = merged.adapted_model

    def wrongly_scaled(*arguments):
        model = adapted(*arguments)
        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                layer.scaling["default"] *= 2
        return model

    monkeypatch.setattr(merged, "adapted_model", wrongly_scaled)
    with pytest.raises(
        ExportError, match=r"it has 1[789]\d\.. % of what the adapter changes.*--outtype f32"
    ):
        export(faint, tmp_path / "wrong", settings, sentences.append)
    assert not (tmp_path / "wrong").exists()


def test_the_share_of_an_adapter_is_found_below_rounding(trained):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(16, 500, generator=generator)
    change = 0.02 * torch.randn(16, 500, generator=generator)
    rounding = 0.02 * torch.randn(16, 500, generator=generator)
    here = base + change
    for scale in (0.5, 1.0, 2.0):
        there = base + scale * change + rounding
        triples = [[x.log_softmax(-1) for x in row] for row in zip(here, there, base, strict=True)]
        share = effect.share_of(triples)
        assert share.is_known and share.is_whole == (scale == 1)
        assert share.value == pytest.approx(scale, abs=4 * share.error)
    nothing = effect.share_of([(base, here, base)])
    assert not nothing.is_known and "too little" in nothing.words()
    assert effect.Share(-1e-5, 1e-4).words().startswith("0.0 % of what")  # zero has no sign
