"""Settings and bases: what `validate` and `plan` call fine, runs; the rest is refused."""

import json
from pathlib import Path

import pytest

from tests.support.rows import alpaca_rows
from tests.support.verdicts import Case, cases, judge, lines

pytestmark = pytest.mark.slow

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


def few(count):
    return lines(*alpaca_rows(count))


def template(with_input):
    return {
        "prompt_template": {
            "with_input": with_input,
            "without_input": "{instruction}\n### Response:",
        }
    }


def config(**values):
    """The base's config.json with other values; None leaves a key out."""

    def change(base: Path):
        path = base / "config.json"
        known = json.loads(path.read_text()) | values
        path.write_text(json.dumps({k: v for k, v in known.items() if v is not None}))

    return change


def tensors(change):
    """The base's weights, changed by that function from a state to a state."""

    def apply(base: Path):
        from safetensors.torch import load_file, save_file

        path = base / "model.safetensors"
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return apply


def without(*ends):
    return tensors(lambda state: {k: v for k, v in state.items() if not k.endswith(ends)})


def written(name, content):
    return lambda base: (base / name).write_bytes(content)


def cut(name, share):
    def change(base: Path):
        path = base / name
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return change


SETTINGS = (
    Case(
        "input first",
        settings={
            "prompt_template": {
                "with_input": "{input}\n{instruction}\n### Response:",
                "without_input": "{instruction}\n### Response:",
            }
        },
    ),
    Case(
        "unknown placeholder",
        "placeholder",
        settings={
            "prompt_template": {
                "with_input": "{context} {instruction} {input} ### Response:",
                "without_input": "{instruction} ### Response:",
            }
        },
    ),
    Case(
        "braces around text",
        settings={
            "prompt_template": {
                "with_input": "{{}} {instruction} {input} ### Response:",
                "without_input": "{instruction} ### Response:",
            }
        },
    ),
    Case("no such module", "q_prj", settings={"lora": {"target_modules": ["q_prj"]}}),
    Case("one of two modules", "nope", settings={"lora": {"target_modules": ["q_proj", "nope"]}}),
    Case("some modules", settings={"lora": {"target_modules": ["q_proj", "down_proj"]}}),
    Case(
        "embeddings as modules",
        "embed_tokens",
        settings={"lora": {"target_modules": ["embed_tokens"]}},
    ),
    Case(
        "norms as modules",
        "input_layernorm",
        settings={"lora": {"target_modules": ["input_layernorm"]}},
    ),
    Case("output layer", settings={"lora": {"target_modules": ["lm_head"]}}),
    Case("whole blocks", "mlp", settings={"lora": {"target_modules": ["mlp"]}}),
    Case("every row too long", "max_length", settings={"training": {"max_length": 16}}),
    Case(
        "every row cut on the right",
        "max_length",
        settings={"training": {"max_length": 16, "too_long": "cut_right"}},
    ),
    Case(
        "every row cut on the left",
        settings={"training": {"max_length": 16, "too_long": "cut_left"}},
    ),
    Case(
        "held-out rows too long",
        "evaluation.max_length",
        settings={"evaluation": {"max_length": 16}},
    ),
    Case(
        "panel beyond the positions",
        "panel",
        settings={"panel": [{"id": "p", "instruction": "word " * 3000}]},
    ),
    Case(
        "panel that goes on with a conversation",
        settings={
            "panel": [
                {
                    "id": "p",
                    "instruction": "And then?",
                    "system": "Be kind.",
                    "history": [
                        {"role": "user", "content": "Hi"},
                        {"role": "assistant", "content": "Hello."},
                    ],
                }
            ]
        },
    ),
    Case(
        "panel whose earlier turns end with the user",
        "user and assistant have to take turns",
        settings={
            "panel": [
                {
                    "id": "p",
                    "instruction": "And then?",
                    "history": [{"role": "user", "content": "Hi"}],
                }
            ]
        },
    ),
    Case(
        "panel with an empty system text",
        "panel",
        settings={"panel": [{"id": "p", "instruction": "Hi", "system": " "}]},
    ),
    Case(
        "rows beyond the positions",
        "1,024",
        rows=lines(*alpaca_rows(30), {"instruction": "x", "output": "word " * 400}),
        settings={"training": {"max_length": 8192}},
    ),
    Case("answers beyond the positions", settings={"generation": {"max_new_tokens": 8}}),
    Case("infinite norm", "max_grad_norm", settings={"training": {"max_grad_norm": float("inf")}}),
    Case("a tiny share of epochs", settings={"training": {"epochs": 0.001}}),
    Case("a learning rate that is too high", settings={"training": {"learning_rate": 1.0}}),
    Case("pattern of modules", ".*proj", settings={"lora": {"target_modules": [".*proj"]}}),
    Case("module without a name", "target_modules", settings={"lora": {"target_modules": [""]}}),
    Case("module twice", "q_proj", settings={"lora": {"target_modules": ["q_proj"] * 2}}),
    Case("modules of one layer", settings={"lora": {"target_modules": ["layers.0.mlp.up_proj"]}}),
    Case("answers of 8,192 tokens", "panel", settings={"generation": {"max_new_tokens": 8192}}),
    Case("nothing held out", "split", settings={"split": {"heldout": 1e-9}}),
    Case("nearly all warm-up", settings={"training": {"warmup_ratio": 0.99}}),
    Case("every token is trained", settings={"training": {"loss": "all"}}),
    Case("checkpointed activations", settings={"training": {"gradient_checkpointing": True}}),
    Case("nearly cold answers", settings={"generation": {"temperature": 1e-30}}),
    Case("text after the marker", settings=template("{instruction} {input} ### Response: and")),
    Case("control tokens in a template", settings=template("<s>{instruction}{input}### Response:")),
    Case("ten rows", rows=few(10)),
    Case("one row", "held", rows=few(1)),
    Case("nearly all held out", "train", rows=few(4), settings={"split": {"heldout": 0.999}}),
    Case("nothing split off", settings={"split": "none"}),
    Case("full precision", settings={"quantization": {"method": "none"}}),
    Case("half precision", settings={"quantization": {"compute_dtype": "float16"}}),
    Case("hot answers", settings={"generation": {"temperature": 5.0, "top_p": 0.01}}),
    Case(
        "two data sets of one name",
        "more than once",
        settings={"datasets": [{"name": "a", "path": "rows.jsonl"}] * 2},
    ),
)

BASES = (
    Case("gone", "not a model directory", base=lambda base: (base / "config.json").unlink()),
    Case("no tokenizer", "tokenizer", base=lambda base: (base / "tokenizer.json").unlink()),
    Case("broken config", "config.json", base=written("config.json", b"{")),
    Case("config of a list", "config.json", base=written("config.json", b"[]")),
    Case("no model type", "config.json", base=config(model_type=None, architectures=None)),
    Case("unknown model type", "model", base=config(model_type="llama9")),
    Case(
        "encoder",
        "is an encoder",
        base=config(architectures=["BertForMaskedLM"], model_type="bert"),
    ),
    Case("broken tokenizer", "tokenizer", base=written("tokenizer.json", b"{")),
    Case("half of the weights", "model.safetensors", base=cut("model.safetensors", 0.5)),
    Case("no weights at all", "model.safetensors", base=written("model.safetensors", b"")),
    Case(
        "weights that are a pointer",
        "model.safetensors",
        base=written("model.safetensors", POINTER),
    ),
    Case("no output layer", "lm_head", base=without("lm_head.weight")),
    Case(
        "a layer too few",
        "layers.1",
        base=without(
            *(
                f"layers.1.{end}"
                for end in ("q_proj.weight", "mlp.up_proj.weight", "self_attn.q_proj.weight")
            )
        ),
    ),
    Case("a layer too many", "layers.1", base=config(num_hidden_layers=1)),
    Case(
        "other names", "foo", base=tensors(lambda state: {f"foo.{k}": v for k, v in state.items()})
    ),
    Case("other sizes", "320 × 64", base=config(vocab_size=100)),
    Case(
        "adapter beside the weights", base=written("adapter_config.json", b'{"peft_type": "LORA"}')
    ),
    Case(
        "quantized already",
        "quantiz",
        base=config(quantization_config={"quant_method": "awq", "bits": 4}),
    ),
    Case("made for 16 tokens", "16", base=config(max_position_embeddings=16)),
    Case("heads that do not divide", "config.json", base=config(num_attention_heads=3)),
    Case("no heads", "config.json", base=config(num_attention_heads=0)),
    Case("size that is a text", "config.json", base=config(hidden_size="64")),
    Case("no end of sequence in the config", base=config(eos_token_id=None)),
    Case("padding beyond the vocabulary", "config.json", base=config(pad_token_id=9999)),
    Case("unknown position encoding", "config.json", base=config(rope_scaling={"type": "nope"})),
    Case("unknown activation", "config.json", base=config(hidden_act="nope")),
    Case("manifest of ours beside the weights", base=written("artifact.json", b"{}")),
    Case("another model's type", "model_type is gemma", base=config(model_type="gemma")),
    Case("custom code", base=config(auto_map={"AutoModelForCausalLM": "evil.Model"})),
)


@cases(SETTINGS, BASES)
def test_what_is_called_fine_runs_and_the_rest_is_refused(
    case, chatpipe_home, tmp_path, tiny_model_dir
):
    judge(case, tmp_path / "mine", tiny_model_dir)
