"""Weights packed for products of few tokens, in bfloat16 on CPUs."""

from types import SimpleNamespace

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from chatpipe.config.schema import Generation, Lora
from chatpipe.generation.batch import written_ids
from chatpipe.generation.row_request import RowRequest
from chatpipe.kernels.lora_inference import row_by_row, through
from chatpipe.kernels.packed_weights import packed_weights
from chatpipe.kernels.switch import VARIABLE, recorded_kernels
from chatpipe.models.lora import with_adapter
from tests.support.adapters import draw_weights

pytestmark = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="the CPU has no bfloat16 products"
)
IDS = torch.arange(3, 43).reshape(4, 10)


def loaded(directory, dtype=torch.bfloat16):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
    return model.requires_grad_(False)


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(ids).logits


def test_logits_are_the_same_to_the_last_bit_and_layers_are_left_as_they_were(tiny_model_dir):
    model = loaded(tiny_model_dir)
    expected = logits(model)
    for _ in range(2):  # packed once, and used again
        with recorded_kernels() as kernels, packed_weights(model):
            found = logits(model)
        assert kernels.ran == {"packed_weights"}
        assert torch.equal(found, expected)
    assert not any("forward" in layer.__dict__ for layer in model.modules())
    assert torch.equal(logits(model), expected)


def test_a_weight_that_was_replaced_is_packed_anew(tiny_model_dir):
    model = loaded(tiny_model_dir)
    with packed_weights(model):
        logits(model)
    layer = model.model.layers[0].mlp.up_proj
    layer.weight = torch.nn.Parameter(layer.weight * 2, requires_grad=False)
    with packed_weights(model):
        found = logits(model)
    assert torch.equal(found, logits(model))


@pytest.mark.parametrize("reason", ["off", "memory", "float32", "gradients"])
def test_otherwise_the_layers_compute_as_always(tiny_model_dir, monkeypatch, reason):
    model = loaded(tiny_model_dir, torch.float32 if reason == "float32" else torch.bfloat16)
    if reason == "off":
        monkeypatch.setenv(VARIABLE, "off")
    if reason == "memory":
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10))
    if reason == "gradients":
        model.requires_grad_(True)
    with recorded_kernels() as kernels, packed_weights(model):
        logits(model)
    assert not kernels.ran
    assert not any(hasattr(layer, "packed_weight") for layer in model.modules())


def test_answers_of_a_base_and_an_adapter_are_those_without_it(tiny_model_dir, monkeypatch):
    model = with_adapter(loaded(tiny_model_dir), Lora(rank=4, alpha=8)).eval()
    draw_weights(model, 0)
    adapters = ["default", None, "default", None]
    settings = Generation(max_new_tokens=8)
    rows = [
        RowRequest(n, ids, name, frozenset([0]), settings)
        for n, (ids, name) in enumerate(zip(IDS.tolist(), adapters, strict=True))
    ]
    with recorded_kernels() as kernels:
        answers = written_ids(model, rows)
    assert {"packed_weights", "lora_inference"} <= kernels.ran
    monkeypatch.setenv(VARIABLE, "packing,lora_inference")
    assert written_ids(model, rows) == answers


def test_thin_products_of_few_tokens_are_rounded_as_those_of_many(tiny_model_dir, monkeypatch):
    model = with_adapter(loaded(tiny_model_dir), Lora(rank=4, alpha=8)).eval()
    draw_weights(model, 0)
    few = IDS[:2, :4]  # 8 tokens
    for context in (
        lambda: through(model, "default"),
        lambda: row_by_row(model, ["default", None]),
    ):
        monkeypatch.setattr("chatpipe.kernels.adapter_stacks.FEW_TOKENS", 16)
        with context():
            found = logits(model, few)
        monkeypatch.setattr("chatpipe.kernels.adapter_stacks.FEW_TOKENS", 0)
        with context():
            expected = logits(model, few)
        difference = (found - expected).float().norm() / expected.float().norm()
        assert difference < 0.01
