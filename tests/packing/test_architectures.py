"""Every architecture is trained, scored and asked as each of its rows would be alone: packed where
that is known to be right, else padded."""

import logging

import pytest
import torch
from peft import get_peft_model

from benchmarks.by_generate import generated_ids
from chatpipe.config.prompts import template
from chatpipe.config.schema import Generation, Lora
from chatpipe.evaluation.row_nats import row_nats
from chatpipe.generation.batch import written_ids
from chatpipe.generation.row_request import RowRequest
from chatpipe.kernels.switch import recorded_kernels
from chatpipe.models.loading import load_tokenizer
from chatpipe.models.lora import lora_config
from chatpipe.packing.batching import PACKED, PADDED, UNPADDED, batching_for
from chatpipe.tokenization.conversation import Conversation
from chatpipe.tokenization.encoder import IGNORED, Encoder, TokenizedRow
from chatpipe.training.trainer import BatchCollator, batch_training
from tests.support import architectures
from tests.support.architectures import random_model

COMMON = list(range(20, 32))
INSTRUCTIONS = ("Say hello.", "Say hello, slowly.", "Why?", "Count to 3, then stop.")


def rows():
    """Of different lengths, three of which begin alike; a part of each is not scored."""
    drawn = torch.Generator().manual_seed(1)

    def ids(length):
        return torch.randint(5, 300, (length,), generator=drawn).tolist()

    texts = [[*COMMON, *ids(9)], [*COMMON, *ids(4)], [*COMMON, *ids(17)], ids(6), ids(23)]
    return [
        TokenizedRow(text, [*[IGNORED] * 3, *text[3:]], number) for number, text in enumerate(texts)
    ]


def adapted(name):
    """The model with an adapter that changes what it computes."""
    base = random_model(name)
    shape = lora_config(Lora(rank=4, dropout=0.0), base.config.model_type)
    model = get_peft_model(base, shape).eval()
    generator = torch.Generator().manual_seed(2)
    for weight_name, weight in model.named_parameters():
        if "lora_B" in weight_name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.1
    return model


def alone(model, row):
    """Σ −log p of a row's scored tokens, by the model's own forward pass of that row."""
    logits = model(input_ids=torch.tensor([row.input_ids])).logits[0, :-1]
    return torch.nn.functional.cross_entropy(
        logits.float(), torch.tensor(row.labels[1:]), ignore_index=IGNORED, reduction="sum"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", architectures.ALL)
def test_rows_score_as_each_alone(name):
    model = adapted(name)
    expected_batching = {True: PACKED, False: PADDED}[name in architectures.PACKED]
    assert batching_for(model) is (UNPADDED if name == "CPM-Ant" else expected_batching)
    with torch.no_grad():
        expected = [float(alone(model, row)) for row in rows()]
    assert row_nats(model, rows(), 64) == pytest.approx(expected, rel=1e-4)
    assert row_nats(model, rows(), 4096) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", architectures.ALL)
def test_a_step_has_the_gradients_of_its_rows_alone(name):
    model = adapted(name)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for row in rows():
        alone(model, row).backward()
    expected = {n: p.grad for n, p in trained.items()}  # None: past the layer (Mamba's dt_proj)
    model.zero_grad()
    batching = batching_for(model)
    with batch_training(model, batching):
        for batch in BatchCollator(64, 1, batching)([[row] for row in rows()])["batches"]:
            batching.nats(model, batch).sum().backward()
    gradients = {n: gradient for n, gradient in expected.items() if gradient is not None}
    assert gradients.keys() == {n for n, p in trained.items() if p.grad is not None}
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for n, gradient in gradients.items():
        assert torch.allclose(trained[n].grad, gradient, rtol=1e-3, atol=1e-4 * largest), n


@pytest.mark.slow
# `generate` counts the positions of RoBERTa from 0, its own passes do not.
@pytest.mark.parametrize("name", sorted({*architectures.ALL} - {"RoBERTa as a decoder"}))
def test_greedy_answers_are_those_of_generate_one_at_a_time(name, tiny_model_dir):
    model = adapted(name)
    encoder = Encoder(load_tokenizer(tiny_model_dir), template("short"), "all", 1 << 20)
    prompts = encoder.prompt_ids(list(map(Conversation, INSTRUCTIONS)))
    settings = Generation(max_new_tokens=6)
    pairs = [(ids, adapter) for adapter in ("default", None) for ids in prompts]
    rows = [RowRequest(n, *pair, frozenset([1]), settings) for n, pair in enumerate(pairs)]
    expected = [generated_ids(model, *pair, [1], settings) for pair in pairs]
    assert written_ids(model, rows) == expected


def test_what_is_padded_is_warned_of_once_and_recorded(caplog):
    model = random_model("Gemma 2")
    with caplog.at_level(logging.WARNING), recorded_kernels() as kernels:
        for _ in range(3):
            row_nats(model, rows(), 64)
    reason = "Gemma2ForCausalLM: its attention asks for softcap"
    assert [record.getMessage() for record in caplog.records] == [
        f"packing is not used, which is slower: {reason}."
    ]
    assert kernels.details()["kernels_unused"] == {"packing": reason}
    assert "packing" not in kernels.details()["kernels"]
    with recorded_kernels() as kernels:
        row_nats(random_model("Llama 3"), rows(), 64)
    assert "packing" in kernels.details()["kernels"]
    assert "kernels_unused" not in kernels.details()
