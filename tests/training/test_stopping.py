"""Trainings that are asked to end, or are killed: nothing is lost, nothing is left running."""

import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest
from safetensors.torch import load_file

from chatpipe.store.store import store
from chatpipe.training.together import FinetuneTogether
from tests.support.requests import finetune_request

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the signal"),
]
SAVING = "saving a checkpoint"
BOUND = 1e-4  # relative: sums of a pass for all may be rounded in another order

# A process that has an adapter trained by a worker, as a flow's task does.
TRAINS = """
import signal, sys
from safetensors.torch import load_file

from chatpipe.store.store import store
from chatpipe.training.together import FinetuneTogether
from chatpipe.runtime.worker import SharedWorker
from chatpipe.errors import ChatpipeError
from chatpipe.training.finetune import Finetune
from chatpipe.training.together import FinetuneTogether
signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
request, *others = map(Finetune.model_validate_json, sys.argv[1:])
together = FinetuneTogether.of(request, others)
build = SharedWorker().build
try:
    store().get_or_build(request, lambda into: build(together, into, print, lambda line: None))
except ChatpipeError as error:
    print(error, file=sys.stderr)
    sys.exit(1)
"""


STEPS = 120


def request_for(home, model, **training):
    """Without a checkpoint before its end: each that is there was asked for."""
    settings = {"epochs": STEPS / 5, "learning_rate": 1e-4, "save_steps": 1000, **training}
    request = finetune_request(home, model, 20, **settings)
    return request.model_copy(update={"lora": request.lora.model_copy(update={"dropout": 0.1})})


@pytest.fixture
def request_(chatpipe_home, tiny_model_dir):
    return request_for(chatpipe_home, tiny_model_dir)


@pytest.fixture(scope="module")
def digest(tmp_path_factory, tiny_model_dir):
    """That of the uninterrupted training; when checkpoints are saved does not change it."""
    home = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHATPIPE_HOME", str(home))
        return finished(request_for(home, tiny_model_dir))


def start(*requests):
    """The process, leader of a group of its own, as a shell starts a command; several trainings
    share their passes."""
    return subprocess.Popen(
        [sys.executable, "-c", TRAINS, *(request.model_dump_json() for request in requests)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until_training(process):
    """Until the first line of progress."""
    assert any(line.startswith("done=") for line in process.stdout)


def steps_saved(request):
    work = store().work_path(request.kind, request.key())
    return [
        int(p.parent.name.rpartition("-")[2]) for p in work.glob("checkpoint-*/checkpoint.json")
    ]


def finished(request):
    """The digest of the adapter, whose training is brought to its end: in this process, which is
    another one than any that was ended."""
    return store().get_or_build(request).digest


@pytest.mark.parametrize(
    ("signal_number", "to_group"),
    [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGINT, False)],
)
def test_a_training_that_is_asked_to_end_saves_its_step_and_goes_on_to_the_same_bytes(
    request_, digest, signal_number, to_group
):
    """To the group: Ctrl-C in a terminal, and Prefect's worker for a run that is cancelled."""
    process = start(request_)
    wait_until_training(process)
    (os.killpg if to_group else os.kill)(process.pid, signal_number)
    _, error = process.communicate(timeout=60)
    hint = "; press Ctrl-C again to stop at once" if signal_number == signal.SIGINT else ""
    assert f"saving a checkpoint{hint}\n" in error and error.count("saving") == 1
    [step] = steps_saved(request_)
    assert 0 < step < STEPS
    assert finished(request_) == digest
    assert store().find(request_.kind, request_.key()).details()["resumed"]


def test_a_training_process_that_is_ended_alone_says_so_in_a_sentence(request_):
    process = start(request_)
    wait_until_training(process)
    [worker] = psutil.Process(process.pid).children()
    worker.terminate()
    _, error = process.communicate(timeout=60)
    [step] = steps_saved(request_)
    assert f"stopped after step {step} of {STEPS}, with a checkpoint; run the same" in error
    assert process.returncode == 1


def test_a_second_interrupt_ends_a_training_at_once(request_, tiny_model_dir):
    """While a step is computed that lasts."""
    process = start(request_)
    wait_until_training(process)
    [worker] = psutil.Process(process.pid).children()
    worker.suspend()  # a step that does not end
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)  # a checkpoint would be waited for longer
    _, alive = psutil.wait_procs([worker], timeout=30)
    assert not alive
    assert not steps_saved(request_)


@pytest.mark.parametrize("target", ["worker", "parent", "group"])
def test_a_training_killed_at_any_moment_goes_on_to_the_same_bytes(
    chatpipe_home, tiny_model_dir, digest, target
):
    draw = random.Random(target)
    # save_steps is a part of the key, not of what comes out
    request = request_for(chatpipe_home, tiny_model_dir, save_steps=draw.randint(3, 30))
    process = start(request)
    if draw.random() < 0.8:
        wait_until_training(process)
    time.sleep(draw.uniform(0.0, 1.5))
    workers = psutil.Process(process.pid).children() if process.poll() is None else []
    kill(process, workers, target)
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    assert finished(request) == digest
    work = store().work_path(request.kind, request.key())
    assert not work.exists() or not list(work.iterdir())


def kill(process, workers, target):
    if target == "group":
        os.killpg(process.pid, signal.SIGKILL)
    elif target == "parent":
        process.kill()
    else:
        for worker in workers:
            worker.kill()


def together(home, model, save_steps=1000):
    """Two trainings of as many steps, and a short one between them."""
    settings = [{}, {"seed": 1, "epochs": 0.2}, {"seed": 2}]
    requests = [request_for(home, model, save_steps=save_steps, **one) for one in settings]
    return [request.model_copy(update={"train_together": 3}) for request in requests]


def weights(request):
    path = store().find(request.kind, request.key()).path
    return load_file(path / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def each_alone(tmp_path_factory, tiny_model_dir):
    home = tmp_path_factory.mktemp("each-alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHATPIPE_HOME", str(home))
        requests = together(home, tiny_model_dir)
        return [(finished(request), weights(request))[1] for request in requests]


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_trainings_that_share_passes_are_ended_together_and_each_goes_on(
    chatpipe_home, tiny_model_dir, each_alone, signal_number
):
    """The short one is done before, and stays; nothing of the others is taken for whole."""
    is_killed = signal_number == signal.SIGKILL
    requests = together(chatpipe_home, tiny_model_dir, 7 if is_killed else 1000)
    first, short, last = requests
    process = start(*requests)
    wait_until_training(process)
    while store().find(short.kind, short.key()) is None:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    os.killpg(process.pid, signal_number)
    _, error = process.communicate(timeout=60)
    assert is_killed or error.count("saving a checkpoint") == 1
    assert [store().find(one.kind, one.key()) is None for one in requests] == [True, False, True]
    steps = [steps_saved(first), steps_saved(last)]
    assert not steps_saved(short)
    for saved in steps:
        assert (
            len(saved) in ((1, 2) if is_killed else (1,)) and 0 < min(saved) <= max(saved) < STEPS
        )

    store().get_or_build(first, FinetuneTogether.of(first, [last]).build)
    for request, alone, saved in zip([first, last], each_alone[::2], steps, strict=True):
        resumed = store().find(request.kind, request.key()).details()["resumed_from"]
        assert resumed["step"] == max(saved)
        for name, weight in weights(request).items():
            assert (weight - alone[name]).abs().max() <= BOUND * alone[name].abs().max(), name
    assert not list((chatpipe_home / "store" / ".work").glob("*/*"))
