"""Training rows as `chatpipe preview` and `plan` show them: what is trained, and nothing else."""

import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from chatpipe.cli.app import app
from chatpipe.cli.plan_view import print_plan
from chatpipe.cli.preview import CLOSING, OPENING, preview_lines
from chatpipe.config.prompts import render
from chatpipe.errors import ConfigError
from chatpipe.planning.planner import plan
from chatpipe.planning.preview import preview, preview_row
from chatpipe.study.variants import parse_variant
from chatpipe.tokenization.encoder import IGNORED, TokenizedRow
from tests.support.rows import write_jsonl

ROWS = [
    {"instruction": f"Say {place} \u202eplainly.", "input": "", "output": f"Number {place} é 回"}
    for place in range(40)
]


@pytest.fixture
def variant(chatpipe_home, tiny_model_dir):
    rows = write_jsonl(chatpipe_home / "rows.jsonl", ROWS)

    def parsed(**training):
        raw = {
            "name": "mine",
            "base_model": {"repo": str(tiny_model_dir)},
            "datasets": [{"name": "rows", "path": str(rows)}],
            "training": {"max_length": 800, **training},
        }
        return parse_variant(raw, "a test")

    return parsed


def printed(shown, colour=False):
    console = Console(width=10_000, force_terminal=colour, color_system="truecolor")
    with console.capture() as capture:
        for line in preview_lines(shown, colour):
            console.print(line, highlight=False)
    return capture.get()


def test_the_scored_part_is_the_reply_and_eos_and_the_rest_the_rendered_prompt(variant):
    mine = variant()
    shown = preview(mine, 3)
    replies = {row["output"]: row for row in ROWS}
    assert len(shown.rows) == 3 and len({row.row for row in shown.rows}) == 3
    for row in shown.rows:
        prompt, reply = row.parts
        source = replies[reply.text.removesuffix("</s>")]
        assert prompt.text == "<s>" + render(mine.prompt_template, source["instruction"], "")
        assert (prompt.scored, reply.scored) == (False, True)
        assert prompt.tokens + reply.tokens == row.tokens
        assert reply.tokens == row.scored_tokens and row.cut_tokens == 0


def test_brackets_stand_for_colour_and_nothing_in_a_row_moves_the_cursor(variant):
    shown = preview(variant(), 2)
    plain, coloured = printed(shown), printed(shown, colour=True)
    assert plain.count(f"{OPENING}Number ") == plain.count(f"</s>{CLOSING}") == 2
    assert "\x1b[1;32mNumber " in coloured and f"{OPENING}Number" not in coloured
    assert "\\u202e" in plain and "\u202e" not in plain + coloured


@pytest.mark.parametrize(("side", "word"), [("cut_right", "last"), ("cut_left", "first")])
def test_what_is_cut_is_said(variant, side, word):
    whole = {row.row: row for row in preview(variant(), 40).rows}
    limit = min(row.tokens for row in whole.values()) - 5
    shown = preview(variant(max_length=limit, too_long=side), 40)
    for row in shown.rows:
        assert row.tokens == limit
        assert row.cut_tokens == whole[row.row].tokens - limit
    text = printed(shown)
    assert f"the {word} {shown.rows[0].cut_tokens} are cut (training.max_length)" in text


def test_rows_that_are_left_out_are_counted(variant):
    tokens = sorted(row.tokens for row in preview(variant(), 40).rows)
    limit = tokens[0]
    shown = preview(variant(max_length=limit), 40)
    assert sum(shown.left_out.values()) == sum(length > limit for length in tokens) > 0
    assert "rows are left out: longer than max_length" in printed(shown)


def test_several_scored_parts_are_marked_each_and_a_first_token_never_is(tiny_model_dir):
    from chatpipe.models.loading import load_tokenizer

    tokenizer = load_tokenizer(tiny_model_dir)
    texts = ["How are you?", "Fine.", " And you?", "Well."]
    pieces = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    ids = [number for piece in pieces for number in piece]
    scored = [
        number if place % 2 else IGNORED for place, piece in enumerate(pieces) for number in piece
    ]
    row = preview_row(tokenizer, TokenizedRow(ids, scored, 0))
    assert [part.text for part in row.parts] == texts
    assert [part.scored for part in row.parts] == [False, True, False, True]
    everything = preview_row(tokenizer, TokenizedRow(ids, ids, 0))
    assert [part.tokens for part in everything.parts] == [1, len(ids) - 1]


def test_a_base_or_rows_that_are_not_here_are_one_sentence(variant, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    mine = variant()
    away = mine.model_copy(
        update={"base_model": mine.base_model.model_copy(update={"repo": "owner/elsewhere"})}
    )
    with pytest.raises(ConfigError, match="no row can be shown") as refused:
        preview(away, 3)
    assert len(refused.value.faults) == 1


def test_the_plan_shows_three_rows(variant):
    console = Console(width=200, record=True, quiet=False)
    with console.capture() as capture:
        print_plan(plan(variant()), console)
    text = capture.get()
    assert "What is learnt" in text and text.count(f"</s>{CLOSING}") == 3


def test_the_command_takes_a_file_rows_and_set(variant, tmp_path):
    mine = variant()
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"base_model: {{repo: {mine.base_model.repo}}}\n"
        f"datasets: [{{name: rows, path: {mine.datasets[0].path}}}]\n"
    )
    arguments = ["preview", str(file), "--rows", "2", "--set", "training.loss=all", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    parts = [part for row in rows for part in row["parts"]]
    assert all(len(part["ids"]) == part["tokens"] for part in parts)
    assert [row["scored_tokens"] for row in rows] == [row["tokens"] - 1 for row in rows]
    whole = CliRunner().invoke(app, ["preview", str(file), "--rows", "1"]).stdout
    assert any(len(line) > 100 for line in whole.splitlines())  # no terminal wraps it
