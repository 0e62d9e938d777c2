"""Packed rows against the same rows one by one: the same losses, gradients and training."""

import pyarrow as pa
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache

from chatpipe.config.prompts import template
from chatpipe.generation.prefill import read_prompts
from chatpipe.models.loading import load_tokenizer
from chatpipe.packing.batching import PACKED, PADDED, UNPADDED
from chatpipe.packing.model_check import packing_fault
from chatpipe.packing.packing import pack, packed_attention, packed_nats, packs
from chatpipe.tokenization.encoder import IGNORED, Encoder, TokenizedRow
from tests.support.rows import alpaca_rows

BATCH = 4
example_nats = PACKED.row_nats


@pytest.fixture(scope="module", params=["every_reply", "all"])
def rows(request, tiny_model_dir):
    table = pa.Table.from_pylist(alpaca_rows(7))
    tokenizer = load_tokenizer(tiny_model_dir)
    return Encoder(tokenizer, template("alpaca"), request.param, 2048).encode(table).examples


@pytest.fixture
def model(tiny_model_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)


def alone(model, row):
    """(scored,) −log p by transformers' own forward pass of one row, unpadded."""
    logits = model(torch.tensor([row.input_ids])).logits[0, :-1].double()
    wanted = torch.tensor(row.labels[1:])
    scores = logits.log_softmax(-1)[wanted != IGNORED]
    return -scores.gather(1, wanted[wanted != IGNORED][:, None])[:, 0]


def test_every_token_s_loss_is_that_of_its_row_alone(model, rows):
    with torch.no_grad(), packed_attention(model):
        together = packed_nats(model, pack(rows))
    with torch.no_grad():
        one_by_one = torch.cat([alone(model, row) for row in rows])
    assert together.tolist() == pytest.approx(one_by_one.tolist(), rel=1e-4, abs=1e-5)


def test_the_gradients_are_those_of_the_rows_alone(model, rows):
    with packed_attention(model):
        packed_nats(model, pack(rows)).sum().backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for row in rows:
        alone(model, row).sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(together[name], parameter.grad, rtol=1e-3, atol=1e-4), name


def test_no_example_sees_another(model, rows):
    def first_of(company):
        with packed_attention(model):
            return example_nats(model, pack([rows[0], *company]))[0]

    changed = [TokenizedRow([7] * len(row.input_ids), row.labels, 0) for row in rows[1:]]
    apart = first_of([])
    assert first_of(rows[1:]) == pytest.approx(apart, rel=1e-6)
    assert first_of(changed) == pytest.approx(apart, rel=1e-6)


def test_what_rows_begin_with_in_common_is_computed_once(rows):
    (group,) = packs(rows, 1 << 20)
    packed = pack(group)
    layout = packed["layout"]
    distinct = {tuple(row.input_ids[:n]) for row in rows for n in range(1, len(row.input_ids))}
    assert packed["input_ids"].numel() == sum(layout["lengths"]) == len(distinct)
    assert len(distinct) < 0.8 * sum(layout["spans"])
    of_each = torch.split(layout["places"], layout["spans"])
    for row, places in zip(group, of_each, strict=True):
        assert packed["input_ids"][0, places].tolist() == row.input_ids[:-1]
        assert packed["position_ids"][0, places].tolist() == list(range(len(row.input_ids) - 1))


def test_what_nothing_scored_is_predicted_from_is_not_computed():
    """The last scored token and all that follow it; but a prompt of which nothing is scored is
    there to be read whole."""
    row = TokenizedRow([3, 4, 5, 6, 7], [IGNORED, 4, IGNORED, 6, IGNORED], 0)
    packed = pack([row])
    assert packed["input_ids"].tolist() == [[3, 4, 5]]
    assert packed["kept"].tolist() == [0, 2] and packed["targets"].tolist() == [4, 6]
    prompt = TokenizedRow([3, 4, 5], [IGNORED] * 3, 0)
    assert pack([prompt])["input_ids"].tolist() == [[3, 4, 5]]


def test_what_is_too_short_to_be_worth_a_mask_is_not_shared():
    rows = [TokenizedRow([1, *([n] * 20)], [IGNORED] * 21, n) for n in (5, 6, 7)]
    assert pack(rows)["layout"]["places"] is None


def test_a_row_that_comes_twice_is_computed_once_and_counted_twice(model, rows):
    with torch.no_grad(), packed_attention(model):
        once = example_nats(model, pack([rows[0]]))
        twice = example_nats(model, pack([rows[0], rows[0], rows[1]]))
    assert twice[:2] == pytest.approx(once * 2, rel=1e-6)
    assert pack([rows[0], rows[0]])["layout"]["lengths"] == [len(rows[0].input_ids) - 1, 0]


def test_logits_of_what_rows_share_are_computed_once(model):
    """The last of the common tokens is followed by another one in each."""
    rows = [TokenizedRow([*range(3, 13), n, n], [*range(3, 13), n, n], n) for n in (40, 41, 42)]
    packed = pack(rows)
    assert packed["counts"] == [11] * 3 and len(packed["scored"]) == 33
    assert len(packed["kept"]) == len(packed["targets"]) == 9 + 3 + 3
    with packed_attention(model):
        nats = packed_nats(model, packed)
        nats.sum().backward()
    one_by_one = torch.cat([alone(model, row) for row in rows])
    assert nats.tolist() == pytest.approx(one_by_one.tolist(), rel=1e-4, abs=1e-5)


def test_what_only_a_later_row_scores_of_the_common_beginning_is_counted_for_that_row(model):
    """Its logits come first, where the beginning lies, although the row is the last one."""
    ids = [*range(3, 13), 40, 41]
    first = TokenizedRow(ids, [IGNORED] * 10 + ids[10:], 0)
    second = TokenizedRow([*ids[:10], 42, 43], [IGNORED] * 4 + [*ids[4:10], 42, 43], 1)
    with torch.no_grad(), packed_attention(model):
        packed = packed_nats(model, pack([first, second]))
        one_by_one = example_nats(model, pack([first])) + example_nats(model, pack([second]))
    found = [float(part.sum()) for part in torch.split(packed, [2, 8])]
    assert found == pytest.approx(one_by_one, rel=1e-5)


def test_the_first_token_of_an_example_is_no_target_of_the_one_before():
    first, second = TokenizedRow([3, 4], [3, 4], 0), TokenizedRow([5, 6, 7], [5, 6, 7], 1)
    packed = pack([first, second])
    assert packed["layout"]["places"] is None
    assert packed["targets"].tolist() == [4, 6, 7]
    assert packed["kept"].tolist() == [0, 1, 2]
    assert packed["position_ids"].tolist() == [[0, 0, 1]]
    assert packed["counts"] == [1, 2]


def test_a_sliding_window_stays_one_within_each_example(rows):
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=400,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=16,
    )
    windowed = MistralForCausalLM(config).eval()
    with torch.no_grad(), packed_attention(windowed):
        (group,) = packs(rows, 1 << 20)
        together = packed_nats(windowed, pack(group))
    with torch.no_grad():
        one_by_one = torch.cat([alone(windowed, row) for row in group])
    assert together.tolist() == pytest.approx(one_by_one.tolist(), rel=1e-4, abs=1e-5)


def small(architecture, **settings):
    """A model of that architecture, with weights large enough to tell right from wrong."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        **settings,
    )
    model = AutoModelForCausalLM.from_config(config).float().eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0, 0.3)
    return model


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("Llama", {}),
        ("Mistral", {"sliding_window": 16}),
        ("Qwen2", {}),
        ("Qwen3", {"head_dim": 8}),
        ("Gemma3Text", {"head_dim": 8, "sliding_window": 16}),
        ("Phi3", {}),
        ("Phi", {}),
        ("GPTNeoX", {}),
        ("GPT2", {"n_positions": 512}),
        ("SmolLM3", {}),
        ("Granite", {}),
        ("Cohere", {}),
        ("Olmo2", {}),
        ("Starcoder2", {}),
    ],
)
def test_rows_are_packed_for_all_of_these(rows, architecture, settings):
    model = small(architecture, **settings)
    assert packing_fault(model) is None
    (group,) = packs(rows, 1 << 20)
    with torch.no_grad(), packed_attention(model):
        together = packed_nats(model, pack(group))
    with torch.no_grad():
        one_by_one = torch.cat([alone(model, row) for row in group])
    assert together.tolist() == pytest.approx(one_by_one.tolist(), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(
    ("architecture", "settings", "reason"),
    [
        ("Gemma2", {"head_dim": 8}, "asks for softcap"),
        ("GptOss", {"head_dim": 8, "num_local_experts": 4}, "asks for s_aux"),
        ("Lfm2", {"layer_types": ["conv", "full_attention"]}, "layers of conv"),
        ("Llama4Text", {"head_dim": 8, "intermediate_size_mlp": 64}, "chunked_attention"),
        ("RecurrentGemma", {}, "layers of linear_attention"),
        ("MiniMax", {"num_local_experts": 2}, "layers of linear_attention"),
        ("Falcon", {}, "cannot be replaced"),
    ],
)
def test_models_that_would_see_other_examples_are_not_packed(architecture, settings, reason):
    assert reason in packing_fault(small(architecture, **settings))


def test_a_model_whose_attention_cannot_be_replaced_is_not_packed(model, monkeypatch):
    monkeypatch.setattr(type(model), "_supports_attention_backend", False)
    assert packing_fault(model) == "its attention cannot be replaced"


def test_attention_is_the_model_s_own_again_afterwards(model):
    before = model.config._attn_implementation
    with packed_attention(model):
        assert model.config._attn_implementation != before
    assert model.config._attn_implementation == before


def test_packs_hold_every_row_once_within_the_bound_and_few_are_needed():
    rows = [TokenizedRow([n * 37 % 119] * n, [1] * n, n) for n in range(1, 120)]
    groups = packs(rows, 1000)
    assert sorted(row.index for group in groups for row in group) == list(range(1, 120))
    sizes = [sum(len(row.input_ids) for row in group) for group in groups]
    assert max(sizes) <= 1000 and len(groups) <= 1.1 * sum(sizes) / 1000 + 1


def test_rows_that_begin_alike_are_in_one_pack():
    rows = [TokenizedRow([n % 2, *([n] * 9)], [1] * 10, n) for n in range(20)]
    firsts = [{row.input_ids[0] for row in group} for group in packs(rows, 50)]
    assert firsts == [{0}, {0}, {1}, {1}]


def test_what_rows_share_may_count_once_for_the_bound():
    beginning = list(range(60))
    rows = [TokenizedRow([*beginning, *[n] * 20], [1] * 80, n) for n in range(30)]
    few, more = packs(rows, 200), packs(rows, 200, max_read=480)
    assert [len(group) for group in few] == [2] * 15
    assert [len(group) for group in more] == [6] * 5
    assert pack(more[0])["input_ids"].numel() == 60 + 6 * 19  # nothing is predicted from the last
    assert [len(group) for group in packs(rows, 200, max_read=10_000)] == [7] * 4 + [2]


def test_a_row_longer_than_the_bound_stands_alone():
    rows = [TokenizedRow([1] * n, [1] * n, n) for n in (50, 7, 3)]
    assert [[row.index for row in group] for group in packs(rows, 10)] == [[3, 7], [50]]


@pytest.mark.slow
@pytest.mark.parametrize("batching", [PACKED, PADDED, UNPADDED])
@pytest.mark.parametrize("micro_batch_tokens", [100, 4096])
def test_training_goes_as_the_trainer_s_own_padded_training(
    model, rows, tmp_path, tiny_model_dir, micro_batch_tokens, batching
):
    """The reference is transformers' Trainer with its own collator and loss."""
    from benchmarks.padded import TrainerInOurOrder, pad
    from chatpipe.training.trainer import AdapterTrainer, BatchCollator

    reference = trained(TrainerInOurOrder, pad, model, rows, tmp_path / "padded")
    other = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    with batching.attention(other):
        collator = BatchCollator(micro_batch_tokens, 1, batching)
        packed = trained(
            AdapterTrainer,
            collator,
            other,
            [[row] for row in rows],
            tmp_path / "packed",
            global_batch_size=BATCH,
        )
    assert packed == pytest.approx(reference, rel=1e-3)
    for (name, expected), found in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.allclose(expected, found, rtol=1e-2, atol=1e-4), name


def trained(trainer_class, collator, model, rows, folder, **more):
    """Loss of every step; plain SGD, because Adam makes whole steps of rounding errors."""
    from transformers import TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(folder),
        optim="sgd",
        num_train_epochs=3,
        per_device_train_batch_size=BATCH,
        learning_rate=0.05,
        logging_steps=1,
        use_cpu=True,
        remove_unused_columns=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
    trainer = trainer_class(
        model=model, args=arguments, train_dataset=rows, data_collator=collator, **more
    )
    trainer.train()
    return [item["loss"] for item in trainer.state.log_history if "loss" in item]


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [("Llama", {}), ("Mistral", {"sliding_window": 16}), ("Qwen3", {"head_dim": 8})],
)
def test_prompts_read_together_go_on_as_each_alone(architecture, settings):
    model = small(architecture, **settings)
    shared = list(range(5, 25))
    prompts = [[*shared, 30, 31], [*shared, 40], [7], [*range(50, 90)]]
    width = max(map(len, prompts))
    padded = torch.tensor([[0] * (width - len(ids)) + ids for ids in prompts])
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
    more = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    cache = DynamicCache()
    for number, layer in enumerate(read_prompts(model, prompts, [None] * len(prompts))):
        cache.update(*layer, number)
    together = model.generate(input_ids=padded, attention_mask=mask, past_key_values=cache, **more)
    for ids, found in zip(prompts, together, strict=True):
        alone = model.generate(input_ids=torch.tensor([ids]), **more)
        assert found[width:].tolist() == alone[0, len(ids) :].tolist()
