"""Row files as people have them: each gives the right rows, or one sentence that names the file."""

import bz2
import csv
import gzip
import io
import json
import lzma
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatpipe.config.schema import Dataset
from chatpipe.data import csv_rows, json_values
from chatpipe.data.normalize import Normalize
from chatpipe.errors import ChatpipeError, ConfigError, DataError
from chatpipe.formats.registry import FORMATS
from chatpipe.formats.turn_settings import TurnSettings
from chatpipe.planning.row_checks import checked_rows, format_of
from chatpipe.sources.fetch import FetchDataset
from chatpipe.store.store import store
from tests.support.rows import alpaca_rows, write_jsonl

ROWS = alpaca_rows(6)
TEXTS = ("instruction", "input", "output")
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("CHATPIPE_HOME", str(tmp_path / "home"))


def normalized(path, **options):
    dataset = Dataset(name="rows", path=str(path), **options)
    return store().get_or_build(
        Normalize.of(dataset, store().get_or_build(FetchDataset.of(dataset)))
    )


def examples(path, **options):
    rows = pq.read_table(normalized(path, **options).path / "examples.parquet").to_pylist()
    return [{name: row[name] for name in TEXTS} for row in rows]


def account(path, **options):
    return normalized(path, **options).details()["account"]


def agrees(path, **options):
    """The account without turns, after what `validate` says was found to be the same."""
    name = options.get("format", "alpaca")
    settings = TurnSettings(
        options.get("turns", FORMATS[name].turns), options.get("repeated_roles", "join")
    )
    checked = checked_rows(path, name, options.get("columns", {}), settings=settings)
    found = account(path, **options)
    turns = found.pop("turns", None)
    assert turns == (checked.turns and checked.turns.model_dump())
    assert (checked.rows, checked.bad) == (found["read"], sum(found["dropped"].values()))
    assert dict(checked.flagged) == found["flagged"]
    return found


def refusal(path, **options):
    with pytest.raises(ChatpipeError) as refused:
        normalized(path, **options)
    sentence = str(refused.value)
    assert "\n" not in sentence and "Traceback" not in sentence
    return sentence


def as_csv(rows, delimiter=",", **options):
    text = io.StringIO()
    writer = csv.DictWriter(text, TEXTS, delimiter=delimiter, **options)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


ENCODED = {
    "bom.jsonl": b"\xef\xbb\xbf" + LINES.encode(),
    "bom.json": b"\xef\xbb\xbf" + json.dumps(ROWS).encode(),
    "bom.csv": b"\xef\xbb\xbf" + as_csv(ROWS).encode(),
    "utf16.jsonl": LINES.encode("utf-16"),
    "utf16be.jsonl": b"\xfe\xff" + LINES.encode("utf-16-be"),
    "utf16-without-mark.jsonl": LINES.encode("utf-16-le"),
    "utf16.json": json.dumps(ROWS).encode("utf-16"),
    "utf16.csv": as_csv(ROWS).encode("utf-16"),
    "utf32.jsonl": LINES.encode("utf-32"),
    "rows.jsonl.gz": gzip.compress(LINES.encode()),
    "gzip-inside.jsonl": gzip.compress(LINES.encode()),
    "two-members.jsonl.gz": gzip.compress(LINES[:99].encode()) + gzip.compress(LINES[99:].encode()),
    "rows.csv.gz": gzip.compress(as_csv(ROWS).encode()),
    "rows.jsonl.bz2": bz2.compress(LINES.encode()),
    "two-streams.jsonl.bz2": bz2.compress(LINES[:99].encode()) + bz2.compress(LINES[99:].encode()),
    "two-streams.jsonl.xz": lzma.compress(LINES[:99].encode()) + lzma.compress(LINES[99:].encode()),
    "rows.json.xz": lzma.compress(json.dumps(ROWS).encode()),
    "rows.jsonl.zst": pa.compress(LINES.encode(), codec="zstd", asbytes=True),
    "list.jsonl": json.dumps(ROWS).encode(),
    "pretty-list.jsonl": json.dumps(ROWS, indent=1).encode(),
    "lines.json": LINES.encode(),
    "one-line.json": json.dumps(ROWS[0]).encode(),
    "ROWS.JSONL": LINES.encode(),
    "rows.ndjson": LINES.encode(),
    "crlf.jsonl": LINES.replace("\n", "\r\n").encode(),
    "blank-lines.jsonl": LINES.replace("\n", "\n\n \n").encode(),
    "rows.tsv": as_csv(ROWS, "\t").encode(),
    "semicolon.csv": as_csv(ROWS, ";").encode(),
    "tab.csv": as_csv(ROWS, "\t").encode(),
    "pipe.csv": as_csv(ROWS, "|").encode(),
    "quoted.csv": as_csv(ROWS, quoting=csv.QUOTE_ALL).encode(),
    "blank-lines.csv": as_csv(ROWS).replace("\n", "\n\n").encode(),
    "данные-" + "x" * 150 + ".jsonl": LINES.encode(),
}


@pytest.mark.parametrize("name", ENCODED)
def test_whatever_the_encoding_packing_or_layout_the_rows_are_the_same(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(ENCODED[name])
    rows = ROWS[:1] if name == "one-line.json" else ROWS
    assert format_of(path) == "alpaca"
    assert agrees(path) == {"read": len(rows), "kept": len(rows), "dropped": {}, "flagged": {}}
    assert examples(path) == rows


def parquet_types():
    table = pa.Table.from_pylist(ROWS)
    return {
        "large_string": table.cast(pa.schema([(n, pa.large_string()) for n in TEXTS])),
        "string_view": table.cast(pa.schema([(n, pa.string_view()) for n in TEXTS])),
        "dictionary": pa.table({n: table[n].dictionary_encode() for n in TEXTS}),
        "large dictionary": pa.table(
            {n: table[n].cast(pa.large_string()).dictionary_encode() for n in TEXTS}
        ),
    }


@pytest.mark.parametrize("kind", ["large_string", "string_view", "dictionary", "large dictionary"])
def test_every_kind_of_text_in_parquet_is_text(tmp_path, kind):
    pq.write_table(parquet_types()[kind], tmp_path / "rows.parquet")
    assert examples(tmp_path / "rows.parquet") == ROWS
    assert agrees(tmp_path / "rows.parquet")["kept"] == len(ROWS)


ZSTD = pa.compress(LINES.encode(), codec="zstd", asbytes=True)
PACKED = {
    "gz": gzip.compress(LINES.encode()),
    "bz2": bz2.compress(LINES.encode()),
    "xz": lzma.compress(LINES.encode()),
    "zst": ZSTD,
}
REFUSED = {
    "unclosed.csv": (as_csv(ROWS[:3]) + 'q,,"open\n' + "q,,a\n" * 50, "line 5: a quote is opened"),
    "closed-late.csv": (
        as_csv(ROWS[:3]) + 'q,,"open\n' + "q,,a\n" * 50 + 'q,,"fine"\n',
        "line 5: text follows a closing quote in line 56",
    ),
    "header-twice.csv": ("instruction,output,output\nq,a,b\n", "column output is there twice"),
    "latin.csv": (as_csv(ROWS).encode() + b"caf\xe9,,b\n", "line 8 is not UTF-8 text (byte 0xe9)"),
    "latin.json": (b'[{"instruction": "caf\xe9", "output": "a"}]', "line 1 is not UTF-8 text"),
    "pointer.jsonl": ("version https://git-lfs.github.com/spec/v1\noid x\n", "git lfs pull"),
    "pointer.parquet": ("version https://git-lfs.github.com/spec/v1\noid x\n", "git lfs pull"),
    "cut.jsonl.gz": (gzip.compress(LINES.encode())[:-20], "cannot be read"),
    "cut.jsonl.bz2": (bz2.compress(LINES.encode())[:-2], "it ends before its packed data does"),
    "cut.jsonl.xz": (lzma.compress(LINES.encode())[:-20], "it ends before its packed data does"),
    "cut.jsonl.zst": (ZSTD[:-2], "cannot be read"),
    **{
        f"{what}-after.jsonl.{suffix}": (packed + after, "cannot be read as")
        for suffix, packed in PACKED.items()
        for what, after in (
            ("rows", LINES.encode()),
            ("letter", b"x"),
            ("half", packed[:-9]),
        )
    },
    "cut.json": (json.dumps(ROWS)[:-40], "row 6: "),
    "broken.json": ('[{"instruction": "q", "output": tru}, ' + "[]," * 99, "row 1: is not valid"),
    "after.json": (json.dumps(ROWS) + "x", "text follows after the end of the list"),
    "object.json": (json.dumps({"data": ROWS}), "expected a list of rows"),
    "object-over-lines.json": (json.dumps({"data": ROWS}, indent=1), "expected a list of rows"),
    "deep.json": ("[" * 100_000, "row 1: is nested too deeply"),
    "archive.jsonl": (b"PK\x03\x04rest", "is a ZIP archive"),
    "cut-utf16.jsonl": (LINES.encode("utf-16")[:-1], "cut-utf16.jsonl: "),
    "nothing.parquet": (b"PAR1", "cannot be read as parquet"),
    "returns.jsonl": (LINES.replace("\n", "\r"), "carriage returns alone"),
    "bools.jsonl": ('{"instruction": "q", "output": true}\n' * 3, "output is true or false"),
    "lists.jsonl": ('{"instruction": "q", "output": ["a"]}\n' * 3, "output is a list"),
    "keys-twice.jsonl": (
        '{"instruction": "q", "output": "a", "output": "b"}\n' * 3,
        "3 a key is there twice (key output)",
    ),
    "commas.jsonl": (LINES[: LINES.index("\n")] + ",\n", "is no JSON: extra data at character"),
    "arrays.json": ('[["q", "a"]]', "a row is a list, not an object"),
    "nothing.json": (" \n ", "has no rows"),
    "mark.csv": (b"\xef\xbb\xbf", "has no rows"),
    "program.jsonl": (b"\x7fELF\x02\x01\x01" + bytes(60), "is a binary file, not rows of text"),
    "paper.csv": (b"%PDF-1.7\r", "is a binary file"),
    "latin.jsonl": (
        b'{"instruction": "caf\xe9", "output": "a"}\n',
        "if the whole file has another encoding",
    ),
    "semicolons.csv": (
        "question;answer of it\nq;a\n",
        "the file has question, answer of it. Did",
    ),
    "named.csv": (
        "question;answer\nq;a\n",
        "finetune: --format alpaca --columns instruction=question --columns output=answer.",
    ),
    "page.jsonl": ("<!DOCTYPE html>\n<html>404</html>\n", "is a web page"),
    "page.csv": ("\n<html>404</html>\n", "is a web page"),
    "lines.csv": (LINES, "is JSON, not CSV"),
    "list.csv": (json.dumps(ROWS), "is JSON, not CSV"),
    "wrapped.json": (json.dumps({"n": 6, "data": ROWS}), "save the list under its key data"),
    "spaces.csv": ("instruction, output\nq,a\n", 'columns: {output: " output"}'),
    "chats.jsonl": ('{"messages": []}\n', "format: messages; or to finetune: --format messages."),
    "prompts.jsonl": (
        '{"question": "q", "completion": "a"}\n',
        "format: alpaca, columns: {instruction: question, output: completion}",
    ),
    "sharegpt.jsonl": (
        '{"conversations": [{"from": "human", "value": "q"}]}\n',
        "format: sharegpt; or to finetune: --format sharegpt.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_read_is_refused_in_a_sentence_that_names_it(tmp_path, name):
    content, expected = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    sentence = refusal(path)
    assert expected in sentence
    assert name in sentence
    with pytest.raises((ConfigError, DataError)):  # validate does not call it fine either
        if not checked_rows(path, format_of(path), {}).faults(path):
            return
        raise DataError("rows that cannot be used")


ODD_LINES = {
    "null": "undecodable",
    "[1, 2]": "undecodable",
    '"text"': "undecodable",
    '{"instruction": "q", "output": "a"} {"instruction": "q2", "output": "a"}': "undecodable",
    '{"instruction": "q", "output": "a", "x": '
    + "[" * 100_000
    + "]" * 100_000
    + "}": "undecodable",
    '{"instruction": "q", "output": "half \\ud800"}': "not text",
    '{"instruction": "q", "output": "half \\udc00"}': "not text",
    '{"instruction": "q", "output": ' + "1" * 6_000 + "}": "not text",
    '{"instruction": "q", "output": NaN}': "not text",
    '{"instruction": "q", "output": false}': "not text",
    '{"instruction": "q", "output": {"text": "a"}}': "not text",
    '{"instruction": "q", "output": "a", "output": "b"}': "a key is there twice",
    '{"instruction": "q", "output": "\u200b\u2060\ufeff\u00ad \\u0000"}': "empty output",
    '{"instruction": " \\u3000\\n", "output": "a"}': "empty instruction",
}
KEPT_LINES = [
    '{"instruction": "q", "output": "a", "x": ' + "1" * 6_000 + "}",
    '{"instruction": "q", "output": "a", "x": 1, "x": 2}',
    '{"instruction": "q", "output": "a", "x": NaN, "input": null}',
    '{"instruction": "q", "output": "a", "input": NaN}',
    '{"instruction": "q", "output": "nul \\u0000 inside"}',
    '{"instruction": "q", "output": "a", "x": ' + "[" * 300 + "]" * 300 + "}",
]


@pytest.mark.parametrize("place", ["first", "last", "alone in a long file"])
@pytest.mark.parametrize("number", range(len(ODD_LINES) + len(KEPT_LINES)))
def test_an_odd_line_has_the_same_end_wherever_it_stands(tmp_path, number, place):
    line = [*ODD_LINES, *KEPT_LINES][number]
    good = [json.dumps(row) for row in alpaca_rows(200 if "long" in place else 2)]
    before = 0 if place == "first" else len(good) if place == "last" else 100
    lines = [*good[:before], line, *good[before:]]
    (tmp_path / "odd.jsonl").write_text("\n".join(lines), "utf-8")
    reason = ODD_LINES.get(line)
    found = agrees(tmp_path / "odd.jsonl")
    assert found["read"] == len(lines)
    assert found["dropped"] == ({reason: 1} if reason else {})


@pytest.mark.parametrize("column", ["instruction", "input", "output", "system", "history"])
def test_a_nul_character_in_a_text_is_counted_and_kept(tmp_path, column):
    rows = [{"instruction": f"q{i}", "input": "", "output": "a"} for i in range(3)]
    earlier = [["before", "nul \0"]] if column == "history" else "nul \0"
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(map(json.dumps, [rows[0], {**rows[1], column: earlier}, rows[2]]))
    )
    counts = agrees(tmp_path / "rows.jsonl")
    assert (counts["kept"], counts["flagged"]) == (3, {"NUL character": 1})


def test_a_nul_byte_in_a_csv_file_is_named(tmp_path):
    (tmp_path / "rows.csv").write_bytes(b"instruction,input,output\nq,<noinput>,a\0b\nr,,b\n")
    checked = checked_rows(tmp_path / "rows.csv", "alpaca", {})
    assert checked.flagged == {"<noinput> marker": 1, "NUL character": 1}
    assert not checked.bad


def test_rows_with_another_number_of_cells_are_set_aside(tmp_path):
    path = tmp_path / "ragged.csv"
    path.write_text("instruction,input,output\nq,,a\nq,a\nq,,a,more\nq2,,b\n")
    assert agrees(path) == {
        "read": 4,
        "kept": 2,
        "dropped": {"more or fewer cells than the header": 2},
        "flagged": {},
    }


def test_cells_of_megabytes_are_read(tmp_path):
    rows = [{**ROWS[0], "output": "x" * (5 << 20)}, ROWS[1]]
    (tmp_path / "long.csv").write_text(as_csv(rows))
    assert examples(tmp_path / "long.csv") == rows


def test_a_cell_without_an_end_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_rows, "LONGEST_CELL", 1 << 18)
    before = csv.field_size_limit(1)
    try:
        (tmp_path / "open.csv").write_text('instruction,output\nq,"' + "x,y\n" * (1 << 17))
        assert "line 2: a cell has more than" in refusal(tmp_path / "open.csv")
    finally:
        csv.field_size_limit(before)


def test_a_cell_whose_lines_could_all_be_rows_is_suspicious(tmp_path):
    text = "instruction,output\n" + 'q,"open\n' + "q,a\n" * 40 + 'q,close"\nq,a\n'
    (tmp_path / "open.csv").write_text(text)
    [warning] = normalized(tmp_path / "open.csv").details()["warnings"]
    assert "is a quote left open?" in warning
    assert warning in checked_rows(tmp_path / "open.csv", "alpaca", {}).warnings


@pytest.mark.parametrize("seed", range(60))
def test_csv_is_read_as_pythons_reader_reads_it(tmp_path, seed, monkeypatch):
    """Quotes, delimiters and every kind of line end within cells, in small parts."""
    monkeypatch.setattr("chatpipe.data.reading.BATCH_ROWS", 7)
    random_ = random.Random(seed)
    pieces = ["\r", "\n", "\r\n", '"', ",", ";", " ", "x", "é", "word", "\t", "|", "'", "\\"]
    rows = [
        {name: "a" + "".join(random_.choices(pieces, k=random_.randint(0, 40))) for name in TEXTS}
        for _ in range(50)
    ]
    end = random_.choice(["\n", "\r\n"])  # a lone \r within a cell is not always quoted
    quoting = csv.QUOTE_ALL if end == "\n" else random_.choice([csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
    text = as_csv(rows, lineterminator=end, quoting=quoting)
    (tmp_path / "rows.csv").write_bytes(text.encode())
    assert list(csv.DictReader(io.StringIO(text, newline=""))) == rows
    assert examples(tmp_path / "rows.csv") == rows


def test_a_long_list_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(json_values, "PIECE", 7)
    rows = [*ROWS, {"instruction": "é\\u00e9 \n", "input": "", "output": '"]},{['}]
    for indent in (None, 2):
        path = tmp_path / f"list{indent}.json"
        path.write_text(json.dumps(rows, indent=indent, ensure_ascii=indent is None))
        assert examples(path) == rows


def test_broken_text_in_parquet_is_set_aside(tmp_path):
    good, bad = pa.array([b"tea", b"caf\xe9", b"end"], pa.binary()), pa.array(["q"] * 3)
    text = pa.StringArray.from_buffers(3, good.buffers()[1], good.buffers()[2])
    pq.write_table(pa.table({"instruction": bad, "output": text}), tmp_path / "rows.parquet")
    assert agrees(tmp_path / "rows.parquet")["dropped"] == {"not text": 1}
    rows = pa.ListArray.from_arrays([0, 2, 4], text.take([0, 1, 2, 2]))
    pq.write_table(pa.table({"dialog": rows}), tmp_path / "lists.parquet")
    found = agrees(tmp_path / "lists.parquet", format="dialogues")
    assert (found["kept"], found["dropped"]) == (1, {"not text": 1})


def test_null_is_no_text_in_parquet_as_in_json(tmp_path):
    rows = [*ROWS, {"instruction": None, "input": None, "output": "a"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert agrees(tmp_path / "rows.parquet") == agrees(write_jsonl(tmp_path / "r.jsonl", rows))


def test_a_column_twice_in_parquet_is_refused(tmp_path):
    array = pa.array(["a", "b"])
    table = pa.Table.from_arrays([array] * 3, ["instruction", "output", "output"])
    pq.write_table(table, tmp_path / "twice.parquet")
    assert "column output is there twice" in refusal(tmp_path / "twice.parquet")


CODE = "    x = 0\n    return x\n"


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_text_is_kept_as_it_is_and_blank_text_is_empty(tmp_path, suffix):
    rows = [
        {"instruction": "\tcomplete", "input": CODE, "output": CODE},
        {"instruction": "q", "input": " \u200b\u00ad", "output": "\n\n a \n"},
    ]
    path = tmp_path / f"rows.{suffix}"
    if suffix == "csv":
        path.write_bytes(as_csv(rows).encode())
    elif suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        lines = "\n".join(json.dumps(row) for row in rows)
        path.write_text(lines if suffix == "jsonl" else json.dumps(rows))
    assert examples(path) == [rows[0], {**rows[1], "input": ""}]


def turns(*pairs, **more):
    return [{"role": role, "content": text, **more} for role, text in pairs]


QUESTION, ANSWER = ("user", "q"), ("assistant", "a")
CHATS = {"messages": "messages", "sharegpt": "conversations"}
EXCHANGE = turns(QUESTION, ANSWER)
LEFT_OUT = {
    "system turn left out": turns(QUESTION, ANSWER, ("system", "s")),
    "tool turn left out": turns(QUESTION, ANSWER, ("tool", "t")),
    "further turns left out": turns(QUESTION, ANSWER, QUESTION, ANSWER),
    "first of two user turns in a row left out": turns(QUESTION, QUESTION, ANSWER),
    "leading assistant turn left out": turns(ANSWER, QUESTION, ANSWER),
    "last user turn, without an answer, left out": turns(QUESTION, ANSWER, QUESTION),
    "rest of a split answer left out": turns(QUESTION, ANSWER, ("assistant", "b"), ANSWER),
    "null turn left out": [None, *turns(QUESTION, ANSWER)],
    "turn of another role left out": turns(("narrator", "n"), QUESTION, ANSWER),
}


@pytest.mark.parametrize(("row_format", "column"), CHATS.items())
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("flag", LEFT_OUT)
def test_what_a_conversation_has_besides_its_exchange_is_counted(
    tmp_path, flag, suffix, row_format, column
):
    rows = [{column: turns(QUESTION, ANSWER)}, {column: LEFT_OUT[flag]}]
    path = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        write_jsonl(path, rows)
    options = {"format": row_format, "turns": "first"}
    found = agrees(path, **options)
    assert found == {"read": 2, "kept": 2, "dropped": {}, "flagged": {flag.strip(): 1}}
    assert examples(path, **options)[1] == {"instruction": "q", "input": "", "output": "a"}


def test_answers_that_are_not_to_be_trained_are_not(tmp_path):
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    rows = [
        turns(QUESTION, ANSWER),
        [*turns(QUESTION), {"role": "assistant", "content": "wrong", "weight": 0}],
        [*turns(QUESTION), call, *turns(("tool", "t"), ANSWER)],
        turns(QUESTION, ("assistant", "")),
        turns(QUESTION, ("assistant", [{"type": "image_url", "image_url": "x"}])),
        turns(("user", [{"type": "image"}, {"type": "text", "text": "q"}]), ANSWER),
        turns(QUESTION, ("assistant", [{"type": "text", "words": "x"}])),
        [{"role": "user"}, "text"],
        [5],
    ]
    path = write_jsonl(tmp_path / "m.jsonl", [{"messages": row} for row in rows])
    assert agrees(path, format="messages", turns="first")["dropped"] == {
        "not text": 3,
        "empty output": 1,
        "the answer has weight 0": 1,
        "the answer is a tool call": 1,
        "an image, sound or video in the first exchange": 2,
    }


NO_EXCHANGE = {
    "no turn": [[], [None]],
    "no assistant turn": [turns(QUESTION), turns(("system", "s"), QUESTION, ("tool", "t"))],
    "no user turn": [turns(ANSWER), turns(("system", "s"), ANSWER, ANSWER)],
    "an assistant turn first, and a user turn without an answer": [turns(ANSWER, QUESTION)],
    "a tool turn between the user turn and the answer": [
        turns(QUESTION, ("function_call", "f"), ("observation", "o"), ANSWER)
    ],
    "a turn of another role between the user turn and the answer": [
        turns(QUESTION, ("narrator", "n"), ANSWER)
    ],
}


@pytest.mark.parametrize(("row_format", "column"), CHATS.items())
def test_a_conversation_without_an_exchange_is_counted_with_its_reason(
    tmp_path, row_format, column
):
    rows = [row for rows in NO_EXCHANGE.values() for row in rows]
    path = write_jsonl(tmp_path / "m.jsonl", [{column: row} for row in [EXCHANGE, *rows]])
    counts = {reason: len(rows) for reason, rows in NO_EXCHANGE.items()}
    assert agrees(path, format=row_format, turns="first") == {
        "read": 10,
        "kept": 1,
        "dropped": counts,
        "flagged": {},
    }


def test_what_an_answer_has_beside_its_text_is_counted(tmp_path):
    rows = [
        [*turns(QUESTION), {"role": "assistant", "content": "a", "weight": 0.5}],
        [*turns(QUESTION), {"role": "assistant", "content": "b", "reasoning_content": "so"}],
        [*turns(QUESTION), {"role": "assistant", "content": "c", "train": False}],
        [*turns(QUESTION), {"role": "assistant", "content": "d", "weight": 1, "train": True}],
    ]
    path = write_jsonl(tmp_path / "m.jsonl", [{"messages": row} for row in rows])
    assert agrees(path, format="messages", turns="first") == {
        "read": 4,
        "kept": 3,
        "dropped": {"the answer has weight 0": 1},
        "flagged": {"weight of the answer not used": 1, "reasoning left out": 1},
    }


def test_parts_of_text_and_sharegpt_turns_are_turns(tmp_path):
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    rows = [
        {"messages": turns(("user", parts), ANSWER)},
        {"messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    ]
    path = write_jsonl(tmp_path / "m.jsonl", rows)
    assert agrees(path, format="messages")["kept"] == 2
    assert [row["instruction"] for row in examples(path, format="messages")] == ["one two", "q"]


@pytest.mark.parametrize(
    ("question", "answer"),
    [("human", "gpt"), ("user", "assistant"), ("Human", "ASSISTANT"), ("prompter", "bot")],
)
@pytest.mark.parametrize(("role", "content"), [("from", "value"), ("role", "content")])
def test_names_of_roles_that_data_sets_use_are_understood(
    tmp_path, role, content, question, answer
):
    row = [{role: question, content: "q"}, {role: answer, content: "a"}]
    path = write_jsonl(tmp_path / "m.jsonl", [{"conversations": row}])
    assert examples(path, format="sharegpt") == [{"instruction": "q", "input": "", "output": "a"}]


def test_a_completion_is_the_output_to_its_prompt(tmp_path):
    rows = [{"prompt": "2 + 2 =", "completion": " 4"}, {"prompt": "q", "completion": ""}]
    path = write_jsonl(tmp_path / "c.jsonl", rows)
    assert agrees(path, format="completion")["dropped"] == {"empty output": 1}
    assert examples(path, format="completion") == [
        {"instruction": "2 + 2 =", "input": "", "output": " 4"}
    ]


def test_utterances_after_the_first_exchange_are_counted(tmp_path):
    path = write_jsonl(tmp_path / "d.jsonl", [{"dialog": ["a", "b"]}, {"dialog": ["a", "b", "c"]}])
    assert agrees(path, format="dialogues")["flagged"] == {"further utterances left out": 1}


QCA = [{"question": "q", "context": "c", "answer": "a"}] * 3
MAPPED = {"instruction": "question", "output": "answer"}


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({**MAPPED, "input": "contxt"}, "column contxt missing"),
        ({**MAPPED, "input": "contxt"}, "input: context"),
        ({**MAPPED, "inptu": "context"}, "the format has no column inptu"),
        ({**MAPPED, "inptu": "context"}, "did you mean input?"),
        ({"question": "instruction", **MAPPED}, "columns: {instruction: question}"),
    ],
)
def test_a_column_that_is_not_there_or_not_ours_is_refused(tmp_path, suffix, columns, expected):
    path = write_jsonl(tmp_path / "rows.jsonl", QCA)
    if suffix == "csv":
        path = tmp_path / "rows.csv"
        path.write_text("question,context,answer\nq,c,a\n")
    elif suffix == "json":
        path = tmp_path / "rows.json"
        path.write_text(json.dumps(QCA))
    elif suffix == "parquet":
        path = tmp_path / "rows.parquet"
        pq.write_table(pa.Table.from_pylist(QCA), path)
    assert expected in refusal(path, columns=columns)
    with pytest.raises(DataError, match="rows"):
        checked_rows(path, "alpaca", columns)


def test_columns_that_look_meant_and_are_not_used_are_named(tmp_path):
    rows = [{"instruction": "q", "output": "a", "context": "c", "History": [], "id": 3}] * 30
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    [warning] = normalized(path).details()["warnings"]
    assert "columns History, context are not used" in warning
    assert "columns History, context are not used" in checked_rows(path, "alpaca", {}).warnings[0]
    columns = {"input": "context"}
    assert "column History is not" in normalized(path, columns=columns).details()["warnings"][0]


def test_names_of_columns_with_line_ends_stay_in_one_sentence(tmp_path):
    (tmp_path / "rows.csv").write_text('"in\nstruction",output\nq,a\n')
    assert r'the file has "in\nstruction", output' in refusal(tmp_path / "rows.csv")
    (tmp_path / "rows.jsonl").write_text('{"half \\ud800": 1}\n')
    assert r'the file has "half \ud800"' in refusal(tmp_path / "rows.jsonl")


def test_a_column_of_ours_in_other_letters_is_named(tmp_path):
    (tmp_path / "rows.csv").write_text("instruction, Input,output\nq,c,a\n")
    [warning] = normalized(tmp_path / "rows.csv").details()["warnings"]
    assert 'column " Input" is not used' in warning


def test_what_is_wrong_with_all_rows_is_said_first(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"instruction": "q", "output": ["a"]}] * 30)
    first, second, last = checked_rows(path, "alpaca", {}).faults(path)
    assert first == f"{path}: none of 30 rows can be used: 30 not text (output is a list)."
    numbers = ", ".join(map(str, range(1, 21)))
    assert (second, last) == (
        f"{path}: rows {numbers}: not text (output is a list).",
        f"{path}: and 10 more rows.",
    )


def test_what_only_some_rows_have_is_not_said_of_all(tmp_path):
    rows = [{"instruction": "q"}, {"instruction": 5, "output": "a"}, {"instruction": "q"}]
    path = write_jsonl(tmp_path / "rows.jsonl", [*rows, {"instruction": "q", "output": "a"}])
    assert checked_rows(path, "alpaca", {}).faults(path) == [
        f"{path}: 3 of 4 rows cannot be used: 3 not text.",
        f"{path}: rows 1, 3: not text (output is null or missing).",
        f"{path}: row 2: not text (instruction is a number).",
    ]


@pytest.mark.parametrize("kind", [pa.int64(), pa.bool_(), pa.float64()])
def test_a_list_of_something_else_than_text_is_no_dialogue(tmp_path, kind):
    values = pa.array([[1, 0]] * 3).cast(pa.list_(kind))
    pq.write_table(pa.table({"dialog": values}), tmp_path / "rows.parquet")
    sentence = refusal(tmp_path / "rows.parquet", format="dialogues")
    assert "column dialog: expected a list of texts, found a list of" in sentence


LISTS = (pa.large_list(pa.large_string()), pa.list_(pa.string(), 2), pa.list_(pa.string_view()))


@pytest.mark.parametrize("kind", LISTS)
def test_every_kind_of_list_of_text_is_a_dialogue(tmp_path, kind):
    rows = pa.array([[f"q{place}", "a"] for place in range(3)], kind)
    pq.write_table(pa.table({"dialog": rows}), tmp_path / "rows.parquet")
    assert agrees(tmp_path / "rows.parquet", format="dialogues")["kept"] == 3


def test_why_parquet_has_no_text_is_said(tmp_path):
    for values, detail in (
        (pa.nulls(3), "output is null or missing"),
        (pa.array([b"\xe9"] * 3).view(pa.string()), "output is no UTF-8 text"),
    ):
        table = pa.table({"instruction": ["q"] * 3, "output": values})
        pq.write_table(table, tmp_path / "rows.parquet")
        assert f"3 not text ({detail})" in refusal(tmp_path / "rows.parquet")


def test_a_column_that_a_twentieth_of_the_rows_has_is_noticed(tmp_path):
    rows = alpaca_rows(200)
    for row in rows[19::20]:
        row["system_prompt"] = "Be kind."
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    assert "column system_prompt is not used" in checked_rows(path, "alpaca", {}).warnings[0]
