"""Attention of packed rows in bfloat16, against torch's own in float64."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from chatpipe import attention
from chatpipe.attention import Asked, Attended, _mask
from chatpipe.packing import pack, packed_attention, packed_nats
from chatpipe.short_attention import SHORT, attend_by_products
from chatpipe.tokenization import TokenizedRow

HEADS, SIZE = 6, 16


def drawn(tokens, heads, size=SIZE, mean=0.0):
    """(1, heads, tokens, size) in bfloat16, as layers hand it over: transposed."""
    values = torch.randn(1, tokens, heads, size) + mean
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
def test_products_attend_as_torch_does_and_have_its_gradients(
    key_heads, length, span, window, value_size, scale
):
    torch.manual_seed(0)
    query, key = drawn(length, HEADS), drawn(span, key_heads)
    parts = (query, key, drawn(span, key_heads, value_size))
    mask = _mask(query, span, window, Attended())
    ours = gradients(attend_by_products(*parts, mask, scale), parts)
    for found, expected in zip(ours, exact_gradients(parts, span, window, scale), strict=True):
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 0.02 * expected.abs().max().clamp(min=0.5)


def test_what_keys_and_values_have_in_common_leaves_gradients_as_exact_as_torch_s():
    """Differences of large numbers: rounded too early, nothing would be left of them."""
    torch.manual_seed(0)
    parts = (drawn(50, HEADS), drawn(50, 2, mean=3.0), drawn(50, 2, mean=3.0))
    mask = _mask(parts[0], 50, None, Attended())
    ours = gradients(attend_by_products(*parts, mask, None), parts)
    theirs = gradients(scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True), parts)
    for found, other, expected in zip(ours, theirs, exact_gradients(parts, 50, None), strict=True):
        assert (found - expected).norm() < 1.5 * (other - expected).norm()


@pytest.mark.parametrize(
    ("dtype", "span", "dropout", "by_products"),
    [
        (torch.bfloat16, SHORT, 0.0, True),
        (torch.bfloat16, SHORT + 1, 0.0, False),
        (torch.bfloat16, SHORT, 0.1, False),
        (torch.float16, SHORT, 0.0, False),
        (torch.float32, SHORT, 0.0, False),
    ],
)
def test_short_examples_in_bfloat16_go_by_products(monkeypatch, dtype, span, dropout, by_products):
    used = []
    monkeypatch.setattr(
        attention,
        "attend_by_products",
        lambda *parts: used.append(parts) or attend_by_products(*parts),
    )
    parts = [drawn(span, heads).to(dtype) for heads in (HEADS, 2, 2)]
    layout = pack([TokenizedRow(list(range(span + 1)), list(range(span + 1)), 0)])["layout"]
    found = attention._one_by_one(*parts, layout, Asked(None, None, dropout))
    assert found.shape == (1, span, HEADS, SIZE) and found.dtype is dtype
    assert bool(used) is by_products


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
@pytest.mark.parametrize("length", [SHORT // 2, SHORT + 50])
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
