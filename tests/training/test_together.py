"""Trainings that share the passes through their base, against each of them alone: float32, tiny."""

import pytest
import torch
from safetensors.torch import load_file

from chatpipe.config.schema import Lora, Quantization
from chatpipe.errors import DataError, TrainingError
from chatpipe.models import placement
from chatpipe.models.memory import Device
from chatpipe.models.passes import own_pass
from chatpipe.models.placement import fit
from chatpipe.store.store import store
from chatpipe.training import finetune, joint_step, together
from chatpipe.training.together import FinetuneTogether
from tests.support.requests import finetune_request

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("home")]
BOUND = 1e-4  # relative: sums of a pass for all may be rounded in another order
FAULTY_SEED = 7


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("together")
        patch.setenv("CHATPIPE_HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def request_for(home, tiny_model_dir):
    def request_for(rows=24, dropout=0.1, rank=4, **training):
        settings = {"epochs": 1, "micro_batch_tokens": 1500, "save_steps": 3, **training}
        request = finetune_request(home, tiny_model_dir, rows, **settings)
        lora = Lora(rank=rank, alpha=8, dropout=dropout)
        return request.model_copy(update={"lora": lora, "train_together": 8})

    return request_for


@pytest.fixture(scope="module")
def three(request_for):
    """Another rate and more rows, so more steps; another seed; and another rank and batch."""
    return [
        request_for(32, learning_rate=0.01, schedule="linear", epochs=2),
        request_for(seed=1),
        request_for(rank=8, dropout=0.0, global_batch_size=2),
    ]


@pytest.fixture(scope="module")
def expected(three):
    """What each training alone makes."""
    return [trained_alone(request) for request in three]


@pytest.fixture(autouse=True)
def nothing_is_stored():
    yield
    for path in list(store().all("adapter")):
        store().forget(path)
    store().remove_work()


def trained_alone(request):
    store().get_or_build(request)
    trained = content(request)
    store().forget(found(request).path)
    return trained


def build_together(requests):
    first, *others = requests
    build = FinetuneTogether.of(first, others)
    assert len(build.others) == len(others)
    return store().get_or_build(first, build.build)


def found(request):
    return store().find(request.kind, request.key())


def content(request):
    adapter = found(request)
    return load_file(adapter.path / "adapter_model.safetensors"), adapter.details()


def losses(details):
    return [point["loss"] for point in details["loss_history"]]


def assert_alike(request, alone):
    weights, details = content(request)
    weights_alone, details_alone = alone
    assert weights.keys() == weights_alone.keys()
    for name, weight in weights_alone.items():
        assert (weights[name] - weight).abs().max() <= BOUND * weight.abs().max(), name
    assert losses(details) == pytest.approx(losses(details_alone), rel=BOUND)
    for figure in ("rows_trained", "trained_tokens", "optimizer_steps"):
        assert details[figure] == details_alone[figure], figure


@pytest.fixture
def passes(monkeypatch):
    """How many trainings were in each pass."""
    counts = []
    nats_of_each = joint_step.nats_of_each

    def counted(model, packs):
        counts.append(len(packs))
        return nats_of_each(model, packs)

    monkeypatch.setattr(joint_step, "nats_of_each", counted)
    return counts


def test_passes_that_auto_chooses_for_several_have_the_room_that_is_left(three, monkeypatch):
    """All rows of a step of each, beside all adapters and their optimizers' states."""
    large = Device(kind="cuda", name="a GPU", compute_bytes=2, free_bytes=80 * 2**30)
    auto = [with_auto_passes(request) for request in three]
    rows = [together._step_rows(request) for request in auto]
    longest = max(one.longest for one in rows)
    monkeypatch.setattr(placement, "this_device", lambda _: large)
    batch = together._largest_pass(auto)
    assert batch.adapters == 3 and batch.checkpoint_every == 0
    assert batch.tokens == longest * sum(one.training.global_batch_size for one in auto)
    assert own_pass(batch, rows[1]).tokens == rows[1].longest * auto[1].training.global_batch_size

    shapes = placement.known_shapes(auto[0].base.path, auto[0].lora)
    needed = fit(shapes, auto[0], batch, large).total
    assert together._most(auto[0]) == 8
    little = large.model_copy(update={"free_bytes": round(needed)})  # a margin is kept
    monkeypatch.setattr(placement, "this_device", lambda _: little)
    assert together._largest_pass(auto).tokens < batch.tokens


def with_auto_passes(request):
    training = request.training.model_copy(update={"micro_batch_tokens": "auto"})
    return request.model_copy(update={"training": training})


def test_each_adapter_is_the_one_that_its_training_alone_gives(three, expected, passes):
    """With dropout, too: each draws its own numbers."""
    assert together._most(three[0].model_copy(update={"train_together": "auto"})) == 1  # on a CPU
    build_together(three)
    assert max(passes) == 3 and passes[-1] == 1  # the others have ended
    for request, alone in zip(three, expected, strict=True):
        assert_alike(request, alone)
        details = found(request).details()
        assert details["trained_together"] == 3 and "trained_together" not in alone[1]


def test_trainings_with_several_packs_are_computed_in_threads_as_alone(request_for, passes):
    requests = [request_for(seed=seed, global_batch_size=8) for seed in (0, 1)]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        alone = [trained_alone(request) for request in requests]
        build_together(requests)
    finally:
        torch.set_num_threads(threads)
    for request, one in zip(requests, alone, strict=True):
        assert "concurrency" in one[1]["kernels"]
        assert_alike(request, one)


def test_one_that_fails_leaves_the_others_and_has_its_own_error(
    three, expected, request_for, monkeypatch
):
    """No row is short enough for one, and the weights of another are not finite."""
    put_on = finetune.with_new_adapter

    def with_fault(model, request, checkpoint_every):
        adapted = put_on(model, request, checkpoint_every)
        if request.training.seed == FAULTY_SEED:
            weight = next(p for p in adapted.parameters() if p.requires_grad)
            weight.data[0, 0] = torch.nan
        return adapted

    monkeypatch.setattr(finetune, "with_new_adapter", with_fault)
    too_long, not_finite = request_for(max_length=16), request_for(seed=FAULTY_SEED)
    with pytest.raises(DataError, match="none of"):
        build_together([too_long, not_finite, *three[1:]])
    assert found(too_long) is None and found(not_finite) is None
    for request, alone in zip(three[1:], expected[1:], strict=True):
        assert_alike(request, alone)
    with pytest.raises(TrainingError, match="the loss became nan at step 1"):
        store().get_or_build(not_finite, FinetuneTogether.of(not_finite, three).build)


def test_each_goes_on_from_its_own_checkpoint(three, expected, monkeypatch):
    """The process ends in the middle of a step, as if it was killed."""
    losses_of = joint_step.JointStep.losses
    steps = iter(range(5))

    def killed(joint, turns):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return losses_of(joint, turns)

    with monkeypatch.context() as patch:
        patch.setattr(joint_step.JointStep, "losses", killed)
        with pytest.raises(KeyboardInterrupt):
            build_together(three)
    assert [found(request) is None for request in three] == [True, False, True]
    build_together([three[0], three[2]])
    for request, alone in zip(three, expected, strict=True):
        assert_alike(request, alone)
    assert found(three[0]).details()["resumed_from"]["step"] == 3


def test_where_they_cannot_share_a_pass_each_is_trained_alone(three, passes, monkeypatch, caplog):
    request = three[1].model_copy(update={"quantization": Quantization(compute_dtype="float16")})
    other = request.model_copy(update={"training": three[2].training})
    monkeypatch.setattr(together, "_most", lambda _: 2)
    build_together([request, other])
    assert "float16 needs a scaler" in caplog.text and not passes
    assert found(request) and not found(other)
