"""The report: what its contract refuses, and what every rendering of it shows."""

from __future__ import annotations

import json
import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from pydantic import ValidationError

import chatpipe.report as package
from chatpipe.report import (
    Answer,
    Difference,
    HeldoutSet,
    LossPoint,
    Model,
    PaperRow,
    Report,
    RowAccountRow,
    ScoreCell,
    account_rows,
    charts,
    formatting,
    headline_rows,
    json_schema,
    render_html,
    render_markdown,
    training_tables,
    transfer_rows,
)
from chatpipe.report.comparability import statements
from chatpipe.report.findings import summarize
from chatpipe.report.formatting import MINUS
from chatpipe.report.training_tables import training_rows

HOSTILE = (
    '<script>alert("x")</script> | a pipe, `code`\n</p><img src=https://evil.example/x.png>'
    " [link](https://evil.example) \x1b[31mred\x1b[0m \u202egnp.exe\u202c zero\u200bwidth \x00"
)
ADDED_TO_MODELS = (
    "epochs",
    "scored_tokens",
    "versions",
    "measured_on",
    "generation",
    "rows_left_out",
    "rows_cut",
    "prompt_template",
    "own_template_base",
)
BASE = "SmolLM2-135M"
UNION = "sample-alpaca + sample-dialog"
SETS = {
    "sample-alpaca": ["sample-alpaca"],
    "sample-dialog": ["sample-dialog"],
    UNION: ["sample-alpaca", "sample-dialog"],
}
VARIANTS = {
    "smol-alpaca": ["sample-alpaca"],
    "smol-dialog": ["sample-dialog"],
    "smol-merge": ["sample-alpaca", "sample-dialog"],
}
PERPLEXITIES = {
    BASE: (9.412, 31.87, 14.66),
    "smol-alpaca": (5.931, 33.02, 11.20),
    "smol-dialog": (9.288, 13.45, 10.37),
    "smol-merge": (6.027, 13.91, 8.214),
}
SEEN = {("smol-dialog", "sample-alpaca"): 3, ("smol-merge", UNION): 1}
PROMPTS = {
    "time-travel": ("What if time travel was possible?", ""),
    "dialog": ("Continue the daily dialogue.", "Hey! How have you been these days?"),
}


def test_a_report_survives_the_way_through_json() -> None:
    report = example()
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_an_infinite_perplexity_survives_the_way_through_json_and_is_shown() -> None:
    cell = example().scores[0].model_copy(update={"value": math.inf})
    report = example(scores=[cell])
    assert Report.model_validate_json(report.model_dump_json()).scores[0].value == math.inf
    assert "∞" in render_html(report)


def test_the_committed_json_schema_is_current() -> None:
    path = Path(package.__file__).with_name("schema_v2.json")
    expected = json.dumps(json_schema(), indent=2) + "\n"
    how = "write json.dumps(json_schema(), indent=2) and a newline to schema_v2.json"
    assert path.read_text(encoding="utf-8") == expected, how


def test_a_report_cannot_be_changed_or_carry_unknown_fields() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        example().study = "other"
    with pytest.raises(ValidationError, match="extra"):
        example(surprise=1)


def test_turns_are_shown_where_rows_are_conversations() -> None:
    dialogues, *others = example().accounts
    turns = {"read": 1500, "kept": 784, "replies": 392}
    with_turns = dialogues.model_validate(dialogues.model_dump() | {"turns": turns})
    shown = account_rows(example(accounts=[with_turns, *others]))
    assert [row["Turns"] for row in shown] == ["784 of 1,500, 392 replies", "—", "—"]
    assert "Turns" not in account_rows(example())[0]


def test_a_row_account_that_loses_rows_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"read 400 rows, but kept 390 .* dropped 8 = 398"):
        RowAccountRow(
            name="d", step="normalize", read=400, kept=390, dropped={"empty": 8}, flagged={}
        )


def test_a_figure_of_an_unknown_model_is_refused() -> None:
    stranger = example().scores[0].model_copy(update={"model": "nobody"})
    with pytest.raises(ValidationError, match="unknown model nobody"):
        example(scores=[stranger])


def test_a_figure_that_occurs_twice_is_refused() -> None:
    cell = example().scores[0]
    with pytest.raises(ValidationError, match="occurs twice"):
        example(scores=[cell, cell])


def test_only_settings_that_differ_between_variants_are_told_apart() -> None:
    report = example()
    assert set(report.differing_settings()) == {"datasets", "lora.dropout", "training.shuffle"}
    assert report.differing_settings()["lora.dropout"]["smol-dialog"] is None
    assert report.shared_settings() == {"lora.rank": 8, "training.learning_rate": 2e-4}


def test_the_headline_gives_each_variant_its_own_rows_beside_its_base() -> None:
    rows = {row["Model"]: row for row in headline_rows(example())}
    alpaca = rows["smol-alpaca"]
    assert list(rows) == list(VARIANTS)
    assert alpaca["Own held-out perplexity"] == "5.931 [5.338, 6.524]"
    assert alpaca["Base on the same rows"] == "9.412 [8.471, 10.35]"
    assert alpaca["Difference from base"] == "-3.481 [-3.981, -2.981]".replace("-", MINUS)
    assert alpaca["Training time"] == "12 min 05 s"


def test_the_papers_figure_stands_beside_the_variant_of_that_name() -> None:
    report = example(paper=[PaperRow(model="SMOL-ALPACA", perplexity=2.236, wall_s=30003.422)])
    assert headline_rows(report)[0]["Paper reported"] == "2.236"
    assert "8 h 20 min" in render_html(report)


def test_without_the_papers_rows_nothing_of_the_paper_is_shown() -> None:
    report = example(paper=[])
    assert "Paper reported" not in headline_rows(report)[0]
    assert "14 July 2023" not in render_html(report) + render_markdown(report)


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_the_headline_numbers_stand_in_every_rendering(render: Any) -> None:
    text = re.sub(r"<[^>]*>|\\", "", render(example()))
    assert all(row["Own held-out perplexity"] in text for row in headline_rows(example()))
    assert "-3.481 [-3.981, -2.981]".replace("-", MINUS) in text


def test_what_is_rounded_to_zero_has_no_sign():
    for value in (0.0, -0.0, 1e-5, -1e-5):
        for unit, text in (("tokens", "0.0 %"), ("bytes", "0.000")):
            assert formatting.amount(value, unit) == formatting.signed_amount(value, unit) == text
        assert formatting.signed(value) == formatting.perplexity(value) == "0.000"
    assert formatting.signed(-0.0006) == f"{MINUS}0.001" and formatting.signed(0.0006) == "+0.001"
    assert formatting.signed(-1234.5) == f"{MINUS}1,234" and formatting.signed(math.inf) == "+∞"


def test_the_summary_counts_what_is_settled_and_names_the_rest() -> None:
    assert summarize(example()) == (
        "3 of 3 variants beat their base on their own held-out rows; on data a variant was not "
        "trained on, 0 of 2 comparisons with the base are better (1 worse, 1 undecided). "
        "2 comparisons rest partly on rows seen in training (†)."
    )


def test_the_summary_claims_nothing_where_nothing_was_compared() -> None:
    assert summarize(example(differences=[])).startswith("No variant was compared with its base")


def test_a_figure_over_rows_seen_in_training_carries_its_mark_wherever_it_is_shown() -> None:
    report = example()
    cell = {row["Model"]: row for row in transfer_rows(report)}["smol-dialog"]["sample-alpaca"]
    assert cell == "9.288 †3 [8.359, 10.22]"
    assert "†3" in charts.heatmap(report)
    note = "smol-dialog on sample-alpaca: 3 of 40 rows are also in its training data"
    assert note in render_html(report)
    assert note in render_markdown(report)


def test_framed_are_the_held_out_rows_of_data_that_the_model_was_trained_on() -> None:
    """smol-alpaca and smol-dialog on their own data, smol-merge on both parts and their union."""
    page = render_html(example())
    assert page.count('<rect class="own"') == 1 + 1 + 3
    assert "framed: held-out rows of data it was trained on" in page


def test_rows_left_out_carry_their_mark_and_a_footnote() -> None:
    report = example()
    change = {"rows": 37, "left_out": 3}
    cells = [
        cell.model_copy(update=change)
        if (cell.model, cell.heldout) == ("smol-alpaca", "sample-dialog")
        else cell
        for cell in report.scores
    ]
    differences = [
        diff.model_copy(update=change) if diff.heldout == "sample-dialog" else diff
        for diff in report.differences
    ]
    made = example(scores=cells, differences=differences)
    row = {row["Model"]: row for row in transfer_rows(made)}["smol-alpaca"]
    assert row["sample-dialog"] == "33.02 ‡3 [29.72, 36.32]"
    page, text = render_html(made), render_markdown(made)
    assert "‡3" in charts.heatmap(made)
    for rendering in (page, text):
        assert "smol-alpaca on sample-dialog: 3 of 40 rows left out" in rendering
        assert "On sample-dialog, not all models were scored on the same rows" in rendering
    assert {value for _, value in _Page(page).loads} >= {"#left-out"}
    assert "‡" not in render_html(example()) + render_markdown(example())


def test_without_seen_rows_there_is_no_mark_and_no_footnote() -> None:
    cells = [cell.model_copy(update={"seen_in_training": 0}) for cell in example().scores]
    assert "†" not in render_html(example(scores=cells)) + render_markdown(example(scores=cells))


def test_the_page_loads_nothing() -> None:
    page = _Page(render_html(example()))
    assert page.tags.isdisjoint({"script", "link", "iframe", "img", "object", "embed", "base"})
    assert all(value.startswith("#") for name, value in page.loads)
    assert not re.search(r"url\(|@import|https?:", "".join(page.style))


def test_every_reference_within_the_page_has_its_target() -> None:
    page = _Page(render_html(example()))
    assert len(page.ids) == len(set(page.ids))
    assert {value.removeprefix("#") for _, value in page.loads} <= set(page.ids)
    assert page.labels <= set(page.ids)


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_what_a_model_wrote_is_shown_as_text_and_never_run(render: Any) -> None:
    text = render(example())
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;alert(" in text


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_characters_that_hide_or_turn_text_are_written_out(render: Any) -> None:
    text = render(example())
    hidden = "\x1b\x00\u202e\u202c\u200b"
    assert not set(hidden) & set(text)
    plain = text.replace("\\\\", "\\")  # Markdown escapes a backslash
    assert all(escape in plain for escape in (r"\x1b", r"\x00", r"\u202e", r"\u200b"))


def test_a_link_in_an_answer_is_text_in_markdown() -> None:
    assert r"\[link\](https" in render_markdown(example())


def test_text_from_right_to_left_and_its_joiners_stay_as_they_are() -> None:
    persian = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    answer = example().answers[0].model_copy(update={"text": persian})
    for render in (render_html, render_markdown):
        assert persian in render(example(answers=[answer]))


def test_a_very_long_answer_scrolls_and_is_whole() -> None:
    answer = example().answers[0].model_copy(update={"text": "word " * 50_000})
    page = render_html(example(answers=[answer]))
    assert page.count("word ") >= 49_999
    assert re.search(r"\.answer \.text {[^}]*max-height[^}]*overflow-y: auto", page)


def test_a_hostile_name_cannot_break_out_of_a_chart() -> None:
    renamed = json.loads(json.dumps(example().model_dump()).replace(BASE, "<b>&x</b>"))
    report = Report.model_validate(renamed)
    assert "<b>" not in render_html(report)
    for chart in (charts.heatmap(report), charts.loss_curves(report)):
        ElementTree.fromstring(chart)


def test_an_answer_in_a_markdown_table_stays_in_its_cell() -> None:
    line = next(line for line in render_markdown(example()).splitlines() if "alert" in line)
    assert len(re.findall(r"(?<!\\)\|", line)) == 4


def test_the_loss_chart_thins_long_histories_and_leaves_out_what_is_not_a_number() -> None:
    long = [LossPoint(step=i, epoch=i / 5000, loss=2 + i % 2) for i in range(10_000)]
    broken = LossPoint(step=10_000, epoch=2, loss=math.nan)
    model = example().variants[0].model_copy(update={"loss_history": [*long, broken]})
    chart = charts.loss_curves(example(models=[*example().bases, model], **_NOTHING))
    assert "nan" not in chart
    assert len(re.findall(r"\d+\.\d,\d+\.\d", chart)) <= charts.MOST_POINTS + 2


def test_a_history_of_one_point_is_drawn_as_a_dot() -> None:
    model = example().variants[0]
    single = model.model_copy(update={"loss_history": model.loss_history[:1]})
    assert "<circle" in charts.loss_curves(example(models=[single], **_NOTHING))


def test_a_report_of_a_base_alone_renders_without_variants() -> None:
    bare = example(models=example().bases, paper=[], **_NOTHING)
    assert headline_rows(bare) == []
    assert "Training time" not in render_html(bare) + render_markdown(bare)


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_what_was_odd_in_the_data_is_said_in_every_rendering(render: Any) -> None:
    assert "12 rows are expected, 11 were read" in render(example())


def test_a_row_account_names_each_reason_with_its_number() -> None:
    row = account_rows(example())[0]
    assert row["Dropped"] == "empty output 6, duplicate 2"
    assert row["Kept but flagged"] == "noinput marker 4"


def test_the_first_lines_say_how_long_each_variant_was_trained() -> None:
    def sentence(*values: dict[str, Any]) -> str:
        models = [
            model.model_copy(update=value)
            for model, value in zip(example().variants, values, strict=True)
        ]
        return statements(example(models=[*example().bases, *models]))[0]

    alike = {"epochs": 1.0, "optimizer_steps": 43, "scored_tokens": 9_000}
    assert sentence(alike, alike, alike) == (
        "All variants were trained with the same epochs (1), optimizer steps (43) and scored "
        "tokens (9,000)."
    )
    twice = alike | {"epochs": 1.95}
    assert sentence(alike, twice, alike) == (
        "All variants were trained with the same optimizer steps (43) and scored tokens (9,000), "
        "but not with the same epochs (smol-alpaca 1, smol-dialog 1.95, smol-merge 1)."
    )
    other = {"epochs": 2.0, "optimizer_steps": 86, "scored_tokens": 18_000}
    assert sentence(alike, other, alike).startswith("The variants were not trained with the same")
    for render in (render_html, render_markdown):
        assert "All variants were trained with the same optimizer steps (96)" in render(example())


def test_training_rows_that_are_too_long_are_counted_in_words_and_in_the_table() -> None:
    counts = [{"rows_left_out": {"longer than max_length": 12}, "rows_cut": 0}, {"rows_cut": 3}, {}]
    models = [m.model_copy(update=c) for m, c in zip(example().variants, counts, strict=True)]
    report = example(models=[*example().bases, *models])
    first, second, third = (model.name for model in models)
    assert (
        f"Training rows longer than training.max_length: {first} 12 left out, {second} 3 cut."
    ) in statements(report)
    rows = {row["Model"]: (row["Rows left out"], row["Rows cut"]) for row in training_rows(report)}
    assert rows == {
        first: ("longer than max_length 12", "0"),
        second: ("—", "3"),
        third: ("—", "—"),
    }
    assert "Rows cut" not in training_rows(example())[0]


def test_fewer_than_thirty_rows_are_said_in_the_first_lines_and_at_each_figure() -> None:
    few = [cell.model_copy(update={"rows": 12}) for cell in example().scores]
    sets = [heldout.model_copy(update={"rows": 12}) for heldout in example().heldout]
    made = example(scores=few, heldout=sets)
    for text in (render_html(made), render_markdown(made)):
        assert "Fewer than 30 held-out rows (sample-alpaca 12, sample-dialog 12, " in text
    assert transfer_rows(made)[0]["sample-alpaca"] == "9.412 (12 rows) [8.471, 10.35]"
    assert "Fewer than 30" not in render_html(example())
    one = [cell.model_copy(update={"rows": 3}) for cell in example().scores[:1]]
    assert f"({BASE} on sample-alpaca 3)" in render_html(example(scores=one))


def test_what_differs_between_models_is_shown_for_each() -> None:
    report = example()
    changes: list[dict[str, Any]] = [
        {"versions": {"torch": "2.8.0", "peft": "0.17"}, "device": "a GPU"},
        {"versions": {"torch": "2.9.1", "peft": "0.17"}, "generation": {"temperature": 0.7}},
        {"versions": {"torch": "2.8.0", "peft": "0.17"}, "generation": {"temperature": 0.0}},
    ]
    models = [m.model_copy(update=c) for m, c in zip(report.variants, changes, strict=True)]
    made = example(models=[*report.bases, *models])
    assert training_tables.version_rows(made) == [
        {
            "Library": "torch",
            "smol-alpaca": "2.8.0",
            "smol-dialog": "2.9.1",
            "smol-merge": "2.8.0",
        }
    ]
    [row] = training_tables.generation_rows(made)
    assert row == {"Setting": "temperature", "smol-dialog": "0.7", "smol-merge": "0"}
    assert [row["Trained on"] for row in training_tables.device_rows(made)][1] == "a GPU"
    for text in (render_html(made), render_markdown(made)):
        assert "2.9.1" in text and "a GPU" in text and "0.7" in text
    assert training_tables.version_rows(report) == training_tables.generation_rows(report) == []


def test_two_texts_under_one_prompt_id_are_two_questions() -> None:
    first, second = (
        answer.model_copy(update={"model": model, "instruction": instruction})
        for answer, model, instruction in zip(
            example().answers[:2], ("smol-alpaca", "smol-dialog"), ("One?", "Two?"), strict=True
        )
    )
    report = example(answers=[first, second])
    assert [[answer.instruction for answer in group] for group in report.panel()] == [
        ["One?"],
        ["Two?"],
    ]


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_what_stood_before_a_prompt_is_shown_with_it(render: Any) -> None:
    first, second = example().answers[:2]
    turns = [{"role": "user", "content": "<b>Hi"}, {"role": "assistant", "content": "Hello."}]
    before = {"system": "Be kind.", "history": turns}
    answers = [Answer.model_validate(first.model_dump() | before), second]
    report = example(answers=answers)
    assert len(report.panel()) == 2  # the same words after other ones are another question
    text = render(report)
    for line in ("system: Be kind.", "user: &lt;b&gt;Hi", "assistant: Hello."):
        assert line in text


def test_a_report_of_an_earlier_edition_is_read_and_shown() -> None:
    plain = json.loads(example().model_dump_json())
    for part, added in (
        ("models", ADDED_TO_MODELS),
        ("scores", ("left_out", "bits_per_byte")),
        ("differences", ("rows", "left_out", "bits_per_byte")),
    ):
        for item in plain[part]:
            for name in added:
                del item[name]
    del plain["tokenizers"], plain["template_gains"]
    report = Report.model_validate_json(json.dumps(plain))
    assert report == example()
    assert "2.8.0" in render_html(report)


def test_a_report_of_version_1_is_read_with_its_ranking_and_shown() -> None:
    path = Path(__file__).with_name("report_v1.json")
    plain = json.loads(path.read_text("utf-8"))
    report = Report.model_validate(plain)
    assert plain["schema_version"] == 1 and report.schema_version == 2
    assert [c.name for c in report.configurations] == ["smol-alpaca", "smol-merge"]
    assert report.configurations[0].cost.wall_s == plain["ranking"][0]["wall_s"]
    assert report.verdicts[0].value == plain["verdicts"][0]["value"]
    assert Report.model_validate_json(report.model_dump_json()) == report
    for text in (render_html(report), render_markdown(report)):
        assert "On sample-alpaca, smol-alpaca is better than smol-merge" in text


_NOTHING: dict[str, Any] = {"scores": [], "differences": [], "answers": [], "settings": {}}


class _Page(HTMLParser):
    """What a browser would see of a page: its tags, what they load, ids, labels and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loads: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self.labels: set[str] = set()
        self.style: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in {"src", "href", "srcset", "xlink:href", "data", "action", "poster"}:
                self.loads.append((name, value or ""))
            elif name == "id":
                self.ids.append(value or "")
            elif name == "aria-labelledby":
                self.labels.update((value or "").split())

    def handle_data(self, data: str) -> None:
        if self.lasttag == "style":
            self.style.append(data)


def example(**changes: Any) -> Report:
    """A study as the demo makes it: a base, three variants, three held-out sets."""
    parts: dict[str, Any] = {
        "study": "demo: SmolLM2-135M on two samples",
        "created": "2025-06-01T12:00:00+00:00",
        "models": [_base(), *(_variant(name) for name in VARIANTS)],
        "heldout": [HeldoutSet(name=n, parts=p, rows=40 * len(p)) for n, p in SETS.items()],
        "scores": _scores(),
        "differences": _differences(),
        "answers": _answers(),
        "accounts": _accounts(),
        "notes": ["data set chat: 12 rows are expected, 11 were read."],
        "settings": _settings(),
        "generation": {"temperature": 0.0, "max_new_tokens": 64, "do_sample": False, "seed": None},
        "versions": {"torch": "2.8.0", "transformers": "4.56.1", "peft": "0.17.1"},
        "device": "2 CPU cores",
        "paper": [PaperRow(model="LLAMA7B-ALPACA", perplexity=2.236, wall_s=30003.422)],
    }
    return Report(**(parts | changes))


def _base() -> Model:
    given: dict[str, Any] = {n: None for n, f in Model.model_fields.items() if f.is_required()}
    given |= {"name": BASE, "base_model": "smol", "is_base": True, "datasets": []}
    return Model(**given)


def _variant(name: str) -> Model:
    place = list(VARIANTS).index(name)
    noise = random.Random(place)
    return Model(
        name=name,
        base_model="smol",
        is_base=False,
        datasets=VARIANTS[name],
        adapter_digest=f"{place:064x}",
        wall_s=725.4 * (1 + place),
        trained_tokens=131_072,
        tokens_per_s=437.2,
        peak_memory_bytes=1_910_000_000,
        optimizer_steps=96,
        trainable_parameters=460_800,
        rows_trained=360,
        device="2 CPU cores",
        loss_history=[
            LossPoint(step=i, epoch=i / 32, loss=1.6 + math.exp(-i / 25) + noise.gauss(0, 0.05))
            for i in range(2, 98, 2)
        ],
    )


def _scores() -> list[ScoreCell]:
    return [
        _score(model, heldout, metric, value if metric == "perplexity" else math.sqrt(value))
        for metric in ("perplexity", "perplexity_paper")
        for model, values in PERPLEXITIES.items()
        for heldout, value in zip(SETS, values, strict=True)
    ]


def _score(model: str, heldout: str, metric: Any, value: float) -> ScoreCell:
    return ScoreCell(
        model=model,
        heldout=heldout,
        metric=metric,
        value=value,
        low=0.9 * value,
        high=1.1 * value,
        rows=40 * len(SETS[heldout]),
        tokens=2_000,
        nats=2_000 * math.log(value),
        seen_in_training=SEEN.get((model, heldout), 0),
        own=set(SETS[heldout]) <= set(VARIANTS.get(model, [])),
    )


def _differences() -> list[Difference]:
    return [
        Difference(
            model=model, base=BASE, heldout=heldout, value=gap, low=gap - 0.5, high=gap + 0.5
        )
        for model in VARIANTS
        for heldout, value, base in zip(SETS, PERPLEXITIES[model], PERPLEXITIES[BASE], strict=True)
        for gap in [value - base]
    ]


def _answers() -> list[Answer]:
    said = {
        BASE: "I think that the question is a question. " * 9,
        "smol-alpaca": "If time travel were possible, people could visit the past.\n\n1. Museums "
        "would close.\n2. Historians would disagree more than they do now.",
        "smol-dialog": "I'm fine, thanks. And you?",
        "smol-merge": HOSTILE,
    }
    return [
        Answer(
            model=model,
            prompt_id=prompt,
            asked=asked,
            instruction=instruction,
            input=question,
            text=text,
            tokens=len(text.split()),
            stop="length" if model == BASE else "eos",
        )
        for prompt, (instruction, question) in PROMPTS.items()
        for asked in ("template", "raw")
        for model, text in said.items()
    ]


def _accounts() -> list[RowAccountRow]:
    dropped, flagged = {"duplicate": 2, "empty output": 6}, {"noinput marker": 4}
    none: dict[str, Any] = {"step": "normalize", "dropped": {}, "flagged": {}}
    return [
        RowAccountRow(
            name="sample-alpaca",
            read=400,
            kept=392,
            **(none | {"dropped": dropped, "flagged": flagged}),
        ),
        RowAccountRow(name="sample-dialog", read=400, kept=400, **none),
        RowAccountRow(name=UNION, read=792, kept=792, **(none | {"step": "merge"})),
    ]


def _settings() -> dict[str, Any]:
    shared = {"lora.rank": 8, "training.learning_rate": 2e-4}
    dropout = {"smol-alpaca": {"lora.dropout": 0.05}, "smol-merge": {"lora.dropout": 0.1}}
    return {
        name: shared
        | {"datasets": " + ".join(data), "training.shuffle": name != "smol-merge"}
        | dropout.get(name, {})
        for name, data in VARIANTS.items()
    }
