"""The memory model, term by term, against what torch, peft and bitsandbytes really hold."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, BloomConfig, LlamaConfig

from chatpipe.config.schema import Dataset, Lora, Quantization, Training, Variant
from chatpipe.errors import ConfigError
from chatpipe.kernels.sparse_dropout import use_sparse_dropout
from chatpipe.kernels.switch import BY_DEFAULT
from chatpipe.models.loading import load_fast_base
from chatpipe.models.lora import lora_config
from chatpipe.models.memory import (
    Batch,
    Device,
    activation_bytes,
    estimate,
    layer_bytes,
    logits_bytes,
    training_flops,
    weight_bytes,
)
from chatpipe.models.placement import (
    fit,
    infers_dequantized,
    needs_cpu_offload,
    trains_dequantized,
)
from chatpipe.models.shapes import shapes_of, shapes_of_config
from chatpipe.packing.batching import batching_for
from chatpipe.runtime.processes import SHARDING
from chatpipe.tokenization.encoder import TokenizedRow
from chatpipe.training.trainer import batch_training

CUDA = Device(kind="cuda", name="a GPU", compute_bytes=2)
CPU = Device(kind="cpu", name="a processor", compute_bytes=2)
PADDED = ",".join(sorted(BY_DEFAULT - {"packing"}))
LLAMA_7B = LlamaConfig(
    vocab_size=32_000, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32
)
LAYERS_32 = shapes_of_config(LLAMA_7B, Lora())
LLAMA_13B = LlamaConfig(
    vocab_size=32_000,
    hidden_size=5120,
    intermediate_size=13_824,
    num_hidden_layers=40,
    num_attention_heads=40,
)


def variant(lora=None, quantization=None, **training):
    return Variant(
        name="mine",
        datasets=(Dataset(name="rows", repo="some/rows"),),
        lora=lora or Lora(),
        quantization=quantization or Quantization(),
        training=Training(**training),
    )


@pytest.mark.parametrize(
    ("config", "parameters"), [(LLAMA_7B, 6_738_415_616), (LLAMA_13B, 13_015_864_320)]
)
def test_llama_has_its_public_parameter_counts_without_any_weights(config, parameters):
    shapes = shapes_of_config(config, Lora(rank=8, target_modules=("q_proj", "v_proj")))
    assert shapes.parameters == parameters
    assert shapes.lora_modules == 2 * config.num_hidden_layers
    assert shapes.lora_parameters == shapes.lora_modules * 8 * 2 * config.hidden_size


def test_counts_on_the_meta_device_are_those_of_the_loaded_model(tiny_model_dir):
    from peft import get_peft_model

    lora = Lora(rank=3)
    shapes = shapes_of(tiny_model_dir, lora)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert shapes.parameters == sum(p.numel() for p in model.parameters())
    tuned = get_peft_model(model, lora_config(lora))
    trained = [p.numel() for p in tuned.parameters() if p.requires_grad]
    assert shapes.lora_parameters == sum(trained)
    assert shapes.lora_modules == len(trained) / 2


def test_target_modules_that_match_nothing_are_refused_with_the_names_there_are(tiny_model_dir):
    with pytest.raises(ConfigError, match=r"q_prj.*down_proj.*q_proj"):
        shapes_of(tiny_model_dir, Lora(target_modules=("q_prj",)))


@pytest.mark.parametrize("double", [True, False])
def test_an_nf4_weight_takes_the_bytes_that_bitsandbytes_gives_it(double):
    from bitsandbytes.functional import quantize_4bit

    weight = torch.randn(2048, 1024)
    packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=double)
    held = packed.nbytes + state.absmax.nbytes + (state.state2.absmax.nbytes if double else 0)
    assert held == weight.numel() * weight_bytes(Quantization(double=double), CPU)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "dropout", "kernels"),
    [
        *[(dtype, dropout, "auto") for dtype in ("bfloat16", "float32") for dropout in (0.05, 0.0)],
        *[(dtype, 0.05, PADDED) for dtype in ("bfloat16", "float32")],
    ],
)
def test_a_layer_leaves_for_the_backward_pass_what_the_model_says(
    tmp_path, monkeypatch, dtype, dropout, kernels
):
    """One layer's share is the difference between a deeper and a shallower model."""
    monkeypatch.setenv("CHATPIPE_KERNELS", kernels)
    asked = variant(Lora(rank=8, dropout=dropout))
    batch = Batch(tokens=3 * 256, scored=3 * 256)
    device = CPU.model_copy(update={"compute_bytes": 2 if dtype == "bfloat16" else 4})
    held = [_saved_bytes(tmp_path, layers, asked, dtype, batch) for layers in (4, 2)]
    shapes = shapes_of(tmp_path / "2", asked.lora)
    said = layer_bytes(shapes, asked, device) * batch.tokens
    if dtype == "bfloat16":  # autocast's copies of the adapter; the model counts them there
        said += shapes.lora_parameters / shapes.layers * 2
    else:  # the A of queries, keys and values, and of gate and up, as one matrix
        said += (3 + 2) * asked.lora.rank * shapes.hidden * 4
    assert (held[0] - held[1]) / 2 == pytest.approx(said, rel=0.02)


def _saved_bytes(folder, layers, asked, dtype, batch):
    """Bytes of all tensors that a training forward pass saves, the model's own left out."""
    from peft import get_peft_model

    config = LlamaConfig(
        vocab_size=96,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / str(layers))
    model = load_fast_base(folder / str(layers), Quantization(compute_dtype=dtype))
    model = get_peft_model(model, lora_config(asked.lora)).train()
    use_sparse_dropout(model)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor):
        saved.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    length = batch.tokens // 3 + 1  # nothing is predicted from the last one
    ids = [2 + place % 90 for place in range(length - 1)]
    rows = [TokenizedRow([n, *ids], [5] * length, 0) for n in range(3)]
    half = torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16")
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    batching = batching_for(model)
    with batch_training(model, batching), hooks, half:
        batching.nats(model, batching.collate(rows))
    return sum(t.untyped_storage().nbytes() for place, t in saved.items() if place not in own)


def test_memory_grows_with_tokens_and_scored_ones_and_shrinks_with_checkpointing(tiny_model_dir):
    shapes = shapes_of(tiny_model_dir, Lora())

    def total(tokens, scored, every=0):
        batch = Batch(tokens=tokens, scored=scored, checkpoint_every=every)
        return estimate(shapes, variant(), batch, CUDA).total

    sizes = [total(64, 0), total(64, 64), total(256, 64), total(2048, 512), total(65536, 65536)]
    assert sizes == sorted(sizes) and len(set(sizes)) == 5
    assert total(65536, 65536, every=1) < 0.8 * total(65536, 65536)
    few, half = (activation_bytes(LAYERS_32, variant(), many(every), CUDA) for every in (4, 2))
    every_one, none = (activation_bytes(LAYERS_32, variant(), many(n), CUDA) for n in (1, 0))
    assert none - few == (none - half) / 2 == (none - every_one) / 4


def many(every):
    return Batch(tokens=4096, scored=4096, checkpoint_every=every)


def test_logits_in_float16_take_six_bytes_because_autocast_copies_them_to_float32():
    shapes = shapes_of_config(LLAMA_7B, Lora())
    batch = Batch(tokens=2048, scored=1000)
    bfloat16 = logits_bytes(shapes, batch, CUDA)
    float16 = logits_bytes(shapes, batch, CUDA.model_copy(update={"is_float16": True}))
    # With the probabilities of all of them in float32, which are one part on a GPU.
    assert bfloat16 == (2 + 4) * 1000 * 32_000
    assert float16 - bfloat16 == 4 * 1000 * 32_000


def test_a_7b_base_fits_a_24_gib_gpu_in_nf4_and_does_not_in_full_precision_beside_its_batch():
    shapes = shapes_of_config(LLAMA_7B, Lora(rank=8, target_modules=("q_proj", "v_proj")))
    batch = Batch(tokens=512, scored=512)
    nf4 = estimate(shapes, variant(), batch, CUDA)
    assert nf4.parts["linear layers"] == pytest.approx(3.11 * 2**30, rel=0.01)
    assert 4 * 2**30 < nf4.total < 8 * 2**30
    plain = estimate(shapes, variant(quantization=Quantization(method="none")), batch, CUDA)
    assert plain.total - nf4.total == pytest.approx(6.476e9 * (2 - 0.516), rel=0.01)


def test_the_parts_add_up_and_what_no_batch_spares_is_less_than_all():
    shapes = shapes_of_config(LLAMA_7B, Lora())
    made = estimate(shapes, variant(), Batch(tokens=16, scored=16), CPU)
    assert made.total == sum(made.parts.values())
    assert 0 < made.fixed < made.total


def test_a_frozen_weight_costs_four_operations_a_token_and_six_when_computed_again():
    shapes = shapes_of_config(LLAMA_7B, Lora(rank=8, target_modules=("q_proj", "v_proj")))
    plain = training_flops(shapes)
    assert plain == pytest.approx(4 * (6_738_415_616 - 32_000 * 4096), rel=0.001)
    assert training_flops(shapes, 1) == plain * 1.5
    assert training_flops(shapes, 2) == plain * 1.25


def on_gpus(gib, count):
    return CUDA.model_copy(update={"free_bytes": gib * 2**30, "count": count})


def test_a_base_is_shared_out_only_where_no_gpu_holds_it_or_as_one_is_told(monkeypatch):
    monkeypatch.delenv(SHARDING, raising=False)
    shapes = shapes_of_config(LLAMA_13B, Lora(rank=8, target_modules=("q_proj", "v_proj")))
    batch = Batch(tokens=256, scored=256)

    def shares(gib, count, method="nf4"):
        asked = variant(quantization=Quantization(method=method))
        return fit(shapes, asked, batch, on_gpus(gib, count)).shares

    assert shares(24, 2) == 1 and shares(8, 2) == 2 and shares(8, 4) == 4
    assert shares(8, 1) == 1 and shares(8, 2, "none") == 1
    monkeypatch.setenv(SHARDING, "never")
    assert shares(8, 2) == 1
    monkeypatch.setenv(SHARDING, "always")
    assert shares(24, 2) == 2 and shares(24, 1) == 1


def test_a_shared_base_costs_its_share_and_the_layers_at_work():
    shapes = shapes_of_config(LLAMA_13B, Lora(rank=8, target_modules=("q_proj", "v_proj")))
    batch = Batch(tokens=256, scored=256)
    whole, shared = (estimate(shapes, variant(), batch, CUDA, shares) for shares in (1, 4))
    linear = whole.parts["linear layers"]
    spared = linear * (1 - 1 / 4 - 3 / 40)
    # Queries and values read one input, which every layer of a shared base keeps for itself.
    kept = 1.1 * 256 * 40 * 5120 * (2 + 1)
    assert whole.total - shared.total == pytest.approx(spared - kept, rel=1e-6)


def test_a_gpu_keeps_a_4_bit_base_dequantized_where_batch_and_base_have_room(tmp_path, monkeypatch):
    LLAMA_7B.save_pretrained(tmp_path)
    asked, batch = variant(), Batch(tokens=2048, scored=1024)

    def keeps(gib, asked=asked):
        gpu = on_gpus(gib, 1)
        return (
            trains_dequantized(tmp_path, asked, batch, gpu),
            infers_dequantized(tmp_path, asked.quantization, gpu),
        )

    assert keeps(80) == (True, True)
    assert keeps(24) == (False, False)
    shapes = shapes_of(tmp_path, asked.lora)
    [quantized, plain] = (fit(shapes, asked, batch, on_gpus(gib, 1)) for gib in (24, 80))
    layers = 6_738_415_616 - 2 * 32_000 * 4096 - 65 * 4096  # without embeddings and norms
    assert plain.parts["linear layers"] == 2 * layers
    assert plain.total - quantized.total == pytest.approx((2 - 0.51587) * layers, rel=1e-4)
    assert keeps(80, variant(quantization=Quantization(method="none"))) == (False, False)
    monkeypatch.setenv("CHATPIPE_KERNELS", "packing")
    assert keeps(80) == (False, False)


def test_a_base_is_left_in_main_memory_where_the_gpu_has_no_room_for_it(tmp_path, monkeypatch):
    monkeypatch.delenv(SHARDING, raising=False)
    LLAMA_13B.save_pretrained(tmp_path)
    nf4, plain = Quantization(), Quantization(method="none")
    assert not needs_cpu_offload(tmp_path, nf4, on_gpus(10, 1))
    assert needs_cpu_offload(tmp_path, nf4, on_gpus(8, 1))
    assert not needs_cpu_offload(tmp_path, plain, on_gpus(8, 1))
    assert not needs_cpu_offload(tmp_path, nf4, CPU.model_copy(update={"free_bytes": 2**30}))
    BloomConfig().save_pretrained(tmp_path)  # whose rows cannot be packed
    assert not needs_cpu_offload(tmp_path, nf4, on_gpus(8, 1))


def test_the_config_alone_is_enough(tiny_model_dir, tmp_path):
    AutoConfig.from_pretrained(tiny_model_dir).save_pretrained(tmp_path)
    assert shapes_of(tmp_path, Lora()) == shapes_of(tiny_model_dir, Lora())
