"""A base that cannot be used is refused in the plan and at load, in a sentence; others train."""

import json
import random
from contextlib import suppress

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from chatpipe.config.schema import BaseModelRef, Generation, Lora, Quantization
from chatpipe.errors import ChatpipeError, ConfigError, ModelError
from chatpipe.evaluation.score import Score
from chatpipe.generation.ask import Ask
from chatpipe.models.base_checks import base_faults
from chatpipe.models.loading import load_base, load_tokenizer
from chatpipe.models.model_ref import ModelRef
from chatpipe.models.shapes import shapes_of
from chatpipe.planning.planner import plan
from chatpipe.sources.fetch import FetchModel
from chatpipe.store.store import store
from chatpipe.study.variants import parse_variant
from chatpipe.training.finetune import Finetune
from tests.support import bases
from tests.support.bases import change_weights, cut, set_config, set_json, together, without, write
from tests.support.rows import alpaca_rows, write_jsonl

FULL = Quantization(method="none", compute_dtype="float32")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """One store for all of them: the rows are read once."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("CHATPIPE_HOME", str(folder))
        write_jsonl(folder / "rows.jsonl", alpaca_rows(12))
        yield folder


def variant(home, base, *overrides):
    raw = {
        "name": "mine",
        "base_model": {"repo": str(base)},
        "datasets": [{"name": "rows", "path": str(home / "rows.jsonl")}],
        "training": {"epochs": 1, "global_batch_size": 16, "learning_rate": 0.01},
        "lora": {"rank": 2, "dropout": 0},
        "quantization": {"compute_dtype": "float32"},
        "split": {"heldout": 0.3},
        "generation": {"max_new_tokens": 4},
        "evaluation": {"max_length": 1024},
    }
    return parse_variant(raw, "a test", overrides)


def swapped(tensors):
    return {**tensors, "lm_head.weight": tensors["lm_head.weight"][:7]}


def more_layers(tensors):
    third = {
        n.replace("layers.1.", "layers.2."): t.clone()
        for n, t in tensors.items()
        if "layers.1." in n
    }
    return {**tensors, **third}


def score_head(tensors):
    head = tensors.pop("lm_head.weight")
    return {**tensors, "score.weight": head[:2]}


def in_fp8(tensors):
    name = "model.layers.0.self_attn.q_proj.weight"
    return {**tensors, name: tensors[name].to(torch.float8_e4m3fn)}


def cast(dtype, part=""):
    """The weights whose names hold that, in another type."""
    return change_weights(
        lambda all_: {n: t.to(dtype) if part in n else t for n, t in all_.items()}
    )


def peft_names(tensors):
    """As the state of a PeftModel has them."""
    named = {
        f"base_model.model.{n.replace('q_proj.', 'q_proj.base_layer.')}": t
        for n, t in tensors.items()
    }
    lora = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    return {**named, lora: torch.ones(2, 64)}


def part_compiled(tensors):
    return {n.replace("layers.0.", "layers.0._orig_mod."): t for n, t in tensors.items()}


def value_head(tensors):
    return {**tensors, "v_head.summary.weight": torch.ones(1, 64)}


def no_file(base):
    (base / "model.safetensors").unlink()
    (base / "model.safetensors").mkdir()


def dangling(base):
    (base / "model.safetensors").unlink()
    (base / "model.safetensors").symlink_to(base / "blobs" / "gone")


def adapter_alone(base):
    (base / "model.safetensors").unlink()
    write("adapter_config.json", '{"peft_type": "LORA"}')(base)
    save_file({"a": torch.zeros(1)}, base / "adapter_model.safetensors")


def wordpiece(base):
    """Its model has no token for unknown words, which WordPiece asks for at the first of them."""
    file = base / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = {"a": 0, "</s>": 1}
    content["model"] = {
        "type": "WordPiece", "vocab": vocabulary, "unk_token": "[UNK]",
        "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
    }  # fmt: skip
    file.write_text(json.dumps(content))


def quantized(method):
    return set_config(quantization_config={"quant_method": method, "bits": 4})


def custom(base):
    bases.set_json(
        base / "config.json", model_type="ours", auto_map={"AutoConfig": "configuration_x.X"}
    )
    write("configuration_x.py", "raise SystemExit('code of the model ran')")(base)


def surplus(base, special=False):
    file = base / "tokenizer.json"
    content = json.loads(file.read_text())
    content["added_tokens"].append(
        {
            "id": 320, "content": "<|user|>" if special else "surplus", "special": special,
            "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
        }
    )  # fmt: skip
    file.write_text(json.dumps(content))


BROKEN = {
    "no head in an untied model": (without("lm_head"), "the weights lack lm_head.weight"),
    "too few layers": (without("layers.1."), "the weights lack model.layers.1."),
    "one tensor less": (without("0.mlp.up_proj"), "lack model.layers.0.mlp.up_proj.weight"),
    "too many layers": (change_weights(more_layers), "hold model.layers.2."),
    "a config of more layers": (set_config(num_hidden_layers=3), "lack model.layers.2."),
    "a config of fewer layers": (set_config(num_hidden_layers=1), "hold model.layers.1."),
    "peft's prefix": (bases.renamed("base_model.model."), "begin with 'base_model.model.'"),
    "DDP's prefix": (bases.renamed("module."), "begin with 'module.'"),
    "torch.compile's prefix": (bases.renamed("_orig_mod."), "begin with '_orig_mod.'"),
    "another head": (change_weights(score_head), "the weights lack lm_head.weight"),
    "a head of another size": (change_weights(swapped), "lm_head.weight is 7 × 64 where"),
    "other sizes": (set_config(intermediate_size=96), "64 × 128 where config.json says 64 × 96"),
    "a vocabulary of another size": (set_config(vocab_size=500), "where config.json says 500 × 64"),
    "named a classifier": (
        set_config(architectures=["LlamaForSequenceClassification"]),
        "LlamaForSequenceClassification has another head",
    ),
    "an encoder": (set_config(model_type="bert"), "bert is an encoder"),
    "an encoder and decoder": (set_config(model_type="bart"), "bart is an encoder and a decoder"),
    "T5": (set_config(model_type="t5"), "t5 is an encoder and a decoder"),
    "a picture model": (set_config(model_type="vit"), "vit is no causal language model"),
    "4-bit already": (
        set_config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "quantized already (bitsandbytes)",
    ),
    "AWQ": (quantized("awq"), "quantized already (awq)"),
    "GPTQ": (quantized("gptq"), "quantized already (gptq)"),
    "FP8": (quantized("fp8"), "quantized already (fp8)"),
    "MXFP4": (quantized("mxfp4"), "quantized already (mxfp4)"),
    "FP8 that config does not tell of": (change_weights(in_fp8), "is F8_E4M3"),
    "8-bit integers": (cast(torch.int8), "is I8, and weights must be F64"),
    "32-bit integers in one layer": (cast(torch.int32, "q_proj"), "and 1 more: is I32"),
    "truth values for a norm": (cast(torch.bool, "model.norm"), "model.norm.weight: is BOOL"),
    "complex numbers": (cast(torch.complex64, "v_proj"), "is C64"),
    "the state of a PeftModel": (change_weights(peft_names), "base_layer.weight and 2 more, named"),
    "compiled in part": (change_weights(part_compiled), "_orig_mod.input_layernorm.weight and 8"),
    "a value head": (change_weights(value_head), "hold v_head.summary.weight, which config.json"),
    "a directory for weights": (no_file, "lacks weights (*.safetensors)"),
    "a link that leads nowhere": (dangling, "model.safetensors is a link to a file that is not"),
    "an adapter alone": (adapter_alone, "It holds an adapter; name the adapter's base"),
    "an index with an empty map": (
        together(bases.in_shards, write("model.safetensors.index.json", '{"weight_map": {}}')),
        "has no weight_map",
    ),
    "an index without metadata": (bases.without_metadata, "index.json: has no metadata"),
    "heads that do not divide": (set_config(num_attention_heads=3), "not a multiple of"),
    "a config of a hundred thousand layers": (
        set_config(num_hidden_layers=100_000), "says 100,000 layers, the weights hold 21 tensors",
    ),
    "padding beyond the embedding": (set_config(pad_token_id=320), "pad_token_id is 320, the"),
    "dropout of 2": (set_config(attention_dropout=2), "attention_dropout is 2, which is no share"),
    "tuples for outputs": (set_config(return_dict=False), "return_dict is False"),
    "generation settings that are none": (
        write("generation_config.json", '{"cache_implementation": "nope"}'),
        "generation_config.json: cannot be used: Invalid `cache_implementation`",
    ),
    "generation settings of odd types": (
        write("generation_config.json", '{"pad_token_id": {"a": 1}}'),
        "generation_config.json: cannot be used: TypeError: '<'",
    ),
    "a tokenizer without its unknown token": (wordpiece, "[UNK] token"),
    "a chat template without its text": (
        lambda base: set_json(base / "tokenizer_config.json", chat_template=[{"name": "default"}]),
        "the tokenizer cannot be loaded: KeyError: 'template'; take the tokenizer files",
    ),
    "a config that is no JSON": (write("config.json", "{"), "config.json: is not JSON"),
    "a config that is a list": (write("config.json", "[]"), "config.json: holds no JSON object"),
    "an empty config": (write("config.json", ""), "config.json: the file is empty"),
    "a config without a type": (set_config(model_type=None), "names no model_type"),
    "an unknown type": (set_config(model_type="ours"), "'ours': this version of transformers"),
    "code of its own": (custom, "brings code of its own, which is never run"),
    "a config of odd values": (set_config(hidden_size="wide"), "config.json"),
    "a pointer for weights": (write("model.safetensors", bases.POINTER), "is a Git LFS pointer"),
    "a pointer for a tokenizer": (write("tokenizer.json", bases.POINTER), "is a Git LFS pointer"),
    "empty weights": (write("model.safetensors", ""), "model.safetensors: the file is empty"),
    "weights cut off": (cut("model.safetensors", 5000), "5,000 bytes where its header says"),
    "a header cut off": (cut("model.safetensors", 100), "cut off within its header"),
    "weights of seven bytes": (cut("model.safetensors", 7), "cut off within its header"),
    "a page for weights": (write("model.safetensors", "<!DOCTYPE html><html>"), "no safetensors"),
    "weights with a tail": (
        lambda base: (base / "model.safetensors").open("ab").write(b"tail"),
        "bytes where its header says",
    ),
    "a shard cut off": (
        together(bases.in_shards, cut("model-00002-of-00002.safetensors", 3000)),
        "model-00002-of-00002.safetensors: has 3,000 bytes",
    ),
    "a shard that lacks a tensor": (
        bases.with_index(more__weight="model-00001-of-00002.safetensors"),
        "lacks more.weight, which model.safetensors.index.json says",
    ),
    "a missing shard": (
        bases.with_index(lm_head__weight="model-00003-of-00003.safetensors"),
        "model-00003-of-00003.safetensors",
    ),
    "an index that leads elsewhere": (
        bases.with_index(lm_head__weight="../x.safetensors"),
        "names '../x.safetensors'",
    ),
    "an index that is no JSON": (
        together(bases.in_shards, write("model.safetensors.index.json", "{")),
        "model.safetensors.index.json: is not JSON",
    ),
    "an index without a map": (
        together(bases.in_shards, write("model.safetensors.index.json", "{}")),
        "has no weight_map",
    ),
    "weights of another name": (
        lambda base: (base / "model.safetensors").rename(base / "mine.safetensors"),
        "mine.safetensors: weights are read from model.safetensors",
    ),
    "a tokenizer that is no JSON": (write("tokenizer.json", "{"), "tokenizer.json: is not JSON"),
    "a tokenizer of nothing": (write("tokenizer.json", "{}"), "tokenizer cannot be loaded"),
    "a broken tokenizer_config": (write("tokenizer_config.json", "{"), "is not JSON"),
    "a tokenizer's odd setting": (
        lambda base: set_json(base / "tokenizer_config.json", model_max_length="long"),
        "the tokenizer cannot be loaded",
    ),
    "a tokenizer without EOS": (
        lambda base: set_json(base / "tokenizer_config.json", eos_token=None),
        "has no EOS",
    ),
    "a tokenizer larger than the embedding": (surplus, "gives ids up to 320 ('surplus')"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_base_is_refused_by_name_in_the_plan_and_at_load(
    home, tmp_path, tiny_model_dir, name
):
    change, sentence = BROKEN[name]
    base = bases.copy_of(tiny_model_dir, tmp_path / "base")
    change(base)
    faults = plan(variant(home, base)).faults
    assert faults and sentence in faults[0] and "\n" not in "".join(faults), faults
    with pytest.raises(ChatpipeError) as error:
        store().get_or_build(FetchModel.of(BaseModelRef(repo=str(base))))
        load_tokenizer(base)
        load_base(base, FULL)
    assert sentence in str(error.value)


def test_pickled_weights_are_named(home, tmp_path, tiny_model_dir):
    base = bases.copy_of(tiny_model_dir, tmp_path / "base")
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    [fault] = plan(variant(home, base)).faults
    assert "lacks weights (*.safetensors)" in fault and "pytorch_model.bin" in fault


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "model.gguf"])
def test_a_file_is_no_base(home, tmp_path, tiny_model_dir, name):
    base = bases.copy_of(tiny_model_dir, tmp_path / "base")
    write("model.gguf", "GGUF")(base)
    [fault] = plan(variant(home, base / name)).faults
    assert "is a file; name the directory that holds a model's config.json" in fault


def test_an_adapter_in_the_base_s_directory_is_said_and_never_applied(
    home, tmp_path, tiny_model_dir
):
    plain = bases.copy_of(tiny_model_dir, tmp_path / "plain")  # for the store, the same base
    base = bases.copy_of(tiny_model_dir, tmp_path / "base")
    write("adapter_config.json", '{"peft_type": "LORA"}')(base)
    save_file({"a": torch.zeros(1)}, base / "adapter_model.safetensors")
    for directory, is_said in ((plain, False), (base, True), (plain, False)):
        made = plan(variant(home, directory))
        assert made.faults == ()
        said = [n for n in made.notes if "adapter_config.json" in n and "not used" in n]
        assert bool(said) is is_said
    with pytest.raises(ChatpipeError, match="an adapter lies in the base's directory"):
        load_base(base, FULL)


def untied_copies(tensors):
    return {**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}


def tied(base):
    without("lm_head")(base)
    set_config(tie_word_embeddings=True)(base)


def architecture(name, **settings):
    """Another small model with the tiny one's tokenizer."""

    def changed(base):
        import transformers

        torch.manual_seed(0)
        config = getattr(transformers, f"{name}Config")(
            **{
                "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64,
                "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1,
                "max_position_embeddings": 1024, **settings,
            }
        )  # fmt: skip
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(base)

    return changed


UNUSUAL = {
    "as it is": lambda base: None,
    "tied heads": tied,
    "constants among the weights": change_weights(untied_copies),
    "two shards": bases.in_shards,
    "names without the model's prefix, a head beside them": change_weights(
        lambda all_: {n.removeprefix("model."): t for n, t in all_.items()}
    ),
    "bfloat16": together(
        change_weights(lambda all_: {n: t.bfloat16() for n, t in all_.items()}),
        set_config(dtype="bfloat16"),
    ),
    "float64": cast(torch.float64),
    "float16 beside float32": cast(torch.float16, "mlp"),
    "a whole file beside shards": bases.beside_shards,
    "a list of EOS": set_config(eos_token_id=[1, 2]),
    "a byte order mark": lambda base: write(
        "generation_config.json", (base / "generation_config.json").read_text()
    )(base),
    "MoE": architecture("Mixtral", num_local_experts=4, num_experts_per_tok=2),
    "Qwen2 MoE": architecture(
        "Qwen2Moe", num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=16
    ),
    "soft caps": architecture("Gemma2", head_dim=8),
    "sinks": architecture("GptOss", head_dim=8, num_local_experts=4),
    "GPT-2": architecture("GPT2"),
    "OPT": architecture("OPT", ffn_dim=64, word_embed_proj_dim=32),
    "ALiBi": architecture("Bloom"),
    "no attention at all": architecture("Mamba"),
    "a decoder made of BERT": architecture("Bert", is_decoder=True),
}
PADDED = {
    "soft caps": "softcap",
    "sinks": "s_aux",
    "ALiBi": "cannot be replaced",
    "no attention at all": "cannot be replaced",
}


def row_by_row(base, rows):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    sums = []
    for ids in rows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        sums.append(-float(logits.gather(1, torch.tensor(ids[1:])[:, None]).double().sum()))
    return sums


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_the_plan_calls_fine_trains_and_is_scored_right(home, tmp_path, tiny_model_dir, name):
    base = bases.copy_of(tiny_model_dir, tmp_path / "base")
    UNUSUAL[name](base)
    asked = variant(home, base)
    made = plan(asked)
    assert made.faults == ()
    padded = [note for note in made.notes if note.startswith("rows of this base are padded")]
    assert [PADDED[name] in note for note in padded] == [True] * (name in PADDED)
    fetched = store().get_or_build(FetchModel.of(asked.base_model))
    adapter = store().get_or_build(Finetune.of(asked, fetched, made.data.corpus))
    plain = asked.model_copy(update={"quantization": FULL})
    scores = store().get_or_build(Score.of(plain, ModelRef(fetched), made.data.corpus))
    check_scores(base, scores, made.data.corpus)
    asked_panel = Ask.of(asked, ModelRef(fetched, adapter)).model_copy(
        update={"generation": Generation(max_new_tokens=2)}
    )
    answers = store().get_or_build(asked_panel)
    for artifact in (adapter, scores, answers):
        unused = artifact.details().get("kernels_unused", {})
        assert unused.keys() == ({"packing"} if name in PADDED else set())


def test_the_plan_says_that_rows_are_padded_without_packing(home, tiny_model_dir, monkeypatch):
    monkeypatch.setenv("CHATPIPE_KERNELS", "cross_entropy")
    notes = plan(variant(home, tiny_model_dir)).notes
    assert "CHATPIPE_KERNELS is cross_entropy" in next(note for note in notes if "padded" in note)


def check_scores(base, scores, corpus):
    import pyarrow.parquet as pq

    from chatpipe.config.prompts import template
    from chatpipe.tokenization.encoder import Encoder

    table = pq.read_table(corpus.path / "heldout.parquet")
    encoder = Encoder(load_tokenizer(base), template("paper"), "all", 1024)
    rows = [row.input_ids for row in encoder.encode(table).examples]
    scored = pq.read_table(scores.path / "nats.parquet").to_pylist()
    nats = [row["nats"] for row in scored if row["labels"] == "all"]
    assert nats == pytest.approx(row_by_row(base, rows), rel=1e-4)


@pytest.mark.parametrize("quantization", [FULL, Quantization(compute_dtype="float32")])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_weights_that_are_not_finite_are_refused_at_load(
    home, tmp_path, tiny_model_dir, quantization, value
):
    name = "model.layers.1.mlp.up_proj.weight"

    def one_value(tensors):
        tensors[name][3, 5] = float(value)
        return tensors

    base = bases.copy_of(tiny_model_dir, tmp_path / "base")
    change_weights(one_value)(base)
    for _ in range(2):  # the second time from what is remembered
        with pytest.raises(ChatpipeError, match=f"{name} has values that are not finite"):
            load_base(base, quantization)


def test_weights_of_nothing_but_zeros_are_refused_at_load(home, tmp_path, tiny_model_dir):
    base = bases.copy_of(tiny_model_dir, tmp_path / "base")
    change_weights(lambda all_: {n: t * 0 for n, t in all_.items()})(base)
    with pytest.raises(ModelError, match=r"model\.safetensors: all its matrices are zero; fetch"):
        load_base(base, FULL)


def test_weights_that_are_not_read_are_said(home, tmp_path, tiny_model_dir):
    base = bases.copy_of(tiny_model_dir, tmp_path / "base")
    bases.beside_shards(base)
    notes = plan(variant(home, base)).notes
    assert [note for note in notes if note.startswith("model-00001-of-00002.safetensors, model-0")]


def custom_tokenizer(base):
    content = {
        "tokenizer_class": "Ours",
        "auto_map": {"AutoTokenizer": ["tokenization_x.Ours", None]},
    }
    set_json(base / "tokenizer_config.json", **content)
    write("tokenization_x.py", "raise SystemExit('code of the model ran')")(base)


def test_nothing_asks_on_the_terminal_and_no_code_of_a_model_runs(
    home, tmp_path, tiny_model_dir, monkeypatch
):
    def asked(*_):
        pytest.fail("a question on the terminal")

    monkeypatch.setattr("builtins.input", asked)
    for number, change in enumerate((custom, custom_tokenizer, together(custom, custom_tokenizer))):
        base = bases.copy_of(tiny_model_dir, tmp_path / str(number))
        change(base)
        made = plan(variant(home, base))
        assert all("code" in fault or "tokenizer" in fault for fault in made.faults)
        if not made.faults:
            load_tokenizer(base)
        else:
            with pytest.raises(ChatpipeError):
                load_tokenizer(base)


ODD = [None, "x", -1, 0, 1.5, [], {"a": 1}]


def test_no_value_of_a_config_ends_in_a_traceback(tmp_path, tiny_model_dir):
    """Each key with each odd value: sentences, or a base that loads."""
    base = bases.copy_of(tiny_model_dir, tmp_path / "base")
    before = json.loads((base / "config.json").read_text())
    for key in before:
        for value in ODD:
            (base / "config.json").write_text(json.dumps({**before, key: value}))
            faults = base_faults(base)
            assert all("\n" not in fault for fault in faults)
            with suppress(ModelError, ConfigError):
                shapes_of(base, Lora())


def test_a_control_token_of_the_template_that_the_embedding_lacks_is_refused(
    home, tmp_path, tiny_model_dir
):
    base = bases.copy_of(tiny_model_dir, tmp_path / "base")
    surplus(base, special=True)
    assert plan(variant(home, base)).faults == ()  # no text can have it
    text = "<|user|>{instruction}\n### Response:\n"
    template = {"name": "own", "with_input": "{input}" + text, "without_input": text}
    [fault] = plan(variant(home, base, f"prompt_template={json.dumps(template)}")).faults
    assert "prompt_template: '<|user|>' has the id 320, the base's embedding has 320 rows" in fault


def test_torn_and_changed_files_end_in_a_sentence(chatpipe_home, tiny_model_dir):
    """Bytes changed, left out and put in at random places of the small files and the header."""
    chance = random.Random(7)
    base = bases.copy_of(tiny_model_dir, chatpipe_home / "base")
    for _ in range(150):
        name = chance.choice(["tokenizer.json", "tokenizer_config.json", "model.safetensors"])
        before = (base / name).read_bytes()
        place = chance.randrange(min(len(before), 6000))
        middle = chance.choice([b"", b'"', b"9", b"{", b"null", bytes([chance.randrange(256)])])
        after = before[:place] + middle + before[place + chance.randrange(4) :]
        (base / name).write_bytes(after)
        faults = base_faults(base)
        assert all("\n" not in fault for fault in faults)
        if not faults:
            with suppress(ModelError):
                load_tokenizer(base)
        (base / name).write_bytes(before)


def test_a_base_that_is_fine_has_no_fault(tiny_model_dir):
    assert base_faults(tiny_model_dir) == []


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["q_proj", "qproj"], "qproj matches no layer of the base"),
        (["q_proj", "norm"], "norm is a LlamaRMSNorm, not a linear layer"),
        (["embed_tokens"], "embed_tokens is a Embedding, not a linear layer"),
        (["mlp"], "mlp is a LlamaMLP, not a linear layer"),
        ([".*_proj"], ".*_proj matches no layer"),
        (["q_proj|v_proj"], "q_proj|v_proj matches no layer"),
        (["proj"], "proj matches no layer"),
        (["layers.7.self_attn.q_proj"], "layers.7.self_attn.q_proj matches no layer"),
    ],
)
def test_a_name_that_is_no_linear_layer_is_refused_with_the_names_there_are(
    home, tiny_model_dir, names, sentence
):
    made = plan(variant(home, tiny_model_dir, f"lora.target_modules={json.dumps(names)}"))
    [fault] = made.faults
    assert sentence in fault
    assert "down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj" in fault


def test_a_name_that_stands_twice_is_refused(home, tiny_model_dir):
    with pytest.raises(ConfigError, match="names q_proj more than once"):
        variant(home, tiny_model_dir, 'lora.target_modules=["q_proj", "q_proj"]')


def test_a_head_that_is_the_embedding_too_is_no_target(home, tmp_path, tiny_model_dir):
    base = bases.copy_of(tiny_model_dir, tmp_path / "base")
    tied(base)
    [fault] = plan(variant(home, base, 'lora.target_modules=["lm_head"]')).faults
    assert "lm_head shares its weights with the embedding" in fault


@pytest.mark.parametrize(
    "names",
    [["lm_head"], ["q_proj", "lm_head"], ["layers.0.self_attn.q_proj"], ["self_attn.v_proj"]],
)
def test_names_that_the_plan_calls_fine_train(home, tiny_model_dir, names):
    asked = variant(home, tiny_model_dir, f"lora.target_modules={json.dumps(names)}")
    made = plan(asked)
    assert made.faults == ()
    fetched = store().get_or_build(FetchModel.of(asked.base_model))
    adapter = store().get_or_build(Finetune.of(asked, fetched, made.data.corpus))
    with safe_open(adapter.path / "adapter_model.safetensors", "pt") as weights:
        names_of_weights = list(weights.keys())
    assert all("lora_" in name for name in names_of_weights)
    plain = asked.model_copy(update={"quantization": FULL})
    assert store().get_or_build(Score.of(plain, ModelRef(fetched, adapter), made.data.corpus))


def test_a_base_that_stays_mostly_unquantized_is_said(home, tmp_path, tiny_model_dir):
    base = bases.copy_of(tiny_model_dir, tmp_path / "base")
    UNUSUAL["MoE"](base)
    notes = plan(variant(home, base)).notes
    assert [note for note in notes if "are of layers that NF4 quantizes" in note]
