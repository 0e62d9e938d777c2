"""GGUF files of small random models in llama.cpp: logits and tokens are transformers'."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("xllamacpp", reason="the wheel xllamacpp loads GGUF files; it is not installed")

from chatpipe.errors import ExportError
from chatpipe.export import comparison, effect, gguf_architectures, llama_cpp
from chatpipe.export.gguf_architectures import architecture_of
from chatpipe.export.gguf_files import Header, write_adapter, write_model
from chatpipe.export.gguf_tokenizer import vocabulary
from chatpipe.export.gguf_tokenizer_check import checked_vocabulary
from chatpipe.export.merged import base_weights, float_weights, lora_tensors
from tests.support.adapters import draw_weights
from tests.support.tiny import tiny_model

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
GEMMA = {"query_pre_attn_scalar": 32, "sliding_window": 16}
# transformers' configuration, and what differs from SHAPE.
MODELS = {
    "llama": ("LlamaConfig", {}),
    "llama, tied, biases, scaled as Llama 3.1": (
        "LlamaConfig",
        {"tie_word_embeddings": True, "attention_bias": True, "rope_parameters": LLAMA3},
    ),
    "llama, linearly scaled": ("LlamaConfig", {"rope_parameters": LINEAR}),
    "mistral": ("MistralConfig", {"sliding_window": 256}),
    "qwen2": ("Qwen2Config", {"head_dim": 16}),
    "qwen3": ("Qwen3Config", {}),
    "gemma2": ("Gemma2Config", GEMMA),
    "gemma3": ("Gemma3TextConfig", GEMMA),
}
PROMPTS = [[0, *range(20, 68)], [0, *range(200, 230)]]
EXACT = comparison.BOUNDS["f32"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model(tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def header(tokenizer):
    return Header("tiny", vocabulary(tokenizer, 320, [1], True), "{{ messages }}")


def random_model(name):
    """A model of that kind, whose every weight is drawn."""
    import transformers

    config_class, changes = MODELS[name]
    config = getattr(transformers, config_class)(**{**SHAPE, **changes})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3 if "norm" in key else 0.2)
    return model


def expected_of(model):
    replies = []
    for ids in PROMPTS:
        with torch.no_grad():
            written = model.generate(
                torch.tensor([ids]),
                max_new_tokens=10,
                do_sample=False,
                eos_token_id=1,
                pad_token_id=1,
            )[0].tolist()
        reply = written[len(ids) :]
        own = comparison.log_probabilities(model, ids, reply)
        replies.append(comparison.Expected(ids, reply, own))
    return replies


def compared(model, file, adapters=()):
    return comparison.compare_llama_cpp(expected_of(model), file, adapters, [1])


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_computes_what_transformers_computes(name, header, tmp_path):
    model = random_model(name)
    write_model(tmp_path / "m.gguf", header, model.config, float_weights(model), "f32")
    result = compared(model, tmp_path / "m.gguf")
    assert result.divergence < 1e-4, result.sentence()
    comparison.check(result, EXACT)


def test_half_precision_is_within_its_bounds_and_eight_bits_are_near(header, tmp_path):
    model = random_model("llama")
    for outtype in ("f16", "q8_0"):
        file = tmp_path / f"{outtype}.gguf"
        write_model(file, header, model.config, float_weights(model), outtype)
        result = compared(model, file)
        if outtype == "f16":
            comparison.check(result, comparison.BOUNDS[outtype])
        assert result.divergence < 0.1  # such weights make much of rounding


def test_a_near_tie_is_what_the_measured_rounding_can_reverse():
    logits = 3 * torch.randn(500, 2000, generator=torch.Generator().manual_seed(0))
    rounding = 0.1 * torch.randn(500, 2000, generator=torch.Generator().manual_seed(1))
    here, there = logits.log_softmax(-1), (logits + rounding).log_softmax(-1)
    two = here.topk(2).indices
    gaps = here.gather(1, two).diff(), there.gather(1, two).diff()
    measured = float(comparison.divergence(here, there).mean())
    assert float((gaps[1] - gaps[0]).std()) == pytest.approx(2 * measured**0.5, rel=0.1)

    def check(gap, divergence, outtype="q8_0"):
        whole = effect.Share(1.0, 0.01)
        differences = [comparison.Difference(0, 16, gap)]
        result = comparison.Comparison(64, differences, divergence, divergence, 4, whole, 0, 0)
        comparison.check(result, comparison.BOUNDS[outtype])
        return result.sentence()

    assert "63 of 64 greedy tokens are the same (near ties: token 17 of prompt 1 by 0.2800" in (
        check(0.28, 0.0042)
    )
    for gap, divergence, outtype in (
        (0.28, 1e-4, "q8_0"),
        (0.5, 0.0042, "q8_0"),
        (0.28, 1e-5, "f16"),
    ):
        with pytest.raises(ExportError, match=f"has {gap:.3f} nats less here .* a near tie is at"):
            check(gap, divergence, outtype)


def with_adapter(name, **settings):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        lora_alpha=24, target_modules="all-linear", task_type="CAUSAL_LM", **{"r": 4, **settings}
    )
    model = get_peft_model(random_model(name), config).eval()
    draw_weights(model, seed=1)
    return model


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", {}),
        ("qwen3", {"use_rslora": True}),
        ("gemma3", {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 7}}),
    ],
)
def test_a_lora_file_on_its_base_is_the_adapted_model(name, settings, header, tmp_path):
    model = with_adapter(name, **settings)
    base, lora = tmp_path / "base.gguf", tmp_path / "lora.gguf"
    write_model(base, header, model.config, base_weights(model), "f32")
    write_adapter(lora, ("tiny", ""), model.config, lora_tensors(model), 24.0)
    comparison.check(compared(model, base, [lora]), EXACT)
    with pytest.raises(ExportError, match="what was written is not the model"):
        comparison.check(compared(model, base), EXACT)  # without the adapter


FAULTS = {
    "rows for rotary positions in transformers' order": {"permutes": False},
    "norms without what transformers adds": {"norm_shift": 0.0},
}


@pytest.mark.parametrize(
    ("name", "fault"), [("llama", "rows"), ("gemma2", "norms")], ids=["rows", "norms"]
)
def test_weights_in_another_order_are_refused(name, fault, header, tmp_path, monkeypatch):
    model = random_model(name)
    wrong = next(change for text, change in FAULTS.items() if text.startswith(fault))
    kind = model.config.model_type
    right = gguf_architectures.ARCHITECTURES[kind]
    monkeypatch.setitem(gguf_architectures.ARCHITECTURES, kind, replace(right, **wrong))
    write_model(tmp_path / "m.gguf", header, model.config, float_weights(model), "f32")
    with pytest.raises(ExportError, match="distributions differ by"):
        comparison.check(compared(model, tmp_path / "m.gguf"), EXACT)


@pytest.mark.parametrize(
    ("config_class", "changes", "sentence"),
    [
        ("GPT2Config", {}, r"gpt2: not an architecture .*--to merged"),
        ("LlamaConfig", {"hidden_act": "gelu"}, "its activation is gelu"),
        ("Gemma2Config", {**GEMMA, "query_pre_attn_scalar": 99}, "query_pre_attn_scalar is 99"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(config_class, changes, sentence):
    import transformers

    shape = {} if config_class == "GPT2Config" else SHAPE
    with pytest.raises(ExportError, match=sentence):
        architecture_of(getattr(transformers, config_class)(**{**shape, **changes}))


def sentencepiece_like():
    """A tokenizer as LLaMA's: BPE of characters with bytes for the others, spaces as ▁."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    from chatpipe.export.gguf_tokenizer_check import TEXTS

    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.train_from_iterator(
        TEXTS[:10], trainers.BpeTrainer(vocab_size=600, special_tokens=special)
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    content = tokenizer.to_str()
    import json

    parsed = json.loads(content)
    parsed["added_tokens"] = [t for t in parsed["added_tokens"] if t["id"] < 3]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(parsed)),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
    )


def byte_level(*pre_tokenizers_before, use_regex=True):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from chatpipe.export.gguf_tokenizer_check import TEXTS

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *pre_tokenizers_before,
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(list(TEXTS) * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|NUMBERS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(numbers):
    from tokenizers import Regex, pre_tokenizers

    pattern = Regex(SPLIT.replace("NUMBERS", numbers))
    return pre_tokenizers.Split(pattern, behavior="isolated", invert=False)


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2", "default"])
def test_llama_cpp_has_the_tokenizers_ids(pre, tmp_path):
    from tokenizers import pre_tokenizers

    tokenizer = {
        "gpt-2": lambda: byte_level(),
        "smollm": lambda: byte_level(pre_tokenizers.Digits(individual_digits=True)),
        "llama-bpe": lambda: byte_level(split(r"\p{N}{1,3}"), use_regex=False),
        "qwen2": lambda: byte_level(split(r"\p{N}"), use_regex=False),
        "default": sentencepiece_like,
    }[pre]()
    written = vocabulary(tokenizer, len(tokenizer) + 3, [tokenizer.eos_token_id], False)
    assert written.pre == pre  # by its settings, where llama.cpp is not installed
    assert checked_vocabulary(written, tokenizer, tmp_path) == written
    if pre == "qwen2":  # one that is named wrongly is found, and named rightly
        wrong = replace(written, pre="gpt-2")
        # Without a merge of digits, these two give the same ids.
        assert checked_vocabulary(wrong, tokenizer, tmp_path).pre in ("llama-bpe", "qwen2")


def test_a_tokenizer_that_llama_cpp_has_not_is_refused(tmp_path):
    from tokenizers import pre_tokenizers

    tokenizer = byte_level()
    backend = tokenizer.backend_tokenizer
    parts = [pre_tokenizers.Split("e", "isolated"), backend.pre_tokenizer]
    backend.pre_tokenizer = pre_tokenizers.Sequence(parts)
    written = vocabulary(tokenizer, len(tokenizer), [1], False)
    with pytest.raises(ExportError, match="other ids than the base's own, as for"):
        checked_vocabulary(written, tokenizer, tmp_path)


def test_a_file_that_llama_cpp_cannot_load_is_an_error_in_one_sentence(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(ExportError, match=r"llama.cpp cannot use m.gguf: .+"):
        llama_cpp.ask(tmp_path / "m.gguf", texts=["a"])
