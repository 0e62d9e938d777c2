"""Parts of a step in processes of their own: what one process gives, or an error, and nothing in
between."""

import os
import signal
import tempfile
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import psutil
import pyarrow.parquet as pq
import pytest
import torch

from chatpipe.config.prompt_schema import Prompt
from chatpipe.config.prompts import template
from chatpipe.config.schema import BaseModelRef, Generation, Quantization, Variant
from chatpipe.errors import ModelError, StepProcessError
from chatpipe.evaluation.row_nats import RowBatches
from chatpipe.evaluation.score import Score
from chatpipe.generation.ask import Ask, answered
from chatpipe.generation.ask_file import FileAsk
from chatpipe.generation.prompt_file import PromptRow
from chatpipe.generation.prompted import CompletePrompts
from chatpipe.generation.replies import FILE, Reply
from chatpipe.generation.running_batch import RunningBatch
from chatpipe.models import inference, several_devices
from chatpipe.models.model_ref import ModelRef
from chatpipe.models.several_devices import LoadBase, recorded_model_with_helpers
from chatpipe.runtime import helpers, progress
from chatpipe.runtime.device_locks import lock_name, locked
from chatpipe.runtime.processes import PROCESSES
from chatpipe.runtime.progress import Reporter
from chatpipe.runtime.worker import SharedWorker
from chatpipe.sources.fetch import FetchModel
from chatpipe.store.store import store
from tests.support.adapters import RandomAdapter
from tests.support.requests import finetune_request
from tests.support.variants import small_variant

HELPER = "process 2 on the CPU"
DATA = {"name": "rows", "path": "rows.jsonl"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Helpers and this process compute with one thread each: values depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """One store, so that helpers stay from test to test."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("home")
        patch.setenv("CHATPIPE_HOME", str(path))
        # Others on this machine may run this, too.
        patch.setenv("TMPDIR", str(path))
        patch.setattr(tempfile, "tempdir", str(path))
        yield path
        helpers.close_helpers()


@pytest.fixture(scope="module")
def score(home, tiny_model_dir):
    """40 held-out rows in 20 batches or so, scored through an adapter."""
    corpus = finetune_request(home, tiny_model_dir, 200).corpus
    base = store().get_or_build(FetchModel.of(BaseModelRef(repo=str(tiny_model_dir))))
    return Score(
        base=base,
        adapter=store().get_or_build(RandomAdapter(base=base, seed=1)),
        heldout=corpus,
        prompt_template=template("alpaca"),
        quantization=Quantization(compute_dtype="float32"),
        max_length=512,
        batch_tokens=256,
    )


def common_fields(score):
    return {name: getattr(score, name) for name in ("base", "prompt_template", "quantization")}


def replies(score):
    """Five replies of up to six tokens."""
    return Reply(
        **common_fields(score),
        adapter=score.adapter,
        heldout=score.heldout,
        generation=Generation(max_new_tokens=6, temperature=0.7),
        max_length=512,
        rows=5,
    )


def built(request):
    """Return the artifact's details and the bytes of its file, and remove it."""
    artifact = store().get_or_build(request)
    details, content = artifact.details(), (artifact.path / "nats.parquet").read_bytes()
    store().forget(artifact.path)
    return details, content


@pytest.fixture(scope="module")
def alone(score):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PROCESSES, "1")
        details, content = built(score)
        assert details["processes"] == 1
        return content


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setenv(PROCESSES, "2")


@pytest.mark.slow
def test_two_processes_score_to_the_bit_as_one_does(score, alone, two):
    """Through a worker, as runs have it: the helper ends with the worker, even a killed one."""
    events, worker = [], SharedWorker()
    with worker.keep_alive():

        def build(into):
            return worker.build(score, into, events.append, print)

        artifact = store().get_or_build(score, build)
        details = artifact.details()
        assert details["processes"] == 2 and details["device"]
        assert (artifact.path / "nats.parquet").read_bytes() == alone
        assert events[-1].done == events[-1].total == score.heldout_rows().num_rows
        store().forget(artifact.path)
        process = psutil.Process(worker._worker._process.pid)
        [helper] = process.children()
        assert helper.environ()[PROCESSES] == "1"
        process.kill()
        _, alive = psutil.wait_procs([helper], timeout=20)
        assert not alive


@pytest.mark.slow
def test_two_processes_answer_as_one_does(score, tiny_model_dir, monkeypatch):
    """In float32: a panel by the base and an adapter, replies to held-out rows, and a file."""
    monkeypatch.setattr("chatpipe.generation.prompted.AT_ONCE", 2)
    events = []
    monkeypatch.setattr(Reporter.__init__, "__defaults__", (0.0,))  # every step is reported
    monkeypatch.setattr(progress, "emit", lambda name, event: events.append(event))
    prompts = tuple(Prompt(id=f"p{n}", instruction="Why? " * n) for n in range(1, 4))
    generation = Generation(max_new_tokens=6, temperature=0.7)
    parts = {**common_fields(score), "generation": generation}
    asks = [
        Ask(**parts, adapter=adapter, panel=prompts, asked=("template",))
        for adapter in (None, score.adapter)
    ]
    reply = replies(score)
    rows = [PromptRow(prompt.id, {"id": prompt.id}, prompt) for prompt in prompts * 2]
    settings = {"name": "v", **small_variant(tiny_model_dir, DATA)}
    variant = Variant.model_validate(settings).model_copy(
        update={"quantization": score.quantization, "prompt_template": score.prompt_template}
    )
    ask = FileAsk(variant, ModelRef(score.base, score.adapter), generation, rows)

    def check_progress(tokens):
        """It counts the tokens of all prompts, and ends when they are there."""
        assert {event["total"] for event in events} == {tokens}
        counts = [event["done"] for event in events]
        assert counts == sorted(counts) and counts.index(tokens) > 1
        events.clear()

    def answers(processes):
        monkeypatch.setenv(PROCESSES, str(processes))
        panels = answered(asks)
        check_progress(6 * 6)
        artifact = store().get_or_build(reply)
        check_progress(5 * 6)
        texts = pq.read_table(artifact.path / FILE).to_pylist()
        counts = {artifact.details()["processes"], *(of.details["processes"] for of in panels)}
        assert counts == {processes}
        store().forget(artifact.path)
        batches = list(ask.answers(ask.prompt_ids(Path("prompts.jsonl")), 1))  # the first is there
        check_progress(5 * 6)
        assert processes == 1 or [len(batch) for batch in batches] == [4, 1]
        return [of.answers for of in panels], texts, list(chain(*batches))

    alone = answers(1)
    assert answers(2) == alone
    assert alone[0][0] != alone[0][1]  # the adapter has an effect


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_progress_counts_every_row_once(score, processes, monkeypatch):
    """Each row is computed twice: in the template of its training, and in the paper's."""
    events = []
    monkeypatch.setattr(Reporter.__init__, "__defaults__", (0.0,))  # every step is reported
    monkeypatch.setattr(progress, "emit", lambda name, event: events.append(event))
    monkeypatch.setenv(PROCESSES, str(processes))
    built(score)
    rows = score.heldout_rows().num_rows
    assert {(event["unit"], event["total"]) for event in events} == {("rows", rows)}
    counts = [event["done"] for event in events]
    assert counts == sorted(counts) and counts[-1] == rows and len(set(counts)) > 5


@pytest.mark.slow
def test_a_part_that_fails_is_an_error_with_its_device_and_stores_nothing(score, two, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(RowBatches, "digest", lambda self: "another one")
        with pytest.raises(StepProcessError, match=f"on {HELPER}: the rows are in other batches"):
            store().get_or_build(score)
    assert store().lookup(score) is None and not helpers._HELPERS


@pytest.mark.slow
def test_a_part_that_is_killed_is_an_error_too(score, two, monkeypatch):
    """A helper that was started anew after the failure of the last one. Answers do not go on
    without it."""
    monkeypatch.setattr("chatpipe.generation.prompted.AT_ONCE", 2)
    steps = []
    step = RunningBatch.step
    for owner, name, request in (
        (RowBatches, "nats", score),
        (CompletePrompts, "completions", replies(score)),
    ):
        computed = getattr(owner, name)

        def after_a_kill(*arguments, computed=computed):
            [helper] = helpers._HELPERS.values()
            os.kill(helper._process._process.pid, signal.SIGKILL)
            assert isinstance(helper._future.exception(timeout=60), StepProcessError)
            return computed(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, after_a_kill)
            patch.setattr(RunningBatch, "step", lambda batch: [steps.append(1), step(batch)][1])
            with pytest.raises(StepProcessError, match=f"on {HELPER}: .* ended by SIGKILL"):
                store().get_or_build(request)
        assert store().lookup(request) is None and not helpers._HELPERS
    assert len(steps) == 1


@pytest.mark.slow
def test_a_step_that_fails_while_a_helper_loads_leaves_the_next_one_whole(
    score, alone, two, monkeypatch
):
    """As a study goes on with its next model; what a helper loads at the end of this process
    does not delay it."""
    helpers.close_helpers()

    @contextmanager
    def failing(*_):
        [helper] = helpers._HELPERS.values()
        assert helper.is_building()
        with pytest.raises(StepProcessError, match="has not ended its last part"):
            helper.start(score, print)
        raise ModelError("the adapter does not fit.")
        yield

    for fault in (ModelError, KeyboardInterrupt):
        with monkeypatch.context() as patch:
            if fault is ModelError:
                patch.setattr(inference, "recorded_model", failing)
            else:  # its own base is there first
                patch.setattr(Future, "result", interrupted)
            with pytest.raises(fault):
                store().get_or_build(score)
        assert not helpers._HELPERS
    details, content = built(score)
    assert details["processes"] == 2 and content == alone
    with monkeypatch.context() as patch:
        patch.setattr(several_devices, "_unlike", lambda _, __, load: f"{load.result()}")
        assert threads_without_helpers(score, patch) == os.cpu_count() + 5
    [helper] = helpers._HELPERS.values()
    future = helper.start(LoadBase(base=score.base, quantization=Quantization()), print)
    helpers.close_helpers()
    with pytest.raises(StepProcessError):
        future.result(timeout=20)


def interrupted(_):
    raise KeyboardInterrupt


def threads_without_helpers(score, patch):
    """Return the threads that this process computes with where no helper can be used."""
    patch.delenv("OMP_NUM_THREADS")
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() + 5)
    try:
        with recorded_model_with_helpers(score.base, (), score.quantization, 9) as (_, details, _):
            assert details["processes"] == 1
            return torch.get_num_threads()
    finally:
        torch.set_num_threads(threads)


def test_no_more_processes_than_batches(score, monkeypatch):
    helpers.close_helpers()
    monkeypatch.setenv(PROCESSES, "7")
    details, _ = built(score.model_copy(update={"batch_tokens": 100_000}))
    assert details["processes"] == 1 and not helpers._HELPERS


def test_a_device_that_another_process_uses_is_left_to_it(
    score, home, alone, two, monkeypatch, tmp_path, caplog
):
    helpers.close_helpers()
    name = lock_name(1, None)
    lock = locked(name)
    assert lock is not None
    details, content = built(score)
    assert details["processes"] == 1 and content == alone and not caplog.messages
    assert threads_without_helpers(score, monkeypatch) == os.cpu_count() + 5
    lock.close()
    lock = locked(name)
    assert lock is not None and os.fstat(lock.fileno()).st_mode & 0o777 == 0o644
    lock.close()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert built(score)[0]["processes"] == 1
    assert f"{name} is not used" in caplog.text and "set TMPDIR" in caplog.text


def test_a_gpu_has_one_lock_by_whatever_name_it_is_visible(monkeypatch):
    gpu = SimpleNamespace(uuid="a1b2")
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda number: gpu)
    assert lock_name(1, "1") == lock_name(2, "GPU-a1") == "GPU-a1b2"
    assert lock_name(1, "MIG-GPU-a1b2/1/0") == "MIG-GPU-a1b2-1-0"


def test_each_helper_sees_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert helpers.device_of(2) == ("GPU 2", {"CUDA_VISIBLE_DEVICES": "2"})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-ab, 7")
    assert helpers.device_of(1) == ("GPU GPU-ab", {"CUDA_VISIBLE_DEVICES": "GPU-ab"})
    assert helpers.device_of(2) == ("GPU 7", {"CUDA_VISIBLE_DEVICES": "7"})
