"""Real bitsandbytes NF4 on the CPU, peft and the Trainer, with a tiny model."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from chatpipe.config.prompts import template
from chatpipe.config.schema import Generation, Quantization, Training
from chatpipe.errors import ConfigError, TrainingError
from chatpipe.models.inference import cached_model, load_model
from chatpipe.models.loading import load_base, load_tokenizer
from chatpipe.store.store import store
from chatpipe.tokenization.encoder import Encoder, TokenizedRow
from chatpipe.training.adapter_checks import check_adapter
from chatpipe.training.rows import optimizer_steps
from chatpipe.training.trainer import AdapterTrainer
from tests.support.requests import finetune_request

pytestmark = pytest.mark.slow
ROW = TokenizedRow([0, 5, 9, 30, 31, 7, 1], [0, 5, 9, 30, 31, 7, 1], 0)


@pytest.fixture
def request_(chatpipe_home, tiny_model_dir):
    return finetune_request(
        chatpipe_home, tiny_model_dir, 24, epochs=4, micro_batch_tokens=300, save_steps=1
    )


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([ROW.input_ids])).logits


def test_training_lowers_the_loss_and_leaves_what_peft_loads_unchanged(request_):
    adapter = store().get_or_build(request_)
    details = adapter.details()
    losses = [point["loss"] for point in details["loss_history"]]
    assert len(losses) == details["optimizer_steps"]
    assert sum(losses[-3:]) < sum(losses[:3])
    assert {"adapter_model.safetensors", "adapter_config.json", "artifact.json", "README.md"} <= {
        path.name for path in adapter.path.iterdir()
    }
    plain = load_base(request_.base.path, request_.quantization)
    before = logits(plain)
    assert not torch.equal(
        before, logits(load_model(request_.base.path, adapter.path, Quantization()))
    )


@pytest.mark.parametrize(
    ("epochs", "loss", "size"), [(0.05, "response", 64), (0.4, "all", 3), (1.6, "response", 7)]
)
def test_the_tokens_recorded_are_those_that_were_trained_on(
    chatpipe_home, tiny_model_dir, monkeypatch, epochs, loss, size
):
    seen = {"rows": 0, "trained_tokens": 0, "scored_tokens": 0}
    train = AdapterTrainer.training_step

    def counted(trainer, model, inputs, *others):
        for pack in inputs["batches"]:
            rows = len(pack["counts"])
            seen["rows"] += rows
            # The last token of each is not read: nothing is predicted from it.
            seen["trained_tokens"] += sum(pack["layout"]["spans"]) + rows
            seen["scored_tokens"] += sum(pack["counts"])
        return train(trainer, model, inputs, *others)

    monkeypatch.setattr(AdapterTrainer, "training_step", counted)
    asked = {"epochs": epochs, "loss": loss, "global_batch_size": size}
    request = finetune_request(chatpipe_home, tiny_model_dir, 24, **asked)
    details = store().get_or_build(request).details()
    tokens = ("trained_tokens", "scored_tokens")
    assert {key: details[key] for key in tokens} == {key: seen[key] for key in tokens}
    assert details["epochs"] == pytest.approx(seen["rows"] / details["rows_trained"], abs=1e-4)


def test_steps_are_not_one_too_many_where_epochs_are_no_binary_fraction():
    def steps(epochs):
        return optimizer_steps(Training(epochs=epochs, global_batch_size=1), 10)

    assert [steps(n / 10) for n in range(1, 100)] == list(range(1, 100))


def test_the_same_request_gives_the_same_bytes_in_another_process(request_):
    """peft keeps target modules in a set, whose order differs from process to process."""
    first = store().get_or_build(request_)
    code = (
        "import sys\nfrom chatpipe.store.store import store\n"
        "from chatpipe.training.finetune import Finetune\n"
        "print(store().get_or_build(Finetune.model_validate_json(sys.argv[1])).digest)"
    )
    store().forget(first.path)
    again = subprocess.run(
        [sys.executable, "-c", code, request_.model_dump_json()],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert again.stdout.strip() == first.digest


def test_the_model_card_says_what_it_was_made_from_and_names_no_directory_of_ours(request_):
    adapter = store().get_or_build(request_)
    card = (adapter.path / "README.md").read_text("utf-8")
    assert "| rows | 24 |" in card and request_.prompt_template.with_input in card
    assert "bitsandbytes" in card and "| LoRA rank | 4 |" in card
    assert str(store().root.parent) not in card
    made_from = adapter.details()["made_from"]
    assert [item["kind"] for item in made_from] == ["base-model", "raw", "examples", "corpus"]
    assert made_from[-1]["digest"] == request_.corpus.digest


def test_an_adapter_leaves_no_trace_on_a_base_that_is_kept(request_):
    adapter = store().get_or_build(request_)
    base = (request_.base.path, [], request_.quantization)
    with cached_model(*base) as model:
        before = logits(model)
    with cached_model(request_.base.path, [adapter.path], request_.quantization) as model:
        tuned = logits(model)
    with cached_model(*base) as model:
        after = logits(model)
    assert torch.equal(before, after) and not torch.equal(before, tuned)
    fresh = load_model(request_.base.path, adapter.path, request_.quantization)
    assert torch.equal(tuned, logits(fresh))


def test_inference_computes_what_training_computed(request_):
    """On a CPU the weights are dequantized once; NF4's own forward in training is the reference."""
    trained_on = load_base(request_.base.path, request_.quantization).train()
    with cached_model(request_.base.path, [], request_.quantization) as model:
        assert torch.equal(logits(trained_on), logits(model))


def test_a_zero_adapter_is_refused_and_leaves_no_artifact(request_):
    lazy = request_.training.model_copy(update={"learning_rate": 1e-45, "epochs": 1.0})
    with pytest.raises(TrainingError, match="all zero"):
        store().get_or_build(request_.model_copy(update={"training": lazy}))
    assert not list((store().root / "adapter").glob("*"))


def test_target_modules_that_match_nothing_are_refused(request_):
    lora = request_.lora.model_copy(update={"target_modules": ("no_such_layer",)})
    with pytest.raises(ConfigError, match="no_such_layer"):
        store().get_or_build(request_.model_copy(update={"lora": lora}))


def test_the_gradients_of_an_nf4_base_are_those_of_its_dequantized_weights(tiny_model_dir):
    """bitsandbytes' inference layout on CPUs has no gradient; training must never meet it."""
    import bitsandbytes as bnb
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    def gradients(model):
        torch.manual_seed(0)
        tuned = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
        generator = torch.Generator().manual_seed(1)
        for name, weight in tuned.named_parameters():
            if "lora_" in name:
                weight.data = torch.randn(weight.shape, generator=generator) * 0.05
        ids = torch.tensor([ROW.input_ids])
        tuned.train()
        tuned(input_ids=ids, labels=ids).loss.backward()
        return {n: p.grad for n, p in tuned.named_parameters() if "lora_" in n}

    quantized = load_base(tiny_model_dir, Quantization(compute_dtype="float32"))
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    for name, module in quantized.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            weight = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            plain.get_submodule(name).weight.data = weight.float()
    expected = gradients(plain)
    for name, gradient in gradients(quantized).items():
        assert torch.allclose(gradient, expected[name], rtol=1e-3, atol=1e-6), name


def test_an_adapter_that_changes_no_logit_is_refused(tiny_model_dir):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(load_base(tiny_model_dir, Quantization()), LoraConfig(r=2))
    with pytest.raises(TrainingError, match="all zero"):
        check_adapter(model, ROW)


@pytest.mark.parametrize("at_once", [2, 64])
def test_a_batch_is_answered_like_each_prompt_alone(tiny_model_dir, monkeypatch, at_once):
    from chatpipe.generation import running_batch
    from chatpipe.generation.batch import complete

    monkeypatch.setattr(running_batch, "room_tokens", lambda model: at_once * 200)

    model = load_base(tiny_model_dir, Quantization(method="none", compute_dtype="float32"))
    encoder = Encoder(load_tokenizer(tiny_model_dir), template("alpaca"), "all", 4096)
    prompts = ["How are you?", "The quick brown fox jumps over", "a"]
    settings = Generation(max_new_tokens=12)
    together = complete(model, encoder, prompts, settings)
    alone = [complete(model, encoder, [prompt], settings)[0] for prompt in prompts]
    assert together == alone
    assert all(answer.stop == "length" and answer.tokens == 12 for answer in together)
    sampled = [complete(model, encoder, prompts, settings.model_copy(update={"temperature": 1.0}))]
    sampled += [complete(model, encoder, prompts, settings.model_copy(update={"temperature": 1.0}))]
    assert sampled[0] == sampled[1] != together


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_a_base_would_generate_by_itself_is_not_asked(tiny_model_dir, tmp_path, temperature):
    from chatpipe.generation.batch import complete

    other = tmp_path / "other"
    shutil.copytree(tiny_model_dir, other)
    own = {"do_sample": True, "num_beams": 2, "repetition_penalty": 9.0, "min_length": 99}
    (other / "generation_config.json").write_text(json.dumps(own))
    settings = Generation(max_new_tokens=12, temperature=temperature)
    answers = []
    for directory in (tiny_model_dir, other):
        model = load_base(directory, Quantization(method="none", compute_dtype="float32"))
        encoder = Encoder(load_tokenizer(directory), template("alpaca"), "all", 4096)
        answers.append(complete(model, encoder, ["How are you?", "a"], settings))
    assert answers[0] == answers[1]


def test_the_output_layer_is_not_copied_for_every_prompt_of_a_batch(tiny_model_dir):
    """torch multiplies a strided slice by as many copies of the weight as it has rows."""
    from chatpipe.generation.batch import complete

    model = load_base(tiny_model_dir, Quantization(method="none", compute_dtype="float32"))
    encoder = Encoder(load_tokenizer(tiny_model_dir), template("alpaca"), "all", 4096)
    head, seen = model.get_output_embeddings(), []
    multiply = head.forward
    head.forward = lambda hidden: seen.append(hidden.is_contiguous()) or multiply(hidden)
    complete(model, encoder, ["How are you?", "The quick brown fox"], Generation(max_new_tokens=3))
    assert len(seen) >= 3 and all(seen)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nf4", "none"])
def test_gradient_checkpointing_computes_layers_again_and_changes_nothing(
    chatpipe_home, tiny_model_dir, method, monkeypatch
):
    from chatpipe.packing import packing

    def trained(checkpointing):
        request = finetune_request(
            chatpipe_home, tiny_model_dir, 12, epochs=1, gradient_checkpointing=checkpointing
        )
        settings = {
            "quantization": Quantization(method=method, compute_dtype="float32"),
            "lora": request.lora.model_copy(update={"dropout": 0.2}),  # drawn again, the same
        }
        made = store().get_or_build(request.model_copy(update=settings))
        return [point["loss"] for point in made.details()["loss_history"]]

    forward, backward = [], []

    class Counted(packing.ForwardState):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if name == "layers" and value and torch.is_grad_enabled():  # not the model's check
                (forward if value <= 2 else backward).append(value)

    monkeypatch.setattr(packing, "ForwardState", Counted)
    plainly = trained(False)
    assert forward and not backward
    assert trained(True) == pytest.approx(plainly, rel=1e-5)
    assert len(backward) == len(forward) / 2
