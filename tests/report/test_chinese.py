"""The report in Chinese: every text of the table in both languages, and none left in English."""

import ast
import html
import json
import re
import string
from itertools import chain
from pathlib import Path

import pytest

from chatpipe.report import (
    findings,
    notes_text,
    render_html,
    render_markdown,
    task_text,
    training_tables,
    verdict_text,
)
from chatpipe.report.build import build_report
from chatpipe.report.names import with_short_names
from chatpipe.report.schema import (
    JudgesRatings,
    PeoplesRatings,
    PositionBias,
    RatedModel,
    RaterAgreement,
    RaterCount,
    Ratings,
    Report,
)
from chatpipe.study.export import translate_report, translation
from chatpipe.utils.texts import CHINESE, in_language, translate
from chatpipe.utils.visible_text import visible
from tests.report.test_report import example
from tests.support.synthetic_study import synthetic_study

SOURCE = Path(__file__).parents[2] / "src" / "chatpipe"
CHINESE_LETTER = re.compile(r"[\u4e00-\u9fff]")
ENGLISH = re.compile(r"[A-Za-z]{2,} [a-z]{2,}")
CALL = re.compile(r'(?:translate\(|counted\([^"()]*(?:\([^()]*\))?[^"()]*, )"((?:[^"\\]|\\.)*)"')
UNITS = {"token", "epoch", "nats", "seconds", "alpha", "kappa"}  # which Chinese texts use, too
OF_THE_EXAMPLE = {"noinput marker"}  # a reason that no reader of rows has


def fields(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def translated_in(path):
    """The texts that a module has translated as they stand in the call."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("translate", "counted"):
            texts = node.args[1:2] if node.func.id == "counted" else node.args[:1]
            yield from (text.value for text in texts if isinstance(text, ast.Constant))


def test_every_text_that_is_translated_has_chinese_words():
    modules = chain.from_iterable(map(translated_in, sorted(SOURCE.rglob("*.py"))))
    pages = (CALL.findall(path.read_text("utf-8")) for path in SOURCE.glob("report/*.j2"))
    texts = {*modules, *chain.from_iterable(pages)}
    assert len(texts) > 100 and not texts - CHINESE.keys()


@pytest.mark.parametrize("module", [findings, verdict_text, task_text, notes_text, training_tables])
def test_explanations_have_chinese_words(module):
    texts = {
        value for name, value in vars(module).items() if name.isupper() and isinstance(value, str)
    }
    assert not {text for text in texts if " " in text} - CHINESE.keys()


def test_chinese_texts_have_the_values_of_the_english_ones_and_are_chinese():
    for english, chinese in CHINESE.items():
        assert fields(chinese) <= fields(english), english
        is_word = len(english) > 2 and "{" not in english
        assert not is_word or CHINESE_LETTER.search(chinese) or english == chinese, english


def left_in_english(shown: str, report: Report) -> list[str]:
    """Two English words in a row that are of no name, prompt, answer, setting or device."""
    names = [report.study, *(part.name for part in (*report.models, *report.heldout))]
    texts = [
        text
        for answer in report.answers
        for text in (
            *(answer.text, answer.instruction, answer.input, answer.system or "", answer.model),
            *(turn.content for turn in answer.history),
        )
    ]
    settings = chain.from_iterable(values.items() for values in report.settings.values())
    devices = [device for m in report.models for device in (m.device, m.measured_on) if device]
    versions = chain.from_iterable(model.versions.items() for model in report.models)
    reasons = [*(cell.reason for cell in report.missing), *report.notes]
    values = map(str, chain(chain.from_iterable(settings), chain.from_iterable(versions)))
    for text in sorted({*names, *texts, *devices, *values, *reasons, report.device}, key=len)[::-1]:
        for part in visible(with_short_names(text, report)).splitlines():
            if ENGLISH.search(part):
                for form in (part.strip(), part.strip().replace("\\", "")):  # as in Markdown
                    shown = shown.replace(form, "")
    found = set(ENGLISH.findall(shown)) - OF_THE_EXAMPLE
    return sorted(words for words in found if not set(words.split()) & UNITS)


def text_of(page: str) -> str:
    """What a page shows, and what it says to screen readers."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    labels = re.findall(r'(?:aria-label|title)="([^"]*)"', body)
    return html.unescape("\n".join([re.sub(r"<[^>]+>", "\n", body), *labels]))


def ratings() -> Ratings:
    """Of people and of a model, with everything that can be said of them."""
    position = PositionBias(first=20, decided=30, share=0.67, low=0.5, high=0.8)
    agreement = RaterAgreement(value=0.5, units=12, ratings=24)
    counts = {"ratings": 12, "wins": 6, "losses": 3, "ties": 2, "both_bad": 1, "win_rate": 0.6}
    interval = {"low": 0.4, "high": 0.8, "strength": 0.5, "strength_low": 0.1, "strength_high": 0.9}
    model = RatedModel(
        model="smol-merge", **counts, **interval, correctness=3.5, correctness_ratings=12
    )
    people = PeoplesRatings(
        raters=[RaterCount(name="Ada", ratings=24)],
        ratings=24,
        pairs=12,
        prompts=2,
        models=[model],
        alpha=agreement,
        correctness_alpha=agreement,
        position=position,
    )
    judge = JudgesRatings(
        judge="judge-1",
        ratings=12,
        prompts=2,
        flipped=3,
        failed={},
        models=[model],
        position=position,
        agreed=8,
        compared=12,
        kappa=None,
    )
    unlike = judge.model_copy(update={"judge": "judge-2", "compared": 0})
    silent = judge.model_copy(
        update={"judge": "judge-3", "ratings": 0, "failed": {"the reply has no verdict": 5}}
    )
    unknown = agreement.model_copy(update={"value": None, "units": 0})
    return Ratings(
        people=people.model_copy(update={"correctness_alpha": unknown}),
        judges=[judge, unlike, silent],
    )


@pytest.fixture(params=["small", "rated", "study"])
def report(request, chatpipe_home):
    if request.param == "study":
        return build_report(synthetic_study(12, missing=1))
    return example(ratings=ratings()) if request.param == "rated" else example()


def test_a_chinese_report_has_no_english_sentence(report):
    page = render_html(report, "zh")
    assert '<html lang="zh-Hans">' in page and len(CHINESE_LETTER.findall(page)) > 500
    assert left_in_english(text_of(page), report) == []
    assert "&lt;wbr" not in page and "PingFang SC" in page
    if report.ratings:
        assert '<td class="number">60 % <span class="interval">[40, 80]</span></td>' in page
    text = html.unescape(render_markdown(report, "zh")).replace("\\", "").replace("<br>", "\n")
    assert left_in_english(text, report) == []
    # The figures are the same.
    numbers = re.compile(r"\d+\.\d+")
    assert set(numbers.findall(text_of(page))) == set(numbers.findall(text_of(render_html(report))))


def test_notes_of_a_run_are_translated_where_the_table_has_them():
    with in_language("zh"):
        note = (
            "contamination: 3 of 1,040 held-out rows of a, 0 of 3 prompts of the panel share 8 "
            "words in a row with the training rows of v, w; they are scored like the others."
        )
        shown = notes_text.translated_note(note)
        assert (
            "a 的 1,040 行留出数据中有 3 行、面板的 3 个提示词中有 0 个" in shown
            and "v, w" in shown
        )
        assert notes_text.translated_note("odd.").endswith("odd.") and translate("unknown") == (
            "unknown"
        )
    assert notes_text.translated_note(note) == note


def test_a_setting_is_broken_at_its_dots_and_a_cpu_s_threads_are_translated():
    study = build_report(synthetic_study(12)).model_copy(update={"device": "A CPU (R), 2 threads"})
    page = render_html(study, "zh")
    assert re.search(r'<th scope="row">[a-z]+\.<wbr>[a-z]+', page)
    assert "A CPU (R)，2 个线程" in page and "A CPU (R), 2 threads" in render_html(study)


def test_a_translation_lies_beside_the_report(tmp_path):
    (tmp_path / "report.json").write_text(example().model_dump_json())
    page = translate_report(tmp_path, "zh")
    assert page == translation(tmp_path, "zh") == tmp_path / "report.zh.html"
    assert "困惑度" in page.read_text("utf-8") and "困惑度" in page.with_suffix(".md").read_text(
        "utf-8"
    )
    assert json.loads((tmp_path / "report.json").read_text())["study"] == example().study
