"""The loss in parts against torch's own: values and gradients, whatever the size of a part."""

import pytest
import torch

from chatpipe.kernels import cross_entropy
from chatpipe.kernels.cross_entropy import token_nats, tokens_at_once


@pytest.mark.parametrize("tokens", [1, 7, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_are_torch_s(tokens, dtype, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CPU_TOKENS", tokens)
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(40, 50, generator=generator)).to(dtype)
    targets = torch.randint(50, (40,), generator=generator)
    factors = torch.rand(40, generator=generator)

    exact = logits.to(torch.float32, copy=True).requires_grad_()
    expected = torch.nn.functional.cross_entropy(exact, targets, reduction="none")
    (expected * factors).sum().backward()
    assert torch.allclose(token_nats(logits, targets), expected)
    leaf = logits.clone().requires_grad_()
    nats = token_nats(leaf * 1, targets)
    (nats * factors).sum().backward()
    assert torch.allclose(nats, expected)
    bound = {torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    assert (leaf.grad.float() - exact.grad).norm() < bound * exact.grad.norm()


def test_a_gpu_has_parts_of_a_size_in_bytes_and_a_cpu_of_a_number_of_tokens():
    assert tokens_at_once(32_000, "cuda") == 2097 and tokens_at_once(128_256, "cuda") == 523
    assert tokens_at_once(1 << 28, "cuda") == 1
    assert tokens_at_once(32_000, "cpu") == 128
