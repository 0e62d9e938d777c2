"""Whole conversations: what of them becomes an example, and what is counted instead."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatpipe.config.schema import Dataset, Split
from chatpipe.data.examples import SCHEMA, with_conversations
from chatpipe.data.hashing import heldout_mask, row_digests, text_digests
from chatpipe.data.merge import Merge
from chatpipe.data.normalize import Normalize
from chatpipe.formats.registry import FORMATS
from chatpipe.formats.turn_settings import TurnSettings
from chatpipe.planning.row_checks import checked_rows
from chatpipe.sources.fetch import FetchDataset
from chatpipe.store.store import store
from chatpipe.utils.text import BLANK_LETTERS, has_visible, is_blank
from tests.support.rows import alpaca_rows, write_jsonl

SHARED = Path(__file__).parents[3] / "shared" / "data"
EXAMPLE = ("system", "history", "instruction", "input", "output")


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("CHATPIPE_HOME", str(tmp_path / "home"))


def request(path, **options):
    dataset = Dataset(name=options.pop("name", "rows"), path=str(path), **options)
    return Normalize.of(dataset, store().get_or_build(FetchDataset.of(dataset)))


def normalized(path, **options):
    """The examples, after what `validate` says was found to be the same."""
    made = store().get_or_build(request(path, **options))
    name = options["format"]
    settings = TurnSettings(
        options.get("turns") or FORMATS[name].turns, options.get("repeated_roles", "join")
    )
    checked = checked_rows(path, name, options.get("columns", {}), settings=settings)
    account = made.details()["account"]
    assert (checked.rows, checked.bad) == (account["read"], sum(account["dropped"].values()))
    assert dict(checked.flagged) == account["flagged"]
    assert (checked.turns and checked.turns.model_dump()) == account.get("turns")
    return made


def examples(made):
    """(system, [(role, content), …], instruction, input, output) of each."""
    rows = pq.read_table(made.path / "examples.parquet").to_pylist()
    for row in rows:
        turns = row["history"]
        row["history"] = turns and [(turn["role"], turn["content"]) for turn in turns]
    return [tuple(row[name] for name in EXAMPLE) for row in rows]


def u(text):
    return {"role": "user", "content": text}


def a(text, **more):
    return {"role": "assistant", "content": text, **more}


def other(role, text="t"):
    return {"role": role, "content": text}


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


LONG = [turn(f"{turn.__name__} {i}") for i in range(100) for turn in (u, a)]
HISTORY = [("user", "q"), ("assistant", "a")]
UNSCORED = [("user", "q"), ("assistant_unscored", "a")]
LAST_CUT = "last user turn, without an answer, left out"
JOINED = "turns of one role in a row joined"
KEPT = {
    "one exchange": ([u("q"), a("a")], (None, None, "q", "", "a"), None),
    "two": ([u("q"), a("a"), u("r"), a("b")], (None, HISTORY, "r", "", "b"), None),
    "200 turns": (
        LONG,
        (None, [(t["role"], t["content"]) for t in LONG[:-2]], "u 99", "", "a 99"),
        None,
    ),
    "system": ([other("system", "s"), u("q"), a("a")], ("s", None, "q", "", "a"), None),
    "developer": ([other("Developer", "s"), u("q"), a("a")], ("s", None, "q", "", "a"), None),
    "two system turns": (
        [other("system", "s"), other("system", parts("t", "u")), u("q"), a("a")],
        ("s\n\ntu", None, "q", "", "a"),
        None,
    ),
    "blank system turn": ([other("system", " "), u("q"), a("a")], (None, None, "q", "", "a"), None),
    "parts": ([u(parts("q", "r")), a(parts(" a"))], (None, None, "qr", "", " a"), None),
    "sharegpt turns": (
        [
            {"from": "system", "value": "s"},
            {"from": "human", "value": "q"},
            {"from": "gpt", "value": "a"},
        ],
        ("s", None, "q", "", "a"),
        None,
    ),
    "leading assistant turn": (
        [a("hello"), u("q"), a("a")],
        (None, None, "q", "", "a"),
        "leading assistant turn left out",
    ),
    "ends with the user": ([u("q"), a("a"), u("r")], (None, None, "q", "", "a"), LAST_CUT),
    "ends with two of the user": (
        [u("q"), a("a"), u("r"), u("s")],
        (None, None, "q", "", "a"),
        LAST_CUT,
    ),
    "two user turns": ([u("p"), u("q"), a("a")], (None, None, "p\n\nq", "", "a"), JOINED),
    "two replies": (
        [u("q"), a("a"), a("b"), u("r"), a("c")],
        (None, [("user", "q"), ("assistant", "a\n\nb")], "r", "", "c"),
        JOINED,
    ),
    "an empty half of a split reply": (
        [u("q"), a("a"), a(""), u("r"), a("c")],
        (None, HISTORY, "r", "", "c"),
        JOINED,
    ),
    "null turn": ([u("q"), None, a("a")], (None, None, "q", "", "a"), "null turn left out"),
    "reasoning": (
        [u("q"), a("a", reasoning_content="so"), u("r"), a("b")],
        (None, HISTORY, "r", "", "b"),
        "reasoning left out",
    ),
    "a reply of weight 0": (
        [u("q"), a("a", weight=0), u("r"), a("b"), u("s"), a("c", weight=1)],
        (None, [*UNSCORED, ("user", "r"), ("assistant", "b")], "s", "", "c"),
        "reply with weight 0 kept as context, not scored",
    ),
    "a reply not to be trained on, half of which is of another turn": (
        [u("q"), a("a", train=False), a("b"), u("r"), a("c")],
        (None, [("user", "q"), ("assistant_unscored", "a\n\nb")], "r", "", "c"),
        f"{JOINED}; reply with weight 0 kept as context, not scored",
    ),
    "last replies of weight 0": (
        [u("q"), a("a"), u("r"), a("b", weight=0), u("s"), a("c", weight=0)],
        (None, None, "q", "", "a"),
        "last reply, with weight 0, left out",
    ),
    "other letters": (
        [u("שלום \u200fעולם"), a("你好,世界"), u("👩‍👩‍👧 <|im_end|>"), a(" é\n")],
        (
            None,
            [("user", "שלום \u200fעולם"), ("assistant", "你好,世界")],
            "👩‍👩‍👧 <|im_end|>",
            "",
            " é\n",
        ),
        None,
    ),
}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
IMAGE = [{"type": "image_url", "image_url": "x"}]
DROPPED = {
    "no turn": [[], [None], [other("system")]],
    "no assistant turn": [[u("q")], [other("system"), u("q"), u("r")]],
    "no user turn": [[a("a")], [other("system"), a("a"), a("b")]],
    "an assistant turn first, and a user turn without an answer": [[a("a"), u("q")]],
    "a tool turn or a tool call": [
        [u("q"), CALL, other("tool"), a("a")],
        [u("q"), a("a"), u("r"), CALL],
        [u("q"), other("function_call"), other("observation"), a("a")],
    ],
    "an image, sound or video": [
        [u(IMAGE), a("a")],
        [u("q"), a("a"), u([*parts("r"), {"type": "input_audio"}]), a("b")],
        [other("system", IMAGE), u("q"), a("a")],
    ],
    "a turn of another role": [[u("q"), other("narrator"), a("a")]],
    "a system turn after the first user turn": [[u("q"), a("a"), other("system"), u("r"), a("b")]],
    "every reply has weight 0": [[u("q"), a("a", weight=0), u("r"), a("b", weight=0)]],
    "empty turn": [
        [u("q"), a(""), u("r"), a("b")],
        [u(" \u200b"), a("a"), u("r"), a("b")],
        [u("q"), a(None), u("r"), a("b")],
    ],
    "empty output": [[u("q"), a("a"), u("r"), a(" ")]],
    "empty instruction": [[u("q"), a("a"), u(""), a("b")]],
}
COLUMNS = {"messages": "messages", "sharegpt": "conversations"}


@pytest.mark.parametrize(("name", "column"), COLUMNS.items())
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_a_whole_conversation_is_one_example(tmp_path, name, column, suffix):
    rows = [{column: turns} for turns, _, _ in KEPT.values()]
    path = tmp_path / f"rows.{suffix}"
    path.write_text(
        json.dumps(rows) if suffix == "json" else "".join(f"{json.dumps(row)}\n" for row in rows)
    )
    made = normalized(path, format=name, turns="all")
    found = dict(zip(KEPT, examples(made), strict=True))
    assert found == {what: example for what, (_, example, _) in KEPT.items()}
    flags = [flag for _, _, several in KEPT.values() if several for flag in several.split("; ")]
    account = made.details()["account"]
    assert account["flagged"] == {flag: flags.count(flag) for flag in flags}
    read = sum(turn is not None for turns, _, _ in KEPT.values() for turn in turns)
    kept = [(2, len(e[1] or ()), e[0] is not None) for _, e, _ in KEPT.values()]
    replies = sum(1 + before // 2 for _, before, _ in kept)
    assert account["turns"] == {"read": read, "kept": sum(map(sum, kept)), "replies": replies}


@pytest.mark.parametrize(("name", "column"), COLUMNS.items())
def test_what_cannot_be_trained_on_is_counted_with_its_reason(tmp_path, name, column):
    rows = [[u("q"), a("a")], *(row for rows in DROPPED.values() for row in rows)]
    path = write_jsonl(tmp_path / "rows.jsonl", [{column: row} for row in rows])
    made = normalized(path, format=name, turns="all")
    account = made.details()["account"]
    assert account["dropped"] == {reason: len(rows) for reason, rows in DROPPED.items()}
    assert examples(made) == [(None, None, "q", "", "a")]
    # The paper's split takes back rows that have text, none of which is half a conversation.
    corpus = store().get_or_build(Merge(examples=(made,), split=Split(method="none")))
    back = pq.read_table(corpus.path / "train.parquet").to_pylist()[1:]
    assert {(row["instruction"], row["output"]) for row in back} == {("r", ""), ("", "b")}


@pytest.mark.parametrize("turns", ["first", "all"])
def test_turns_of_one_role_in_a_row_are_refused_where_a_variant_says_so(tmp_path, turns):
    rows = [[u("q"), a("a")], [u("p"), u("q"), a("a")], [u("q"), a("a"), a("b"), u("r"), a("c")]]
    path = write_jsonl(tmp_path / "rows.jsonl", [{"messages": row} for row in rows])
    made = normalized(path, format="messages", turns=turns, repeated_roles="drop")
    assert made.details()["account"]["dropped"] == {"two turns of one role in a row": 2}


def test_parquet_gives_the_same_examples(tmp_path):
    rows = [
        [other("system", "s"), u("q"), a("a"), u("r"), a("b")],
        [u("q"), a("a"), u("r")],
        [u("q")],
    ]
    table = pa.Table.from_pylist([{"messages": row} for row in rows])
    pq.write_table(table, tmp_path / "rows.parquet")
    lines = write_jsonl(tmp_path / "rows.jsonl", table.to_pylist())
    both = [
        normalized(path, format="messages", turns="all")
        for path in (tmp_path / "rows.parquet", lines)
    ]
    assert examples(both[0]) == examples(both[1])
    assert [len(examples(made)) for made in both] == [2, 2]


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_may_hold_the_system_text(tmp_path, name):
    turns = [u("q"), a("a")]
    rows = [
        {"sys": "from the column", COLUMNS[name]: turns},
        {"sys": "same", COLUMNS[name]: [other("system", "same"), *turns]},
        {"sys": "one", COLUMNS[name]: [other("system", "two"), *turns]},
        {"sys": " ", COLUMNS[name]: turns},
        {COLUMNS[name]: turns},
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    made = normalized(path, format=name, turns="all", columns={"system": "sys"})
    systems = [system for system, *_ in examples(made)]
    assert systems == ["from the column", "same", "one\n\ntwo", None, None]


ALPACA = {
    "pairs": [["q", "a"], ["r", "b"]],
    "messages": [u("q"), a("a"), u("r"), a("b")],
    "sharegpt": [
        {"from": "human", "value": "q"},
        {"from": "gpt", "value": "a"},
        {"from": "human", "value": "r"},
        {"from": "gpt", "value": "b"},
    ],
}
EARLIER = [("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b")]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("layout", ALPACA)
def test_alpaca_rows_may_have_a_system_text_and_a_history(tmp_path, layout, suffix):
    row = {"instruction": "i", "input": "<noinput>", "output": "o"}
    rows = [
        {**row, "system": "s", "history": ALPACA[layout]},
        {**row, "system": None, "history": []},
        {**row, "system": "", "history": None},
        {**row, "system": "s", "history": ALPACA[layout][:1]},
    ]
    path = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        write_jsonl(path, rows)
    made = normalized(path, format="alpaca")
    plain = (None, None, "i", "<noinput>", "o")
    last = (
        ("s", EARLIER[:2], *plain[2:])
        if layout == "pairs"
        else ("s", None, "q\n\ni", *plain[3:])  # a history that ends with the user
    )
    assert examples(made) == [("s", EARLIER, *plain[2:]), plain, plain, last]
    first = normalized(path, format="alpaca", turns="first")
    assert examples(first)[:2] == [("s", None, "q", "", "a"), plain]
    assert made.details()["account"]["flagged"]["<noinput> marker"] == 4


def test_rows_of_one_turn_are_as_they_were_beside_a_system_text_of_others(tmp_path):
    rows = alpaca_rows(6)
    bare = write_jsonl(tmp_path / "bare.jsonl", rows)
    some = write_jsonl(tmp_path / "some.jsonl", [{**rows[0], "system": "s"}, *rows[1:]])
    tables = [
        pq.read_table(normalized(path, format="alpaca").path / "examples.parquet")
        for path in (bare, some)
    ]
    assert tables[0].schema == SCHEMA and tables[0]["system"].null_count == 6
    assert tables[0][1:] == tables[1][1:]
    assert tables[1]["system"].to_pylist() == ["s", *[None] * 5]
    assert tables[0]["id"][0] != tables[1]["id"][0]


def test_a_history_that_is_none_is_named(tmp_path):
    rows = [*alpaca_rows(3), {"instruction": "q", "output": "a", "history": "I was there."}]
    made = normalized(write_jsonl(tmp_path / "rows.jsonl", rows), format="alpaca")
    assert made.details()["account"]["dropped"] == {"not text": 1}
    # A file of text has no lists: its column is another thing, and named as not used.
    (tmp_path / "r.csv").write_text("instruction,output,history\nq,a,1789\n")
    pq.write_table(pa.Table.from_pylist(rows[3:]), tmp_path / "r.parquet")
    for name in ("r.csv", "r.parquet"):
        path = tmp_path / name
        assert examples(normalized(path, format="alpaca")) == [(None, None, "q", "", "a")]
        assert "column history is not used" in checked_rows(path, "alpaca", {}).warnings[0]


def test_a_key_that_is_spelled_with_escapes_is_read(tmp_path):
    row = json.dumps({"instruction": "i", "output": "o", "history": [["q", "a"]]})
    path = tmp_path / "rows.jsonl"
    path.write_text(row.replace("history", "his\\u0074ory") + "\n")
    assert examples(normalized(path, format="alpaca")) == [(None, HISTORY, "i", "", "o")]


def test_dialogues_are_whole_where_a_variant_says_so(tmp_path):
    rows = [["q ", " a", "r", "b"], ["q", "a", "r"], ["q", "a"], ["q"], [], ["q", "", "r", "b"]]
    path = write_jsonl(tmp_path / "rows.jsonl", [{"dialog": row} for row in rows])
    made = normalized(path, format="dialogues", turns="all")
    plain = (None, None, "q", "", "a")
    assert examples(made) == [(None, HISTORY, "r", "", "b"), plain, plain]
    assert made.details()["account"]["flagged"] == {LAST_CUT: 1}
    assert made.details()["account"]["dropped"] == {
        "dialogue with one utterance": 1,
        "dialogue without an utterance": 1,
        "empty turn": 1,
    }
    # What is not said is the 2023 study's, and the request of before.
    first = request(path, format="dialogues")
    assert first == request(path, format="dialogues", turns="first")
    assert first.key() != request(path, format="dialogues", turns="all").key()


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_prompt_and_completion_may_be_turns(tmp_path, suffix):
    rows = [
        {"prompt": [other("system", "s"), u("q"), a("a"), u("r")], "completion": [a("b")]},
        {"prompt": [u("q")], "completion": [a("a"), u("r"), a("b")]},
    ]
    path = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == "json":
        path.write_text(json.dumps(rows))
    else:
        write_jsonl(path, [*rows, {"prompt": "q", "completion": [a("a")]}])
    found = examples(normalized(path, format="completion"))
    assert found[:2] == [("s", HISTORY, "r", "", "b"), (None, HISTORY, "r", "", "b")]
    assert found[2:] == ([(None, None, "q", "", "a")] if suffix == "jsonl" else [])
    texts = write_jsonl(tmp_path / "t.jsonl", [{"prompt": "q", "completion": " a"}])
    assert examples(normalized(texts, format="completion")) == [(None, None, "q", "", " a")]


def corpus_of(tmp_path, rows, heldout=0.5):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"messages": row} for row in rows])
    made = normalized(path, format="messages", turns="all")
    return store().get_or_build(Merge(examples=(made,), split=Split(heldout=heldout)))


def test_duplicates_are_of_whole_conversations(tmp_path):
    fresh = [[u(f"p {i}"), a("a")] for i in range(20)]
    base = [u("q"), a("a"), u("r"), a("b")]
    rows = [
        *fresh,
        base,
        [other("system"), *base],
        [u("q"), a("other"), u("r"), a("b")],
        base[2:],
        base,
        [other("system"), *base],
    ]
    corpus = corpus_of(tmp_path, rows)
    account = corpus.details()["account"]
    assert (account["read"], account["dropped"]) == (26, {"duplicate": 2})
    assert account["turns"]["read"] == sum(map(len, rows))
    assert account["turns"]["kept"] == sum(map(len, rows[:-2]))
    assert account["turns"]["replies"] == 20 + 2 + 2 + 2 + 1


def test_conversations_with_one_first_user_turn_share_a_side(tmp_path):
    """Whatever follows, whatever the system text, and whether or not anything follows."""
    rows = []
    for i in range(40):
        rows += [
            [u(f"q {i}"), a("a")],
            [other("system"), u(f" q {i}\n"), a("b")],
            [u(f"q {i}"), a("c"), u(f"r {i + 1}"), a("d")],
        ]
    corpus = corpus_of(tmp_path, rows)
    sides = {
        name: pq.read_table(corpus.path / f"{name}.parquet").to_pylist()
        for name in ("train", "heldout")
    }
    firsts = {
        name: {
            (row["history"][0]["content"] if row["history"] else row["instruction"]).strip()
            for row in side
        }
        for name, side in sides.items()
    }
    assert len(sides["train"]) + len(sides["heldout"]) == 120
    assert firsts["train"] and firsts["heldout"] and not firsts["train"] & firsts["heldout"]


def test_files_without_the_columns_are_rows_of_one_turn():
    old = pa.table({"instruction": ["q", "r"], "input": ["", "x"], "output": ["a", "b"]})
    new = with_conversations(old)
    assert new.schema.names[-2:] == ["system", "history"]
    assert row_digests(old) == row_digests(new) == text_digests(old, old.column_names)
    assert list(heldout_mask(old, 0.5)) == list(heldout_mask(new, 0.5))


def test_what_is_blank_is_blank_alone_and_in_a_column():
    letters = [*map(chr, range(0x20, 0x250)), *BLANK_LETTERS, *"雪\u200b\u2028\ufeff\u0600🙂א"]
    texts = ["", "  ", " a", *letters, *(f" {letter}\n" for letter in letters)]
    assert [has_visible(text) for text in texts] == [
        not blank for blank in is_blank(pa.array(texts))
    ]


def test_real_dialogues_are_read_whole(tmp_path):
    folder = SHARED / "daily_dialog"
    if not folder.exists():
        pytest.skip("the DailyDialog rows are not here")
    made = store().get_or_build(request(folder, format="dialogues", turns="all"))
    raw = pa.concat_tables(
        pq.read_table(path, columns=["dialog"]) for path in folder.rglob("*.parquet")
    )
    dialogues = [[text.strip() for text in row["dialog"]] for row in raw.to_pylist()]
    usable = [row[: len(row) // 2 * 2] for row in dialogues if len(row) > 1]
    usable = [row for row in usable if all(row)]
    found = examples(made)
    assert [
        [*(content for _, content in history or ()), instruction, output]
        for _, history, instruction, _, output in found
    ] == usable
    account = made.details()["account"]
    assert account["turns"] == {
        "read": sum(map(len, dialogues)),
        "kept": sum(map(len, usable)),
        "replies": sum(map(len, usable)) // 2,
    }
