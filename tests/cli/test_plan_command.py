"""`chatpipe plan` as a person meets it: from hub metadata alone, on terminals of any width."""

import io
import json
import os
import subprocess
import sys

import pytest
import yaml
from rich.cells import cell_len
from rich.console import Console
from transformers import LlamaConfig

from chatpipe.cli.plan_view import draw_bar, print_plan
from chatpipe.models.memory import Device
from chatpipe.planning.planner import plan
from chatpipe.study.variants import parse_variant
from tests.support.hub import COMMIT, Repo, hub
from tests.support.rows import alpaca_rows, write_jsonl

GPU = Device(kind="cuda", name="a GPU", compute_bytes=2, free_bytes=24 * 2**30)
WEIGHTS = 26_031_739_904


@pytest.fixture
def made(chatpipe_home, tiny_model_dir):
    rows = write_jsonl(chatpipe_home / "rows.jsonl", [*alpaca_rows(40), {"output": "no question"}])
    raw = {
        "name": "mine",
        "base_model": {"repo": str(tiny_model_dir)},
        "datasets": [{"name": "rows", "path": str(rows)}, "sample-alpaca"],
        "training": {"max_length": 150, "too_long": "cut_right"},
    }
    return plan(parse_variant(raw, "a test"), GPU)


def printed(made, width):
    console = Console(file=io.StringIO(), width=width, record=True)
    print_plan(made, console)
    return console.export_text()


@pytest.mark.parametrize("width", [60, 100])
def test_the_account_fits_the_terminal_and_misses_no_part(made, width):
    text = printed(made, width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    for part in ("Rows", "Tokens per row", "Training", "Memory", "Artifacts", "Notes"):
        assert f"\n{part}" in text
    assert f"{made.tokens.trained_share:.1%}" in text and "rows are cut" in text
    assert "24 GiB are free on a GPU" in text and "to make" in text


def test_bars_are_to_scale_and_never_nothing_for_something():
    assert [draw_bar(share, 10) for share in (1.0, 0.5, 0.05, 0.0001, 0.0)] == [
        "█" * 10,
        "█" * 5,
        "▌",
        "▏",
        "",
    ]


def command(folder, address, **changes):
    """(exit code, stdout, stderr) of `chatpipe plan --json` for a 13B base of that hub."""
    raw = {
        "preset": "paper",
        "base_model": {"repo": "huggyllama/llama-13b"},
        "datasets": [{"name": "rows", "path": str(folder / "rows.jsonl")}],
        **changes,
    }
    write_jsonl(folder / "rows.jsonl", alpaca_rows(40))
    (folder / "large.yaml").write_text(yaml.safe_dump(raw))
    hub_settings = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": address, "HF_HOME": str(folder / "hf")}
    done = subprocess.run(
        [sys.executable, "-m", "chatpipe", "plan", str(folder / "large.yaml"), "--json"],
        env={**os.environ, **hub_settings, "CHATPIPE_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_13b_base_is_planned_from_hub_metadata_alone(tmp_path, tiny_model_dir):
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=5120,
        intermediate_size=13_824,
        num_hidden_layers=40,
        num_attention_heads=40,
        max_position_embeddings=2048,
    )
    config.architectures = ["LlamaForCausalLM"]
    small = {
        file.name: file.read_bytes() for file in tiny_model_dir.iterdir() if "tok" in file.name
    }
    small["config.json"] = config.to_json_string().encode()
    repo = Repo(small=small, large={"model.safetensors": WEIGHTS, "pytorch_model.bin": WEIGHTS})
    with hub({"models/huggyllama/llama-13b": repo}) as (address, asked):
        _, out, error = command(tmp_path, address)
    made = json.loads(out)
    assert made["shapes"]["parameters"] == 13_015_864_320, error
    assert made["tokens"]["rows"] == 40
    [base] = [step for step in made["steps"] if step["kind"] == "base-model"]
    everything = WEIGHTS + sum(len(content) for content in small.values())
    assert base["state"] == "download" and base["bytes"] == everything
    assert "GET huggyllama/llama-13b/resolve/" + COMMIT + "/config.json" in asked
    assert not any(a.startswith("GET") and a.endswith((".safetensors", ".bin")) for a in asked)


@pytest.mark.slow
def test_a_base_that_the_hub_withholds_is_refused(tmp_path):
    with hub({"models/huggyllama/llama-13b": Repo(gated=True)}) as (address, _):
        gated = command(tmp_path, address)
    with hub({}) as (address, _):
        missing = command(tmp_path, address)
    for (code, _, error), sentence in ((gated, "asks for consent"), (missing, "no such")):
        assert code == 2 and sentence in error and "Traceback" not in error


@pytest.mark.slow
def test_a_data_set_is_planned_from_the_fallback_that_a_run_would_take(tmp_path, tiny_model_dir):
    repo = Repo(large={f"data/{part}-0.parquet": 1000 for part in ("train", "validation", "test")})
    base = {"repo": str(tiny_model_dir)}
    with hub({"datasets/OpenRL/daily_dialog": repo}) as (address, _):
        code, out, error = command(tmp_path, address, base_model=base, datasets=["dialog"])
    assert code == 0, error
    [raw] = [step for step in json.loads(out)["steps"] if step["kind"] == "raw"]
    assert (raw["state"], raw["bytes"]) == ("download", 3000)
    said = "dialog would come from OpenRL/daily_dialog: li2017dailydialog/daily_dialog: "
    assert any(said in note for note in json.loads(out)["notes"])


@pytest.mark.slow
def test_a_split_of_the_hub_is_planned_by_its_own_files(tmp_path, tiny_model_dir):
    sizes = {f"data/train_sft-0000{n}-of-00002.parquet": 1000 for n in range(2)}
    repo = Repo(large=sizes | {"data/test_sft-00000-of-00001.parquet": 500})
    dataset = {"name": "rows", "repo": "owner/rows", "split": "train_sft[:5%]"}
    base = {"repo": str(tiny_model_dir)}
    with hub({"datasets/owner/rows": repo}) as (address, asked):
        code, out, error = command(tmp_path, address, base_model=base, datasets=[dataset])
        other = {**dataset, "split": "train"}
        refused = command(tmp_path, address, base_model=base, datasets=[other])
        repo.large["data/train_gen-00000-of-00001.parquet"] = 500
        joined = command(
            tmp_path, address, base_model=base, datasets=[{"name": "rows", "repo": "owner/rows"}]
        )
    assert code == 0 and "Fetching" not in error, error
    states = {s["kind"]: (s["state"], s["bytes"]) for s in json.loads(out)["steps"]}
    assert states["splits"][0] == "download" and states["raw"] == ("download", 2000)
    assert not any(request.startswith("GET datasets/") for request in asked)
    assert refused[0] == 2
    assert "owner/rows: has no split train; it has test_sft, train_sft." in refused[2]
    assert joined[0] == 2
    splits = "test_sft, train_gen, train_sft"
    assert f"owner/rows: has the splits {splits}, which are not joined by default" in joined[2]


@pytest.mark.slow
def test_a_data_set_that_no_source_has_is_refused_with_all_of_them(tmp_path, tiny_model_dir):
    base = {"repo": str(tiny_model_dir)}
    with hub({}) as (address, _):
        code, _, error = command(tmp_path, address, base_model=base, datasets=["dialog"])
    assert code == 2 and all(name in error for name in ("li2017", "OpenRL", "roskoN"))


@pytest.mark.slow
def test_a_revision_that_a_base_does_not_have_is_named(tmp_path, tiny_model_dir):
    base = {"repo": "owner/tiny", "revision": "nope"}
    with hub({"models/owner/tiny": Repo.of(tiny_model_dir)}) as (address, _):
        code, _, error = command(tmp_path, address, base_model=base)
    assert code == 2 and "owner/tiny: has no revision nope" in error


@pytest.mark.slow
def test_a_hub_that_does_not_answer_is_named_without_its_password(tmp_path):
    _, out, error = command(tmp_path, "http://me:secret@127.0.0.1:1")
    notes = json.loads(out)["notes"]
    assert any("llama-13b: http://127.0.0.1:1 cannot be reached, so" in note for note in notes)
    assert "secret" not in out + error
