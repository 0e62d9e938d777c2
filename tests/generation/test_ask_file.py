"""`chatpipe ask --file`: prompts of a file answered in order, and gone on with after a kill."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from chatpipe.cli.ask_file import time_left
from chatpipe.errors import ConfigError
from chatpipe.generation.prompt_file import read_prompts
from tests.support.commands import invoke
from tests.support.rows import alpaca_rows, write_jsonl
from tests.support.variants import small_variant, write_settings

CONVERSATION = [
    {"role": "system", "content": "Be quick."},
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "And then?"},
]
PROMPTS = [
    {"instruction": "Paint the river.", "id": 7, "output": "A river."},
    {"messages": CONVERSATION},
    {"instruction": "Sum up.", "input": "Two hills, one road.", "system": "Be kind."},
    {"instruction": "Paint the river."},
]


def test_the_time_that_is_left_is_not_told_by_the_first_of_many_answers():
    """64 are written side by side: the first one would say that the others take as long each."""
    assert time_left(2999, 1, 10.0) == time_left(0, 64, 10.0) == time_left(0, 3, 1.0) == ""
    assert time_left(2936, 64, 30.0) == ", 23 min left"


def test_rows_are_prompts(tmp_path):
    first, second, third, _ = read_prompts(write_jsonl(tmp_path / "p.jsonl", PROMPTS))
    assert first.position == "line 1" and first.values == PROMPTS[0]
    assert second.prompt.texts() == ["Be quick.", "Hello.", "Hi.", "And then?"]
    assert third.prompt.texts() == ["Be kind.", "Sum up.", "Two hills, one road."]
    path = tmp_path / "p.csv"
    path.write_text('instruction;input\nPaint.;\n"Sum\nup.";"a; b"\n')
    assert [row.prompt.texts() for row in read_prompts(path)] == [["Paint."], ["Sum\nup.", "a; b"]]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("p.jsonl", "", "p.jsonl: has no rows"),
        ("p.jsonl", '{"instruction": "a"}\n{"instruction"}\n', "p.jsonl: line 2 is no JSON"),
        ("p.jsonl", '{"input": "a"}\n', "line 1: has no instruction and no messages"),
        ("p.jsonl", '\n{"instruction": 7}\n', "line 2: instruction: expected text"),
        ("p.jsonl", '{"instruction": "a", "answer": "b"}\n', "line 1: has the key answer"),
        ("p.jsonl", '{"instruction": "a", "instruction": "b"}\n', "the key instruction twice"),
        ("p.jsonl", '{"messages": [], "instruction": "a"}\n', "has messages and instruction"),
        ("p.jsonl", '{"messages": [{"role": "bot", "content": "a"}]}', "messages.0.role: expected"),
        ("p.jsonl", '{"messages": [{"role": "user"}]}', "messages.0: expected a role and"),
        (
            "p.jsonl",
            json.dumps({"messages": CONVERSATION[:3]}),
            "line 1: messages: the last message has to be the user's",
        ),
        (
            "p.jsonl",
            json.dumps({"messages": CONVERSATION[2:]}),
            "line 1: history: user and assistant have to take turns",
        ),
        ("p.jsonl", '{"instruction": "\\ud800"}', "half of a surrogate pair"),
        ("p.csv", "instruction,input\na,b,c\n", "p.csv: row 1 has 3 cells, the header has 2"),
        ("p.txt", "a\n", "p.txt: a row file ends in"),
        ("p.json", "[]", "p.json: prompts are read from .jsonl and .csv files"),
    ],
)
def test_a_row_that_is_no_prompt_is_refused_with_file_and_line(tmp_path, name, text, sentence):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError) as refusal:
        read_prompts(path, frozenset({"answer"}))
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(("name", "bad"), [("p.jsonl", "{no\n7\n" * 15), ("p.csv", "a,b,c\n" * 30)])
def test_all_rows_that_cannot_be_read_are_listed(tmp_path, name, bad):
    path = tmp_path / name
    path.write_text(("instruction,input\n" if name == "p.csv" else "") + bad)
    with pytest.raises(ConfigError) as refusal:
        read_prompts(path)
    *faults, last = refusal.value.faults
    assert len(faults) == 20 and last == f"{path}: and 10 more faults."
    places = [f"line {n} " if name == "p.jsonl" else f"row {n} " for n in range(1, 21)]
    assert all(place in fault for place, fault in zip(places, faults, strict=True))


@pytest.fixture(scope="module")
def study(prefect, tmp_path_factory, tiny_model_dir):
    """A study of two trained variants."""
    folder = tmp_path_factory.mktemp("asked")
    write_jsonl(folder / "a.jsonl", alpaca_rows(20))
    data = {"name": "a", "path": str(folder / "a.jsonl")}
    for name, seed in (("one", 1), ("two", 2)):
        training = {"epochs": 1, "learning_rate": 0.01, "seed": seed}
        settings = small_variant(tiny_model_dir, data, training=training)
        write_settings(folder / f"{name}.yaml", settings)
    (folder / "both.yaml").write_text("variants: [one.yaml, two.yaml]\n")
    done = invoke("compare", folder / "both.yaml", "--lang", "zh")
    assert done.exit_code == 0, done.stderr
    page = Path(done.stdout.partition("report: ")[2].strip())
    assert page.name == "report.zh.html" and "训练成本" in page.read_text("utf-8")
    return folder


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect", "steps_in_this_process")
def test_a_file_is_answered_in_order_and_gone_on_with(study, tmp_path):
    prompts = write_jsonl(tmp_path / "prompts.jsonl", PROMPTS)
    out = tmp_path / "answers.jsonl"
    command = ("ask", study / "one.yaml", "--file", prompts, "--out")
    done = invoke(*command, out)
    assert done.exit_code == 0, done.stderr
    assert "one: 4 of 4 prompts answered" in done.stderr
    written = lines(out)
    assert [
        {key: line[key] for key in row} for line, row in zip(written, PROMPTS, strict=True)
    ] == PROMPTS
    assert written[0]["answer"] == written[3]["answer"]
    assert (
        written[0]["answer"] == invoke("ask", study / "one.yaml", "Paint the river.").stdout.strip()
    )
    assert all(line["model"] == "one" and line["tokens"] <= 4 for line in written)
    whole = out.read_bytes()
    # Killed within a line: the same command goes on.
    out.write_bytes(whole[: whole.index(b"\n") + 30])
    done = invoke(*command, out)
    assert "has 1 answer already" in done.stderr and out.read_bytes() == whole
    # Other settings, another model, other prompts, another file: refused, and left as they are.
    other = write_jsonl(tmp_path / "other.jsonl", PROMPTS)
    for refused, reason in (
        (invoke(*command, out, "--seed", 3), "by another model or with other settings than one"),
        (invoke("ask", study / "two.yaml", *command[2:], out), "other settings than two"),
        (
            invoke(*command[:3], write_jsonl(tmp_path / "q.jsonl", PROMPTS[2:]), "--out", out),
            "answers another prompt",
        ),
        (invoke(*command, prompts), "is the file of prompts; name another file"),
        (invoke(*command, other), "no answer that `chatpipe ask --file` has written"),
    ):
        assert refused.exit_code == 2 and reason in refused.stderr
    assert out.read_bytes() == whole
    assert lines(prompts) == PROMPTS and lines(other) == PROMPTS


@pytest.mark.slow
@pytest.mark.usefixtures("prefect", "steps_in_this_process")
def test_a_study_answers_by_every_variant(study, tmp_path):
    prompts = write_jsonl(tmp_path / "prompts.jsonl", PROMPTS)
    out = tmp_path / "answers.jsonl"
    both = invoke("ask", study / "both.yaml", "--file", prompts, "--out", out)
    assert both.exit_code == 0, both.stderr
    assert [line["model"] for line in lines(out)] == ["one"] * 4 + ["two"] * 4
    # One variant's file is the beginning of the study's.
    whole = out.read_bytes()
    out.write_bytes(b"".join(whole.splitlines(keepends=True)[:4]))
    again = invoke("ask", study / "both.yaml", "--file", prompts, "--out", out)
    assert again.exit_code == 0 and out.read_bytes() == whole
    assert "two: 4 of 4" in again.stderr and "one: 4 of 4" not in again.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("prefect", "steps_in_this_process")
def test_what_cannot_be_asked_is_refused_before_a_model_is_loaded(study, tmp_path):
    long = [*PROMPTS, {"instruction": "river " * 2000}]
    prompts = write_jsonl(tmp_path / "long.jsonl", long)
    short = write_jsonl(tmp_path / "short.jsonl", PROMPTS)
    out = tmp_path / "answers.jsonl"
    command = ("ask", study / "one.yaml", "--file", prompts)
    refused = invoke(*command, "--out", out)
    assert refused.exit_code == 2 and f"{prompts}: line 5: the prompt with" in refused.stderr
    assert "the base was made for 1,024" in refused.stderr and not out.exists()
    for words, sentence in (
        ((*command,), "--file: needs --out"),
        ((*command[:2], "Hello", *command[2:], "--out", out), "--file: goes without a prompt"),
        ((*command[:2],), "ask: the prompt is empty"),
        ((*command[:2], "Hello", "--out", out), "--out: goes with --file"),
        ((*command[:3], short, "--out", tmp_path), "is a directory; name a file"),
        ((*command[:3], tmp_path / "no.jsonl", "--out", out), "no.jsonl: there is no such file"),
    ):
        refused = invoke(*words)
        assert refused.exit_code == 2 and sentence in refused.stderr, refused.stderr


@pytest.mark.slow
def test_two_runs_do_not_write_one_file(tmp_path):
    program = (
        "import sys; from pathlib import Path; "
        "from chatpipe.generation.answer_file import open_answers\n"
        "with open_answers(Path(sys.argv[1])): print('open', flush=True); input()"
    )
    out = tmp_path / "answers.jsonl"
    first = subprocess.Popen(
        [sys.executable, "-c", program, out],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout.readline() == "open\n"
    second = subprocess.run(
        [sys.executable, "-c", program, out], capture_output=True, text=True, check=False
    )
    assert "another run writes it" in second.stderr
    first.communicate("\n")
