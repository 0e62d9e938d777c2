"""A plan's figures against plain counting, and what it refuses before anything is trained."""

import json
import math
import re
import shutil

import psutil
import pyarrow.parquet as pq
import pytest
import torch

from chatpipe.config.prompts import CHATS, render
from chatpipe.errors import ConfigError
from chatpipe.models.loading import load_tokenizer
from chatpipe.models.memory import Device, training_flops
from chatpipe.models.placement import this_device
from chatpipe.models.unused_gpu import gpu_without_kernels
from chatpipe.planning import cost, planner
from chatpipe.planning.cost import Need, lacking_room, measured_rate
from chatpipe.planning.planner import plan, preflight
from chatpipe.planning.result import Plan
from chatpipe.planning.study_plan import plan_study
from chatpipe.planning.summary import cost_rows, summary
from chatpipe.planning.token_stats import histogram
from chatpipe.store.paths import home
from chatpipe.store.store import store
from chatpipe.study.lookup import find_adapter
from chatpipe.study.variants import parse_variant
from chatpipe.training.finetune import Finetune
from chatpipe.training.sampler import GlobalBatches
from chatpipe.utils.quantities import in_bytes, in_time
from tests.support.rows import alpaca_rows, write_jsonl

LARGE = Device(kind="cuda", name="a large GPU", compute_bytes=2, free_bytes=80 * 2**30)


@pytest.fixture
def variant(chatpipe_home, tiny_model_dir):
    """A variant of forty rows, one of them repeated and one without text, and overrides of it."""
    rows = [*alpaca_rows(40), alpaca_rows(1)[0], {"instruction": "Be.", "output": ""}]
    path = write_jsonl(chatpipe_home / "rows.jsonl", rows)

    def made(*overrides, base=tiny_model_dir, **dataset):
        raw = {
            "name": "mine",
            "base_model": {"repo": str(base)},
            "datasets": [dataset or {"name": "rows", "path": str(path)}],
            "training": {"epochs": 1.5, "micro_batch_tokens": 400, "global_batch_size": 4},
            "split": {"heldout": 0.2},
        }
        return parse_variant(raw, "a test", overrides)

    return made


def plain_lengths(variant, made, tokenizer):
    """(tokens, trained tokens) of every training row, counted without chatpipe's encoder."""
    table = pq.read_table(made.data.corpus.path / "train.parquet").to_pylist()
    pairs = []
    for row in table:
        prompt = render(variant.prompt_template, row["instruction"], row["input"])
        response = tokenizer(row["output"], add_special_tokens=False)["input_ids"]
        pairs.append((len(tokenizer(prompt)["input_ids"]) + len(response) + 1, len(response) + 1))
    return pairs


def test_a_plan_says_that_several_gpus_will_share_the_base(variant):
    pair = LARGE.model_copy(update={"count": 2})
    assert not [note for note in plan(variant(), pair).notes if "shared among" in note]
    made = plan(variant(), pair.model_copy(update={"free_bytes": 600 * 2**20}))
    assert made.memory.shares == 2
    assert [note for note in made.notes if note.startswith("the base is shared among 2 processes")]


def test_a_base_that_main_memory_cannot_hold_once_for_each_process_is_refused(variant, monkeypatch):
    few = psutil.virtual_memory()._replace(available=2**10)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: few)
    pair = LARGE.model_copy(update={"count": 2, "free_bytes": 600 * 2**20})
    [fault] = [fault for fault in plan(variant(), pair).faults if "shared among" in fault]
    assert "0.0 GiB are free" in fault and "CHATPIPE_PROCESSES" in fault


def test_tokens_are_those_of_a_plain_loop_over_the_tokenizer(variant, tiny_model_dir):
    asked = variant()
    made = plan(asked, LARGE)
    pairs = plain_lengths(asked, made, load_tokenizer(tiny_model_dir))
    lengths = [tokens for tokens, _ in pairs]
    assert made.tokens.tokens == sum(lengths)
    assert made.tokens.trained_tokens == sum(trained for _, trained in pairs)
    assert (made.tokens.shortest, made.tokens.longest) == (min(lengths), max(lengths))
    assert made.tokens.eos_rows == made.tokens.rows == len(pairs)
    assert sum(bar.rows for bar in made.tokens.lengths) == len(pairs)


@pytest.mark.parametrize(("epochs", "size"), [(0.01, 64), (0.3, 4), (2.5, 8)])
def test_the_tokens_of_a_training_are_those_of_the_rows_of_its_steps(
    variant, tiny_model_dir, epochs, size
):
    asked = variant(f"training.epochs={epochs}", f"training.global_batch_size={size}")
    made = plan(asked, LARGE)
    lengths = [tokens for tokens, _ in plain_lengths(asked, made, load_tokenizer(tiny_model_dir))]
    steps, tokens = made.optimizer_steps, 0
    batches = GlobalBatches(len(lengths), size, seed=0)
    for epoch in range(steps // len(batches) + 1):
        batches.set_epoch(epoch)
        taken = list(batches)[: steps - epoch * len(batches)]
        tokens += sum(lengths[row] for step in taken for row in step)
    assert made.duration.tokens == tokens


def test_rows_are_accounted_for_by_reason(variant):
    made = plan(variant(), LARGE)
    [rows] = made.data.datasets
    assert (rows.account.read, rows.account.kept) == (42, 41)
    assert sum(rows.account.dropped.values()) == 1
    assert made.data.merged.dropped == {"duplicate": 1}
    assert made.data.train_rows + made.data.heldout_rows == 40


def test_steps_are_the_epochs_times_the_global_batches_that_the_rows_fill(variant):
    made = plan(variant(), LARGE)
    assert made.optimizer_steps == math.ceil(1.5 * math.ceil(made.tokens.rows / 4))


@pytest.mark.parametrize(
    ("micro_batch_tokens", "tokens"),
    [
        (400, lambda longest: 400),
        (16, lambda longest: longest),
        (10_000, lambda longest: 4 * longest),
    ],
)
def test_memory_is_estimated_for_the_largest_pack(variant, micro_batch_tokens, tokens):
    made = plan(variant(f"training.micro_batch_tokens={micro_batch_tokens}"), LARGE)
    batch = made.memory.batch
    assert batch.tokens == tokens(made.tokens.longest)
    assert batch.scored == round(batch.tokens * made.tokens.trained_share)


def test_cut_rows_are_counted_with_what_they_lose(variant, tiny_model_dir):
    asked = variant("training.max_length=150", "training.too_long=cut_left")
    made = plan(asked, LARGE)
    whole = [tokens for tokens, _ in plain_lengths(asked, made, load_tokenizer(tiny_model_dir))]
    lost = [tokens - 150 for tokens in whole if tokens > 150]
    assert lost and made.tokens.cut_rows == len(lost)
    assert (made.tokens.cut_tokens, made.tokens.most_cut) == (sum(lost), max(lost))
    assert made.tokens.longest == 150 and not made.faults


def test_rows_without_their_eos_are_said(variant):
    whole = plan(variant(), LARGE).tokens.longest
    asked = variant(f"training.max_length={whole - 1}", "training.too_long=cut_right")
    made = plan(asked, LARGE)
    assert 0 < made.tokens.rows - made.tokens.eos_rows < made.tokens.rows
    assert any("end without </s> because" in note for note in made.notes)


def test_no_row_that_fits_is_refused(variant):
    [fault] = plan(variant("training.max_length=16"), LARGE).faults
    assert fault == (
        "training.max_length: none of 32 training rows is left at 16 (32 longer than max_length); "
        "raise it."
    )


def test_a_gpu_with_too_little_memory_is_refused_and_an_estimate_just_over_it_is_noted(variant):
    small = plan(variant(), LARGE.model_copy(update={"free_bytes": 300 * 2**20}))
    [fault] = small.faults
    assert "0.3 GiB are free on a large GPU" in fault and "micro_batch_tokens" in fault
    needed = small.memory.total
    made = plan(variant(), LARGE.model_copy(update={"free_bytes": int(needed / 1.1)}))
    assert not made.faults and any("memory: training needs" in note for note in made.notes)


def test_rows_beyond_the_bases_positions_are_refused(variant, chatpipe_home, tiny_model_dir):
    base = shutil.copytree(tiny_model_dir, chatpipe_home / "short")
    config = json.loads((base / "config.json").read_text())
    config["max_position_embeddings"] = 100
    (base / "config.json").write_text(json.dumps(config))
    faults = plan(variant(base=base), LARGE).faults
    assert all("the base was made for 100" in fault for fault in faults)
    assert [text for text in ("longest row", "held-out row", "panel") if text in str(faults)] == [
        "longest row",
        "held-out row",
        "panel",
    ]


def test_a_tokenizer_without_eos_is_refused(variant, chatpipe_home, tiny_model_dir):
    base = shutil.copytree(tiny_model_dir, chatpipe_home / "endless")
    config = json.loads((base / "tokenizer_config.json").read_text())
    del config["eos_token"]
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    [fault] = plan(variant(base=base), LARGE).faults
    assert "no EOS token" in fault


def test_all_faults_come_at_once_and_name_the_variant(variant):
    asked = variant(
        "training.max_length=120", "training.too_long=cut_right", "lora.target_modules=[q_prj]"
    )
    with pytest.raises(ConfigError) as refused:
        preflight(asked)
    assert all(fault.startswith(f"{asked.name}: ") for fault in refused.value.faults)
    cut, layers = sorted(refused.value.faults, key=lambda fault: "whole response" not in fault)
    assert re.search(r"rows lose their whole response .* 120 tokens", cut)
    assert "q_prj" in layers and "q_proj" in layers


def test_a_disk_without_room_is_refused_with_all_that_it_should_hold(tmp_path):
    room = cost.free_bytes(tmp_path)
    halves = [
        Need(what=what, path=tmp_path / what / "new", bytes=room // 2 + 2**20) for what in "ab"
    ]
    assert lacking_room(halves[:1]) == []
    [fault] = lacking_room(halves)
    assert "(a, b)" in fault and str(tmp_path) in fault


def test_what_exists_is_told_from_what_would_be_made(variant):
    def states(made):
        return {(step.kind, step.state) for step in made.steps}

    first, second = plan(variant(), LARGE), plan(variant(), LARGE)
    assert {("raw", "make"), ("examples", "make"), ("corpus", "make")} <= states(first)
    assert {("raw", "exists"), ("corpus", "exists"), ("adapter", "make")} <= states(second)
    assert not second.trained and second.tokens == first.tokens
    assert {step.bytes for step in first.steps if step.state == "make"} == {None}


def trained(asked, **details):
    """Store an adapter as if it had been trained: only its record matters here."""
    made = plan(asked, LARGE)
    base = store().find("base-model", next(p.name for p in (store().root / "base-model").iterdir()))
    request = Finetune.of(asked, base, made.data.corpus)
    return base, store().get_or_build(request, lambda into: details)


def test_nothing_is_refused_for_memory_where_nothing_will_be_trained(variant):
    trained(variant(), device="elsewhere", tokens_per_s=1.0)
    made = plan(variant(), LARGE.model_copy(update={"free_bytes": 1}))
    assert made.trained and not made.faults and not made.disk
    assert find_adapter(variant()) and "nothing to train" in summary(made)


def test_time_follows_the_rate_that_was_measured_on_the_same_device(variant):
    base, _ = trained(variant("training.seed=7"), device=LARGE.name, tokens_per_s=50.0)
    made = plan(variant(), LARGE)
    assert made.duration.seconds == pytest.approx(made.tokens.seen_tokens / 50.0)
    assert measured_rate(LARGE.model_copy(update={"name": "another"}), base) is None


def test_the_rate_of_several_gpus_is_not_that_of_one(variant):
    base, _ = trained(variant("training.seed=7"), device=LARGE.name, tokens_per_s=90.0, processes=2)
    alone, four = measured_rate(LARGE, base), measured_rate(of_gpus(4), base)
    assert (alone.tokens_per_s, four.tokens_per_s) == (45.0, 180.0)
    assert alone.basis.endswith("on 2 such GPUs, for 1")
    trained(variant("training.seed=8"), device=LARGE.name, tokens_per_s=50.0)
    rates = [measured_rate(of_gpus(count), base).tokens_per_s for count in (1, 2)]
    assert rates == [50.0, 90.0]


def test_the_rate_of_trainings_together_is_not_that_of_one_alone(variant):
    base, _ = trained(
        variant("training.seed=7"), device=LARGE.name, tokens_per_s=80.0, trained_together=4
    )
    upper = measured_rate(LARGE, base)
    assert upper.tokens_per_s == 80.0
    assert upper.basis.endswith("on this device, trained with others; alone it is slower")
    trained(variant("training.seed=8"), device=LARGE.name, tokens_per_s=50.0)
    trained(variant("training.seed=9"), device=LARGE.name, tokens_per_s=70.0, trained_together=2)
    assert measured_rate(LARGE, base).tokens_per_s == 50.0
    assert plan(variant(), LARGE).duration.tokens_per_s == 50.0
    assert measured_rate(LARGE, base, together=True).tokens_per_s in (70.0, 80.0)  # of one second


def test_a_group_has_the_rate_of_trainings_together(variant):
    name = this_device(variant().quantization).name
    trained(variant("training.seed=7"), device=name, tokens_per_s=50.0)
    asked = [variant(f"lora.rank={rank}", "train_together=2") for rank in (2, 4)]
    pair = [one.model_copy(update={"name": f"rank-{i}"}) for i, one in enumerate(asked)]
    [group] = plan_study("ranks", pair).groups
    assert group.is_upper_bound and group.seconds == pytest.approx(group.tokens / 50.0)
    trained(variant("training.seed=8"), device=name, tokens_per_s=80.0, trained_together=2)
    made = plan_study("ranks", pair)
    [group] = made.groups
    assert not group.is_upper_bound and group.seconds == pytest.approx(group.tokens / 80.0)
    assert made.total.seconds == pytest.approx(group.tokens / 50.0)


def of_gpus(count, name=LARGE.name):
    return LARGE.model_copy(update={"count": count, "name": name})


@pytest.mark.parametrize(
    ("name", "count", "tera", "basis"),
    [
        ("a large GPU", 1, 20, "20 TFLOP/s assumed; nothing was measured on this device yet"),
        ("NVIDIA H100 80GB HBM3", 1, 247.25, "247.25 TFLOP/s assumed (25% of its peak); nothing "),
        ("NVIDIA A100-SXM4-80GB", 2, 156, "78 TFLOP/s assumed (25% of its peak) on each of 2 GPUs"),
        ("NVIDIA GeForce RTX 4090", 1, 41.25, "41.25 TFLOP/s assumed (25% of its peak)"),
        ("NVIDIA L40", 1, 20, "20 TFLOP/s assumed; "),
    ],
)
def test_time_is_said_to_be_assumed_where_nothing_was_measured(variant, name, count, tera, basis):
    made = plan(variant(), of_gpus(count, name))
    rate = 1e12 * tera / training_flops(made.shapes)
    assert made.duration.tokens_per_s == pytest.approx(rate)
    assert made.duration.basis.startswith(basis)


def test_a_gpu_that_torch_has_no_kernels_for_is_a_fault(variant, monkeypatch):
    answers = {"is_available": True, "get_device_name": "NVIDIA H100", "get_arch_list": ["sm_75"]}
    for name, answer in {**answers, "get_device_capability": (9, 0)}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr("chatpipe.models.devices.free_memory_bytes", lambda: 80 * 2**30)
    [fault] = plan(variant(), LARGE).faults
    assert fault.startswith(f"torch {torch.__version__} has no kernels for NVIDIA H100 (compute")
    for lists in (["sm_90"], ["sm_80", "compute_80"], ["sm_90a"], []):
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda lists=lists: lists)
        assert gpu_without_kernels() is None
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90"])
    for capability, runs in (((9, 0), True), ((9, 1), True), ((8, 9), False), ((10, 0), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda c=capability: c)
        assert (gpu_without_kernels() is None) is runs


def test_checkpoints_count_for_the_disk(variant):
    few, many = (plan(variant(f"training.save_steps={steps}"), LARGE) for steps in (100, 1))
    size = few.shapes.lora_parameters * 4
    assert [sum(need.bytes for need in made.disk) for made in (few, many)] == [4 * size, 10 * size]


def test_without_a_hub_the_plan_says_so_and_gives_what_the_catalogue_knows(chatpipe_home):
    raw = {
        "name": "large",
        "preset": "paper",
        "base_model": {"repo": "huggyllama/llama-13b"},
        "datasets": ["alpaca"],
    }
    made = plan(parse_variant(raw, "a test"), LARGE)
    assert made.data.train_rows == 52_002 and not made.data.exact
    assert made.optimizer_steps == 3 * 26_001
    assert made.tokens is made.shapes is made.memory is None and not made.faults
    assert any("huggyllama/llama-13b: HF_HUB_OFFLINE=1 is set" in note for note in made.notes)
    assert made.download_bytes is None
    assert {("disk", "not known"), ("download", "not known")} <= set(cost_rows(made))


def test_the_embedded_base_is_a_download_of_known_size_before_the_first_run(variant):
    made = plan(variant(base="smollm2-135m-instruct"), LARGE)
    [base] = [step for step in made.steps if step.kind == "base-model"]
    assert base.state == "download" and 80 * 2**20 < base.bytes < 100 * 2**20
    parts = [need for need in made.disk if need.what.startswith("base model")]
    assert len(parts) == 2 and {need.path for need in parts} == {home()}  # nothing in HF_HOME
    assert made.tokens is None and made.data.exact and not made.faults
    notes = "if it has a chat template of its own, the report has a row for it"
    assert any(notes in note for note in made.notes)
    own = variant(base="smollm2-135m-instruct").model_copy(
        update={"prompt_template": CHATS["chat"]}
    )
    assert not any(notes in note for note in plan(own, LARGE).notes)


def test_what_is_left_of_a_study_needs_nothing_that_was_fetched_before(variant):
    seeds = [variant(f"training.seed={seed}", base="smollm2-135m-instruct") for seed in (1, 2, 3)]
    named = [one.model_copy(update={"name": f"seed-{i}"}) for i, one in enumerate(seeds)]
    made = plan_study("seeds", named, limit=1)
    assert [cost.trainings for cost in (made.total, made.now, made.left)] == [3, 1, 2]
    assert made.now.disk_bytes == made.total.disk_bytes > 2 * made.total.download_bytes > 0
    assert made.left.disk_bytes == made.left.download_bytes == 0
    assert made.now.download_bytes == made.total.download_bytes


def test_a_plan_survives_json_and_tells_the_same(variant):
    made = plan(variant(), LARGE)
    again = Plan.model_validate_json(made.model_dump_json())
    assert again == made and cost_rows(again) == cost_rows(made)


@pytest.mark.slow
def test_a_child_process_can_be_asked_for_plans(variant, tmp_path):
    from chatpipe.runtime.worker import SharedWorker

    request = planner.MakePlan(variants=(variant(),))
    details = SharedWorker().build(request, tmp_path, lambda event: None, lambda line: None)
    [made] = [Plan.model_validate(found) for found in details["plans"]]
    assert made.tokens == plan(variant(), LARGE).tokens and made.device.free_bytes > 0


def test_a_histogram_holds_every_row_once_between_shortest_and_longest():
    lengths = [47, 50, 51, 180, 180, 181]
    bars = histogram(lengths)
    assert sum(bar.rows for bar in bars) == 6 and len(bars) <= 14
    assert bars[0].above < 47 <= bars[0].upto and bars[-1].above < 181 <= bars[-1].upto
    assert [bar.above for bar in bars[1:]] == [bar.upto for bar in bars[:-1]]
    assert [bar.rows for bar in histogram([5])] == [1]


def test_sizes_and_times_are_told_in_a_persons_units():
    assert [in_bytes(n) for n in (12, 2048, 92_871_040, 26e9)] == [
        "12 B",
        "2.0 KiB",
        "89 MiB",
        "24 GiB",
    ]
    assert [in_time(s) for s in (41, 300, 30_003, 400_000)] == [
        "41 s",
        "5 min",
        "8 h 20 min",
        "4.6 days",
    ]


def test_twice_the_rank_is_twice_the_adapter(variant):
    wide = plan(variant("lora.rank=32"), LARGE).shapes.lora_parameters
    assert wide == 2 * plan(variant("lora.rank=16"), LARGE).shapes.lora_parameters


def test_few_held_out_rows_are_noted_for_each_data_set(variant, tmp_path):
    path = write_jsonl(tmp_path / "many.jsonl", alpaca_rows(160))
    made = plan(variant(name="many", path=str(path)))
    [rows] = made.data.datasets
    assert rows.heldout_rows >= 30 and not any("held-out rows" in note for note in made.notes)
    few = plan(variant())
    count = few.data.datasets[0].heldout_rows
    assert count == few.data.heldout_rows < 30
    assert any(note.startswith(f"data set rows: {count} held-out rows; ") for note in few.notes)


def test_a_data_set_of_which_nothing_is_held_out_is_refused_by_name(variant, tmp_path):
    """With others beside it the corpus has held-out rows, but this one has no figures."""
    few = write_jsonl(tmp_path / "few.jsonl", alpaca_rows(1))
    raw = variant().model_dump(mode="json")
    raw["datasets"].append({"name": "few", "path": str(few)})
    made = plan(parse_variant(raw, "a test"))
    assert [fault for fault in made.faults if fault.startswith("data set few: the split leaves")]
