"""Nothing that the rating server sends tells which model wrote an answer, and no stranger rates."""

import json
from collections import Counter

import httpx2
import pytest

from chatpipe.rating.entries import RatingLog, valid_ratings
from chatpipe.rating.session import Session
from chatpipe.rating.texts import ENGLISH, page_texts
from chatpipe.rating.web import rating_app
from tests.support.rating import MODELS, answers_of, pairs_of, served


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CHATPIPE_HOME", str(tmp_path))


def test_no_response_names_a_model_and_no_order_follows_one():
    pairs = pairs_of(prompts=8)
    replies, tokens = [], {}
    with (
        served(rating_app(Session("study", pairs))) as address,
        httpx2.Client(base_url=address) as client,
    ):
        replies += [client.get(path) for path in ("/", "/rate.js", "/rate.css")]
        for rater in ("Ada", "Grace"):
            state = client.post("/api/next", json={"rater": rater})
            replies.append(state)
            while pair := state.json().get("pair"):
                tokens.setdefault(rater, []).append(pair["token"])
                rated = {"rater": rater, "token": pair["token"], "verdict": "tie"}
                state = client.post("/api/rate", json=rated)
                replies.append(state)
            replies.append(client.post("/api/undo", json={"rater": rater}))
    assert all(reply.status_code == 200 for reply in replies)
    sent = "\n".join(f"{reply.url}\n{reply.headers}\n{reply.text}" for reply in replies)
    secrets = [part for model in MODELS.values() for part in (*model, model.identity[:8])]
    secrets += [answer.prompt_id for answer in answers_of(8)]
    secrets += [text for pair in pairs.rated for text in (pair.id, pair.id[:8], pair.prompt)]
    assert not [secret for secret in secrets if secret in sent]
    assert not any("set-cookie" in reply.headers for reply in replies)
    calls = [reply for reply in replies if "/api/" in str(reply.url)]
    assert len({tuple(sorted(reply.headers)) for reply in calls}) == 1
    shapes = {tuple(reply.json()["pair"]) for reply in calls if reply.json().get("pair")}
    assert {len(shape) for shape in shapes} <= {7, 10}  # 10: after an undo, with what was said
    assert not set(tokens["Ada"]) & set(tokens["Grace"])  # not to be compared between raters
    assert sorted(tokens["Ada"]) != tokens["Ada"]
    ratings = valid_ratings(RatingLog("study").entries())
    firsts = Counter(entry.model_a for entry in ratings)
    assert all(abs(firsts[name] - 16) <= 2 for name in MODELS), firsts


def test_a_key_is_required_of_every_call_and_not_of_the_page():
    with served(rating_app(Session("study", pairs_of()), key="sesame")) as address:
        call = {"url": f"{address}/api/next", "json": {"rater": "Ada"}}
        assert httpx2.post(**call).status_code == 401
        assert httpx2.post(**call, headers={"Authorization": "Bearer other"}).status_code == 401
        assert httpx2.post(**call, headers={"Authorization": "Bearer sesame"}).status_code == 200
        large = {**call, "json": {"rater": "Ada", "remark": "a" * (1 << 16)}}
        assert httpx2.post(**large).status_code == 401  # before the body is read
        assert httpx2.post(**large, headers={"Authorization": "Bearer sesame"}).status_code == 413
        assert 'id="key"' in httpx2.get(address).text


def test_without_a_key_only_names_of_this_machine_are_answered_and_no_other_page():
    with served(rating_app(Session("study", pairs_of()), rater="Ada")) as address:
        elsewhere = {"Host": "attacker.example"}
        assert httpx2.get(address, headers=elsewhere).status_code == 421
        page = httpx2.get(address)
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "access-control-allow-origin" not in page.headers
        form = httpx2.post(f"{address}/api/next", content=json.dumps({"rater": "Ada"}))
        assert form.status_code == 415  # a form of another page cannot send JSON
        wrong = {"rater": "Ada", "token": "0" * 32, "verdict": "a"}
        assert httpx2.post(f"{address}/api/rate", json=wrong).status_code == 409
        for fault in ({"verdict": "c"}, {"correct_a": 6}, {"rater": " "}, {"extra": 1}):
            assert httpx2.post(f"{address}/api/rate", json=wrong | fault).status_code == 422
    assert RatingLog("study").entries() == []


def test_both_languages_have_all_texts_and_the_same_places():
    assert page_texts("en") == ENGLISH
    chinese = page_texts("zh")
    for name, text in ENGLISH.items():
        assert text.count("{") == chinese[name].count("{") and chinese[name] != text
