"""$CHATPIPE_KERNELS: its values, what is recorded, and each kernel against none."""

import pytest
import torch

from chatpipe.config.prompts import template
from chatpipe.config.schema import Generation, Lora, Quantization
from chatpipe.errors import ConfigError
from chatpipe.evaluation.row_nats import row_nats
from chatpipe.generation.batch import complete
from chatpipe.kernels.switch import BY_DEFAULT, KERNELS, VARIABLE, enabled_kernels, recorded_kernels
from chatpipe.models.loading import load_fast_base, load_tokenizer
from chatpipe.models.lora import with_adapter
from chatpipe.packing.batching import PACKED, PADDED, batching_for
from chatpipe.runtime.variables import variable_faults
from chatpipe.tokenization.conversation import Conversation
from chatpipe.tokenization.encoder import IGNORED, Encoder, TokenizedRow
from chatpipe.training.trainer import BatchCollator, batch_training, max_training_threads

ON_GPUS = {"liger"}  # tests/kernels/test_liger.py
# Of those that run on a CPU in float32 without noise.
OTHERS = ON_GPUS | {"varlen_attention", "sparse_dropout", "packed_weights", "nf4_products"}
DETERMINISTIC = KERNELS.keys() - OTHERS
# What a kernel is used with: packs alone are computed side by side, of a model that no pass
# changes; and steps are decoded of rows that were read in packs, by plain weights and adapters.
WITH = {
    "concurrency": "packing,concurrency,dequantize",
    "decoding": "packing,dequantize,lora_inference,decoding",
}


@pytest.mark.parametrize("value", ["of", "all", "packing,dropout", ",", "AUTO"])
def test_a_value_that_names_no_kernel_is_refused_in_one_sentence(monkeypatch, value):
    monkeypatch.setenv(VARIABLE, value)
    [fault] = variable_faults()
    assert fault.startswith(f"{VARIABLE}={value}: must be auto, off, or names out of packing, ")
    with pytest.raises(ConfigError, match="must be auto, off, or names"):
        enabled_kernels()


def test_compile_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv(VARIABLE, "auto,compile")
    [fault] = variable_faults()
    assert fault.startswith(f"{VARIABLE}=auto,compile: compile needs a C++ compiler, and there is")
    monkeypatch.setenv(VARIABLE, "auto")
    assert variable_faults() == []


def test_auto_is_all_off_is_none_and_names_are_those(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert enabled_kernels() == BY_DEFAULT
    monkeypatch.setenv(VARIABLE, "auto")
    assert enabled_kernels() == BY_DEFAULT
    monkeypatch.setenv(VARIABLE, "off")
    assert enabled_kernels() == set()
    monkeypatch.setenv(VARIABLE, "packing, cross_entropy")
    assert enabled_kernels() == {"packing", "cross_entropy"}
    monkeypatch.setenv(VARIABLE, "auto,compile")
    assert enabled_kernels() == BY_DEFAULT | {"compile"}


def rows():
    drawn = torch.Generator().manual_seed(3)
    ids = [torch.randint(5, 200, (n,), generator=drawn).tolist() for n in (30, 9, 21, 40, 17, 26)]
    texts = [[*range(40, 60), *own] for own in ids]
    return [TokenizedRow(text, [*[IGNORED] * 9, *text[9:]], n) for n, text in enumerate(texts)]


def figures(base, dropout=0.0):
    """Nats, gradients of a step, and answers of a 4-bit base with an adapter; and what ran."""
    quantization = Quantization(compute_dtype="float32")
    with recorded_kernels() as kernels:
        torch.manual_seed(0)
        model = with_adapter(load_fast_base(base, quantization), Lora(rank=4, dropout=dropout))
        generator = torch.Generator().manual_seed(2)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.data = torch.randn(weight.shape, generator=generator) * 0.1
        batching = batching_for(model)
        model.train()
        with batch_training(model, batching):
            threads = max_training_threads(model, 1, batching)
            collate = BatchCollator(128, threads, batching)
            for batch in collate([[row] for row in rows()])["batches"]:
                batching.nats(model, batch).sum().backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        model.eval()
        nats = row_nats(model, rows(), 128)
        encoder = Encoder(load_tokenizer(base), template("short"), "all", 1 << 20)
        texts = ("Hello there.", "How are you?", "Why?")
        prompts = list(map(Conversation, texts))
        through = ["default", "default", None]
        answers = complete(model, encoder, prompts, Generation(max_new_tokens=5), through)
    return nats, gradients, [answer.text for answer in answers], kernels.ran


@pytest.fixture(scope="module")
def reference(tiny_model_dir):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "off")
        return figures(tiny_model_dir)


def assert_equal(some, others):
    (nats, gradients, answers, _), (other_nats, other_gradients, other_answers, _) = some, others
    assert nats == pytest.approx(other_nats, rel=1e-4)
    assert answers == other_answers
    largest = max(float(gradient.abs().max()) for gradient in other_gradients.values())
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, other_gradients[name], rtol=1e-3, atol=1e-4 * largest), name


def test_off_runs_none(reference):
    assert reference[-1] == set()


@pytest.mark.parametrize("kernel", sorted(DETERMINISTIC))
def test_each_kernel_has_the_figures_of_none(kernel, reference, tiny_model_dir, monkeypatch):
    monkeypatch.setattr("chatpipe.models.concurrency.MIN_TOKENS_PER_THREAD", 16)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    value = WITH.get(kernel, kernel)
    monkeypatch.setenv(VARIABLE, value)
    found = figures(tiny_model_dir)
    assert kernel in found[-1] and found[-1] <= set(value.split(","))
    assert_equal(found, reference)


def test_all_together_have_the_figures_of_none(reference, tiny_model_dir, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    found = figures(tiny_model_dir)
    assert found[-1] >= DETERMINISTIC - {"concurrency", "compile"}
    assert_equal(found, reference)


def test_dropout_is_torch_s_own_where_the_sparse_one_is_off(tiny_model_dir, monkeypatch):
    monkeypatch.setenv(VARIABLE, "off")
    assert "sparse_dropout" not in figures(tiny_model_dir, dropout=0.3)[-1]
    monkeypatch.setenv(VARIABLE, "lora_training")  # whose own dropout is the sparse one
    assert figures(tiny_model_dir, dropout=0.3)[-1] == {"lora_training"}
    monkeypatch.setenv(VARIABLE, "sparse_dropout")
    assert figures(tiny_model_dir, dropout=0.3)[-1] == {"sparse_dropout"}


def test_off_pads(tiny_model_dir, monkeypatch):
    model = load_fast_base(tiny_model_dir, Quantization(method="none", compute_dtype="float32"))
    assert batching_for(model) is PACKED
    monkeypatch.setenv(VARIABLE, "off")
    assert batching_for(model) is PADDED
