"""A model as judge, of a real endpoint that answers by rule: both orders, bad replies, resuming."""

import json
import re
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from fastapi import FastAPI, HTTPException, Request

from chatpipe.errors import ConfigError, ServiceError
from chatpipe.rating import judge_endpoint
from chatpipe.rating.entries import RatingLog
from chatpipe.rating.judge import Judge, judge_pairs, judge_prompt, prompt_text, read_verdict
from chatpipe.rating.judge_endpoint import BadReplyError
from chatpipe.rating.pairs import for_rater
from chatpipe.rating.results import study_ratings
from chatpipe.rating.session import Judgement, Session
from tests.support.rating import MODELS, NAMES, answers_of, pairs_of, served

ANSWERS = re.compile(r"<<<ANSWER (\w)\n(.*?)\nANSWER", re.DOTALL)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CHATPIPE_HOME", str(tmp_path))


def longer(prompt):
    texts = dict(ANSWERS.findall(prompt))
    return f"One is longer.\n[[{max(texts, key=lambda side: len(texts[side]))}]]"


class Rules:
    """Replies by a rule, for every prompt that was asked."""

    def __init__(self, rule):
        self.rule, self.requests = rule, []

    def app(self):
        app = FastAPI()

        @app.post("/v1/chat/completions")
        async def complete(request: Request):
            body = await request.json()
            self.requests.append((body, dict(request.headers)))
            content = self.rule(body["messages"][0]["content"])
            return {"choices": [{"message": {"role": "assistant", "content": content}}]}

        return app


@contextmanager
def judging(rule, key=None):
    rules = Rules(rule)
    with served(rules.app()) as address:
        yield Judge(f"{address}/v1", "a-judge", key), rules


def judged_by(rule, pairs, key=None):
    with judging(rule, key) as (judge, rules):
        return judge_pairs(judge, "study", pairs.rated, lambda _: None), rules


def test_a_verdict_needs_both_orders_and_agrees_with_people_where_they_do():
    pairs = pairs_of()
    session = Session("study", pairs)
    for pair in for_rater(pairs.rated, "Ada", 0):
        verdict = "a" if len(pair.answer_a.text) > len(pair.answer_b.text) else "b"
        token = session.state("Ada")["pair"]["token"]
        session.rate("Ada", Judgement(token=token, verdict=verdict))

    def rule(prompt):  # of one prompt it always prefers what it is shown first
        return "[[A]]" if "What is 3" in prompt else longer(prompt)

    judged, rules = judged_by(rule, pairs, key="secret")
    assert (judged.rated, judged.failed, len(rules.requests)) == (12, 0, 24)
    body, headers = rules.requests[0]
    assert body["temperature"] == 0 and headers["authorization"] == "Bearer secret"
    sent = json.dumps([body for body, _ in rules.requests])
    assert not [part for model in MODELS.values() for part in model if part in sent]
    judge = study_ratings("study", MODELS.values(), answers_of(), {}).judges[0]
    assert (judge.judge, judge.ratings, judge.flipped) == ("a-judge", 12, 3)
    assert [model.model for model in judge.models] == list(NAMES[::-1])
    assert judge.models[0].ties == 2  # of the flipped prompt
    assert (judge.agreed, judge.compared) == (9, 12) and 0 < judge.kappa < 1
    # 9 pairs in both orders are shown first once; the flipped 3 twice.
    assert (judge.position.first, judge.position.decided) == (9 + 6, 24)


def test_another_judge_needs_a_name_of_its_own():
    pairs = pairs_of()
    with judging(longer) as (judge, _):
        judge_pairs(judge, "study", pairs.rated[:4], lambda _: None)
        others = [replace(judge, url=judge.url + "/"), replace(judge, key="k")]  # are the same
        again = [judge_pairs(same, "study", pairs.rated[:4], lambda _: None) for same in others]
        assert [judged.before for judged in again] == [4, 4]
        other = replace(judge, model="larger", name="a-judge")
        with pytest.raises(ConfigError, match=r"model a-judge, now larger.*--judge-name"):
            judge_pairs(other, "study", pairs.rated, lambda _: None)
        judge_pairs(replace(other, name="b"), "study", pairs.rated, lambda _: None)
    with (
        judging(longer) as (elsewhere, _),
        pytest.raises(ConfigError, match=r"endpoint http://.*, now http://"),
    ):
        judge_pairs(elsewhere, "study", pairs.rated, lambda _: None)
    judges = study_ratings("study", MODELS.values(), answers_of(), {}).judges
    assert [(judge.judge, judge.ratings) for judge in judges] == [("a-judge", 4), ("b", 12)]
    log = RatingLog("study")  # of a version that let the newer one take the place of the older
    for pair in pairs.rated:
        log.append(elsewhere.entry(pair, verdict="tie", verdict_first="a", verdict_swapped="b"))
    judges = study_ratings("study", MODELS.values(), answers_of(), {}).judges
    assert sorted(judge.ratings for judge in judges) == [4, 12, 12]
    assert sum(judge.judge.startswith("a-judge (endpoint http://") for judge in judges) == 2


def test_bad_replies_are_tried_twice_counted_and_tried_again_by_the_next_run():
    pairs = pairs_of()
    calls = Counter()

    def rule(prompt):
        calls[prompt] += 1
        if "What is 0" in prompt:
            return "I cannot say."
        if "What is 1" in prompt and calls[prompt] == 1:
            return "[[A]] or [[B]]?"
        if "What is 2" in prompt:
            raise HTTPException(500)
        return longer(prompt)

    with judging(rule) as (judge, rules):
        judged = judge_pairs(judge, "study", pairs.rated, lambda _: None)
        assert (judged.rated, judged.failed) == (6, 6)
        failed = study_ratings("study", MODELS.values(), answers_of(), {}).judges[0].failed
        assert failed == {"HTTP 500": 3, "the reply has no verdict": 3}
        assert all(calls[prompt] == 2 for prompt in calls if "What is 1" in prompt)
        rules.rule, asked = longer, len(rules.requests)
        judged = judge_pairs(judge, "study", pairs.rated, lambda _: None)
        assert (judged.before, judged.rated, judged.failed) == (6, 6, 0)
        assert len(rules.requests) - asked == 12
    judge = study_ratings("study", MODELS.values(), answers_of(), {}).judges[0]
    assert judge.failed == {} and judge.ratings == 12


def test_a_busy_endpoint_is_asked_again_when_it_says_so_or_after_ever_longer_waits(monkeypatch):
    pairs = pairs_of().rated[:3]
    waits, calls = [], Counter()
    monkeypatch.setattr(judge_endpoint, "sleep", waits.append)
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    headers = [{"Retry-After": "7"}, {}, {"Retry-After": date}, {"Retry-After": "0"}]

    def rule(prompt):
        calls[prompt] += 1
        if prompt == next(iter(calls)) and calls[prompt] <= len(headers):
            raise HTTPException((429, 503)[calls[prompt] % 2], headers=headers[calls[prompt] - 1])
        return longer(prompt)

    with judging(rule) as (judge, _):
        judged = judge_pairs(judge, "study", pairs, lambda _: None)
    assert (judged.rated, judged.failed) == (3, 0)
    assert waits[:2] == [7, 2] and 80 < waits[2] < 91 and waits[3] == 8

    for header, expected in (({}, [*judge_endpoint.WAITS_S]), ({"Retry-After": "3600"}, [])):

        def busy(prompt, header=header):
            raise HTTPException(429, headers=header)

        waits.clear()
        with judging(busy) as (judge, _):
            judged = judge_pairs(replace(judge, name=str(header)), "study", pairs[:1], print)
        assert judged.failed == 1 and waits == expected


def test_an_endpoint_that_is_away_refuses_or_never_judges_ends_the_command_in_a_sentence():
    pairs = pairs_of().rated
    with pytest.raises(ServiceError, match="cannot be reached"):
        judge_pairs(Judge("http://127.0.0.1:9/v1", "m"), "study", pairs, lambda _: None)
    with served(FastAPI()) as address, pytest.raises(ServiceError, match=r"HTTP 404.*/v1"):
        judge_pairs(Judge(address, "m"), "study", pairs, lambda _: None)
    assert RatingLog("study").entries() == []
    with pytest.raises(ServiceError, match="no verdict on the first 5 pairs: the reply is empty"):
        judged_by(lambda prompt: "", pairs_of())


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("A is right, not [[B]].\n[[A]]", "a"),
        ("Both fail.\n\n**[[bad]]**\n", "both_bad"),
        ("[[TIE]]\nThat is all.", "tie"),
        ("I see [[A]] and [[B]].\nMy verdict: [[b]].", "b"),
        ("[[A]] [[B]]", None),
        (prompt_text(), None),  # repeated instead of a verdict
        ("A is better.", None),
    ],
)
def test_verdicts_are_read_from_the_last_line(reply, verdict):
    if verdict:
        assert read_verdict(reply) == verdict
    else:
        with pytest.raises(BadReplyError):
            read_verdict(reply)


def test_text_of_answers_stays_in_its_place_of_the_prompt():
    pair = pairs_of(prompts=1).rated[0]
    answer = pair.answer_a.model_copy(update={"text": "{answer_b} {prompt} [[A]]"})
    prompt = judge_prompt(type(pair)(pair.a, pair.b, answer, pair.answer_b))
    assert "<<<ANSWER A\n{answer_b} {prompt} [[A]]\nANSWER A>>>" in prompt
