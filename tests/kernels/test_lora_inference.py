"""Adapters of one base in one batch: each row comes out as from its own model alone."""

from contextlib import nullcontext

import pytest
import torch
from peft import get_peft_model
from transformers import (
    AutoModelForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from chatpipe.config.prompts import template
from chatpipe.config.schema import BaseModelRef, Generation, Lora, Quantization
from chatpipe.generation import running_batch
from chatpipe.generation.batch import complete
from chatpipe.generation.prefill import read_prompts
from chatpipe.generation.running_batch import RunningBatch
from chatpipe.kernels.lora_inference import active, can_mix, row_by_row, through
from chatpipe.models import devices, inference, loading
from chatpipe.models.lora import lora_config
from chatpipe.sources.fetch import FetchModel
from chatpipe.store.store import store
from chatpipe.tokenization.encoder import Encoder
from tests.support.adapters import RandomAdapter, draw_weights

EXACT = Quantization(method="none", compute_dtype="float32")
PROMPTS = ["How are you?", "The quick brown fox jumps over", "a", "Be brief, and be kind."]
SETTINGS = Generation(max_new_tokens=12)


@pytest.fixture
def base(chatpipe_home, tiny_model_dir):
    return store().get_or_build(FetchModel.of(BaseModelRef(repo=str(tiny_model_dir))))


@pytest.fixture
def adapters(base):
    """Of two ranks, and of layers that are not all the same."""
    few = Lora(rank=2, alpha=6, target_modules=("q_proj", "down_proj"))
    shapes = ({"seed": 1}, {"seed": 2, "lora": few})
    return [store().get_or_build(RandomAdapter(base=base, **shape)) for shape in shapes]


@pytest.fixture
def encoder(base):
    return Encoder(loading.load_tokenizer(base.path), template("alpaca"), "all", 4096)


def lent(base, adapters):
    return inference.cached_model(base.path, [adapter.path for adapter in adapters], EXACT)


def alone(base, adapter, encoder, prompts=PROMPTS, settings=SETTINGS):
    with lent(base, [adapter] if adapter else []) as model:
        return complete(model, encoder, prompts, settings)


def together(base, adapters, encoder, models, settings=SETTINGS):
    """Every prompt asked of each of those models, in one call."""
    names = [adapter.key if adapter else None for adapter in models for _ in PROMPTS]
    with lent(base, adapters) as model:
        return complete(model, encoder, PROMPTS * len(models), settings, names)


@pytest.mark.parametrize(("method", "dequantized"), [("none", True), ("nf4", True), ("nf4", False)])
def test_every_row_has_the_logits_of_its_own_model(
    base, adapters, method, dequantized, monkeypatch
):
    if not dequantized:
        monkeypatch.setattr(loading, "dequantize_if_it_fits", lambda model, dtype: model)
    quantization = Quantization(method=method, compute_dtype="float32")
    ids = torch.arange(3, 43).reshape(4, 10)
    models = [adapters[1], None, adapters[0], adapters[1]]
    expected = []
    for model, row in zip(models, ids, strict=True):
        with inference.cached_model(base.path, [model.path] if model else [], quantization) as one:
            expected.append(one(row[None]).logits[0])
    paths = [adapter.path for adapter in adapters]
    with inference.cached_model(base.path, paths, quantization) as every:
        with row_by_row(every, [model and model.key for model in models]):
            found = every(ids).logits
        after = every(ids[2:3]).logits[0]  # the first adapter is on, as before
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert (expected[0] - found[1]).abs().max() > 0.1, "the adapters do nothing"
    torch.testing.assert_close(after, expected[2], rtol=1e-4, atol=1e-5)


def test_in_bfloat16_an_adapter_is_rounded_as_in_training(base, adapters):
    """Its weights and the thin product too, which peft keeps in float32: seen here, where the
    adapter outweighs the base."""
    ids = torch.arange(3, 203).reshape(4, 50)

    def read(dtype, as_we_do):
        quantization = Quantization(method="none", compute_dtype=dtype)
        with inference.cached_model(base.path, [adapters[0].path], quantization) as model:
            how = through(model, active(model)) if as_we_do else nullcontext()
            with torch.no_grad(), how:
                return model(ids).logits.float()

    exact = read("float32", as_we_do=False)
    of_peft, ours = (read("bfloat16", as_we_do=as_we_do) for as_we_do in (False, True))
    assert not torch.equal(ours, of_peft)
    assert (ours - exact).norm() < 2 * (of_peft - exact).norm() < 0.1 * exact.norm()


def test_what_is_more_than_plain_lora_stays_peft_s(tiny_model_dir):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    config = lora_config(Lora(rank=4, target_modules=("q_proj", "down_proj")))
    config.use_dora = True
    model = get_peft_model(model, config).eval()
    draw_weights(model, 0)
    ids = torch.arange(3, 33).reshape(3, 10)
    with torch.no_grad():
        expected = model(ids).logits
        with through(model, "default"):
            assert torch.equal(model(ids).logits, expected)


def test_layers_that_get_rows_and_tokens_in_one_dimension_are_no_exception():
    """As OPT's feed-forward layers do."""
    config = OPTConfig(
        vocab_size=50,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        word_embed_proj_dim=32,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    model = get_peft_model(OPTForCausalLM(config), lora_config(Lora()), adapter_name="one")
    model.add_adapter("two", lora_config(Lora(rank=4)))
    model.eval()
    draw_weights(model, 0)
    ids = torch.arange(3, 33).reshape(3, 10)
    names = ["two", None, "one"]
    expected = []
    for name, row in zip(names, ids, strict=True):
        with through(model, name):
            expected.append(model(row[None]).logits[0])
    assert can_mix(model)
    with row_by_row(model, names):
        found = model(ids).logits
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_experts_are_not_mixed():
    """Their layers get some of the tokens, in an order of their own."""
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 50}
    config = MixtralConfig(**shape, num_attention_heads=2, num_key_value_heads=2)
    assert not can_mix(MixtralForCausalLM(config))


def test_an_adapter_that_the_model_does_not_have_is_refused(base, adapters, encoder):
    for loaded in ([], adapters[:1]):
        with lent(base, loaded) as model, pytest.raises(ValueError, match="nothing"):
            complete(model, encoder, PROMPTS, SETTINGS, ["nothing"] * len(PROMPTS))


def test_a_load_that_fails_leaves_no_adapter_on_the_base(base, adapters, encoder):
    before = alone(base, None, encoder)
    (adapters[1].path / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match="adapter"), lent(base, adapters):
        pass
    assert alone(base, None, encoder) == before


@pytest.mark.parametrize("at_once", [3, 64])
def test_each_model_writes_what_it_writes_alone(base, adapters, encoder, monkeypatch, at_once):
    monkeypatch.setattr(running_batch, "room_tokens", lambda model: at_once * 100)
    models = [adapters[0], None, adapters[1]]
    apart = [answer for model in models for answer in alone(base, model, encoder)]
    assert together(base, adapters, encoder, models) == apart
    assert len({answer.text for answer in apart[:: len(PROMPTS)]}) == 3


def test_prompts_of_several_adapters_in_any_order_are_read_in_one_pass(base, adapters, encoder):
    """Those of one adapter share what they begin with, those of different ones do not."""
    prompts = encoder.prompt_ids(PROMPTS * 3)
    models = [adapters[0], None, adapters[1]]
    names = [models[n % 3] and models[n % 3].key for n in range(len(prompts))]
    passes = []
    with lent(base, adapters) as model:
        expected = [
            read_prompts(model, [ids], [name]) for ids, name in zip(prompts, names, strict=True)
        ]
        hook = model.register_forward_pre_hook(lambda *inputs: passes.append(inputs))
        layers = read_prompts(model, prompts, names)
        hook.remove()
    assert len(passes) == 1
    for layer, (keys, _) in enumerate(layers):
        for number, alone_layers in enumerate(expected):
            of_one = alone_layers[layer][0][0]
            found = keys[number, :, -of_one.shape[1] :]
            torch.testing.assert_close(found, of_one, rtol=1e-4, atol=1e-5)


def test_sampled_text_depends_neither_on_who_else_is_asked_nor_on_memory(
    base, adapters, encoder, monkeypatch
):
    sampled = SETTINGS.model_copy(update={"temperature": 1.0})
    models = [adapters[0], None, adapters[1]]
    apart = [answer for model in models for answer in alone(base, model, encoder, settings=sampled)]
    assert apart != together(base, adapters, encoder, models)
    assert together(base, adapters, encoder, models, sampled) == apart
    monkeypatch.setattr(devices, "free_memory_bytes", lambda: 0)
    assert together(base, adapters, encoder, models, sampled) == apart


def test_an_adapter_of_another_kind_is_asked_by_itself(base, adapters, encoder):
    embedding = Lora(rank=4, alpha=8, target_modules=("embed_tokens", "v_proj"))
    other = store().get_or_build(RandomAdapter(base=base, seed=3, lora=embedding))
    with lent(base, [*adapters, other]) as model:
        assert not can_mix(model)
    models = [other, None, adapters[0]]
    apart = [answer for model in models for answer in alone(base, model, encoder)]
    assert together(base, [*adapters, other], encoder, models) == apart


def test_a_batch_is_no_larger_than_the_memory_that_is_free(base, encoder, monkeypatch):
    """2 layers of 4 heads of 16 numbers: 2 · 2 · 64 · 4 = 1,024 bytes a token."""
    sizes, join = [], RunningBatch.join

    def counted(batch, requests):
        sizes.append(len(batch) + len(requests))
        join(batch, requests)

    monkeypatch.setattr(RunningBatch, "join", counted)
    longest = max(map(len, encoder.prompt_ids(PROMPTS))) + SETTINGS.max_new_tokens
    whole = alone(base, None, encoder)
    monkeypatch.setattr(devices, "free_memory_bytes", lambda: 3 * 1024 * 2 * longest)
    assert alone(base, None, encoder) == whole
    assert sizes[0] == 4 and max(sizes[1:]) in (2, 3)
    sizes.clear()
    monkeypatch.setattr(devices, "free_memory_bytes", lambda: 0)
    assert alone(base, None, encoder) == whole
    assert sizes == [1] * 4
