"""A token for every row in few operations: the logits of the model's own forward pass."""

import copy

import bitsandbytes as bnb
import pytest
import torch
import transformers
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from chatpipe.config.schema import Generation, Lora
from chatpipe.generation.batch import written_ids
from chatpipe.generation.row_request import RowRequest
from chatpipe.generation.running_batch import RunningBatch
from chatpipe.kernels import nf4_products
from chatpipe.kernels.decoding import decoder_of
from chatpipe.kernels.switch import VARIABLE, recorded_kernels
from chatpipe.models.lora import lora_config
from tests.support.adapters import draw_weights
from tests.support.architectures import LLAMA_3_ROPE, SHAPE

FAMILY = {
    "Llama 3": ("LlamaConfig", {"rope_parameters": LLAMA_3_ROPE, "tie_word_embeddings": True}),
    "Llama with biases": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "Mistral": ("MistralConfig", {"sliding_window": None}),
    "Qwen2": ("Qwen2Config", {}),
    "Qwen3": ("Qwen3Config", {"head_dim": 16}),
}
OTHERS = {
    "a sliding window": ("MistralConfig", {"sliding_window": 12}),
    "layers without positions": ("SmolLM3Config", {"no_rope_layers": [1, 0]}),
}
NAMES = ("one", "two", "three")


def adapted(kind, dtype=torch.float32):
    """A model of that kind with three adapters, of other ranks and on other layers."""
    torch.manual_seed(0)
    class_name, settings = kind
    config = getattr(transformers, class_name)(**{**SHAPE, **settings})
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0 if parameter.dim() > 1 else 1, 0.2)
    model = get_peft_model(model, lora_config(Lora(rank=4, alpha=8)), adapter_name=NAMES[0])
    few = Lora(rank=2, alpha=6, target_modules=("k_proj", "up_proj"))
    model.add_adapter(NAMES[1], lora_config(few))
    model.add_adapter(NAMES[2], lora_config(Lora(rank=3)))
    draw_weights(model, 0)
    return model.to(dtype).eval()


def steps(model, rows, count=6):
    """Logits (steps, rows, vocabulary) of the same tokens, whatever is likeliest; adapters change
    from row to row, and rows that join and leave change which are used."""
    running = RunningBatch(model)
    settings = Generation(max_new_tokens=count)
    names = [None, *NAMES]
    requests = [
        RowRequest(n, [5 + n, *range(7, 8 + 3 * (n % 5))], names[n % 4], frozenset(), settings)
        for n in range(rows)
    ]
    running.join(requests[: rows // 2 + 1])
    logits_of_steps = []
    for number in range(count - 1):
        if number == 2:
            running.leave([0])
            running.join(requests[rows // 2 + 1 :])
        [group] = running._groups.values()
        group.step()
        logits_of_steps.append(group.logits(torch.full((len(group.rows),), 11 + number)))
        for row in group.rows:
            row.tokens[-1] = 13 + number
        group.last_tokens = None
    running.clear()
    return torch.cat([logits.float() for logits in logits_of_steps])


@pytest.mark.parametrize("name", FAMILY)
def test_logits_are_the_model_s_own(name, monkeypatch):
    model = adapted(FAMILY[name])
    with recorded_kernels() as kernels:
        computed = steps(model, rows=7)
    assert {"decoding", "lora_inference"} <= kernels.ran
    monkeypatch.setenv(VARIABLE, "packing,lora_inference")
    with recorded_kernels() as kernels:
        expected = steps(model, rows=7)
    assert "decoding" not in kernels.ran
    torch.testing.assert_close(computed, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rows", [3, 24])  # products of adapters in float32, and in bfloat16
def test_in_bfloat16_they_are_as_near_to_the_exact_ones(rows, monkeypatch):
    kind = FAMILY["Llama 3"]
    computed = steps(adapted(kind, torch.bfloat16), rows)
    monkeypatch.setenv(VARIABLE, "packing,lora_inference")
    plain, exact = steps(adapted(kind, torch.bfloat16), rows), steps(adapted(kind), rows)
    assert (computed - exact).norm() < 1.1 * (plain - exact).norm() < 0.1 * exact.norm()


@pytest.mark.skipif(not nf4_products.is_supported(), reason="the CPU has no such product")
def test_nf4_weights_are_read_as_they_are_by_few_rows(monkeypatch):
    exact, half = nf4_pair(("Qwen2Config", {"hidden_size": 128}))  # with biases
    with recorded_kernels() as kernels:
        computed = steps(half, rows=3)
    assert "nf4_products" in kernels.ran and "packed_weights" not in kernels.ran
    with recorded_kernels() as kernels:
        steps(half, rows=9)
    assert "packed_weights" in kernels.ran
    with recorded_kernels() as kernels:
        settings = Generation(max_new_tokens=3)
        written_ids(half, [RowRequest(0, [5, 7], None, frozenset([0]), settings)])
    assert "nf4_products" not in kernels.ran, "a panel's figures have the weights as they are"
    monkeypatch.setenv(VARIABLE, "packing,lora_inference")
    with recorded_kernels() as kernels:
        plain = steps(half, rows=3)
    assert "nf4_products" not in kernels.ran
    exact = steps(exact, rows=3)
    assert (computed - exact).norm() < 1.5 * (plain - exact).norm() < 0.1 * exact.norm()


def nf4_pair(kind):
    """A model whose layers have NF4's values, in float32 and in bfloat16."""
    exact = adapted(kind)
    for name, module in exact.named_modules():
        if name.endswith("_proj"):
            weight = module.base_layer.weight.data
            quantized, state = bnb.functional.quantize_4bit(weight, quant_type="nf4")
            module.base_layer.weight.data = bnb.functional.dequantize_4bit(quantized, state)
    return exact, copy.deepcopy(exact).to(torch.bfloat16)


@pytest.mark.parametrize("shape", [(96, 192), (64, 64)])
def test_a_weight_of_nf4_values_is_known_by_them(shape):
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    quantized, state = bnb.functional.quantize_4bit(drawn, quant_type="nf4")
    weight = bnb.functional.dequantize_4bit(quantized, state)
    arranged, scales = bnb.functional._convert_weight_packed_for_cpu(quantized, state)
    codes, own_scales = nf4_products._quantized(weight.to(torch.bfloat16))
    assert torch.equal(nf4_products._arranged(codes), arranged)
    assert torch.equal(own_scales.squeeze(-1).T, scales.absmax)
    if nf4_products.is_supported():
        assert nf4_products.nf4_product(weight.to(torch.bfloat16)) is not None
        assert nf4_products.nf4_product(torch.zeros(shape, dtype=torch.bfloat16)) is not None
    assert nf4_products.nf4_product(drawn.to(torch.bfloat16)) is None
    assert nf4_products.nf4_product(weight[:24].to(torch.bfloat16)) is None


def test_a_bitsandbytes_without_the_product_is_recognized(monkeypatch):
    monkeypatch.setattr(bnb.functional, "has_avx512bf16", lambda: True)
    assert nf4_products.is_supported()
    monkeypatch.setattr(nf4_products, "_ROUTINE", "no_such_routine")
    assert not nf4_products.is_supported()


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_compute_as_always(name):
    assert decoder_of(adapted(OTHERS[name])) is None


def test_what_is_more_than_plain_lora_or_has_hooks_computes_as_always(monkeypatch):
    model = adapted(FAMILY["Llama 3"])
    hook = model.get_base_model().model.layers[0].register_forward_hook(lambda *_: None)
    assert decoder_of(model) is None
    hook.remove()
    assert decoder_of(model) is not None
    monkeypatch.setenv(VARIABLE, "packing,decoding")
    assert decoder_of(model) is None, "adapters by peft, not stacked"
    monkeypatch.delenv(VARIABLE)
    config = lora_config(Lora(rank=4))
    config.use_dora = True
    model.add_adapter("more", config)
    assert decoder_of(model) is None
