"""Joined LoRA products against peft's own: the same outputs and gradients, one dropout a group."""

import gc
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from chatpipe.config.schema import Quantization
from chatpipe.kernels import lora_training
from chatpipe.kernels.lora_training import joined_products
from chatpipe.kernels.sparse_dropout import use_sparse_dropout
from chatpipe.models.loading import load_base

IDS = torch.arange(3, 43).reshape(2, 20)


def adapted(base, dropout=0.0, **settings):
    torch.manual_seed(0)
    config = LoraConfig(
        **{
            "r": 4,
            "lora_alpha": 12,
            "lora_dropout": dropout,
            "target_modules": "all-linear",
            "task_type": "CAUSAL_LM",
            **settings,
        }
    )
    model = get_peft_model(base, config).train()
    use_sparse_dropout(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.1)
    return model


@pytest.fixture
def base(tiny_model_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)


def loss_and_gradients(model, dtype=torch.float32):
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    named = model.named_parameters()
    return loss.item(), {name: p.grad.clone() for name, p in named if p.requires_grad}


def test_a_pass_that_breaks_off_within_a_group_holds_no_memory_of_the_next(base, monkeypatch):
    """Memory ends between the gate and the other factor of the second layer, which are computed
    together: the pass that is tried again begins without what the first layer had saved."""
    model = adapted(base)
    first, second = model.get_base_model().model.layers
    held, alive = [], []
    first.register_forward_hook(lambda _, inputs, out: held.append(weakref.ref(out)))
    model.get_base_model().model.embed_tokens.register_forward_pre_hook(
        lambda *_: alive.append([ref() is not None for ref in held])
    )

    def lacking(gate):
        raise torch.OutOfMemoryError("no memory")

    with joined_products(model):
        with monkeypatch.context() as planted:
            planted.setattr(second.mlp.act_fn, "forward", lacking)
            with pytest.raises(torch.OutOfMemoryError):
                model(input_ids=IDS)
        gc.collect()
        assert held[0]() is not None  # or there is nothing to be seen here
        loss, gradients = loss_and_gradients(model)
    assert alive == [[], [False]]
    expected, of_expected = loss_and_gradients(model)
    assert loss == pytest.approx(expected) and gradients.keys() == of_expected.keys()


TARGETS = pytest.mark.parametrize(
    "targets", ["all-linear", ["q_proj", "v_proj"], ["k_proj", "down_proj"]]
)


@TARGETS
@pytest.mark.parametrize("method", ["none", "nf4"])
def test_losses_and_gradients_are_peft_s(tiny_model_dir, targets, method):
    base = load_base(tiny_model_dir, Quantization(method=method, compute_dtype="float32"))
    model = adapted(base, target_modules=targets)
    loss, expected = loss_and_gradients(model)
    with joined_products(model):
        assert any(map(is_joined, model.modules()))
        joined_loss, found = loss_and_gradients(model)
    assert joined_loss == pytest.approx(loss, rel=1e-5)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert gradient.any(), name
        assert (found[name] - gradient).norm() < 1e-5 * gradient.norm(), name


@TARGETS
def test_in_bfloat16_they_are_as_near_to_the_exact_ones_as_peft_s(tiny_model_dir, targets):
    def model(dtype):
        half = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.bfloat16)
        return adapted(half.to(dtype), target_modules=targets)

    def all_of(gradients):
        return torch.cat([gradient.flatten() for gradient in gradients.values()])

    exact = all_of(loss_and_gradients(model(torch.float32))[1])
    half = model(torch.bfloat16)
    of_peft = all_of(loss_and_gradients(half, torch.bfloat16)[1])
    with joined_products(half):
        joined = all_of(loss_and_gradients(half, torch.bfloat16)[1])
    assert 0 < (joined - exact).norm() < 1.1 * (of_peft - exact).norm() < 0.1 * exact.norm()


def test_a_bias_of_the_base_is_added(base):
    layer = torch.nn.Linear(8, 6)
    model = adapted(torch.nn.Sequential(layer), target_modules=["0"], task_type=None)
    x = torch.randn(3, 8)
    expected = model(x)
    with joined_products(model):
        assert torch.allclose(model(x), expected, atol=1e-6)


def by_indices(x, p):
    """A CPU's: the elements that are dropped, and what is left unscaled."""
    indices = torch.randint(x.numel(), (x.numel() // 4,))
    kept = torch.ones(x.numel()).index_fill(0, indices, 0).view_as(x)
    return (x * kept, indices), kept / (1 - p)


def by_mask(x, p):
    """A GPU's: torch's own."""
    read, mask = torch.native_dropout(x, p, True)
    return (read, mask), mask / (1 - p)


@pytest.mark.parametrize("drawn", [by_indices, by_mask])
def test_one_dropout_serves_the_layers_that_read_the_same(base, monkeypatch, drawn):
    """Against the expression itself, with the same elements: y = x Wᵀ + s dropout(x) Aᵀ Bᵀ."""
    p = 0.25
    model = adapted(base, dropout=p)
    attention = model.get_base_model().model.layers[0].self_attn
    layers = [attention.q_proj, attention.k_proj, attention.v_proj]
    x = torch.randn(1, 10, layers[0].in_features, requires_grad=True)
    scales = []

    def read(whole, dropout):
        assert (len(whole), dropout) == (10, p)
        result, scale = drawn(whole, dropout)
        scales.append(scale)
        return result

    monkeypatch.setattr(lora_training, "_read", read)
    with joined_products(model):
        outputs = [layer(x) for layer in layers]
    [scale] = scales
    weights = [torch.randn_like(output) for output in outputs]
    trained = [
        w for layer in layers for w in (*layer.lora_A.parameters(), *layer.lora_B.parameters())
    ]
    found = torch.autograd.grad(outputs, [x, *trained], weights)

    plain = [
        layer.base_layer(x) + 3.0 * layer.lora_B["default"](layer.lora_A["default"](x * scale))
        for layer in layers
    ]
    expected = torch.autograd.grad(plain, [x, *trained], weights)
    for one, other in zip([*outputs, *found], [*plain, *expected], strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_elements_that_a_cpu_drops_are_as_many_as_asked_for():
    read, indices = lora_training._read(torch.ones(1000, 100), 0.25)
    assert (read == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert torch.equal(read.view(-1)[indices], torch.zeros(len(indices)))


def test_without_training_nothing_is_dropped(base):
    model = adapted(base, dropout=0.5)
    with torch.no_grad():
        expected = model.eval()(IDS).logits
        with joined_products(model):
            assert torch.allclose(model(IDS).logits, expected, atol=1e-4)


def test_a_layer_asked_for_another_input_answers_for_that(base):
    model = adapted(base)
    attention = model.get_base_model().model.layers[0].self_attn
    first, second = torch.randn(2, 1, 5, attention.q_proj.in_features)
    expected = [attention.q_proj(first), attention.k_proj(second), attention.q_proj(second)]
    with joined_products(model):
        found = [attention.q_proj(first), attention.k_proj(second), attention.q_proj(second)]
        again = attention.q_proj(second)
    for one, other in zip([*found, again], [*expected, expected[-1]], strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_an_output_may_be_changed_in_place(base):
    """As OLMo clips its queries."""
    model = adapted(base)
    query = model.get_base_model().model.layers[0].self_attn.q_proj
    x = torch.randn(2, 5, query.in_features)
    expected = query(x).clamp(-0.1, 0.1)
    with joined_products(model):
        found = query(x).clamp_(-0.1, 0.1)
    found.sum().backward()
    assert torch.allclose(found, expected, atol=1e-5)


def test_gradient_checkpointing_leaves_no_activations_behind(base):
    """It breaks a layer's second forward pass off as soon as it has all that is needed."""
    base.gradient_checkpointing_enable({"use_reentrant": False})
    model = adapted(base)
    with joined_products(model):
        loss_and_gradients(model)
        groups = [layer.forward.func.__self__ for layer in model.modules() if is_joined(layer)]
        assert groups and all(group._input is None and not group._outputs for group in groups)


def is_joined(layer):
    return "forward" in vars(layer)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}])
def test_what_is_more_than_plain_lora_stays_peft_s(base, settings):
    model = adapted(base, **settings)
    with joined_products(model):
        assert not any(map(is_joined, model.modules()))


def test_layers_are_peft_s_own_again_afterwards_even_after_an_error(base):
    model = adapted(base)
    with pytest.raises(RuntimeError, match="out of memory"), joined_products(model):
        assert any(map(is_joined, model.modules()))
        raise RuntimeError("out of memory")
    assert not any(map(is_joined, model.modules()))
