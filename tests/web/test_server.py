"""What both servers share: the address, the key, bodies, and the end after a signal."""

import json
import signal
import socket
import subprocess
import sys
import time

import httpx2
import pytest

from chatpipe.errors import ConfigError, ServiceError
from chatpipe.rating.session import Session
from chatpipe.rating.web import rating_app
from chatpipe.web.listening import bound_socket, required_key
from tests.support.rating import pairs_of, served

SERVER = """
import sys, time
from pathlib import Path
from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from chatpipe.web import access, server
from chatpipe.web.app import web_app

access.CLIENT_S = server.CLIENT_S = float(sys.argv[1])
begun = Path(sys.argv[2])
router = APIRouter()

@router.get("/slow")
def slow():
    begun.touch()
    time.sleep(1.5)
    return "finished"

@router.get("/large")
def large():
    return StreamingResponse(bytes(1 << 20) for _ in range(64))

@router.post("/echo")
def echo(body: dict):
    return body

app = web_app(access.Access("127.0.0.1", None, (), 1 << 10), [router])
server.serve_until_signal(app, ("127.0.0.1", 0), lambda address: print(address, flush=True))
print("ended")
"""


@pytest.fixture
def server(request, tmp_path):
    """It waits a second for a client that has stalled, or the parameter's seconds."""
    patience_s, begun = getattr(request, "param", 1.0), tmp_path / "begun"
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(patience_s), begun],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.begun = begun
    process.port = int(process.stdout.readline().rpartition(":")[2].strip("/\n"))
    yield process
    process.kill()
    process.communicate()


def connected(server, text):
    client = socket.create_connection(("127.0.0.1", server.port))
    client.sendall(text.encode())
    return client


def begin_of(method, path, headers=""):
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"


JSON = "Content-Type: application/json\r\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_what_runs_and_waits_for_no_stalled_client(server, number):
    running = connected(server, begin_of("GET", "/slow"))
    deadline = time.monotonic() + 30
    while not server.begun.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    stalled = [
        connected(server, begin_of("GET", "/large")),  # takes nothing of the reply
        connected(server, begin_of("POST", "/echo", JSON + "Content-Length: 9\r\n") + "{"),
        connected(server, begin_of("GET", "/slow")[:-4]),
        connected(server, ""),
    ]
    time.sleep(0.3)
    server.send_signal(number)
    begin = time.monotonic()
    out, log = server.communicate(timeout=60)
    assert time.monotonic() - begin < 10
    assert (server.returncode, out, log) == (0, "ended\n", "")
    assert running.makefile("rb").read().endswith(b'"finished"')
    for client in (running, *stalled):
        client.close()


@pytest.mark.parametrize("server", [120.0], indirect=True)
def test_a_second_interrupt_ends_at_once(server):
    """And not after the client that takes nothing of its reply."""
    client = connected(server, begin_of("GET", "/large"))
    assert client.recv(1)
    server.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert server.poll() is None
    server.send_signal(signal.SIGINT)
    assert server.wait(30) == 0
    client.close()


def test_bodies_are_json_of_a_size_that_arrive_in_time(server):
    url = f"http://127.0.0.1:{server.port}/echo"
    right = {"Content-Type": "application/json; charset=utf-8"}
    body = json.dumps({"text": "a" * 900})

    def status(content, headers=right):
        return httpx2.post(url, content=content, headers=headers).status_code

    assert status(body) == 200 == status(iter([body[:9].encode(), body[9:].encode()]))
    assert status("a" * 1025) == 413 == status(iter([b"a" * 512] * 3))
    assert status(body, {"Content-Type": "text/plain"}) == 415 == status(b"", {})
    reply = httpx2.post(url, content="[]", headers=right)
    assert reply.status_code == 422 and "body: expected an object" in reply.text
    assert httpx2.get(url).json()["error"]["message"] == "GET /echo: Method Not Allowed."
    slow = connected(server, begin_of("POST", "/echo", JSON + "Content-Length: 9\r\n") + "{")
    assert b"HTTP/1.1 408" in slow.recv(1 << 16)
    slow.close()


def test_a_loopback_server_is_asked_by_its_own_name_with_a_key_too(tmp_path, monkeypatch):
    monkeypatch.setenv("CHATPIPE_HOME", str(tmp_path))
    names = {"localhost:80": 200, "[::1]": 200, "127.0.0.1": 200, "127.0.0.1.example.org": 421}
    for key in (None, "k"):
        with served(rating_app(Session("study", pairs_of()), key=key)) as address:
            for name, status in {**names, "example.org": 421}.items():
                reply = httpx2.get(address, headers={"Host": name})
                assert reply.status_code == status
                assert status == 200 or "127.0.0.1 or localhost" in reply.json()["error"]["message"]
                assert reply.headers["content-security-policy"].startswith("default-src 'none'")
                assert reply.headers["cache-control"] == "no-store"


def test_other_machines_need_a_key_that_clients_can_send(monkeypatch):
    monkeypatch.delenv("CHATPIPE_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="a key is required; set CHATPIPE_API_KEY"):
        required_key("0.0.0.0")
    assert required_key("127.0.0.1") is None and required_key("::1") is None
    monkeypatch.setenv("CHATPIPE_API_KEY", "sesame ")
    assert required_key("0.0.0.0") == "sesame"
    monkeypatch.setenv("CHATPIPE_API_KEY", "密钥")
    with pytest.raises(ConfigError, match="cannot send this key in a header"):
        required_key("127.0.0.1")


def test_an_address_that_is_taken_is_named():
    with bound_socket("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=f"127.0.0.1:{port}: cannot be served"):
            bound_socket("127.0.0.1", port)
