"""Rows that join and leave a running batch are completed as the panel completes them."""

import pytest
import torch
from peft import get_peft_model

from benchmarks.by_generate import generated_ids
from chatpipe.config.prompts import template
from chatpipe.config.schema import BaseModelRef, Generation, Lora, Quantization
from chatpipe.generation import capacity, row_groups, running_batch
from chatpipe.generation import rows as row_module
from chatpipe.generation.batch import iter_written_ids, written_ids
from chatpipe.generation.row_request import RowRequest
from chatpipe.generation.running_batch import RunningBatch
from chatpipe.generation.slot_cache import SPARE_COLUMNS
from chatpipe.kernels.switch import VARIABLE
from chatpipe.models import inference, loading
from chatpipe.models.lora import lora_config
from chatpipe.sources.fetch import FetchModel
from chatpipe.store.store import store
from chatpipe.study.loading import load_variant
from chatpipe.tokenization.conversation import Conversation
from chatpipe.tokenization.encoder import Encoder
from tests.support.adapters import RandomAdapter
from tests.support.architectures import ALL, random_model

EOS = 1
EXACT = Quantization(method="none", compute_dtype="float32")


def request(number, ids, adapter=None, stops=(EOS,), top=None, **settings):
    generation = Generation(**{"max_new_tokens": 12, **settings})
    return RowRequest(number, ids, adapter, frozenset(stops), generation, top)


def expected(model, row):
    """The new tokens of that row alone by transformers' `generate`, and how it ends."""
    ids = generated_ids(model, row.ids, row.adapter, sorted(row.stops), row.generation)
    return ids, "eos" if ids[-1] in row.stops else "length"


def run(running, waiting, at_once=2):
    """Every row's tokens and end; `at_once` rows join before every other step."""
    waiting = list(waiting)
    tokens, ends, steps = {}, {}, 0
    while waiting or len(running):
        if steps % 2 == 0 and waiting:
            running.join(waiting[:at_once])
            waiting = waiting[at_once:]
        for new in running.step():
            assert new.row not in ends
            tokens.setdefault(new.row, []).append(new.token)
            if new.end:
                ends[new.row] = new.end
        steps += 1
    return {row: (tokens[row], ends[row]) for row in tokens}


@pytest.fixture
def base(chatpipe_home, tiny_model_dir):
    return store().get_or_build(FetchModel.of(BaseModelRef(repo=str(tiny_model_dir))))


@pytest.fixture
def mixed(base):
    """A model with two adapters, of two ranks and other layers, and their names."""
    few = Lora(rank=2, alpha=6, target_modules=("q_proj", "down_proj"))
    shapes = ({"seed": 1}, {"seed": 2, "lora": few})
    adapters = [store().get_or_build(RandomAdapter(base=base, **shape)) for shape in shapes]
    paths = [adapter.path for adapter in adapters]
    with inference.cached_model(base.path, paths, EXACT) as model:
        yield model, [None, *(adapter.key for adapter in adapters)]


def prompts(count, seed=0):
    """Prompts of 1 to 60 tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 60, (count,), generator=generator).tolist()
    return [[0, *torch.randint(2, 300, (n - 1,), generator=generator).tolist()] for n in lengths]


def greedy(model, row):
    """As expected, by whole forward passes without any cache."""
    ids = list(row.ids)
    while len(ids) < row.most_tokens and (ids[-1] != EOS or len(ids) == len(row.ids)):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(row.ids) :], "eos" if ids[-1] == EOS else "length"


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_every_architecture_is_completed_as_by_whole_forward_passes(name):
    model = random_model(name)
    lengths = (5, 5, 3, 17, 1, 8)  # the first two, which join together, are one batch of `generate`
    rows = [
        request(
            number,
            [(7 * number + 3 * place) % 300 + 2 for place in range(length)],
            max_new_tokens=(4, 12)[number % 2],
        )
        for number, length in enumerate(lengths)
    ]
    # CPM-Ant's passes with a cache, which `generate` makes, are other than its whole ones.
    alone = expected if name == "CPM-Ant" else greedy
    assert run(RunningBatch(model), rows) == {row.id: alone(model, row) for row in rows}


def test_rows_of_several_adapters_with_settings_of_their_own(mixed):
    model, adapters = mixed
    settings = (
        {},
        {"temperature": 1.0, "seed": 3},
        {"temperature": 0.7, "top_p": 0.8, "max_new_tokens": 30},
        {"max_new_tokens": 1},
        {"stops": tuple(range(1, 160))},  # about half of all tokens end it
        {"max_new_tokens": SPARE_COLUMNS + 20},
    )
    rows = [
        request(number, ids, adapters[number % 3], **settings[number % len(settings)])
        for number, ids in enumerate(prompts(24))
    ]
    alone = {row.id: expected(model, row) for row in rows}
    assert {end for _, end in alone.values()} == {"eos", "length"}
    assert run(RunningBatch(model), rows) == alone
    assert run(RunningBatch(model), rows, at_once=24) == alone


def test_adapters_that_cannot_be_mixed_have_groups_of_their_own(mixed, monkeypatch):
    model, adapters = mixed
    rows = [request(n, ids, adapters[n % 3]) for n, ids in enumerate(prompts(6))]
    alone = {row.id: expected(model, row) for row in rows}
    for name in ("mixes_adapters", "reads_packed"):
        monkeypatch.setattr(capacity, name, lambda model: False)
        monkeypatch.setattr(running_batch, "reads_packed", capacity.reads_packed)
        assert run(RunningBatch(model), rows) == alone


def test_a_row_that_leaves_frees_its_place_and_disturbs_no_other(mixed):
    model, adapters = mixed
    rows = [request(n, ids, adapters[n % 3]) for n, ids in enumerate(prompts(6, seed=1))]
    longest = rows[3] = request(3, [0, *range(2, 90)], adapters[0])
    running = RunningBatch(model, most_rows=6)
    running.join(rows)
    [group] = running._groups.values()
    assert not running.has_room(request("more", [0]))
    running.step()
    widths = [group.cache.width]
    running.leave([longest.id, "unknown"])
    assert running.has_room(request("more", [0])) and len(running) == 5
    widths.append(group.cache.width)
    assert widths[0] > widths[1], "padding of a row that has left is still computed"
    rest = {}
    while len(running):
        for new in running.step():
            rest.setdefault(new.row, []).append(new.token)
    others = [row for row in rows if row is not longest]
    assert rest == {row.id: expected(model, row)[0][1:] for row in others}
    assert not running._groups


def test_rows_of_one_token_join_and_leave_before_they_have_keys(mixed):
    """The first one takes the slot of a row that leaves, without ever having had one."""
    model, adapters = mixed
    rows = [request(0, [0, 5, 9]), *(request(n, [n + 4], adapters[n % 3]) for n in (1, 2))]
    running = RunningBatch(model)
    running.join(rows[:1])
    running.step()
    running.join(rows[1:])
    running.leave([0])
    assert run(running, []) == {row.id: expected(model, row) for row in rows[1:]}


def test_a_batch_that_never_empties_does_not_grow(mixed):
    model, adapters = mixed
    running, columns = RunningBatch(model), []
    rows = [request(n, ids, adapters[n % 3]) for n, ids in enumerate(prompts(40))]
    for row in rows:
        running.join([row])
        for _ in range(5):
            running.step()
        [group] = running._groups.values()
        columns.append(group.cache.layers[0]._buffers[0].shape[2])
    assert max(columns) <= 60 + 12 + 2 * SPARE_COLUMNS


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.9, "top_p": 0.9}])
@pytest.mark.parametrize("kernels", ["auto", "off"])
def test_questions_are_answered_as_others_end(mixed, monkeypatch, settings, kernels):
    """24 questions where 8 have room: by one batch, with each answer as `generate` alone has it."""
    model, adapters = mixed
    monkeypatch.setenv(VARIABLE, kernels)
    monkeypatch.setattr(running_batch, "room_tokens", lambda model: 8 * 90)
    settings = {
        "max_new_tokens": 30,
        "stops": range(1, 40),
        **settings,
    }  # they end at once or later
    rows = [request(n, ids, adapters[n % 3], **settings) for n, ids in enumerate(prompts(24))]
    sizes, join = [], RunningBatch.join

    def counted(batch, requests):
        join(batch, requests)
        sizes.append(len(batch))

    monkeypatch.setattr(RunningBatch, "join", counted)
    answers = list(iter_written_ids(model, rows))
    alone = [expected(model, row)[0] for row in rows]
    assert dict(answers) == dict(enumerate(alone))
    assert len({len(ids) for ids in alone}) > 5
    if kernels == "auto":
        assert [index for index, _ in answers] != list(range(24)), "none waits for those before"
        assert 8 <= max(sizes) < 24 and len(sizes) > 3


def test_an_answer_ends_where_its_caller_says_and_a_closed_iterator_leaves_the_model(mixed):
    model, adapters = mixed
    rows = [request(n, [0, 5, 9 + n], adapters[n % 3]) for n in range(6)]
    whole = written_ids(model, rows)

    def has_ended(ids):
        return len(ids) > 2 and sum(ids) % 3 == 0

    cut = written_ids(model, rows, has_ended)
    for ids, answer in zip(whole, cut, strict=True):
        ends = [n for n in range(1, len(ids) + 1) if has_ended(ids[:n])]
        assert answer == ids[: min(ends, default=len(ids))]
    assert cut != whole
    answers = iter_written_ids(model, rows, has_ended)
    next(answers)
    answers.close()
    assert not any("forward" in vars(layer) for layer in model.modules())
    assert written_ids(model, []) == []


def sampled_and_greedy(adapters):
    settings = ({}, {"temperature": 1.0, "seed": 3}, {"max_new_tokens": 30})
    return [
        request(n, ids, adapters[n % 3], top=2, **settings[n % 2 + n % 3 // 2])
        for n, ids in enumerate(prompts(8))
    ]


@pytest.fixture
def memory_ends(monkeypatch):
    """Has memory end in calls of that function for which `is_lacking` is true."""

    def plant(owner, name, is_lacking):
        original = getattr(owner, name)

        def lacking(*args):
            if is_lacking(*args):
                raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")
            return original(*args)

        monkeypatch.setattr(owner, name, lacking)

    return plant


@pytest.mark.parametrize(
    ("packed", "mixes", "place"),
    [
        (True, True, "next_tokens"),
        (True, False, "next_tokens"),
        (False, False, "next_tokens"),
        (True, True, "read_prompts"),
    ],
)
def test_where_memory_ends_the_newest_rows_wait_and_lose_no_token(
    mixed, monkeypatch, memory_ends, packed, mixes, place
):
    """There is memory for two rows: in the choice of tokens, after the model's pass; or in what
    reads the texts of those that go on. All are written as if they were alone."""
    model, adapters = mixed
    monkeypatch.setattr(capacity, "mixes_adapters", lambda model: mixes)
    monkeypatch.setattr(running_batch, "reads_packed", lambda model: packed)
    monkeypatch.setattr(capacity, "reads_packed", lambda model: packed)
    rows = sampled_and_greedy(adapters)
    alone = {row.id: expected(model, row) for row in rows}
    batch = RunningBatch(model)

    def are_too_many(*_):
        return len(batch) - len(batch.paused()) > (5 if place == "read_prompts" else 2)

    memory_ends(row_groups, "next_tokens", are_too_many)
    if place == "read_prompts":
        memory_ends(row_groups, place, lambda _, prompts, *__: batch.paused() and len(prompts) > 1)
    assert run(batch, rows, at_once=8) == alone
    assert batch.most_rows <= 2 and len(batch) == 0


def test_a_token_is_taken_with_its_likelihood_or_not_at_all(mixed, memory_ends):
    model, adapters = mixed
    rows = sampled_and_greedy(adapters)
    alone = {row.id: expected(model, row) for row in rows}
    numbers = iter(range(1 << 20))
    memory_ends(row_module, "likelihood", lambda *_: next(numbers) in (3, 20, 41))
    batch = RunningBatch(model)
    assert run(batch, rows, at_once=8) == alone
    assert batch.most_rows == 1


def test_a_single_row_without_memory_is_an_error_and_the_others_go_on(mixed, memory_ends):
    model, adapters = mixed
    rows = sampled_and_greedy(adapters)
    alone = {row.id: expected(model, row) for row in rows}
    batch = RunningBatch(model)
    memory_ends(
        row_groups.PaddedGroup,
        "logits",
        lambda group, _: 0 in [row.request.id for row in group.rows],
    )
    batch.join(rows)
    with pytest.raises(RuntimeError, match="ALLOC_FAILED"):
        while True:
            assert batch.step() == []
    batch.drop_computed()
    del alone[0]
    assert run(batch, []) == alone


def test_likelihoods_are_the_model_s_own(mixed):
    model, _ = mixed
    running = RunningBatch(model)
    running.join([request("a", [0, 5, 9], top=3, temperature=2.0)])
    [new] = running.step()
    running.release()
    ids = torch.tensor([[0, 5, 9]])
    adapted = model(ids).logits[0, -1].log_softmax(-1)
    with model.disable_adapter():
        logprobs = model(ids).logits[0, -1].log_softmax(-1)
    assert not torch.allclose(adapted, logprobs)
    assert new.likelihood.logprob == pytest.approx(float(logprobs[new.token]), abs=1e-4)
    top = logprobs.topk(3)
    assert [token for token, _ in new.likelihood.top] == top.indices.tolist()
    assert [value for _, value in new.likelihood.top] == pytest.approx(
        top.values.tolist(), abs=1e-4
    )


def test_what_cannot_join_changes_nothing(mixed):
    model, _ = mixed
    running = RunningBatch(model)
    running.join([request("a", [0, 5])])
    with pytest.raises(ValueError, match="no adapter other"):
        running.join([request("b", [0, 5], "other")])
    with pytest.raises(ValueError, match="in the batch already"):
        running.join([request("a", [0, 5])])
    assert len(running) == 1 and len(running.step()) == 1


def test_rows_of_several_groups_join_all_or_none(mixed, monkeypatch):
    """The prompt of the second group cannot be read: the embedding lacks a token of it."""
    model, adapters = mixed
    monkeypatch.setattr(capacity, "mixes_adapters", lambda model: False)
    running = RunningBatch(model)
    rows = [request(n, ids, adapters[n % 3]) for n, ids in enumerate(prompts(3))]
    running.join(rows[:1])
    for _ in range(2):
        with pytest.raises(IndexError):
            running.join([rows[1], request(2, [1 << 20, 5], adapters[2])])
        assert len(running) == 1
    assert run(running, rows[1:]) == {row.id: expected(model, row) for row in rows}


@pytest.mark.slow
def test_the_embedded_base_and_an_adapter_answer_as_the_panel_does(chatpipe_home):
    """SmolLM2-135M in NF4, computed in float32: in bfloat16 rounding decides near ties."""
    base = store().get_or_build(FetchModel.of(load_variant("smol-merge").base_model))
    model = get_peft_model(
        loading.load_fast_base(base.path, Quantization()), lora_config(Lora())
    ).eval()
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.01)
    encoder = Encoder(loading.load_tokenizer(base.path), template("alpaca"), "all", 1 << 20)
    stops = encoder.renderer.stops
    asked = ["Name three colours.", "What is the capital of France?"]
    ids = encoder.prompt_ids([Conversation(text) for text in asked])
    rows = [
        request(n, ids[n // 2], (None, "default")[n % 2], stops, max_new_tokens=8) for n in range(4)
    ]
    together = written_ids(model, rows)
    new_ids = run(RunningBatch(model), rows)
    assert together == [new_ids[n][0] for n in range(4)]
    assert together == [expected(model, row)[0] for row in rows]
