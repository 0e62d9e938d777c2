"""The rating page in a real browser: by keyboard, undone, resumed, on a phone, in Chinese."""

import pytest

from chatpipe.rating.entries import RatingLog, valid_ratings
from chatpipe.rating.session import Session
from chatpipe.rating.web import rating_app
from tests.support.rating import pairs_of, served


@pytest.fixture
def address(tmp_path, monkeypatch):
    monkeypatch.setenv("CHATPIPE_HOME", str(tmp_path))
    with served(rating_app(Session("study", pairs_of(prompts=1)))) as address:
        yield address


@pytest.fixture
def open_page(browser, address):
    contexts = []

    def opened(**settings):
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.faults = []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("console", lambda m: page.faults.append(m.text) if m.type == "error" else None)
        page.on(
            "request",
            lambda request: page.faults.extend(
                [] if request.url.startswith((address, "data:")) else [request.url]
            ),
        )
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()


def start(page, rater="Ada"):
    page.fill("#name", rater)
    page.keyboard.press("Enter")
    page.wait_for_selector("#pair:not([hidden])")


def wait_for_progress(page, text):
    page.wait_for_function("t => document.querySelector('#progress').textContent === t", arg=text)


def verdicts():
    return [entry.verdict for entry in valid_ratings(RatingLog("study").entries())]


def test_pairs_are_rated_by_keyboard_undone_and_resumed(open_page):
    page = open_page()
    start(page)
    wait_for_progress(page, "0 of 3 rated")
    page.keyboard.press("2")
    wait_for_progress(page, "1 of 3 rated")
    page.check("input[name=correct-b][value='5']", force=True)
    page.fill("#remark", "2 and 1 <b>are</b> keys, too")
    page.keyboard.press("3")  # in the remark: a letter of it
    page.focus("#prompt")
    page.keyboard.press("4")
    wait_for_progress(page, "2 of 3 rated")
    rated = valid_ratings(RatingLog("study").entries())[-1]
    assert (rated.verdict, rated.correct_b) == ("both_bad", 5)
    assert rated.remark == "2 and 1 <b>are</b> keys, too3"
    page.keyboard.press("u")
    wait_for_progress(page, "1 of 3 rated")
    assert page.input_value("#remark") == rated.remark
    assert page.is_checked("input[name=correct-b][value='5']")
    page.keyboard.press("1")
    wait_for_progress(page, "2 of 3 rated")
    page.reload()  # resumed
    assert page.input_value("#name") == "Ada"
    start(page)
    wait_for_progress(page, "2 of 3 rated")
    page.click("[data-verdict=tie]")
    wait_for_progress(page, "All 3 pairs are rated. Thank you; you can close this page.")
    assert verdicts() == ["b", "a", "tie"] and not page.faults


def test_a_page_that_is_behind_goes_on_with_the_next_pair(open_page):
    first, second = open_page(), open_page()
    start(first)
    start(second)
    first.keyboard.press("1")
    wait_for_progress(first, "1 of 3 rated")
    second.keyboard.press("2")
    wait_for_progress(second, "1 of 3 rated")
    assert "rated elsewhere" in second.inner_text("#message") and verdicts() == ["a"]


def test_a_phone_shows_everything_within_its_width_and_rates_by_button(open_page):
    page = open_page(viewport={"width": 360, "height": 640}, is_mobile=True, has_touch=True)
    start(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for verdict in ("a", "b", "tie", "both_bad"):  # in reach without scrolling
        box = page.locator(f"[data-verdict={verdict}]").bounding_box()
        assert box["height"] >= 40 and box["y"] + box["height"] <= 640
    page.tap("[data-verdict=b]")
    wait_for_progress(page, "1 of 3 rated")
    assert verdicts() == ["b"] and not page.faults


def test_texts_are_text_and_the_page_speaks_chinese(browser, tmp_path, monkeypatch):
    monkeypatch.setenv("CHATPIPE_HOME", str(tmp_path))
    pairs = pairs_of(prompts=1)
    script = "<img src=x onerror=document.title='run'>\u202e"
    marked = tuple(
        type(pair)(
            pair.a,
            pair.b,
            *(
                answer.model_copy(update={"text": script + answer.text})
                for answer in (pair.answer_a, pair.answer_b)
            ),
        )
        for pair in pairs.rated
    )
    session = Session("study", pairs._replace(rated=marked))
    with served(rating_app(session, lang="zh", rater="Ada")) as address:
        page = browser.new_page(color_scheme="dark")
        page.goto(address)
        page.wait_for_selector("#pair:not([hidden])")  # the rater is known already
        assert page.inner_text("#answer-a").startswith(
            "<img src=x onerror=document.title='run'>\\u202e"
        )
        assert page.title() == "哪个回答更好？" and page.get_attribute("html", "lang") == "zh-Hans"
        assert page.inner_text("[data-verdict=tie]").endswith("一样好")
        page.close()
