"""Attention of packed rows by one kernel of variable lengths, which runs on CUDA alone: here, what
it is told, against what torch says that it does, and its shapes and types on no device at all."""

import pytest
import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from chatpipe.packing import attention
from chatpipe.packing.attention import AttentionOptions
from chatpipe.packing.packing import pack, packed_attention, packed_nats
from chatpipe.tokenization.encoder import IGNORED, TokenizedRow

from .test_attention import model_of


def as_documented(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa
):
    """torch's variable-length attention, sequence by sequence: query (T, heads, size), key and
    value (K, key heads, size). Query i of a sequence sees the keys from i − left to i + right,
    counted so that the last query is at the last key."""
    assert cu_seq_q.dtype is cu_seq_k.dtype is torch.int32
    lengths, spans = cu_seq_q.diff().tolist(), cu_seq_k.diff().tolist()
    assert (sum(lengths), sum(spans)) == (len(query), len(key))
    assert (max_q, max_k) == (max(lengths), max(spans))
    left, right = window_size
    outputs = []
    for q, k, v in zip(query.split(lengths), key.split(spans), value.split(spans), strict=True):
        ahead = torch.arange(len(k)) - torch.arange(len(k) - len(q), len(k))[:, None]
        seen = (ahead <= right) & (ahead >= (-left if left >= 0 else -len(k)))
        parts = (part.transpose(0, 1)[None] for part in (q, k, v))
        attended = scaled_dot_product_attention(
            *parts, attn_mask=seen, scale=scale, enable_gqa=enable_gqa
        )
        outputs.append(attended[0].transpose(0, 1))
    return torch.cat(outputs)


@pytest.fixture
def gpu(monkeypatch):
    """As on a GPU of a kind that has FlashAttention, but for the kernel itself."""
    calls = []
    monkeypatch.setattr(attention, "_has_flash_attention", lambda *_: True)
    monkeypatch.setattr(
        attention, "varlen_attn", lambda *a, **k: calls.append(a) or as_documented(*a, **k)
    )
    return calls


def nats_and_gradient(window, rows):
    model = model_of(window)
    for layer in model.model.layers:
        layer.self_attn.scaling = 0.2  # not what the kernel would take by itself
    with packed_attention(model):
        nats = packed_nats(model, pack(rows))
        nats.sum().backward()
    layer = model.get_submodule("model.layers.0.self_attn")
    return [nats.detach(), *(layer.get_submodule(n).weight.grad for n in ("q_proj", "k_proj"))]


PREAMBLE = list(range(5, 25))
APART = [TokenizedRow(list(range(n, n + 30)), list(range(n, n + 30)), 0) for n in (5, 40, 90)]
ALIKE = [
    TokenizedRow([*PREAMBLE, *own], [*[IGNORED] * 20, *own], 0)
    for own in ([30, 31, 32], [30, 40, 41, 42, 43], [30, 40, 41, 42, 43], [50])
]


@pytest.mark.parametrize("rows", [APART, ALIKE], ids=["apart", "sharing"])
@pytest.mark.parametrize("window", [None, 8])
def test_the_kernel_is_told_what_example_by_example_computes(request, window, rows):
    expected = nats_and_gradient(window, rows)
    calls = request.getfixturevalue("gpu")
    found = nats_and_gradient(window, rows)
    assert len(calls) == 2  # layers
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("window", [None, 8])
def test_torch_s_own_takes_the_call_and_gives_gradients_of_the_right_shapes(window):
    layout = pack(ALIKE)["layout"]
    parts = [
        torch.empty(1, heads, tokens, 16, dtype=torch.bfloat16, device="meta", requires_grad=True)
        for heads, tokens in (
            (4, sum(layout["lengths"])),
            (2, sum(layout["spans"])),
            (2, sum(layout["spans"])),
        )
    ]
    attended = attention._variable_length(*parts, layout, AttentionOptions(0.25, window, 0.0))
    assert attention.varlen_attn is varlen_attn
    assert attended.shape == (1, sum(layout["lengths"]), 4, 16)
    assert attended.dtype is torch.bfloat16
    found = torch.autograd.grad(attended, parts, torch.empty_like(attended))
    assert [gradient.shape for gradient in found] == [part.shape for part in parts]


def test_keys_that_heads_share_may_be_given_to_each():
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, 7, 16) for heads in (6, 2, 2))
    shared = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    each = (attention._of_each_head(part, 6) for part in (key, value))
    torch.testing.assert_close(scaled_dot_product_attention(query, *each, is_causal=True), shared)


@pytest.mark.parametrize(
    ("dtype", "size", "value_size", "capability", "runs"),
    [
        (torch.bfloat16, 128, 128, (8, 0), True),
        (torch.float16, 64, 64, (9, 0), True),
        (torch.float16, 64, 64, (7, 5), False),
        (torch.float32, 64, 64, (9, 0), False),
        (torch.bfloat16, 192, 128, (9, 0), False),
        (torch.bfloat16, 20, 20, (9, 0), False),
        (torch.bfloat16, 512, 512, (9, 0), False),
    ],
)
def test_the_kernel_is_asked_for_what_it_can_do_alone(
    monkeypatch, dtype, size, value_size, capability, runs
):
    class OnGPU(torch.Tensor):
        device = torch.device("cuda", 0)

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    query, value = (
        torch.empty(1, 2, 3, n, dtype=dtype, device="meta").as_subclass(OnGPU)
        for n in (size, value_size)
    )
    assert attention._has_flash_attention(query, value) is runs
