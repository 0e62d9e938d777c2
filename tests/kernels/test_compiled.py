"""Norms, gated units and rotary positions compiled by torch, against transformers' own code."""

import pytest
import torch
from torch._dynamo.utils import counters

from chatpipe.kernels.compiled import compiled_layers
from chatpipe.kernels.switch import VARIABLE, recorded_kernels
from tests.support.architectures import random_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model():
    """A model whose norms and units are not LLaMA's: a norm adds 1 to its weight."""
    model = random_model("Gemma 2")
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data.uniform_(-0.5, 0.5)
    return model


def loss_and_gradients(model, tokens):
    model.zero_grad()
    ids = torch.arange(3, 3 + tokens)[None]
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss.item(), torch.cat([weight.grad.flatten() for weight in model.parameters()])


def graphs():
    return counters["stats"]["unique_graphs"]


def test_losses_and_gradients_are_those_of_transformers_at_every_length(model, monkeypatch):
    lengths = (7, 12, 31)
    plain = [loss_and_gradients(model, tokens) for tokens in lengths]
    monkeypatch.setenv(VARIABLE, "compile")
    before = graphs()
    with recorded_kernels() as kernels, compiled_layers(model):
        fast = [loss_and_gradients(model, lengths[0])]
        first = graphs()
        fast += [loss_and_gradients(model, tokens) for tokens in lengths[1:]]
    assert first - before == 3 and graphs() == first  # one each, for all layers and lengths
    assert kernels.ran == {"compile"}
    for (loss, gradients), (plain_loss, plain_gradients) in zip(fast, plain, strict=True):
        assert loss == pytest.approx(plain_loss, rel=1e-6)
        assert (gradients - plain_gradients).norm() < 1e-5 * plain_gradients.norm()
    loss, gradients = loss_and_gradients(model, lengths[0])
    assert (loss, graphs()) == (plain[0][0], first) and torch.equal(gradients, plain[0][1])
    assert not any("forward" in vars(layer) for layer in model.modules())


def test_nothing_is_compiled_where_it_is_not_named(model, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with recorded_kernels() as kernels, compiled_layers(model):
        assert not any("forward" in vars(layer) for layer in model.modules())
    assert kernels.ran == set()
