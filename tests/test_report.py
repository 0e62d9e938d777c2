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
    headline_rows,
    json_schema,
    render_html,
    render_markdown,
    transfer_rows,
)
from chatpipe.report.findings import summary
from chatpipe.report.formatting import MINUS

HOSTILE = '<script>alert("x")</script> | a pipe, `code`\n</p><img src=https://evil.example/x.png>'
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
    path = Path(package.__file__).with_name("schema_v1.json")
    expected = json.dumps(json_schema(), indent=2) + "\n"
    how = "write json.dumps(json_schema(), indent=2) and a newline to schema_v1.json"
    assert path.read_text(encoding="utf-8") == expected, how


def test_a_report_cannot_be_changed_or_carry_unknown_fields() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        example().study = "other"
    with pytest.raises(ValidationError, match="extra"):
        example(surprise=1)


def test_a_row_account_that_loses_rows_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"read 400 rows, but kept 390 .* dropped 8 = 398"):
        RowAccountRow(
            name="d", step="normalize", read=400, kept=390, dropped={"empty": 8}, flagged={}
        )


def test_a_figure_of_an_unknown_model_is_refused() -> None:
    stranger = example().scores[0].model_copy(update={"model": "nobody"})
    with pytest.raises(ValidationError, match="unknown model nobody"):
        example(scores=[stranger])


def test_a_figure_that_stands_twice_is_refused() -> None:
    cell = example().scores[0]
    with pytest.raises(ValidationError, match="stands twice"):
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


def test_the_summary_counts_what_is_settled_and_names_the_rest() -> None:
    assert summary(example()) == (
        "3 of 3 variants beat their base on their own held-out rows; on data a variant was not "
        "trained on, 0 of 2 comparisons with the base are better (1 worse, 1 undecided). "
        "2 comparisons rest partly on rows seen in training (†)."
    )


def test_the_summary_claims_nothing_where_nothing_was_compared() -> None:
    assert summary(example(differences=[])).startswith("No variant was compared with its base")


def test_a_figure_over_rows_seen_in_training_carries_its_mark_wherever_it_is_shown() -> None:
    report = example()
    cell = {row["Model"]: row for row in transfer_rows(report)}["smol-dialog"]["sample-alpaca"]
    assert cell == "9.288 †3 [8.359, 10.22]"
    assert "†3" in charts.heatmap(report)
    note = "smol-dialog on sample-alpaca: 3 of 40 rows stood in its training split"
    assert note in render_html(report)
    assert note in render_markdown(report)


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
