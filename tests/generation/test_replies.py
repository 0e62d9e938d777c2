"""Replies to held-out rows: their measures beside other libraries', and their rows in a report."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import ttest_rel

from chatpipe.config.schema import Variant
from chatpipe.generation.replies import FILE, NO_ROOM, Reply
from chatpipe.generation.text_overlap import chrf, exact_match, longest_common_subsequence, rouge_l
from chatpipe.models.loading import load_tokenizer
from chatpipe.models.model_ref import ModelRef
from chatpipe.report import read_report, render_html, render_markdown
from chatpipe.report.task_scores import REPLY_MEASURES
from chatpipe.store.store import store
from chatpipe.study.recipe import Recipe
from chatpipe.study.resolving import StoreBuilder
from chatpipe.tokenization.encoder import TOO_LONG
from tests.support.rows import alpaca_rows, write_jsonl
from tests.support.variants import small_variant

WORDS = ("the", "cat", "sat_on", "a", "mat", "don't", "3.5", "mats", "Über", "猫が座る", ",", ".")


def pairs(count):
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, draw.integers(0, 12))) for _ in range(2 * count)]
    return [*zip(texts[::2], texts[1::2], strict=True), ("a", "a"), ("ab", "b"), ("", "x")]


def test_chrf_is_sacrebleus():
    sacrebleu = pytest.importorskip("sacrebleu", reason="comes with the extra `tasks`")
    for text, reference in pairs(200):
        expected = sacrebleu.sentence_chrf(text, [reference]).score
        assert chrf(text, reference) == pytest.approx(expected, abs=1e-9)


def test_rouge_l_is_rouge_scores_where_a_text_is_ascii():
    rouge = pytest.importorskip("rouge_score.rouge_scorer", reason="comes with the extra `tasks`")
    scorer = rouge.RougeScorer(["rougeL"])
    for text, reference in pairs(200):
        if (text + reference).isascii():
            expected = scorer.score(reference, text)["rougeL"].fmeasure
            assert rouge_l(text, reference) == pytest.approx(expected, abs=1e-12)


def test_other_scripts_have_words_too():
    assert rouge_l("猫が座る", "猫が走る") == 0.75
    assert rouge_l("Привет, мир!", "привет мир") == 1
    assert exact_match(" a  b\n", "a b") == 1
    assert exact_match("A b", "a b") == 0
    assert longest_common_subsequence([], ["a"]) == 0


@pytest.fixture(scope="module")
def variants(tmp_path_factory, tiny_model_dir):
    path = write_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", alpaca_rows(60))
    evaluation = {"bootstrap_samples": 100, "replies": 12}
    plain = small_variant(
        tiny_model_dir, {"name": "rows", "path": str(path)}, evaluation=evaluation
    )
    return [
        Variant.model_validate({"name": name, **plain, "training": plain["training"] | changes})
        for name, changes in {
            "a": {},
            "a+training.seed=1": {"seed": 1},
            "b": {"learning_rate": 0.03},
        }.items()
    ]


@pytest.fixture(scope="module")
def recipe(variants, tmp_path_factory):
    """The study's steps, built in a store of this module's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHATPIPE_HOME", str(tmp_path_factory.mktemp("store")))
        yield Recipe(variants, StoreBuilder())


@pytest.fixture(scope="module")
def report(recipe):
    return read_report(recipe.report("replies").path)


@pytest.mark.slow
def test_differences_are_paired_by_row(recipe, report, variants):
    """Two seeds of `a`; of `b` one, whose interval without seed noise would be Student's."""
    bases, tuned = recipe.base_models(), recipe.finetuned_models()
    heldout = recipe.heldout_sets()["rows"]
    tables = {
        model.name: pq.read_table(
            store().get_or_build(Reply.of(variants[0], model.ref, heldout)).path / FILE
        )
        for model in [*bases, *tuned]
    }
    ids = {name: table["id"].to_pylist() for name, table in tables.items()}
    assert len(set(map(tuple, ids.values()))) == 1
    assert len(ids["b"]) == 12
    [base] = {model.base_name for model in tuned}
    scores = {(score.configuration, score.metric): score for score in report.task_scores}
    assert scores.keys() == {(n, m) for n in (base, "a", "b") for m in REPLY_MEASURES}
    values = {name: table["chrf"].to_numpy() for name, table in tables.items()}
    a = (values["a"] + values["a+training.seed=1"]) / 2
    assert scores["a", "chrf"].models == ["a", "a+training.seed=1"]
    assert scores["a", "chrf"].value == pytest.approx(a.mean())
    assert scores["a", "chrf"].difference == pytest.approx(a.mean() - values[base].mean())
    row_only = ttest_rel(values["b"], values[base]).confidence_interval()
    of_b = scores["b", "chrf"]
    assert of_b.difference_low <= row_only.low + 1e-9
    assert of_b.difference_high >= row_only.high - 1e-9
    assert of_b.seed_noise == "pooled"
    assert scores[base, "chrf"].difference is None
    for page in (render_markdown(report), render_html(report)):
        assert "ROUGE-L" in page


@pytest.mark.slow
def test_rows_without_room_are_counted(recipe, variants, tiny_model_dir):
    heldout = recipe.heldout_sets()["rows"]
    model = ModelRef(recipe.base(variants[0]))
    request = Reply.of(variants[0], model, heldout)
    tokenizer = load_tokenizer(tiny_model_dir)
    prompts = request.prompts(tokenizer)
    lengths = sorted(map(len, prompts.ids))
    generation = request.generation.model_copy(update={"max_new_tokens": 1025 - lengths[6]})
    less = request.model_copy(update={"generation": generation}).prompts(tokenizer)
    assert less.left_out == {NO_ROOM: sum(length >= lengths[6] for length in lengths)}
    fewer = request.model_copy(update={"rows": 5}).prompts(tokenizer)
    assert set(fewer.table["id"].to_pylist()) < set(prompts.table["id"].to_pylist())
    none = request.model_copy(update={"max_length": 1})
    assert store().get_or_build(none).details()["left_out"] == {TOO_LONG: 12}
