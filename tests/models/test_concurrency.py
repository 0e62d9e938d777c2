"""Packs side by side: what comes out is what comes out of one after another."""

import threading
import time

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    TrainingArguments,
)

from chatpipe.config.schema import Lora, Quantization
from chatpipe.evaluation.row_nats import MOST_READ, row_nats
from chatpipe.models import concurrency
from chatpipe.models.concurrency import max_threads, run_in_threads, thread_count
from chatpipe.models.loading import load_base
from chatpipe.models.lora import with_adapter
from chatpipe.packing import batching
from chatpipe.packing.packing import pack, packs
from chatpipe.tokenization.encoder import IGNORED, TokenizedRow
from chatpipe.training import trainer
from chatpipe.training.trainer import (
    AdapterTrainer,
    BatchCollator,
    batch_training,
    max_training_threads,
)


def rows_of(*lengths, seed=0):
    """Rows that begin with the same four tokens; half of each is scored."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for index, length in enumerate(lengths):
        ids = [5, 6, 7, 8, *torch.randint(9, 64, (length - 4,), generator=generator).tolist()]
        made.append(TokenizedRow(ids, [IGNORED] * (length // 2) + ids[length // 2 :], index))
    return made


ROWS = rows_of(*(9 + 7 * n % 29 for n in range(24)))


def small(**settings):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=64, **shape, num_attention_heads=4, **settings)
    return LlamaForCausalLM(config).eval()


def mixture():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    config = MixtralConfig(vocab_size=64, **shape, **heads, num_local_experts=4)
    return MixtralForCausalLM(config).eval()


@pytest.fixture
def short_threads(monkeypatch):
    """Threads for rows as short as those here, as on two cores; how many threads were used, call by
    call."""
    used = []

    def noted(function, items, threads):
        used.append(threads)
        return run_in_threads(function, items, threads)

    monkeypatch.setattr(concurrency, "MIN_TOKENS_PER_THREAD", 16)
    monkeypatch.setattr(concurrency, "run_in_threads", noted)
    monkeypatch.setattr(trainer, "run_in_threads", noted)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield used
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_items_though_computed_at_once():
    everyone = threading.Barrier(3, timeout=60)
    first_is_last = threading.Event()

    def third_first(number):
        everyone.wait()  # breaks unless three are under way together
        if number == 2:
            first_is_last.set()
        assert number != 0 or first_is_last.wait(60)
        return number

    assert list(run_in_threads(third_first, range(3), threads=3)) == [0, 1, 2]


def test_each_thread_has_its_share_of_the_cores_and_the_process_has_all_of_them_again():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        shares = list(run_in_threads(lambda _: torch.get_num_threads(), range(2), threads=2))
        assert shares == [2, 2] and torch.get_num_threads() == 4
        thread = []
        new = threading.Thread(target=lambda: thread.append(torch.get_num_threads()))
        new.start()
        new.join()
        assert thread == [4]
    finally:
        torch.set_num_threads(before)


def test_after_an_error_nothing_else_is_begun():
    begun = []

    def first_fails(number):
        begun.append(number)
        if number == 0:
            raise RuntimeError("out of memory")
        time.sleep(0.05)

    with pytest.raises(RuntimeError, match="out of memory"):
        list(run_in_threads(first_fails, range(1000), threads=2))
    assert len(begun) <= 4


def test_no_more_results_wait_than_there_are_lanes_and_one():
    taken, made = [], []
    for result in run_in_threads(lambda n: made.append(n) or n, range(20), threads=2):
        assert len(made) <= len(taken) + 4
        taken.append(result)
    assert taken == list(range(20))


@pytest.mark.parametrize(
    ("lengths", "max_tokens", "most", "expected"),
    [
        ([100] * 16, 2048, 2, 2),
        ([100] * 16, 2048, 64, 4),  # of 256 tokens: 6, of which 4 share 64 cores evenly
        ([100] * 16, 256, 2, 1),  # no more at once than is allowed
        ([100] * 3, 2048, 2, 1),  # too little for two
        ([100] * 16 + [1500], 2048, 2, 1),  # two rows as long would be too many tokens at once
        ([4000], 2048, 2, 1),
    ],
)
def test_lanes_are_as_many_as_the_tokens_fill(lengths, max_tokens, most, expected):
    assert thread_count(rows_of(*lengths), max_tokens, most) == expected


@pytest.mark.parametrize("count", [2, 3])
def test_lanes_get_as_many_packs_with_as_much_to_compute(count):
    rows = rows_of(*(20 + 13 * n % 61 for n in range(200)))
    groups = packs(rows, 500, count)
    assert sorted(row.index for group in groups for row in group) == list(range(200))
    assert len(groups) % count == 0 and len(groups) < len(packs(rows, 500)) + count
    assert max(sum(len(row.input_ids) for row in group) for group in groups) <= 500
    computed = [pack(group)["input_ids"].numel() for group in groups]
    assert max(computed) - min(computed) <= 80  # the longest row


def test_fewer_rows_than_lanes_are_a_pack_each():
    assert [len(group) for group in packs(rows_of(9, 12), 500, 4)] == [1, 1]


@pytest.mark.parametrize(
    "settings",
    [
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}},
        {
            "rope_parameters": {
                "rope_type": "longrope",
                "factor": 2.0,
                "rope_theta": 10000.0,
                "short_factor": [1.0] * 4,
                "long_factor": [2.0] * 4,
                "original_max_position_embeddings": 64,
            }
        },
    ],
)
def test_a_model_that_changes_as_it_reads_has_one_thread(settings, short_threads):
    assert max_threads(small(**settings)) == 1
    assert max_threads(small()) == 2


def test_a_quantized_model_has_one_thread(tiny_model_dir, short_threads):
    assert max_threads(load_base(tiny_model_dir, Quantization())) == 1


def test_training_has_one_thread_where_noise_or_gradients_are_shared(short_threads):
    model = with_adapter(small(), Lora(rank=2))
    assert max_training_threads(model) == 2 and max_training_threads(model, processes=2) == 1
    assert max_training_threads(with_adapter(small().half(), Lora(rank=2))) == 1
    checkpointed = small()
    checkpointed.gradient_checkpointing_enable({"use_reentrant": False})
    assert max_training_threads(with_adapter(checkpointed, Lora(rank=2))) == 1


@pytest.mark.parametrize("name", ["attention_dropout", "resid_pdrop", "router_jitter_noise"])
def test_a_base_with_noise_of_its_own_has_one_thread_in_training(short_threads, name):
    noisy = small(**{name: 0.1})
    assert max_training_threads(with_adapter(noisy, Lora(rank=2))) == 1
    assert max_threads(noisy) == 2


def test_all_lanes_together_hold_no_more_tokens_than_one_may(short_threads):
    step = BatchCollator(96, 2)([[row] for row in ROWS])
    assert step["threads"] == 2
    assert all(2 * sum(packed["layout"]["spans"]) <= 96 for packed in step["batches"])


def packs_made(monkeypatch):
    """The packs that scoring makes, in several threads at once."""
    made = []

    def noted(rows):
        packed = pack(rows)
        made.append(packed)
        return packed

    monkeypatch.setattr(batching, "PACKED", batching.PACKED._replace(collate=noted))
    return made


def test_rows_score_the_same(short_threads, monkeypatch):
    made = packs_made(monkeypatch)
    model = small()
    at_once = row_nats(model, ROWS, 128)
    assert short_threads == [2] and max(packed["input_ids"].numel() for packed in made) <= 64
    monkeypatch.setattr(concurrency, "max_threads", lambda _: 1)
    assert at_once == pytest.approx(row_nats(model, ROWS, 128), rel=1e-5)


def test_what_scored_rows_share_may_be_read_a_few_times(monkeypatch):
    made = packs_made(monkeypatch)
    ids = [[*range(3, 23), n, n] for n in range(30, 60)]
    row_nats(small(), [TokenizedRow(row, row, 0) for row in ids], 64)
    assert max(packed["input_ids"].numel() for packed in made) <= 64
    read = [sum(packed["layout"]["spans"]) for packed in made]
    assert 2 * 64 < max(read) <= MOST_READ * 64


def adapted_mixture():
    """LoRA on the experts' bare parameters too, with weights that change what it computes."""
    model = with_adapter(mixture(), Lora(rank=2, dropout=0.0))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight.data, std=0.1)
    return model.eval()


def test_a_mixture_whose_experts_are_adapted_scores_the_same_every_time(short_threads):
    """peft changes a layer that has bare parameters in every pass, for all threads."""
    model = adapted_mixture()
    with torch.no_grad():
        logits = [model(torch.tensor([row.input_ids])).logits[0, :-1] for row in ROWS]
    expected = [
        torch.nn.functional.cross_entropy(
            row_logits, torch.tensor(row.labels[1:]), ignore_index=IGNORED, reduction="sum"
        ).item()
        for row, row_logits in zip(ROWS, logits, strict=True)
    ]
    for _ in range(5):
        assert row_nats(model, ROWS, 128) == pytest.approx(expected, rel=1e-4)
    assert short_threads == [1] * 5


def test_a_mixture_trains_in_as_many_lanes_as_its_adapter_allows(short_threads, tmp_path):
    """One if experts are adapted, where several ended in an error or in wrong gradients."""
    model = adapted_mixture()
    for _ in range(2):
        trained(max_training_threads(model), tmp_path, base=mixture(), num_train_epochs=1)
    assert max_training_threads(model) == max_threads(model) == 1 and not short_threads
    attention = with_adapter(mixture(), Lora(rank=2, target_modules=["q_proj", "v_proj"]))
    assert max_training_threads(attention) == max_threads(mixture()) == 2


def trained(threads, folder, dropout=0.0, base=None, **settings):
    """(losses, adapter) of three epochs; plain SGD if nothing else is said, because Adam makes
    whole steps of rounding errors."""
    lora = {"target_modules": settings.pop("target_modules", "all-linear"), "dropout": dropout}
    model = with_adapter(base or small(), Lora(rank=2, **lora))
    arguments = TrainingArguments(
        output_dir=str(folder),
        **{"optim": "sgd", "learning_rate": 1.0, "num_train_epochs": 3, **settings},
        logging_steps=1,
        use_cpu=True,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        seed=0,
        **{} if "save_steps" in settings else {"save_strategy": "no"},
    )
    trainer = AdapterTrainer(
        model=model,
        args=arguments,
        train_dataset=[[row] for row in ROWS],
        data_collator=BatchCollator(96, threads),
        global_batch_size=8,
    )
    checkpoint = str(folder / "checkpoint-4") if (folder / "checkpoint-4").is_dir() else None
    with batch_training(model):
        trainer.train(resume_from_checkpoint=checkpoint)
    losses = [item["loss"] for item in trainer.state.log_history if "loss" in item]
    return losses, {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def test_a_training_goes_as_with_one_pack_after_another(short_threads, tmp_path):
    losses, adapter = trained(1, tmp_path)
    assert not short_threads
    at_once_losses, at_once = trained(2, tmp_path)
    assert short_threads == [2] * 9
    assert at_once_losses == pytest.approx(losses, rel=1e-4)
    assert losses[-1] < losses[0]
    for name, weight in adapter.items():
        assert torch.allclose(at_once[name], weight, rtol=1e-3, atol=1e-6), name


def test_a_training_with_dropout_repeats_to_the_bit(short_threads, tmp_path):
    first, again, without = (trained(2, tmp_path, dropout=p) for p in (0.3, 0.3, 0.0))
    assert short_threads == [2] * 27
    assert first[0] == again[0] != without[0]
    assert all(torch.equal(again[1][name], weight) for name, weight in first[1].items())


def test_a_resumed_training_with_dropout_goes_on_to_the_bit(short_threads, tmp_path):
    _, whole = trained(2, tmp_path, dropout=0.3, save_steps=4)
    _, resumed = trained(2, tmp_path, dropout=0.3, save_steps=4)
    assert short_threads == [2] * (9 + 5)
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())


def test_packs_of_a_step_have_noise_of_their_own(short_threads, tmp_path, monkeypatch):
    """And not all of them the same."""
    seeds = []
    seeded = trainer.seeded
    monkeypatch.setattr(trainer, "seeded", lambda seed: seeds.append(seed) or seeded(seed))
    trained(2, tmp_path, dropout=0.3)
    assert len(set(seeds)) == len(seeds) >= 18
