"""Variants in other templates, or trained elsewhere: what a report says of their pairs."""

from __future__ import annotations

import json
import re
from typing import Any

from chatpipe.config.schema import Variant
from chatpipe.report import render_html
from chatpipe.report.build import MakeReport, build_report
from chatpipe.report.comparison_tables import ranking_rows, verdict_rows
from chatpipe.report.first_lines import first_lines, further_lines
from chatpipe.report.schema import Report
from chatpipe.report.settings import settings_of
from chatpipe.report.verdict_text import best_sentences
from chatpipe.store.store import store
from tests.support.measured import Rows, Tables, heldout, model

ROWS = 40
TOGETHER = (
    "Where two variants differ in prompt_template (§), their difference is that of training and "
    "prompt_template together, on the same replies."
)
UNLIKE = "the perplexities of the tables do not compare between them there"


def scored(level: float, more_tokens: int = 0) -> Rows:
    return {f"{row:03}": (level * (1 + row % 7 / 100), 10 + more_tokens) for row in range(ROWS)}


def demo(chat_tokens: int = 0, **chat: Any) -> Report:
    """Two variants in one template and one in another, on one set; as in the demo."""
    settings = {"datasets": [{"name": "rows", "path": "rows.jsonl"}]}
    own: dict[str, dict[str, Any]] = {
        "chat": {"prompt_template": "chat", **chat},
        "alpaca": {},
        "alpaca-2": {"training": {"learning_rate": 0.001}},
    }
    variants = [
        Variant.model_validate({"name": name, **settings, **of}) for name, of in own.items()
    ]
    base = model("base", variants[1].model_copy(update={"name": "base"}), {"rows": scored(30)})
    models = [
        model(variant.name, variant, {"rows": scored(level, tokens)}, {"wall_s": 40.0})
        for variant, level, tokens in zip(variants, (20, 22, 24), (chat_tokens, 0, 0), strict=True)
    ]
    ids = {"rows": heldout([*scored(1)])}
    return build_report(MakeReport(study="demo", models=(base, *models), examples={}, heldout=ids))


def test_one_rule_marks_verdict_ranking_pairs_and_the_note() -> None:
    report = demo()
    [best] = best_sentences(report)
    assert best.startswith("On rows, chat is better than every other variant; than the next, alpa")
    assert "alpaca §: perplexity lower by" in best
    marked = {row["Variant"]: "§" in row["Perplexity"] for row in ranking_rows(report)}
    assert marked == {"chat": False, "alpaca": True, "alpaca-2": True}
    page = render_html(report)
    assert re.search(r'<td class="number">[\d.]+ §', page)  # marked figures align right, too
    assert not re.search(r"<td>[\d.]+ §", page)
    assert {row["Rows"] for row in ranking_rows(report)} == {f"{ROWS}"}
    assert all(row["Difference"].startswith("−") for row in verdict_rows(report))
    pairs = {(r["Variant"], r["Compared with"]): r["Difference"] for r in verdict_rows(report)}
    assert {pair for pair, text in pairs.items() if " § [" in text} == {
        ("chat", "alpaca"),
        ("chat", "alpaca-2"),
    }
    assert "§" not in pairs["alpaca", "alpaca-2"]
    assert TOGETHER in first_lines(report)
    assert not any(UNLIKE in line for line in (*first_lines(report), *further_lines(report)))


def test_tables_do_not_compare_where_a_template_ends_replies_with_other_tokens() -> None:
    report = demo(chat_tokens=1)
    assert {pair.unit for pair in report.verdicts} == {"bytes"}
    [line] = [line for line in first_lines(report) if UNLIKE in line]
    assert line.startswith("On rows, ")


def test_a_variant_that_was_trained_elsewhere_is_marked_in_ranking_and_pairs() -> None:
    imported = {"path": "/nowhere", "content": "0" * 64, "same_base": False}
    report = demo(prompt_template="alpaca", imported=imported)
    figures = {row["Variant"]: row["Perplexity"] for row in ranking_rows(report)}
    assert {name for name, text in figures.items() if " †? [" in text} == {"chat"}
    marked = [r for r in verdict_rows(report) if " †? [" in r["Difference"]]
    assert len(marked) == 2 and all(r["Variant"] == "chat" for r in marked)


def test_layers_that_are_written_in_two_ways_are_no_setting_that_differs() -> None:
    layers = ["k_proj", "q_proj"]
    variants = [
        Variant.model_validate(
            {
                "name": name,
                "datasets": [{"name": "rows", "path": "rows.jsonl"}],
                "lora": {"target_modules": targets},
            }
        )
        for name, targets in (("all", "all-linear"), ("named", layers[::-1]))
    ]
    config = {"adapter_config.json": json.dumps({"target_modules": layers})}
    adapter = store().get_or_build(Tables(texts=config))
    models = [
        model(variant.name, variant, {}, {}).model_copy(update={"adapter": adapter})
        for variant in variants
    ]
    assert {of["lora.target_modules"] for of in settings_of(models).values()} == {"k_proj, q_proj"}
    assert settings_of(models[:1])["all"]["lora.target_modules"] == "all-linear"
