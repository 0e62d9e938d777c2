"""Attention of packed rows example by example, against torch's own in float64."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from chatpipe.packing.attention import AttentionOptions, ForwardState, _fused
from chatpipe.packing.packing import pack, packed_attention, packed_nats
from chatpipe.tokenization.encoder import TokenizedRow

HEADS, SIZE = 6, 16


def drawn(tokens, heads, size=SIZE):
    """(1, heads, tokens, size) in bfloat16, as layers hand it over: transposed."""
    values = torch.randn(1, tokens, heads, size)
    return values.transpose(1, 2).bfloat16().requires_grad_()


def gradients(attended, parts):
    """The output, and the gradients of queries, keys and values, in float64."""
    torch.manual_seed(1)
    weights = torch.randn(attended.shape, dtype=torch.float64)
    found = torch.autograd.grad((attended.double() * weights).sum(), parts)
    return [attended.detach().double(), *(gradient.double() for gradient in found)]


def exact_gradients(parts, span, window, scale=None):
    exact = [part.detach().double().requires_grad_() for part in parts]
    length = parts[0].shape[2]
    back = torch.arange(span - length, span)[:, None] - torch.arange(span)  # how far
    seen = (back >= 0) & (back < (window or span))
    attended = scaled_dot_product_attention(*exact, attn_mask=seen, scale=scale, enable_gqa=True)
    return gradients(attended, exact)


@pytest.mark.parametrize("key_heads", [6, 2, 1])
@pytest.mark.parametrize(
    ("length", "span", "window"),
    [(1, 1, None), (40, 40, None), (13, 60, None), (60, 60, 7), (13, 60, 20)],
)
@pytest.mark.parametrize(("value_size", "scale"), [(SIZE, None), (8, 0.1)])
def test_an_example_attends_as_torch_does_in_float64_and_has_its_gradients(
    key_heads, length, span, window, value_size, scale
):
    torch.manual_seed(0)
    query, key = drawn(length, HEADS), drawn(span, key_heads)
    parts = (query, key, drawn(span, key_heads, value_size))
    ours = gradients(_fused(*parts, ForwardState(), AttentionOptions(scale, window, 0.0)), parts)
    for found, expected in zip(ours, exact_gradients(parts, span, window, scale), strict=True):
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 0.02 * expected.abs().max().clamp(min=0.5)


def model_of(window):
    """One whose attention decides what comes out: large weights, shared key heads."""
    torch.manual_seed(0)
    shape = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    if window:
        model = MistralForCausalLM(MistralConfig(**shape, sliding_window=window))
    else:
        model = LlamaForCausalLM(LlamaConfig(**shape))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0, 0.2)
    return model


@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize("length", [128, 306])
def test_short_and_long_rows_have_the_losses_and_gradients_of_float32(length, window):
    ids = torch.randint(5, 200, (3, length), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [TokenizedRow([*range(5, 85), *own], [*range(5, 85), *own], 0) for own in ids]

    def found(half):
        model = model_of(window)
        with packed_attention(model), torch.autocast("cpu", torch.bfloat16, enabled=half):
            nats = packed_nats(model, pack(rows))
            nats.sum().backward()
        names = ("q_proj", "k_proj", "v_proj")
        layer = model.get_submodule("model.layers.0.self_attn")
        return nats.detach(), [layer.get_submodule(name).weight.grad for name in names]

    (nats, ours), (exact, expected) = found(True), found(False)
    assert (nats - exact).norm() < 0.02 * exact.norm()
    for gradient, other in zip(ours, expected, strict=True):
        assert (gradient - other).norm() < 0.1 * other.norm()
