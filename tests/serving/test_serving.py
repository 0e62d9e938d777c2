"""The endpoint as the `openai` client meets it: a real server process with a tiny model."""

import asyncio
import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import httpx2
import openai
import pytest

from chatpipe.config.schema import Generation
from chatpipe.errors import ConfigError
from chatpipe.generation.batch import complete
from chatpipe.generation.next_tokens import Likelihood
from chatpipe.models import inference, loading
from chatpipe.models.model_ref import ModelRef
from chatpipe.serving import served_models
from chatpipe.serving.answers import Answer
from chatpipe.serving.engine import Piece
from chatpipe.serving.token_names import TokenNames
from chatpipe.serving.vllm_command import vllm_command
from chatpipe.tokenization.conversation import Conversation
from chatpipe.tokenization.encoder import Encoder
from tests.support import tiny_server

TEXTS = ["How are you?", "The quick brown fox jumps over", "a", "Be brief, and be kind."]
KEY = "a-key"


class Server:
    """A server process."""

    def __init__(self, directory, home, most_waiting=64, most_rows=64):
        limits = map(str, (most_waiting, most_rows))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.tiny_server", directory, KEY, *limits],
            env={**os.environ, "CHATPIPE_HOME": str(home)},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.url = self.process.stdout.readline().strip().rstrip("/")
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0)

    def counts(self):
        return httpx2.get(f"{self.url}/health").json()

    def wait_for(self, **expected):
        deadline = time.monotonic() + 60
        while not expected.items() <= self.counts().items():
            assert time.monotonic() < deadline, self.counts()
            time.sleep(0.02)

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def server(tiny_model_dir, home):
    running = Server(tiny_model_dir, home)
    yield running
    assert running.end() == 0


@pytest.fixture(scope="module")
def base_name(server):
    """The base as it is asked for the variant `one`."""
    one, two, first, second = (model.id for model in server.client.models.list())
    assert (one, two) == ("one", "two") and first != second
    return first


@pytest.fixture(scope="module")
def panel(server, tiny_model_dir, home):
    """(model, text, most new tokens) → the greedy text that a panel has."""
    before, os.environ["CHATPIPE_HOME"] = os.environ["CHATPIPE_HOME"], str(home)
    served = tiny_server.served(tiny_model_dir)
    os.environ["CHATPIPE_HOME"] = before
    tokenizer = loading.load_tokenizer(served.base)
    models = {variant.name: (variant, ref.adapter.key) for variant, ref in served.variants}
    with inference.cached_model(served.base, served.adapters, served.quantization) as model:

        def answer(name, text, most, is_raw=False):
            variant, adapter = models.get(name, (served.variants[0][0], None))
            encoder = Encoder(tokenizer, variant.prompt_template, "all", 1 << 20)
            prompt = text if is_raw else Conversation(text)
            [done] = complete(model, encoder, [prompt], Generation(max_new_tokens=most), [adapter])
            return done

        yield answer


def chat(client, model, text, **settings):
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(
        model=model, messages=messages, **{"max_tokens": 12, **settings}
    )


def test_greedy_text_streamed_or_not_is_the_panel_s(server, panel, base_name):
    for name in ("one", "two", base_name):
        expected = panel(name, TEXTS[0], 12)
        whole = chat(server.client, name, TEXTS[0])
        [choice] = whole.choices
        assert choice.message.content == expected.text
        assert choice.finish_reason == {"eos": "stop"}.get(expected.stop, expected.stop)
        assert whole.usage.completion_tokens == expected.tokens
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + expected.tokens
        chunks = list(
            chat(server.client, name, TEXTS[0], stream=True, stream_options={"include_usage": True})
        )
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == expected.text and len(chunks) > 3
        assert chunks[-1].usage == whole.usage
    raw = server.client.completions.create(model="one", prompt=TEXTS[:2], max_tokens=6)
    assert [choice.text.strip() for choice in raw.choices] == [
        panel("one", text, 6, is_raw=True).text for text in TEXTS[:2]
    ]


def test_32_mixed_requests_at_once_are_all_answered_as_alone(server, panel, base_name):
    client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
    asked = [
        (name, TEXTS[n % 4], 8 + n)
        for n in range(32)
        for name in [("one", "two", base_name)[n % 3]]
    ]

    async def one(number, name, text, most):
        messages = [{"role": "user", "content": text}]
        if number % 2:
            reply = await client.chat.completions.create(
                model=name, messages=messages, max_tokens=most
            )
            return reply.choices[0].message.content
        parts = await client.chat.completions.create(
            model=name, messages=messages, max_tokens=most, stream=True
        )
        return "".join([part.choices[0].delta.content or "" async for part in parts])

    async def every():
        return await asyncio.gather(*(one(n, *request) for n, request in enumerate(asked)))

    assert asyncio.run(every()) == [panel(*request).text for request in asked]


def test_choices_seeds_stops_and_likelihoods(server, panel):
    drawn = {"temperature": 1.0, "seed": 7}
    several = chat(server.client, "one", TEXTS[1], n=3, **drawn)
    texts = [choice.message.content for choice in several.choices]
    assert len(set(texts)) == 3
    again = chat(server.client, "one", TEXTS[1], n=3, **drawn)
    assert [choice.message.content for choice in again.choices] == texts
    unseeded = {
        chat(server.client, "one", TEXTS[1], temperature=1.0).choices[0].message.content
        for _ in range(3)
    }
    assert len(unseeded) > 1

    text = panel("one", TEXTS[0], 12).text
    stop = text[len(text) // 2 :][:2]
    for is_streamed in (False, True):
        reply = chat(server.client, "one", TEXTS[0], stop=[stop], stream=is_streamed)
        if is_streamed:
            cut = "".join(part.choices[0].delta.content or "" for part in reply)
        else:
            [choice] = reply.choices
            cut = choice.message.content
            assert choice.finish_reason == "stop"
        assert cut == text[: text.index(stop)].strip()

    likely = chat(server.client, "one", TEXTS[0], logprobs=True, top_logprobs=2)
    entries = likely.choices[0].logprobs.content
    assert all(entry.logprob == entry.top_logprobs[0].logprob <= 0 for entry in entries)
    content = b"".join(bytes(entry.bytes) for entry in entries)
    assert content.decode(errors="replace").strip() == text
    raw = server.client.completions.create(model="one", prompt="a", max_tokens=4, logprobs=5)
    logprobs = raw.choices[0].logprobs
    assert all(len(tops) == 5 for tops in logprobs.top_logprobs)  # none hides another
    assert logprobs.tokens[0] in logprobs.top_logprobs[0]


def test_several_turns_and_a_system_text_are_written_by_the_template(server):
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
    ]
    ask = server.client.chat.completions.create
    long = ask(model="one", messages=turns, max_tokens=1).usage.prompt_tokens
    tokenizer_text = ask(model="one", messages=turns[3:], max_tokens=1).usage.prompt_tokens
    assert long > tokenizer_text


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"model": "three"}, 404, "there is no model 'three'; there are one, two"),
        ({"messages": []}, 400, "messages: expected a list of at least 1, found an empty list."),
        ({"messages": [{"role": "user", "content": 5}]}, 400,
         "messages.0.content: expected text or a list, found 5."),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400,
         'messages.0.content.0.type: expected text, found "image_url".'),
        ({"messages": ["Hi"]}, 400, 'messages.0: expected an object with keys, found "Hi".'),
        ({"messages": [{"role": "system", "content": "a"}]}, 400, "there is only a system message"),
        ({"messages": [{"role": "user", "content": "river " * 3000}]}, 400,
         "made for 1,024, those of the reply included; shorten the prompt."),
        ({"top_logprobs": 2}, 400, "top_logprobs: needs logprobs"),
        ({"stop": [5]}, 400, "stop.0: expected text, found 5."),
        ({"messages": [{"role": "assistant", "content": "a"}]}, 400, "have to take turns"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, "last message is empty"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty: this server does not support it"),
        ({"tools": [{"type": "function"}]}, 400, "tools: this server does not support it"),
        ({"guided_json": {}}, 400, "guided_json: this server does not support it"),
        ({"temperature": -1}, 400, "temperature"),
        ({"max_tokens": 5000}, 400, "the base was made for 1,024"),
        ({"n": 99}, 400, "n: "),
        ({"stop": list("abcde")}, 400, "at most 4 texts"),
        ({"frequency_penalty": 0, "user": "me", "tools": [], "top_k": -1}, 200, ""),
    ],
)  # fmt: skip
def test_what_would_change_the_text_is_refused_with_a_sentence(server, change, status, message):
    body = {"model": "one", "messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
    headers = {"Authorization": f"Bearer {KEY}"}
    url = f"{server.url}/v1/chat/completions"
    reply = httpx2.post(url, json={**body, **change}, headers=headers)
    assert reply.status_code == status
    if message:
        assert message in reply.json()["error"]["message"]


def test_keys_hosts_and_bodies_of_other_pages_are_refused(server):
    url, right = f"{server.url}/v1/models", {"Authorization": f"Bearer {KEY}"}
    assert httpx2.get(url).status_code == 401
    assert httpx2.get(url, headers={"Authorization": "Bearer other"}).status_code == 401
    assert httpx2.get(url, headers=right).status_code == 200
    assert httpx2.get(url, headers={**right, "Host": "example.org"}).status_code == 421
    chat_url = f"{server.url}/v1/chat/completions"
    assert httpx2.post(chat_url, content="{}", headers=right).status_code == 415
    json_right = {**right, "Content-Type": "application/json"}
    assert httpx2.post(chat_url, content="{", headers=json_right).status_code == 400
    assert httpx2.post(chat_url, content="[" * 200_000, headers=json_right).status_code == 400
    chunks = iter([b"a" * (1 << 20)] * 9)  # without a size that is known before
    assert httpx2.post(chat_url, content=chunks, headers=json_right).status_code == 413
    reply = httpx2.post(chat_url, content="[]", headers=json_right)
    assert reply.json()["error"]["message"] == (
        "the body: expected an object with keys, found an empty list."
    )
    with pytest.raises(openai.BadRequestError, match="prompt: expected text, a list of texts, a"):
        server.client.completions.create(model="one", prompt=[1, "a"])
    settings = server.client.models.retrieve("one").generation
    assert settings["max_new_tokens"] == 4
    for prompts in ([], ["a"] * 65):
        with pytest.raises(openai.BadRequestError, match="expected 1 to 64 prompts"):
            server.client.completions.create(model="one", prompt=prompts)
    with pytest.raises(openai.NotFoundError):
        server.client.embeddings.create(model="one", input="a")


def test_a_long_prompt_does_not_hold_up_others(server):
    answered = []
    body = {"model": "one", "prompt": "How are you? " * 150_000, "max_tokens": 1}

    def send():
        reply = httpx2.post(
            f"{server.url}/v1/completions",
            json=body,
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=120,
        )
        answered.append(reply)

    sending = threading.Thread(target=send)
    begin, longest = time.monotonic(), 0.0
    sending.start()
    while sending.is_alive():
        asked = time.monotonic()
        server.counts()
        longest = max(longest, time.monotonic() - asked)
    assert longest < (time.monotonic() - begin) / 2
    assert "the base was made for 1,024" in answered[0].json()["error"]["message"]


def test_tokens_of_one_text_keep_their_bytes_and_their_likelihoods():
    pieces = {0: "a", 1: "ä½", 2: "ł", 3: "<0xE4>", 4: "<0xBD>", 5: "<0x61>", 6: "ï¿½"}
    texts = {0: "a", 1: "\ufffd", 2: "\ufffd", 3: "\ufffd", 4: "\ufffd", 5: "a", 6: "\ufffd"}

    class Tokenizer:
        def decode(self, tokens):
            return texts[tokens[0]]

        def convert_ids_to_tokens(self, token):
            return pieces[token]

    names = TokenNames(Tokenizer())
    assert [bytes(names[token].content) for token in range(5)] == [
        *(b"a", b"\xe4\xbd", b"\xa0", b"\xe4", b"\xbd")
    ]
    assert names[1].text == r"\xe4\xbd" and names[6] == ("\ufffd", "\ufffd".encode())
    likely = Likelihood(-0.5, tuple((token, -float(token)) for token in range(6)))
    piece = Piece("a", 1, ((1, likely),))
    whole = Answer("m", False, names, 1).whole([piece], wants_likelihoods=True)
    logprobs = whole["choices"][0]["logprobs"]
    assert logprobs["tokens"] == [r"bytes:\xe4\xbd"]
    assert logprobs["top_logprobs"] == [
        {
            "a": 0.0,
            r"bytes:\xe4\xbd": -1.0,
            r"bytes:\xa0": -2.0,
            r"bytes:\xe4": -3.0,
            r"bytes:\xbd": -4.0,
            "token_id:5": -5.0,
        }
    ]
    chat = Answer("m", True, names, 1).whole([piece], wants_likelihoods=True)
    [entry] = chat["choices"][0]["logprobs"]["content"]
    assert (entry["token"], entry["bytes"]) == (r"\xe4\xbd", [0xE4, 0xBD])
    assert len(entry["top_logprobs"]) == 6


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_client_that_goes_away_frees_its_place(server, is_streamed):
    """Long before its replies would end."""
    body = {
        "model": "one",
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 900,
        "temperature": 5,
        "seed": 1,
        "stream": is_streamed,
        "n": 4,
    }
    begin = time.monotonic()
    with sent(server, body) as connection:
        assert connection.getresponse().read()
    whole_s = time.monotonic() - begin
    with sent(server, body):
        while not server.counts()["running"]:  # one of the four may end with its first tokens
            assert time.monotonic() < begin + whole_s + 60
        left = time.monotonic()
    server.wait_for(running=0, waiting=0)
    assert time.monotonic() - left < whole_s / 2


@contextmanager
def sent(server, body):
    """Send a chat's body; the connection, which is closed at the end of the block."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    try:
        yield connection
    finally:
        connection.close()


def test_a_full_queue_is_said_so_and_sigterm_finishes_what_runs(tiny_model_dir, home):
    small = Server(tiny_model_dir, home, most_waiting=1, most_rows=1)
    replies = []

    def ask():
        replies.append(chat(small.client, "one", "a", max_tokens=900, temperature=3.0, seed=1))

    with pytest.raises(openai.BadRequestError, match="asks for 2 replies"):
        chat(small.client, "one", "a", n=2)
    asking = [threading.Thread(target=ask) for _ in range(2)]
    for waiting, thread in enumerate(asking):
        thread.start()
        small.wait_for(running=1, waiting=waiting)
    with pytest.raises(openai.RateLimitError, match="1 replies wait") as refused:
        chat(small.client, "one", "a")
    assert refused.value.response.headers["Retry-After"] == "1"
    small.process.send_signal(signal.SIGTERM)
    assert small.process.stdout.readline() in ("finishing 1\n", "finishing 2\n")
    for thread in asking:
        thread.join()
    assert small.process.wait(60) == 0
    first, second = (reply.usage.completion_tokens for reply in replies)
    assert first == second >= 100


def test_what_cannot_be_served_is_said_before_anything_is_loaded(monkeypatch, tmp_path):
    from typer.testing import CliRunner

    from chatpipe.cli.app import app

    def error(*arguments):
        result = CliRunner().invoke(app, ["serve", *arguments])
        assert result.exit_code
        return result.output

    assert "name at least one variant" in error()
    assert "nobody" in error("nobody")
    assert "run `chatpipe run smol-merge` first" in error("smol-merge")
    assert "CHATPIPE_API_KEY" in error("smol-merge", "--host", "0.0.0.0")
    # A variant that only the study's file names: no command runs it by its name.
    study = tmp_path / "desk.yaml"
    study.write_text("variants: [{name: desk, datasets: [sample-chat]}]\nseeds: 2\n")
    of_study = error("--study", str(study))
    assert "desk: its base-model is not in the store;" in of_study
    assert f"run `chatpipe compare {study}` first" in of_study
    # One beside the study is not run by the study.
    assert "run `chatpipe run smol-merge` first" in error("smol-merge", "--study", str(study))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"{port}: cannot be served" in error("smol-merge", "--port", str(port))
        # What is only printed listens nowhere.
        assert "run `chatpipe run" in error("smol-merge", "--print-vllm", "--port", str(port))


def test_variants_of_two_bases_are_refused(tiny_model_dir, chatpipe_home, monkeypatch):
    (one, ref), (two, _) = tiny_server.served(tiny_model_dir).variants
    other = ref.base.model_copy(update={"key": "0" * 40})
    bases = {"one": ref, "two": ModelRef(other)}
    monkeypatch.setattr(served_models, "find_model", lambda variant: bases[variant.name])
    with pytest.raises(ConfigError, match="two and one are of different bases"):
        served_models.served_base([one, two])


def test_a_base_has_one_name_where_only_panels_and_evaluations_differ(
    tiny_model_dir, chatpipe_home
):
    served = tiny_server.served(tiny_model_dir)
    (one, ref), (two, other) = served.variants
    same_template = two.model_copy(update={"prompt_template": one.prompt_template})
    evaluation = two.evaluation.model_copy(update={"max_length": 64})
    panel = (one.panel[0].model_copy(update={"id": "another"}),)
    measured = same_template.model_copy(update={"panel": panel, "evaluation": evaluation})

    def names(variant):
        pair = replace(served, variants=((one, ref), (variant, other)))
        return list(served_models.served_models(pair, loading.load_tokenizer(tiny_model_dir)))

    assert names(measured) == ["one", "two", tiny_model_dir.name]
    generation = one.generation.model_copy(update={"max_new_tokens": 5})
    longest = same_template.model_copy(update={"generation": generation})
    assert len(names(longest)) == 4  # requests without max_tokens differ


def test_the_command_for_vllm_names_every_adapter(tiny_model_dir, chatpipe_home):
    served = tiny_server.served(tiny_model_dir)
    (one, ref), second = served.variants
    run = one.model_copy(update={"name": "one+training.epochs=1"})
    command = vllm_command(replace(served, variants=((run, ref), second)))
    first_path, second_path = served.adapters
    assert shlex.split(command) == [
        *("vllm", "serve", str(served.base), "--enable-lora", "--max-loras", "2"),
        *("--max-lora-rank", "16", "--lora-modules"),
        json.dumps({"name": run.name, "path": str(first_path)}),
        f"two={second_path}",
    ]
