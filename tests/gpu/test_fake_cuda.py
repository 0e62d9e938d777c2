"""The path of a GPU without a GPU: chatpipe's own code on a CUDA device that computes nothing."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.gpu import fake_device
from tests.support.printed import printed_json

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(fake_device.compiler() is None, reason=fake_device.NO_COMPILER),
]
TRAINED = {"cross_entropy", "packing", "lora_training"}
SCORED = {"cross_entropy", "packing", "lora_inference"}
ANSWERED = {"packing", "lora_inference"}
AMPERE = {"varlen_attention"}
# Nothing of a GPU is computed by these.
ON_CPUS = {"sparse_dropout", "concurrency", "packed_weights", "decoding"}
RUNS = {
    "train": TRAINED,
    "train, checkpointing": TRAINED,
    "train, little memory": TRAINED,
    "score": SCORED,
    "answer": ANSWERED,
    "reply": ANSWERED,
    "stream": SCORED | ANSWERED,
}
# Where the GPU keeps the base in 4 bits, whatever room it has.
IN_4_BITS = {"train, little memory", "stream"}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """All paths and faults, in one process: the device must be there before torch is imported."""
    return printed_json("tests.gpu.paths", tmp_path_factory.mktemp("fake-cuda"))


def kernels(outcome, run):
    observed = outcome["runs"][run]
    assert observed["unused"] == {}
    assert not ON_CPUS & {*observed["kernels"]}
    return {*observed["kernels"]}


@pytest.mark.parametrize("run", RUNS)
def test_every_path_goes_through_by_the_kernels_of_each_gpu(outcome, run):
    """An 80 GiB card keeps the base dequantized; one of an older kind has no FlashAttention."""
    room = set() if run in IN_4_BITS else {"dequantize"}
    assert kernels(outcome, f"8.9 {run}") == RUNS[run] | AMPERE | room
    if run != "train":
        assert kernels(outcome, f"7.5 {run}, in 4 bits") == RUNS[run]
    if run not in {"train", *IN_4_BITS}:
        assert kernels(outcome, f"8.9 {run}, in 4 bits") == RUNS[run] | AMPERE
        assert kernels(outcome, f"8.9 {run}, off") == set()


def test_training_uses_the_backward_pass_of_its_attention_and_4_bit_weights(outcome):
    runs = {name: run["operations"] for name, run in outcome["runs"].items() if "train" in name}
    for name, operations in runs.items():
        flash = name.startswith("8.9") and not name.endswith("off")
        assert ("_varlen_attn_backward" in operations) is flash, name
        in_4_bits = name.endswith(("in 4 bits", "off", "little memory"))
        assert ("gemm_4bit" in operations) is in_4_bits, name


def test_a_base_that_is_not_quantized_is_trained(outcome):
    assert kernels(outcome, "8.9 train, not quantized") == TRAINED | AMPERE


def test_a_step_is_copied_to_the_gpu_while_the_one_before_computes(outcome):
    """M: a step's batches are made; R: the host waits for the loss of one of the two steps, and at
    the end."""
    assert outcome["orders"]["train"] == "MMRRR"
    waits = {wait for run in outcome["runs"].values() for wait in run["syncs"]}
    assert not [wait for wait in waits if "training/trainer" in wait or "packing/transfer" in wait]


@pytest.mark.parametrize(("run", "batches"), [("score", 6), ("score, off", 8)])
def test_scoring_waits_for_the_values_of_a_batch_and_for_nothing_else(outcome, run, batches):
    """M: one of three batches is made; R: the host waits for its values."""
    assert outcome["orders"]["score"] == "MMRMRR"
    waits = outcome["runs"][f"8.9 {run}"]["syncs"]
    of_loading = ("model_check.py", "tuners/", "utils/", "transformers/", "integrations/")
    own = {wait: count for wait, count in waits.items() if not any(n in wait for n in of_loading)}
    [(wait, count)] = own.items()
    assert wait.startswith("copy to main memory: packing/batching.py") and count == batches


def test_two_trainings_share_their_passes(outcome):
    """Passes of more tokens than the packs of one alone: there are fewer for two than for one."""
    run = "8.9 train, two together"
    assert kernels(outcome, run) == TRAINED | AMPERE | {"dequantize"}
    one, two = (outcome["runs"][name]["operations"] for name in ("8.9 train", run))
    assert 0 < two["_varlen_attn_backward"] < one["_varlen_attn_backward"]


def test_products_are_in_the_half_precision_of_the_gpu(outcome):
    for run, observed in outcome["runs"].items():
        half = "torch.bfloat16" if run.startswith("8.9") else "torch.float16"
        other = {"torch.bfloat16", "torch.float16"} - {half}
        assert half in observed["products"] and not other & {*observed["products"]}, run


FAULTS = {
    "keys in float32": "_varlen_attn: operands of types ['torch.bfloat16', 'torch.float32']",
    "ends in int64": "_varlen_attn: ends of type torch.int64",
    "ends of a pass for two in int64": "_varlen_attn: ends of type torch.int64",
    "targets in main memory": "cuda:0 and cpu",
    "a mask in main memory": "cuda:0 and cpu",
    "a dropout mask in main memory": "an operand is in main memory",
    "a weight that stays in 4 bits": "must have same reduction dim",
    "adapters' rows in main memory": "cuda:0 and cpu",
    "the check's row in main memory": "cuda:0 and cpu",
    "noise in main memory": "cuda:0 and cpu",
    "a running batch in main memory": "cuda:0 and cpu",
    "a layer that stays in main memory": "bitsandbytes::gemm_4bit: operands on cpu, cuda:0",
    "a layer that computes before it is here": "it reads what another stream is writing",
    "a layer that is fetched over one that computes": "it writes what another stream is using",
    "a step that is not in pinned memory": "copy from main memory: packing/transfer.py",
    "a copy of a step that is waited for": "copy from main memory: packing/transfer.py",
    "a batch to score that is not in pinned memory": "copy from main memory: packing/transfer.py",
    "a cache that is too narrow": "The expanded size of the tensor",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(outcome, fault):
    assert FAULTS[fault] in outcome["faults"][fault]


def test_every_fault_has_its_test(outcome):
    assert outcome["faults"].keys() == FAULTS.keys()


OTHERS = {
    "short rows, NF4, TRL": "trl",
    "short rows, NF4, Unsloth": "unsloth",
    "short rows, NF4, compile instead of liger": "triton",
}


def test_the_benchmark_of_a_gpu_runs_each_contender(outcome):
    names = [contender["contender"] for contender in outcome["contenders"]]
    assert {"short rows, NF4, transformers' Trainer", *OTHERS} < {*names}
    assert len(names) == len({*names}) > 10
    errors = {c["contender"]: c["error"] for c in outcome["contenders"] if "error" in c}
    missing = {name: package for name, package in OTHERS.items() if find_spec(package) is None}
    assert errors == {n: f"left out: {package} is not installed" for n, package in missing.items()}


DOCS = Path(__file__).parents[2] / "docs"
PAGES = {
    "costs": "gpu.md",
    "predictions": "gpu.md",
    "costs of four": "gpu.md",
    "predictions of four": "gpu.md",
    "memory": "memory.md",
}


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_have_the_costs_of_a_step_as_they_are(outcome, name):
    """Where one changed on purpose, write the new table into the page: it is in the message."""
    table = outcome["tables"][name]
    page = DOCS / PAGES[name]
    assert table in page.read_text("utf-8"), f"{page} needs this table:\n{table}"


def test_the_memory_model_agrees_with_the_tensors_that_are_alive(outcome):
    shares = [float(line.split("|")[-2]) for line in outcome["tables"]["memory"].splitlines()[2:]]
    assert len(shares) == 4 and all(0.98 < share < 1.08 for share in shares), shares
