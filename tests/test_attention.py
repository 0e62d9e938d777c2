"""Attention of packed rows in half precision, against torch's own in float64."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForCausalLM

from chatpipe.attention import Attended, _mask
from chatpipe.packing import pack, packed_attention, packed_nats
from chatpipe.short_attention import SHORT, attend_by_products, is_short
from chatpipe.tokenization import TokenizedRow

HEADS, SIZE = 6, 16


def drawn(tokens, heads):
    """(1, heads, tokens, size) in bfloat16, as layers hand it over: transposed."""
    return torch.randn(1, tokens, heads, SIZE).transpose(1, 2).bfloat16().requires_grad_()


def gradients(attended, parts):
    """The output, and the gradients of queries, keys and values, in float64."""
    torch.manual_seed(1)
    weights = torch.randn(attended.shape, dtype=torch.float64)
    found = torch.autograd.grad((attended.double() * weights).sum(), parts)
    return [attended.detach().double(), *(gradient.double() for gradient in found)]


@pytest.mark.parametrize("key_heads", [6, 2, 1])
@pytest.mark.parametrize(
    ("length", "span", "window"),
    [(1, 1, None), (40, 40, None), (13, 60, None), (60, 60, 7), (13, 60, 20)],
)
def test_products_attend_as_torch_does_and_have_its_gradients(key_heads, length, span, window):
    torch.manual_seed(0)
    query, key, value = drawn(length, HEADS), drawn(span, key_heads), drawn(span, key_heads)
    mask = _mask(query, span, window, Attended(), HEADS // key_heads)
    ours = gradients(attend_by_products(query, key, value, mask, None), (query, key, value))
    exact = [part.detach().double().requires_grad_() for part in (query, key, value)]
    back = torch.arange(span - length, span)[:, None] - torch.arange(span)  # how far
    seen = (back >= 0) & (back < (window or span))
    reference = scaled_dot_product_attention(*exact, attn_mask=seen, enable_gqa=True)
    for found, expected in zip(ours, gradients(reference, exact), strict=True):
        assert (found - expected).abs().max() < 0.02 * expected.abs().max().clamp(min=0.5)


def test_a_scale_of_the_model_s_own_is_heeded():
    torch.manual_seed(0)
    query, key, value = (drawn(20, HEADS) for _ in "qkv")
    mask = _mask(query, 20, None, Attended())
    found = attend_by_products(query, key, value, mask, 0.05).double()
    exact = (part.detach().double() for part in (query, key, value))
    expected = scaled_dot_product_attention(*exact, is_causal=True, scale=0.05)
    assert torch.allclose(found, expected, atol=0.02)


def test_only_short_examples_in_half_precision_go_by_products():
    query = drawn(1, HEADS)
    assert is_short(query, SHORT) and not is_short(query, SHORT + 1)
    assert not is_short(query.float(), 1)


@pytest.mark.parametrize("length", [SHORT // 2, SHORT + 50])
def test_short_and_long_rows_have_the_losses_and_gradients_of_float32(tiny_model_dir, length):
    ids = torch.randint(5, 200, (3, length), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [TokenizedRow([*range(5, 45), *own], [*range(5, 45), *own], 0) for own in ids]

    def found(dtype):
        model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=dtype)
        with packed_attention(model):
            nats = packed_nats(model, pack(rows))
            nats.sum().backward()
        queries = model.get_submodule("model.layers.0.self_attn.q_proj").weight.grad
        return nats.detach(), queries.double()

    (nats, of_queries), (exact, of_exact) = found(torch.bfloat16), found(torch.float32)
    assert torch.allclose(nats, exact, atol=0.1)
    assert (of_queries - of_exact).norm() < 0.05 * of_exact.norm()
