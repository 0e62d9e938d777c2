"""Row files and rows: what `validate` and `plan` call fine, runs; the rest is refused."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.rows import alpaca_rows, dialogue_rows
from tests.support.verdicts import ROWS, Case, cases, judge, lines

pytestmark = pytest.mark.slow

PLAIN = alpaca_rows(30)


def parquet(*columns, rows=PLAIN, names=("instruction", "input", "output")):
    """Rows as Parquet; `columns` are Arrow types of the texts, or one for all of them."""
    types = columns if len(columns) == len(names) else columns * len(names)
    arrays = [pa.array([row[n] for row in rows]).cast(t) for n, t in zip(names, types, strict=True)]
    sink = io.BytesIO()
    pq.write_table(pa.table(dict(zip(names, arrays, strict=True))), sink)
    return sink.getvalue()


def table(rows=PLAIN, encoding="utf-8", **layout):
    """Rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), **layout)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode(encoding)


def chats(*turns, column="messages"):
    """Thirty rows of those turns; {} in a text is the row's number."""
    return lines(
        *({column: json.loads(json.dumps(turns).replace("{}", str(i)))} for i in range(30))
    )


def with_row(row, place=0):
    """The plain rows, and this one among them."""
    rows = [*PLAIN]
    rows.insert(place, row)
    return lines(*rows)


def changed(**values):
    """The plain rows with those values."""
    return lines(*({**row, **values} for row in PLAIN))


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


TALK = (user("q {}"), assistant("a {}"), user("r {}"), assistant("b {}"))
LONG_TALK = [turn(f"{turn.__name__} {{}} {i}") for i in range(100) for turn in (user, assistant)]
SHAREGPT = ({"from": "human", "value": "q {}"}, {"from": "gpt", "value": "a {}"})

MESSAGES, DIALOGUES = {"format": "messages"}, {"format": "dialogues"}
FIRST, WHOLE = {"turns": "first"}, {"turns": "all"}

ROW_FILES = (
    Case("plain"),
    Case("json list", rows=json.dumps(PLAIN).encode(), file="rows.json"),
    Case("csv", rows=table(), file="rows.csv"),
    Case("parquet", rows=parquet(pa.string()), file="rows.parquet"),
    Case("large strings", rows=parquet(pa.large_string()), file="rows.parquet"),
    Case("string views", rows=parquet(pa.string_view()), file="rows.parquet"),
    Case("categories", rows=parquet(pa.dictionary(pa.int32(), pa.string())), file="rows.parquet"),
    Case("byte order mark, json lines", rows=b"\xef\xbb\xbf" + ROWS),
    Case("byte order mark, csv", rows=b"\xef\xbb\xbf" + table(), file="rows.csv"),
    Case("name of letters that are not ASCII", file="Füße und 雪.jsonl"),
    Case("name of a hundred letters", file=f"{'x' * 100}.jsonl"),
    Case("json lines, packed", rows=gzip.compress(ROWS), file="rows.jsonl.gz"),
    Case("json lines, packed, under a plain name", rows=gzip.compress(ROWS)),
    Case("json lines of another encoding", rows=ROWS.decode().encode("utf-16")),
    Case("json list under another name", rows=json.dumps(PLAIN).encode()),
    Case("json lines under another name", file="rows.ndjson"),
    Case("semicolons", rows=table(delimiter=";"), file="rows.csv"),
    Case("tabs", rows=table(delimiter="\t"), file="rows.tsv"),
    Case("large letters in the suffix", file="rows.JSONL"),
    Case("file of text", "a row file ends in", file="rows.txt"),
    Case("column twice", "there twice", rows=b"instruction,output,output\nq,a,b\n", file="r.csv"),
    Case("header alone", "no rows", rows=b"instruction,output\n", file="rows.csv"),
    Case("no header", "columns", rows=b"q,a\n" * 30, file="rows.csv"),
    Case(
        "cp1252, csv",
        "1252",
        rows=table([{**r, "output": "é"} for r in PLAIN], "cp1252"),
        file="r.csv",
    ),
    Case("half, parquet", "parquet", rows=parquet(pa.string())[:500], file="r.parquet"),
    Case("half, json", "not valid JSON", rows=json.dumps(PLAIN).encode()[:-50], file="r.json"),
    Case("half, json lines", rows=ROWS[:-30]),
    Case(
        "wrapped in an object",
        "list of rows",
        rows=json.dumps({"data": PLAIN}).encode(),
        file="r.json",
    ),
    Case("star and brackets in the name", file="a[1]*.jsonl"),
    Case("empty", "empty", rows=b""),
    Case("blank", "no rows", rows=b"\n\n"),
    Case("pointer of git lfs", "rows.jsonl", rows=b"version https://git-lfs.github.com/spec/v1\n"),
    Case(
        "unclosed quote", "quote", rows=b"instruction,output\nq,a\n" + b'q,"a\n' * 30, file="r.csv"
    ),
    Case(
        "other columns",
        "columns",
        rows=lines(*({"question": "x", "answer": str(i)} for i in range(30))),
    ),
    Case(
        "other columns that are named",
        rows=lines(*({"question": f"x {i}", "answer": str(i)} for i in range(30))),
        dataset={"columns": {"instruction": "question", "output": "answer"}},
    ),
    Case("column that is none of ours", "inptu", dataset={"columns": {"inptu": "input"}}),
    Case("column that is not in the file", "contxt", dataset={"columns": {"input": "contxt"}}),
    Case("nested deep", rows=with_row({}, 3) + b"[" * 100_000 + b"\n"),
    Case(
        "latin letters of another encoding",
        rows=ROWS + '{"instruction": "é", "output": "ü"}\n'.encode("cp1252"),
    ),
    Case("no such format", "did you mean sharegpt", dataset={"format": "sharegtp"}),
    Case(
        "cell of three mebibytes",
        rows=table([*PLAIN, {**PLAIN[1], "output": "x" * 3 * 2**20}]),
        file="rows.csv",
    ),
)

ROWS_WITHIN = (
    Case("null first", rows=b"null\n" + ROWS),
    Case("key twice", rows=ROWS + b'{"instruction": "q", "output": "a", "output": "b"}\n'),
    Case("number of 400 digits", rows=with_row({"instruction": 10**400, "output": "x"}, 3)),
    Case("object in output", rows=with_row({"instruction": "q", "output": {"a": 1}}, 3)),
    Case("rows that are lists", "rows can be used", rows=lines(*[["q", "a"]] * 30)),
    Case(
        "dialogues of one",
        "rows can be used",
        rows=lines(*[{"dialog": ["x"]}] * 30),
        dataset={"format": "dialogues"},
    ),
    Case(
        "chats of text",
        "rows can be used",
        rows=lines(*[{"messages": "x"}] * 30),
        dataset={"format": "messages"},
    ),
    Case("null row among others", rows=with_row(None, 5)),
    Case("null text", rows=with_row({"instruction": None, "output": "x"})),
    Case("list in output", "rows can be used", rows=changed(output=["x"])),
    Case("truth values in output", "rows can be used", rows=changed(output=True)),
    Case("numbers in output", "rows can be used", rows=changed(output=3)),
    Case("not a number in input", rows=with_row({**PLAIN[0], "input": float("nan")}, 3)),
    Case(
        "all of one prompt",
        "held",
        rows=lines(*({"instruction": "x", "output": str(i)} for i in range(30))),
    ),
    Case("all the same", "held", rows=lines(*[PLAIN[0]] * 30)),
    Case("only white space", "rows can be used", rows=changed(output=" \t ")),
    Case("only zero-width", "rows can be used", rows=changed(output="\u200b\u200d")),
    Case(
        "control tokens spelled out",
        rows=lines(*({**r, "output": r["output"] + "</s>"} for r in PLAIN)),
    ),
    Case(
        "carriage returns", rows=lines(*({**r, "output": r["output"] + "\r\nx\r"} for r in PLAIN))
    ),
    Case("lone surrogates", rows=with_row({"instruction": "\ud800", "output": "x"})),
    Case("zero bytes", rows=with_row({"instruction": "a\0b", "output": "x\0"})),
    Case("dialogues", rows=lines(*dialogue_rows(30)), dataset={"format": "dialogues"}),
    Case("dialogues of alpaca rows", "dialog", dataset={"format": "dialogues"}),
    Case("dialogues, whole", rows=lines(*dialogue_rows(30)), dataset=WHOLE | DIALOGUES),
    Case("chats", rows=chats(user("q {}"), assistant("a {}")), dataset=MESSAGES),
    Case("chats of four turns", rows=chats(system("s"), *TALK), dataset=MESSAGES),
    Case("chats of four turns, first", rows=chats(system("s"), *TALK), dataset=MESSAGES | FIRST),
    Case("chats of 200 turns", "raise it", rows=chats(*LONG_TALK), dataset=MESSAGES),
    Case(
        "chats of other letters",
        rows=chats(system("עברית"), user("שלום {}"), assistant("你好"), user("🙂"), assistant("é")),
        dataset=MESSAGES,
    ),
    Case(
        "chats of parts that begin with the answer and end with the user",
        rows=chats(
            TALK[1],
            user([{"type": "text", "text": "q {}"}, {"type": "text", "text": "r"}]),
            *TALK[1:],
            user("s"),
        ),
        dataset=MESSAGES,
    ),
    Case(
        "chats with an empty reply in the middle",
        "empty turn",
        rows=chats(TALK[0], assistant(""), *TALK[2:]),
        dataset=MESSAGES,
    ),
    Case(
        "chats of two users in a row, refused",
        "two turns of one role in a row",
        rows=chats(user("p"), *TALK),
        dataset=MESSAGES | {"repeated_roles": "drop"},
    ),
    Case("setting of turns that is none", "turns", dataset={"turns": "last"}),
    Case(
        "a history in pairs, and a system text",
        rows=lines(*({**r, "system": "s", "history": [[r["instruction"], "a"]]} for r in PLAIN)),
    ),
    Case("a history that is text", "rows can be used", rows=changed(history="I was there.")),
    Case(
        "chats with null turns",
        rows=chats(None, user("q {}"), assistant("a {}")),
        dataset={"format": "messages"},
    ),
    Case(
        "chats with a tool",
        "rows can be used",
        rows=chats(
            user("q {}"), assistant(None), {"role": "tool", "content": "t"}, assistant("a {}")
        ),
        dataset={"format": "messages"},
    ),
    Case(
        "sharegpt",
        rows=chats({"from": "system", "value": "s"}, *SHAREGPT, *SHAREGPT, column="conversations"),
        dataset={"format": "sharegpt"},
    ),
    Case(
        "sharegpt under another name",
        rows=chats(*SHAREGPT, column="talk"),
        dataset={"format": "sharegpt", "columns": {"conversations": "talk"}},
    ),
    Case(
        "sharegpt of roles and contents",
        rows=chats(user("q {}"), assistant("a {}"), column="conversations"),
        dataset={"format": "sharegpt"},
    ),
    Case(
        "sharegpt that begins with the answer",
        "an assistant turn first",
        rows=chats(*reversed(SHAREGPT), column="conversations"),
        dataset={"format": "sharegpt"},
    ),
    Case(
        "sharegpt as alpaca",
        "format: sharegpt",
        rows=chats(*SHAREGPT, column="conversations"),
    ),
    Case(
        "completions",
        rows=lines(*({"prompt": f"q {i}", "completion": f"a {i}"} for i in range(30))),
        dataset={"format": "completion"},
    ),
    Case(
        "completions of turns",
        rows=lines(
            *({"prompt": [user(f"q {i}")], "completion": [assistant("a")]} for i in range(30))
        ),
        dataset={"format": "completion"},
    ),
    Case(
        "chats of an image",
        "an image, sound or video",
        rows=chats(user([{"type": "image", "url": "{}"}]), assistant("a {}")),
        dataset={"format": "messages"},
    ),
    Case(
        "chats without an answer",
        "rows can be used",
        rows=chats(user("q {}")),
        dataset={"format": "messages"},
    ),
)


@cases(ROW_FILES, ROWS_WITHIN)
def test_what_is_called_fine_runs_and_the_rest_is_refused(
    case, chatpipe_home, tmp_path, tiny_model_dir
):
    judge(case, tmp_path / "mine", tiny_model_dir)
