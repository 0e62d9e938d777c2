"""Dropout by drawn places is dropout: each element with its chance, whatever others do."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from chatpipe.kernels.sparse_dropout import (
    SparseDropout,
    places_per_element,
    seeded,
    use_sparse_dropout,
)

DRAWS = 20_000


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_each_element_is_dropped_with_probability_p_independently_of_the_others(p):
    torch.manual_seed(0)
    dropout = SparseDropout(p)
    ones = torch.ones(7)
    dropped = torch.stack([dropout(ones) == 0 for _ in range(DRAWS)]).double()
    deviation = (p * (1 - p) / DRAWS) ** 0.5
    assert (dropped.mean(0) - p).abs().max() < 4 * deviation
    of_pairs = torch.corrcoef(dropped.T) - torch.eye(7, dtype=torch.float64)
    assert of_pairs.abs().max() < 4 / DRAWS**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_is_scaled_and_its_gradient_likewise(dtype):
    torch.manual_seed(0)
    values = torch.randn(64, 33, dtype=dtype).T.requires_grad_()  # not contiguous
    weights = torch.randn(33, 64, dtype=dtype)
    out = SparseDropout(0.25)(values)
    (gradient,) = torch.autograd.grad(out, values, weights)
    kept = out != 0
    scale = torch.tensor(4 / 3)
    assert 0.6 < kept.double().mean() < 0.9
    assert torch.equal(out, torch.where(kept, values * scale.item(), 0.0))
    assert torch.equal(gradient, torch.where(kept, weights * scale.item(), 0.0))


def test_the_mean_stays_where_it_was():
    torch.manual_seed(0)
    values = torch.rand(1_000_000)
    difference = SparseDropout(0.1)(values).mean() - values.mean()
    assert abs(float(difference)) < 4 * (0.1 / 0.9 / 3 / 1_000_000) ** 0.5


def test_a_seed_draws_the_same_and_inference_drops_nothing():
    dropout, values = SparseDropout(0.5), torch.ones(1000)
    torch.manual_seed(1)
    first, second = dropout(values), dropout(values)
    torch.manual_seed(1)
    assert torch.equal(dropout(values), first) and not torch.equal(first, second)
    assert dropout.eval()(values) is values


def test_a_seed_of_one_s_own_draws_the_same_whatever_others_draw():
    dropout, values = SparseDropout(0.5), torch.ones(1000)
    torch.manual_seed(1)
    expected = dropout(values)
    with seeded(7):
        first = dropout(values)
    torch.manual_seed(1)
    with seeded(7):
        again = dropout(values)
    assert torch.equal(first, again) and not torch.equal(first, expected)
    assert torch.equal(dropout(values), expected)


def test_a_place_is_drawn_for_few_elements():
    assert places_per_element(0.05) == pytest.approx(0.0513, abs=1e-4)


def test_every_adapted_layer_gets_it(tiny_model_dir):
    def layers(kind, model):
        return [layer for layer in model.modules() if type(layer) is kind]

    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    settings = LoraConfig(lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, settings)
    adapted = len(layers(torch.nn.Dropout, model))
    use_sparse_dropout(model)
    assert adapted and not layers(torch.nn.Dropout, model)
    assert [layer.p for layer in layers(SparseDropout, model)] == [0.1] * adapted
