"""Ratings are stored once and for all, and their figures are those of the stored ones."""

import multiprocessing
from collections import Counter

import pyarrow.parquet as pq
import pytest

from chatpipe.errors import ArtifactError
from chatpipe.rating.entries import RatingLog, valid_ratings
from chatpipe.rating.pairs import Model, for_rater, make_pairs
from chatpipe.rating.preferences import preference_rows
from chatpipe.rating.results import CHANGED, CHANGED_ANSWERS, study_ratings
from chatpipe.rating.session import Judgement, Session, StaleError
from tests.support.rating import MODELS, NAMES, answers_of, pairs_of


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CHATPIPE_HOME", str(tmp_path))
    return tmp_path


def say(session, rater, verdict, **beside):
    token = session.state(rater)["pair"]["token"]
    return session.rate(rater, Judgement(token=token, verdict=verdict, **beside))


def stored():
    return valid_ratings(RatingLog("study").entries())


def test_every_pair_is_in_every_raters_order_once_with_sides_in_balance():
    pairs = pairs_of(prompts=6)
    assert len(pairs.rated) == 6 * 3 and pairs.same == 0
    orders = {rater: for_rater(pairs.rated, rater, 0) for rater in ("Ada", "Grace")}
    for order in orders.values():
        assert {pair.id for pair in order} == {pair.id for pair in pairs.rated}
        firsts = Counter((pair.models, pair.a) for pair in order)
        assert set(firsts.values()) == {3}  # each model of two is first in half
        rounds = [order[start : start + 3] for start in range(0, len(order), 3)]
        assert all(len({pair.models for pair in of_round}) == 3 for of_round in rounds)
    assert [p.id for p in orders["Ada"]] != [p.id for p in orders["Grace"]]
    ids = [[pair.id for pair in order[:3]] for order in orders.values()]
    assert set(ids[0]) == set(ids[1])  # who stops early has rated the same pairs
    assert for_rater(pairs.rated, "Ada", 0) == orders["Ada"] != for_rater(pairs.rated, "Ada", 1)


def test_equal_answers_and_raw_prompts_are_no_pairs():
    same = [answer.model_copy(update={"text": "The same."}) for answer in answers_of(1)]
    assert make_pairs(MODELS, same, 0) == ((), 3)
    raw = [answer.model_copy(update={"asked": "raw"}) for answer in answers_of(1)]
    assert make_pairs(MODELS, raw, 0) == ((), 0)


def test_ratings_are_undone_resumed_and_never_rewritten(home):
    session = Session("study", pairs_of())
    for verdict in ("a", "b", "tie"):
        state = say(session, "Ada", verdict, correct_a=4, remark="well")
    assert (state["done"], state["total"]) == (3, 12)
    files = {file: file.read_bytes() for file in (home / "ratings/study").iterdir()}
    again = Session("study", pairs_of())  # another process
    undone = again.undo("Ada")
    assert undone["done"] == 2 and undone["pair"]["remark"] == "well"
    assert undone["pair"]["correct_a"] == 4 and undone["pair"]["correct_b"] is None
    assert again.undo("Ada")["done"] == 1 and again.undo("Grace")["done"] == 0
    assert session.state("Ada")["done"] == 1  # the first process sees it
    assert all(file.read_bytes() == content for file, content in files.items())
    entries = [
        row for f in (home / "ratings/study").iterdir() for row in pq.read_table(f).to_pylist()
    ]
    assert Counter(row["record"] for row in entries) == {"rated": 3, "undone": 2}
    assert [entry.verdict for entry in stored()] == ["a"]


def test_a_page_that_is_behind_stores_nothing():
    session = Session("study", pairs_of())
    token = session.state("Ada")["pair"]["token"]
    session.rate("Ada", Judgement(token=token, verdict="a"))
    with pytest.raises(StaleError):
        session.rate("Ada", Judgement(token=token, verdict="b"))
    with pytest.raises(StaleError):  # a token is its rater's, and its server's
        session.rate("Grace", Judgement(token=session.state("Ada")["pair"]["token"], verdict="a"))
    assert len(stored()) == 1


def _rate_all(rater):
    session = Session("study", pairs_of())
    while "pair" in session.state(rater):
        say(session, rater, "a")


def test_raters_at_the_same_time_lose_nothing():
    raters = [f"rater {number}" for number in range(3)]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_rate_all, args=(rater,)) for rater in raters]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert Counter(entry.rater for entry in stored()) == dict.fromkeys(raters, 12)


def test_a_damaged_file_is_named(home):
    say(Session("study", pairs_of()), "Ada", "a")
    file = next((home / "ratings/study").iterdir())
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match=file.name):
        Session("study", pairs_of()).state("Ada")


def rate_by_name(session, rater, best, correct=None):
    """The model whose name comes first in `best` is better; equal places are ties."""
    while "pair" in session.state(rater):
        pair = session._next(rater)
        first, second = best.index(pair.a.name), best.index(pair.b.name)
        say(session, rater, "a" if first < second else "b", correct_a=correct)


def test_figures_are_those_of_the_ratings():
    session = Session("study", pairs_of())
    rate_by_name(session, "Ada", NAMES, correct=5)
    rate_by_name(session, "Grace", NAMES)
    ratings = study_ratings("study", MODELS.values(), answers_of(), {})
    people = ratings.people
    assert (people.ratings, people.pairs, people.prompts) == (24, 12, 4)
    assert [model.model for model in people.models] == list(NAMES)
    assert [model.win_rate for model in people.models] == [1.0, 0.5, 0.0]
    best, middle, worst = people.models
    assert (best.wins, middle.wins, worst.losses, best.ratings) == (16, 8, 16, 16)
    assert best.strength == pytest.approx(-worst.strength) and best.strength > 1
    assert middle.strength == pytest.approx(0, abs=1e-6)
    # It wins on every prompt, so other prompts drawn from these say nothing of its strength.
    assert (best.strength_low, best.strength_high) == (None, None)
    assert 0 < best.low < 1 == best.high
    assert people.alpha.value == 1.0 and people.alpha.units == 12
    assert people.correctness_alpha.units == 0  # only one gave any
    assert sum(model.correctness_ratings for model in people.models) == 12
    assert people.position.decided == 24 and 8 <= people.position.first <= 16


def test_ratings_of_seeds_are_pooled_without_those_of_two_of_them():
    session = Session("study", pairs_of())
    rate_by_name(session, "Ada", NAMES)
    rate_by_name(session, "Grace", [NAMES[2], *NAMES[:2]])
    configurations = {"seeds": NAMES[:2], "alone": NAMES[2:]}
    people = study_ratings("study", MODELS.values(), answers_of(), configurations).people
    assert {(model.model, model.ratings) for model in people.models} == {(n, 16) for n in NAMES}
    pooled = {each.model: each for each in people.configurations}
    assert {name: each.models for name, each in pooled.items()} == {"seeds": 2, "alone": 1}
    for each in pooled.values():  # two pairs on each of four prompts, by two raters
        assert (each.ratings, each.wins, each.losses, each.win_rate) == (16, 8, 8, 0.5)
        assert each.strength == pytest.approx(0)
    alone = study_ratings("study", MODELS.values(), answers_of(), {"alone": NAMES[2:]}).people
    assert alone.configurations == [] and alone.models == people.models


def test_ratings_of_a_model_that_was_trained_again_are_left_out_and_counted():
    session = Session("study", pairs_of(prompts=2))
    rate_by_name(session, "Ada", NAMES)
    models = {**MODELS, NAMES[0]: Model(NAMES[0], "another digest")}
    ratings = study_ratings("study", models.values(), answers_of(2), {})
    assert ratings.people.ratings == 2 and ratings.left_out == {CHANGED: 4}
    assert study_ratings("another study", models.values(), answers_of(2), {}) is None


def test_changed_answers_are_rated_again_and_ratings_of_the_old_ones_left_out_and_counted():
    rate_by_name(Session("study", pairs_of(prompts=2)), "Ada", NAMES)
    first, *others = answers_of(2)
    answers = [first.model_copy(update={"text": "It is 7."}), *others]
    session = Session("study", make_pairs(MODELS, answers, 0), seed=1)  # of the same rater
    assert session.state("Ada")["done"] == 4 and session.counts() == {"Ada": 4}
    ratings = study_ratings("study", MODELS.values(), answers, {})
    assert ratings.people.ratings == 4 and ratings.left_out == {CHANGED_ANSWERS: 2}
    rate_by_name(session, "Ada", NAMES)
    for known in (answers, []):  # those to the prompts of a file are in no report
        ratings = study_ratings("study", MODELS.values(), known, {})
        assert ratings.people.ratings == 6 and ratings.left_out == {CHANGED_ANSWERS: 2}


def test_pairs_become_rows_of_preferences_where_most_prefer_one():
    session = Session("study", pairs_of(prompts=2))
    for rater in ("Ada", "Grace"):
        rate_by_name(session, rater, NAMES)
    rate_by_name(session, "Eve", NAMES[::-1])
    rows, left_out = preference_rows(stored())
    assert len(rows) == 6 and not left_out
    assert all(NAMES.index(r["chosen_model"]) < NAMES.index(r["rejected_model"]) for r in rows)
    assert {(row["votes"], row["raters"]) for row in rows} == {(2, 3)}
    texts = {(a.model, a.instruction): a.text for a in answers_of(2)}
    for row in rows:
        question = row["prompt"][-1]["content"]
        assert row["chosen"][0]["content"] == texts[row["chosen_model"], question]
        assert row["rejected"][0]["content"] == texts[row["rejected_model"], question]
    only_ties = Session("ties", pairs_of(prompts=1))
    for verdict in ("tie", "both_bad", "tie"):
        say(only_ties, "Ada", verdict)
    rows, left_out = preference_rows(valid_ratings(RatingLog("ties").entries()))
    assert rows == [] and left_out == {"tie, or raters disagree": 2, "both bad": 1}
