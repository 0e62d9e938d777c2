"""Text beyond a base's positions is refused: in the plan, and where it is asked or scored."""

import pytest
import transformers

from chatpipe.config.prompts import template
from chatpipe.config.schema import Generation, Quantization
from chatpipe.errors import ModelError
from chatpipe.evaluation.score import Score
from chatpipe.generation.ask import Ask
from chatpipe.generation.chat import ChatSession
from chatpipe.models.model_ref import ModelRef
from chatpipe.models.positions import positions_of
from chatpipe.planning.planner import MakePlan, plan
from chatpipe.sources.fetch import FetchModel
from chatpipe.store.store import store
from chatpipe.study.variants import parse_variant
from chatpipe.training.finetune import Finetune
from tests.support.rows import alpaca_rows, write_jsonl

FULL = Quantization(method="none", compute_dtype="float32")


def rope(**parameters):
    return {"rope_parameters": {"rope_theta": 1e4, **parameters}}


@pytest.mark.parametrize(
    ("name", "settings", "positions"),
    [
        ("Llama", {"max_position_embeddings": 2048}, 2048),
        ("Llama", rope(rope_type="linear", factor=4.0), 8192),
        # These change with the longest text of those that are computed together.
        ("Llama", rope(rope_type="dynamic", factor=2.0), 2048),
        (
            "Phi3",
            {
                "max_position_embeddings": 131072,
                "original_max_position_embeddings": 4096,
                **rope(rope_type="longrope", short_factor=[1.0] * 48, long_factor=[2.0] * 48),
            },
            4096,
        ),
        (
            "Qwen2",
            {
                "max_position_embeddings": 32768,
                **rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=32768),
            },
            131072,
        ),
        (
            "Llama",
            {
                "max_position_embeddings": 131072,
                **rope(
                    rope_type="llama3",
                    factor=8.0,
                    original_max_position_embeddings=8192,
                    low_freq_factor=1.0,
                    high_freq_factor=4.0,
                ),
            },
            131072,
        ),
        ("GPT2", {"n_positions": 512}, 512),
        ("Mpt", {"max_seq_len": 300}, 300),
        ("Bloom", {}, None),
        ("Mamba", {}, None),
        ("Gemma3Text", {"max_position_embeddings": 777}, 777),
    ],
)
def test_positions_are_what_the_encoding_was_made_for(name, settings, positions):
    assert positions_of(getattr(transformers, f"{name}Config")(**settings)) == positions


@pytest.fixture
def variant(chatpipe_home, tiny_model_dir):
    rows = alpaca_rows(40)
    path = write_jsonl(chatpipe_home / "rows.jsonl", rows)

    def made(*overrides):
        raw = {
            "name": "mine",
            "base_model": {"repo": str(tiny_model_dir)},
            "datasets": [{"name": "rows", "path": str(path)}],
            "training": {"epochs": 1},
            "split": {"heldout": 0.5},
            "generation": {"max_new_tokens": 8},
        }
        return parse_variant(raw, "a test", overrides)

    return made


def long_heldout(variant):
    """A variant of which one held-out row alone is longer than the base's 1,024 positions."""
    import pyarrow.parquet as pq

    corpus = plan(variant()).data.corpus
    held = pq.read_table(corpus.path / "heldout.parquet").to_pylist()[0]
    path = variant().datasets[0].path
    rows = [
        {**row, "output": "long " * 400 if row["instruction"] == held["instruction"] else "short"}
        for row in alpaca_rows(40)
    ]
    from pathlib import Path

    write_jsonl(Path(path), rows)
    return variant


def test_a_held_out_row_beyond_the_positions_is_refused_in_the_plan_and_when_scored(variant):
    asked = long_heldout(variant)()
    made = plan(asked)
    [fault] = made.faults
    assert "the longest held-out row" in fault and "made for 1,024" in fault
    assert "lower max_length to 1024" in fault
    base = store().get_or_build(FetchModel.of(asked.base_model))
    with pytest.raises(ModelError, match="the longest held-out row has"):
        full = asked.model_copy(update={"quantization": FULL})
        store().get_or_build(Score.of(full, ModelRef(base), made.data.corpus))
    fitting = plan(variant("evaluation.max_length=1024"))
    assert fitting.faults == ()


def test_where_no_held_out_row_fits_the_plan_says_so(variant):
    [fault] = plan(variant("evaluation.max_length=20")).faults
    assert "no held-out row fits into 20 tokens" in fault


def test_a_prompt_that_leaves_no_room_for_its_answer_is_refused(variant):
    asked = variant("generation.max_new_tokens=1000")
    faults = plan(asked).faults
    assert all(fault.startswith("panel: prompt ") and "made for 1,024" in fault for fault in faults)
    assert len(faults) == len(asked.panel)
    base = store().get_or_build(FetchModel.of(asked.base_model))
    with pytest.raises(ModelError, match="longest prompt of the panel"):
        store().get_or_build(Ask.of(asked, ModelRef(base)))


def test_training_on_rows_beyond_the_positions_is_refused_before_a_step(variant):
    asked = long_heldout(variant)("training.max_length=4096", "split=none")
    made = plan(asked)
    assert [fault for fault in made.faults if "the longest row has" in fault]
    base = store().get_or_build(FetchModel.of(asked.base_model))
    with pytest.raises(ModelError, match=r"the longest row has .* made for 1,024"):
        store().get_or_build(Finetune.of(asked, base, made.data.corpus))


def test_a_question_of_nine_thousand_words_is_refused_in_a_sentence(tiny_model_dir, chatpipe_home):
    conversation = ChatSession(tiny_model_dir, None, FULL, template("alpaca"))
    with pytest.raises(ModelError, match=r"has \d\d,\d{3} tokens, the base was made for 1,024"):
        list(conversation.reply("word " * 9000, Generation(max_new_tokens=4)))
    assert "model" not in vars(conversation)  # refused before the base is loaded
    assert "".join(conversation.reply("Hello.", Generation(max_new_tokens=4))) is not None


def test_a_conversation_that_grew_too_long_is_refused_in_a_sentence(tiny_model_dir, chatpipe_home):
    conversation = ChatSession(tiny_model_dir, None, FULL, template("alpaca"))
    with pytest.raises(ModelError, match=r"the conversation so far .* start another one"):
        for _ in range(20):
            list(conversation.reply("Hello, how are you?", Generation(max_new_tokens=4)))


def sets_of(folder, tiny_model_dir):
    """Variants: of rows that fit, of a set of which no row fits, and of both."""
    long_rows = [{**row, "output": "long " * 90} for row in alpaca_rows(80)[40:]]
    sets = {"fits": alpaca_rows(40), "long": long_rows}
    paths = {name: write_jsonl(folder / f"{name}.jsonl", rows) for name, rows in sets.items()}

    def variant(name, *datasets):
        raw = {
            "name": name,
            "base_model": {"repo": str(tiny_model_dir)},
            "datasets": [{"name": data, "path": str(paths[data])} for data in datasets],
            "split": {"heldout": 0.5},
            "evaluation": {"max_length": 240},
            "generation": {"max_new_tokens": 8},
        }
        return parse_variant(raw, "a test")

    return variant


def test_a_set_of_which_no_row_fits_is_refused_though_rows_of_another_fit(
    chatpipe_home, tiny_model_dir
):
    variant = sets_of(chatpipe_home, tiny_model_dir)
    fault = "evaluation.max_length: data set long: no held-out row fits into 240 tokens; raise it."
    assert plan(variant("both", "long", "fits")).faults == (fault,)
    one, other = variant("one", "fits"), variant("other", "long")
    assert plan(one).faults == ()
    assert plan(one, study=(one, other)).faults == (fault,)  # it is scored there as well
    [made] = MakePlan(variants=(one,), study=(one, other)).build(chatpipe_home)["plans"]
    assert made["faults"] == [fault]


def test_held_out_rows_that_are_not_scored_are_counted_in_the_plan(variant):
    asked = long_heldout(variant)
    made = plan(asked("evaluation.max_length=1024"))
    rows = made.data.heldout_rows
    assert (
        f"evaluation.max_length: data set rows: 1 of {rows} held-out rows are longer than 1024 "
        f"tokens and are not scored, {rows - 1} are; intervals over fewer than 30 are too narrow."
    ) in made.notes
