"""Rows → examples → corpus: nothing is lost, nothing leaks, the split depends on text alone."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import chatpipe
from chatpipe.config.schema import Dataset, Split
from chatpipe.data.catalog import DATASETS
from chatpipe.data.merge import Merge
from chatpipe.data.normalize import Normalize, RowAccount
from chatpipe.errors import DataError
from chatpipe.sources.fetch import FetchDataset
from chatpipe.store.store import store
from tests.support.rows import alpaca_rows, dialogue_rows, write_jsonl

SHARED = Path(__file__).parents[3] / "shared" / "data"


def normalize(path, **options):
    dataset = Dataset(name=options.pop("name", "rows"), path=str(path), **options)
    raw = store().get_or_build(FetchDataset.of(dataset))
    return store().get_or_build(Normalize.of(dataset, raw))


def read(artifact, name):
    return pq.read_table(artifact.path / f"{name}.parquet").to_pylist()


def corpus(*examples, **split):
    return store().get_or_build(Merge(examples=examples, split=Split(**split)))


@pytest.fixture(autouse=True)
def _home(chatpipe_home):
    return chatpipe_home


def test_a_dialogue_gives_its_first_exchange(tmp_path):
    rows = [{"dialog": [" Is it  far ? ", " Ten minutes . ", "Thanks"], "act": [2], "emotion": [0]}]
    made = normalize(write_jsonl(tmp_path / "d.jsonl", rows), format="dialogues")
    [row] = read(made, "examples")
    assert row["instruction"] == "Continue the daily dialogue."
    assert (row["input"], row["output"]) == ("Is it  far ?", "Ten minutes .")


def test_every_bad_row_is_kept_aside_with_its_reason_file_and_row(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(row) for row in alpaca_rows(3)]
    lines += [
        '{"instruction": "x", "input": "", "output": " "}',
        '{"instruction": 5, "output": "y"}',
    ]
    lines += ["no json"]
    path.write_text("\n".join(lines))
    made = normalize(path)
    assert [(r["reason"], r["file"], r["row"]) for r in read(made, "dropped")] == [
        ("empty output", "a.jsonl", 3),
        ("not text", "a.jsonl", 4),
        ("undecodable", "a.jsonl", 5),
    ]
    account = made.details()["account"]
    assert (account["read"], account["kept"]) == (6, 3)


def test_a_dialogue_with_one_utterance_is_counted(tmp_path):
    rows = [*dialogue_rows(2), {"dialog": ["Alone"]}, {"dialog": []}]
    made = normalize(write_jsonl(tmp_path / "d.jsonl", rows), format="dialogues")
    assert made.details()["account"]["dropped"] == {
        "dialogue with one utterance": 1,
        "dialogue without an utterance": 1,
    }


@pytest.mark.parametrize("suffix", ["json", "csv", "parquet"])
def test_every_file_format_gives_the_same_examples(tmp_path, suffix):
    import pandas as pd

    rows = [*alpaca_rows(5), {"instruction": "Two\nlines", "input": "", "output": "a,\nb"}]
    path = tmp_path / f"rows.{suffix}"
    frame = pd.DataFrame(rows)
    if suffix == "json":
        path.write_text(json.dumps(rows))
    elif suffix == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    jsonl = normalize(write_jsonl(tmp_path / "rows.jsonl", rows))
    assert read(normalize(path), "examples") == read(jsonl, "examples")


def test_chat_messages_give_the_first_question_and_its_answer(tmp_path):
    def turns(*pairs):
        return {"messages": [{"role": role, "content": text} for role, text in pairs]}

    rows = [
        turns(("system", "Be kind."), ("user", " Hello? "), ("assistant", "Hi."), ("user", "Bye.")),
        turns(("user", "Anyone?")),
        {"messages": []},
        {"messages": [{"role": "user"}]},
    ]
    made = normalize(write_jsonl(tmp_path / "m.jsonl", rows), format="messages")
    [row] = read(made, "examples")
    assert (row["instruction"], row["input"], row["output"]) == (" Hello? ", "", "Hi.")
    reasons = [item["reason"] for item in read(made, "dropped")]
    assert reasons == ["no assistant turn", "no turn", "no assistant turn"]


def test_columns_can_be_renamed_and_a_missing_one_is_named(tmp_path):
    path = write_jsonl(tmp_path / "q.jsonl", [{"question": "Why?", "answer": "So."}])
    columns = {"instruction": "question", "output": "answer"}
    assert read(normalize(path, columns=columns), "examples")[0]["output"] == "So."
    with pytest.raises(DataError, match=r"q\.jsonl: columns instruction and output missing"):
        normalize(path)


def test_another_row_count_than_the_catalogue_knows_is_said_with_both_numbers(tmp_path):
    made = normalize(write_jsonl(tmp_path / "a.jsonl", alpaca_rows(3)), expected_rows=52_002)
    assert "52,002 rows expected, 3 found" in made.details()["warnings"][0]


def test_duplicates_go_within_and_across_sources(tmp_path):
    rows = alpaca_rows(10)
    one = normalize(write_jsonl(tmp_path / "1.jsonl", [*rows, rows[0]]), name="one")
    two = normalize(write_jsonl(tmp_path / "2.jsonl", [*alpaca_rows(12)]), name="two")
    made = corpus(one, two, heldout=0.3)
    account = made.details()["account"]
    assert account == {"read": 23, "kept": 12, "dropped": {"duplicate": 11}, "flagged": {}}
    assert len(read(made, "dropped")) == 11


def test_a_row_stays_on_its_side_whatever_the_order_or_the_company(tmp_path):
    alpaca = normalize(write_jsonl(tmp_path / "a.jsonl", alpaca_rows()), name="a")
    reverse = normalize(write_jsonl(tmp_path / "r.jsonl", alpaca_rows()[::-1]), name="a")
    dialog = normalize(
        write_jsonl(tmp_path / "d.jsonl", dialogue_rows()), name="d", format="dialogues"
    )
    sides = []
    for parts in ((alpaca,), (reverse,), (alpaca, dialog), (dialog, alpaca)):
        rows = read(corpus(*parts, heldout=0.3), "heldout")
        sides.append({row["id"] for row in rows if row["source"] == "a"})
    assert sides[0] and sides[0] == sides[1] == sides[2] == sides[3]


def test_rows_with_one_prompt_share_a_side_and_nothing_held_out_is_trained_on(tmp_path):
    rows = [{**row, "output": f"{row['output']} {i}"} for row in alpaca_rows() for i in range(3)]
    made = corpus(normalize(write_jsonl(tmp_path / "a.jsonl", rows)), heldout=0.3)
    prompts = [
        {(row["instruction"], row["input"]) for row in read(made, side)}
        for side in ("train", "heldout")
    ]
    assert all(prompts) and not prompts[0] & prompts[1]


def test_split_none_drops_nothing_that_has_text_but_counts_it(tmp_path):
    rows = [*alpaca_rows(8), alpaca_rows(1)[0], {"instruction": "x", "output": ""}, {"output": 1}]
    made = corpus(normalize(write_jsonl(tmp_path / "a.jsonl", rows)), method="none", heldout=0.4)
    assert made.details()["account"] == {
        "read": 11,
        "kept": 10,
        "dropped": {"not text": 1},
        "flagged": {"duplicate": 1, "empty output": 1},
    }
    trained = {row["id"] for row in read(made, "train")}
    assert {row["id"] for row in read(made, "heldout")} <= trained


def test_an_account_that_does_not_add_up_is_refused():
    with pytest.raises(ValueError, match="10 rows read"):
        RowAccount(read=10, kept=8, dropped={"duplicate": 1})


def test_the_upstream_layouts_are_read_whole():
    if not SHARED.is_dir():
        pytest.skip(f"the upstream rows are not here ({SHARED.name})")
    dialog = normalize(SHARED / "daily_dialog", format="dialogues")
    alpaca = normalize(SHARED / "alpaca")
    assert dialog.details()["account"]["read"] == 1000
    assert alpaca.details()["account"]["read"] == 800


@pytest.mark.parametrize("name", ["sample-alpaca", "sample-dialog"])
def test_the_packaged_samples_are_many_different_and_not_the_panels(name):
    dataset = DATASETS[name]
    raw = store().get_or_build(FetchDataset.of(dataset))
    made = store().get_or_build(Normalize.of(dataset, raw))
    rows = read(made, "examples")
    assert len(rows) >= 200 and made.details()["warnings"] == []
    assert made.details()["account"]["dropped"] == {}
    texts = [" ".join((r["instruction"], r["input"], r["output"])) for r in rows]
    assert not any("How have you been these days" in text for text in texts)
    grams = [three_grams(text) for text in texts]
    pairs = ((a, b) for i, a in enumerate(grams) for b in grams[:i])
    assert max(len(a & b) / len(a | b) for a, b in pairs if a | b) <= 0.5
    if name == "sample-alpaca":
        assert 0.35 <= sum(bool(row["input"]) for row in rows) / len(rows) <= 0.45


def test_the_packaged_conversations_are_whole_and_different():
    dataset = DATASETS["sample-chat"]
    made = store().get_or_build(
        Normalize.of(dataset, store().get_or_build(FetchDataset.of(dataset)))
    )
    rows = read(made, "examples")
    assert len(rows) == dataset.expected_rows and made.details()["account"]["dropped"] == {}
    folder = Path(chatpipe.__file__).parent / "samples" / "chats"
    lines = [line for path in folder.iterdir() for line in path.read_text("utf-8").splitlines()]
    conversations = [json.loads(line)["messages"] for line in lines]
    systems = [turns.pop(0) for turns in conversations if turns[0]["role"] == "system"]
    assert len(systems) >= len(rows) / 20
    for turns in conversations:
        assert len(turns) in (4, 6, 8)
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
        assert all(turn["content"].strip() == turn["content"] != "" for turn in turns)
    grams = [three_grams(" ".join(turn["content"] for turn in turns)) for turns in conversations]
    pairs = ((a, b) for i, a in enumerate(grams) for b in grams[:i])
    assert max(len(a & b) / len(a | b) for a, b in pairs) <= 0.05


def three_grams(text):
    """Of the words after the constant instruction."""
    words = text.removeprefix("Continue the daily dialogue. ").lower().split()
    return set(zip(words, words[1:], words[2:], strict=False))
