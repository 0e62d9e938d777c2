"""The chat page in a real browser, on tiny models: side by side, stopped, edited, kept."""

import json
import re
from pathlib import Path

import pytest

from chatpipe.config.prompts import template
from chatpipe.config.schema import Quantization
from chatpipe.generation.chat import ChatSession
from chatpipe.page.routes import FILES, PUBLIC_PATHS, page_router
from chatpipe.serving.app import create_app
from chatpipe.serving.server import loaded
from chatpipe.utils.chinese_page import PAGE
from chatpipe.web.access import REPLY_HEADERS
from tests.support.endpoint import endpoint
from tests.support.rating import served
from tests.support.tiny_server import served as tiny_variants

STATIC = Path(__file__).parents[2] / "src" / "chatpipe" / "page" / "static"
FULL = Quantization(method="none", compute_dtype="float32")
NAMES = ("one", "two", "three", "four", "five")


def texts_of_the_page():
    """Every text that the page shows of its own."""
    script, page = (STATIC / name for name in ("page.js", "index.html"))
    return {
        *re.findall(r'\bt\("([^"]+)"', script.read_text("utf-8")),
        *re.findall(r'data-text="([^"]+)"', page.read_text("utf-8")),
    }


def test_every_text_is_in_the_table_and_no_other():
    assert texts_of_the_page() == PAGE.keys()


def test_the_page_loads_nothing_from_elsewhere_and_writes_answers_as_text_only():
    sources = {path.name: path.read_text("utf-8") for path in STATIC.iterdir()}
    assert set(sources) == set(FILES)
    for name, source in sources.items():
        assert not re.search(
            r"https?://|innerHTML|outerHTML|insertAdjacent|document\.write", source
        )
        assert not re.search(r"\son\w+=|\sstyle=|<script(?! type=\"module\" src)", source), name
    assert "unsafe" not in REPLY_HEADERS["Content-Security-Policy"]
    assert REPLY_HEADERS["Content-Security-Policy"].startswith("default-src 'none'")
    assert {route.path for route in page_router().routes} == set(PUBLIC_PATHS)


@pytest.fixture(scope="module")
def app(tiny_model_dir):
    models = {}
    for name in NAMES:
        models[name] = ChatSession(tiny_model_dir, None, FULL, template("alpaca"))
    app = endpoint(models)
    app.include_router(page_router())
    return app


@pytest.fixture(scope="module")
def address(app):
    with served(app) as address:
        yield address


@pytest.fixture
def open_page(browser, address):
    contexts = []

    def opened(context=None, **settings):
        if context is None:
            context = browser.new_context(**settings)
            contexts.append(context)
        page = context.new_page()
        page.faults = []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("console", lambda m: page.faults.append(m.text) if m.type == "error" else None)
        page.goto(address)
        page.wait_for_selector("#models input", state="attached")
        return page

    yield opened
    for context in contexts:
        context.close()


def ask(page, prompt):
    page.fill("#instruction", prompt)
    page.press("#instruction", "Enter")


def wait_for_answers(page):
    page.wait_for_function("() => document.querySelector('#stop').disabled")


def texts(page):
    return page.locator(".turn:last-child .answer .text").all_text_contents()


pytestmark = pytest.mark.slow


def test_models_answer_side_by_side_and_go_on_with_their_own_answers(open_page, app):
    page = open_page()
    assert page.locator("#models input:checked").count() == 1
    for name in NAMES[1:4]:
        page.check(f"#models input[value={name}]")
    assert page.is_disabled("#models input[value=five]")  # four is the most
    page.uncheck("#models input[value=four]")
    page.fill("#max_tokens", "5")
    page.fill("#system", "Be kind.")
    page.click("#input-fold summary")
    page.fill("#input", "Two hills.")
    ask(page, "Sum up.")
    wait_for_answers(page)
    assert page.locator(".answer h3").all_text_contents() == list(NAMES[:3])
    first = texts(page)
    assert all(first) and page.locator(".answer .note").first.text_content().startswith("5 tokens")
    ask(page, "Shorter, please.")
    wait_for_answers(page)
    assert page.locator(".turn").count() == 2
    *_, request = (r for r in app.state.requests if r["model"] == "two")
    roles = [message["role"] for message in request["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert request["messages"][1]["content"] == "Sum up.\n\nTwo hills."
    assert request["messages"][2]["content"] == first[1]
    *_, before, _ = (r for r in app.state.requests if r["model"] == "two")
    assert (before["messages"][-1]["content"], before["input"]) == ("Sum up.", "Two hills.")
    assert (
        "input" not in request
        and request["max_tokens"] == 5
        and request["seed"] == 0
        and request["stream"]
    )
    assert page.faults == []


def test_an_answer_is_stopped_asked_again_and_its_question_edited(open_page):
    page = open_page()
    page.fill("#max_tokens", "600")
    ask(page, "Paint the river.")
    page.wait_for_function("() => document.querySelector('.answer .text').textContent.length > 3")
    page.keyboard.press("Escape")
    wait_for_answers(page)
    assert page.locator(".answer .note").text_content() == "stopped" and all(texts(page))
    page.fill("#max_tokens", "4")
    page.click("text=Retry")
    wait_for_answers(page)
    [short] = texts(page)
    assert "4 tokens" in page.locator(".answer .note").text_content()
    page.click("text=Edit")
    assert page.input_value("#instruction") == "Paint the river."
    page.click("#keep")
    assert page.input_value("#instruction") == "" and texts(page) == [short]
    page.click("text=Edit")
    ask(page, "Paint the hill.")
    wait_for_answers(page)
    assert page.locator(".question p").all_text_contents() == ["Paint the hill."]
    assert page.faults == []


def test_conversations_are_kept_in_the_browser_and_exported(open_page, tmp_path):
    page = open_page()
    page.fill("#max_tokens", "3")
    for prompt in ("<img src=x onerror=alert(1)>", "Second."):
        page.click("#new")
        ask(page, prompt)
        wait_for_answers(page)
    again = open_page(page.context)
    assert again.locator("#history .title").all_text_contents() == [
        "Second.",
        "<img src=x onerror=alert(1)>",
    ]
    assert again.input_value("#max_tokens") == "3"
    again.click("#history .title >> nth=1")
    assert again.locator(".question p").text_content() == "<img src=x onerror=alert(1)>"
    assert again.locator("img").count() == 0
    with again.expect_download() as download:
        again.click("#export")
    download.value.save_as(tmp_path / "export.json")
    exported = json.loads((tmp_path / "export.json").read_text("utf-8"))["conversations"]
    [turn] = exported[0]["turns"]
    assert turn["instruction"] == "Second." and turn["answers"]["one"]["text"]
    assert turn["answers"]["one"]["settings"]["max_tokens"] == 3
    again.click("#history li:last-child .small")
    assert again.locator("#history .title").count() == 1
    assert page.faults == again.faults == []


def test_what_is_wrong_is_said_and_the_prompt_stays(open_page):
    page = open_page()
    page.fill("#temperature", "9")
    ask(page, "Hello?")
    assert page.text_content("#status") == "Temperature: write a number from 0 to 5."
    assert page.input_value("#instruction") == "Hello?" and not page.locator(".turn").count()
    page.fill("#temperature", "")
    page.uncheck("#models input[value=one]")
    ask(page, "Hello?")
    assert page.text_content("#status") == "Choose a model first."
    page.select_option("#language", "zh")
    ask(page, " ")
    assert page.text_content("#status") == "请先写提示词。"
    shown = page.locator("body").inner_text()
    assert not {text for text in texts_of_the_page() if len(text) > 6 and text in shown} - {"Top p"}
    assert page.evaluate("document.documentElement.lang") == "zh-Hans"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone_and_all_is_reached_by_keyboard(open_page, scheme):
    page = open_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "show-side"
    page.keyboard.press("Enter")
    assert page.is_visible("#system")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    colours = page.evaluate(
        "[getComputedStyle(document.documentElement).backgroundColor, "
        "getComputedStyle(document.body).color]"
    )
    light, dark = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
    assert (light > dark) == (scheme == "light")


def test_the_server_of_variants_has_the_page_and_its_calls_need_the_key(
    browser,
    tiny_model_dir,
    tmp_path,
    monkeypatch,
):
    monkeypatch.setenv("CHATPIPE_HOME", str(tmp_path))
    page = browser.new_page()
    with loaded(tiny_variants(tiny_model_dir)) as service:
        app = create_app(service, api_key="k", routers=[page_router()], public_paths=PUBLIC_PATHS)
        with served(app) as address:
            page.goto(address)
            page.wait_for_selector("#status.failed")
            assert page.locator(".empty").count() == 1  # asks to choose models
            assert "the API key is missing or wrong" in page.text_content("#status")
            page.fill("#key", "k")
            page.press("#key", "Tab")
            page.check("#models input[value=two]")
            assert page.locator(".empty").count() == 0
            assert page.input_value("#max_tokens") == ""
            own = {service.models[name].generation.max_new_tokens for name in ("one", "two")}
            assert page.get_attribute("#max_tokens", "placeholder") == str(*own)
            page.fill("#max_tokens", "6")
            page.click("#input-fold summary")
            page.fill("#input", "Two hills.")
            ask(page, "Sum up.")
            wait_for_answers(page)
            assert page.locator(".answer h3").all_text_contents() == ["one", "two"]
            assert "6 tokens" in page.locator(".answer .note").first.text_content()
            assert all(texts(page))
    page.close()
