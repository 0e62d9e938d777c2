"""What our processes start ends with them, takes nothing from the current directory and asks no
proxy for this machine's own server."""

import os
import socket
import sqlite3
import subprocess
import sys
import time
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import psutil
import pytest

from chatpipe.errors import ServiceError
from chatpipe.server.database_check import check_database
from chatpipe.server.environment import bypass_proxies, proxy_faults
from chatpipe.server.local import api_url, check_servers_database, down, healthy, up
from chatpipe.server.processes import MARKER, Service, orphaned_processes, service_directory
from tests.support.site import foreign_project


class HealthServer(HTTPServer):
    """A server that answers every request with 200, and whose port is what `with` gives."""

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), Healthy)

    def __enter__(self):
        Thread(target=self.serve_forever, daemon=True).start()
        return self.server_port

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


SLEEP = "import time; time.sleep(60)"


def until(condition, within=20):
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def sleeper(tmp_path):
    """A module that tells its process number and sleeps."""
    (tmp_path / "sleeper.py").write_text(
        "import os, pathlib, time\n"
        "pathlib.Path('pid').write_text(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def test_a_watched_process_ends_with_a_parent_that_is_killed(tmp_path, sleeper):
    start = (
        "import os, subprocess, sys, time\n"
        "watched = ['-P', '-m', 'chatpipe.runtime.parent_watch', str(os.getpid()), 'sleeper']\n"
        "subprocess.Popen([sys.executable, *watched], process_group=0)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", start], cwd=tmp_path, env=sleeper)
    until((tmp_path / "pid").exists)
    time.sleep(0.2)
    pid = int((tmp_path / "pid").read_text())
    parent.kill()
    parent.wait()
    until(lambda: gone(pid))


@pytest.mark.slow
def test_a_commands_own_server_ends_with_a_command_that_is_killed(tmp_path):
    start = (
        "from chatpipe.server import environment; environment.prepare()\n"
        "from chatpipe.cli import temporary_server as temporary\n"
        "temporary.prepare_temporary_server()\n"
        "from prefect.server.api.server import SubprocessASGIServer\n"
        "server = SubprocessASGIServer(); server.start()\n"
        "print(server.server_process.pid, flush=True)\n"
        "import time; time.sleep(60)\n"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", start],
        env={**os.environ, "PREFECT_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    server = psutil.Process(int(command.stdout.readline()))
    assert "uvicorn" in server.cmdline()
    command.kill()
    command.wait()
    until(lambda: gone(server.pid))


def test_a_watched_process_does_not_start_without_its_parent(tmp_path, sleeper):
    command = [sys.executable, "-P", "-m", "chatpipe.runtime.parent_watch", "1", "sleeper"]
    done = subprocess.run(command, cwd=tmp_path, env=sleeper, capture_output=True, text=True)
    assert (
        done.returncode == 1 and "sleeper: the process that started it, 1, is gone" in done.stderr
    )
    assert not (tmp_path / "pid").exists()


def test_what_a_killed_service_leaves_is_found_and_ended_and_no_strangers(chatpipe_home):
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}])"
    service = Service("worker", ("timeit", "-n", "1", "-r", "1", start), {})
    strangers = [
        subprocess.Popen([sys.executable, "-c", SLEEP], env={**os.environ, **environment})
        for environment in ({}, {MARKER: "/another/home"})
    ]
    try:
        assert service.start()
        process = service.process()
        until(lambda: process.children())
        [child] = process.children()
        assert orphaned_processes() == []
        process.kill()
        until(lambda: service.process() is None)
        assert orphaned_processes() == [child]
        assert list(down()) == [
            "orphans of an ended service: 1 process(es) ended",
            "worker: had already ended",
        ]
        assert gone(child.pid) and not any(gone(stranger.pid) for stranger in strangers)
        assert list(down()) == ["nothing that chatpipe started is running"]
    finally:
        for stranger in strangers:
            stranger.kill()
            stranger.wait()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": 1, "started": 5}', '{"pid": "x"}'])
def test_a_stale_record_names_no_process(chatpipe_home, text):
    service_directory().mkdir(parents=True)
    (service_directory() / "worker.json").write_text(text)
    assert Service("worker", (), {}).process() is None
    assert list(down()) == ["worker: had already ended"]


def test_machines_that_share_a_home_have_records_of_their_own(chatpipe_home, monkeypatch):
    service_directory().mkdir(parents=True)
    (service_directory() / "worker.json").write_text('{"pid": 1, "started": 5}')
    monkeypatch.setattr("platform.node", lambda: "another-machine")
    assert list(down()) == ["nothing that chatpipe started is running"]
    monkeypatch.undo()
    monkeypatch.setenv("CHATPIPE_HOME", str(chatpipe_home))
    assert list(down()) == ["worker: had already ended"]


def test_nothing_is_imported_from_another_projects_directory(tmp_path):
    foreign_project(tmp_path)
    script = (
        "import os, subprocess, sys; from chatpipe.server import environment;"
        "environment.prepare();"
        "assert os.environ['PYTHONPATH'] == '/absolute', os.environ['PYTHONPATH'];"
        "import chatpipe.cli.app, flows.finetune, tasks;"
        "subprocess.run([sys.executable, '-m', 'chatpipe.runtime.worker'], input=b'', check=True)"
    )
    # As `export PYTHONPATH=$PYTHONPATH:/absolute` makes it; empty, it means the current directory.
    path = os.pathsep.join(["/absolute", "", "."])
    code = f"import sys; sys.path.remove({str(tmp_path)!r}); {script}"
    subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "CHATPIPE_HOME": str(tmp_path / "home")},
        check=True,
    )


@pytest.mark.parametrize("path", [":", "", ".", "{cwd}", "/absolute:", ".:/absolute"])
def test_the_console_script_imports_nothing_of_another_projects_directory(tmp_path, path):
    """As pip writes it, with sys.path as Python makes it from $PYTHONPATH."""
    foreign_project(tmp_path)
    (tmp_path / "chatpipe.py").unlink()  # nothing of ours runs before that would be imported
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    module, _, name = project["project"]["scripts"]["chatpipe"].partition(":")
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"from {module} import {name}; {name}()", "show", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path.format(cwd=tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "smol-merge" in done.stdout, done.stderr


def test_the_checkout_is_no_other_project():
    root = Path(__file__).parents[2]
    script = (
        "from chatpipe.utils import import_path as p; p.leave_current_directory(); import tasks"
    )
    environment = {**os.environ, "PYTHONPATH": ""}
    subprocess.run([sys.executable, "-c", script], cwd=root, env=environment, check=True)


def test_a_port_where_another_program_listens_is_refused(chatpipe_home):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ServiceError, match=f"^port {port}: another program listens there; "):
            list(up(port))


def test_a_port_where_the_server_of_another_home_listens_is_refused(chatpipe_home):
    serve = (
        "import sys; from tests.server.test_processes import HealthServer\n"
        "with HealthServer(int(sys.argv[-1])) as port: sys.stdin.read()"
    )
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-c", serve, "server", "--port", str(port)],
        env={**os.environ, MARKER: "/another/home", "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
    )
    try:
        until(lambda: healthy(api_url(port)))
        with pytest.raises(
            ServiceError, match=f"^port {port}: the server of CHATPIPE_HOME=/another"
        ):
            list(up(port))
    finally:
        server.communicate(b"")


def test_a_worker_leaves_another_projects_directory(tmp_path):
    foreign = foreign_project(tmp_path / "foreign")
    script = (
        "from chatpipe.server.worker import prepare; prepare();"
        "import os; print(os.environ['CHATPIPE_HOME'], os.environ['no_proxy']);"
        "from prefect.utilities.importtools import import_object;"
        "import_object('flows.finetune.finetune')"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=foreign,
        env={**os.environ, "CHATPIPE_HOME": "../home"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    home, hosts = done.stdout.split()
    assert Path(home).is_absolute() and Path(home).samefile(tmp_path / "home")
    assert "127.0.0.1" in hosts


def test_a_worker_whose_variables_cannot_be_does_not_start(tmp_path):
    command = [sys.executable, "-P", "-m", "chatpipe.server.worker", "worker", "start"]
    environment = {**os.environ, "CHATPIPE_SHARDING": "perhaps", "CHATPIPE_HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert done.stderr == "CHATPIPE_SHARDING=perhaps: must be auto, always or never.\n"


def test_a_worker_without_a_home_does_not_start(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "CHATPIPE_HOME"}
    command = [sys.executable, "-P", "-m", "chatpipe.server.worker", "worker", "start"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 1
    assert (
        done.stderr
        == "CHATPIPE_HOME: set it in the worker's environment to the directory of the store.\n"
    )


@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_no_proxy_is_asked_for_this_machine(monkeypatch, name, scheme):
    import httpx

    for spelled in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(spelled, raising=False)
        monkeypatch.delenv(spelled.upper(), raising=False)
    monkeypatch.setenv("NO_PROXY", "intern.example")
    monkeypatch.setenv(name, f"{scheme}://127.0.0.1:9")  # nobody listens there
    bypass_proxies()
    assert os.environ["no_proxy"] == "intern.example,localhost,127.0.0.1,::1"
    with HealthServer() as port:
        url = f"http://127.0.0.1:{port}/api"
        assert healthy(url)
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.get(f"http://localhost:{port}/api/health").status_code == 200
    assert proxy_faults() == []


def test_a_proxy_that_no_client_can_use_is_named(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks4://127.0.0.1:9")
    command = [sys.executable, "-m", "chatpipe", "show"]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 2
    expected = "ALL_PROXY: socks4:// is not a supported proxy; use http, https, socks5, socks5h."
    assert done.stderr.strip() == expected


@pytest.mark.parametrize("damage", ["newer", "garbage", "half"])
def test_a_database_that_prefect_cannot_use_is_named_at_once(tmp_path, damage):
    from prefect.settings import (
        PREFECT_API_DATABASE_CONNECTION_URL,
        PREFECT_HOME,
        temporary_settings,
    )

    path = tmp_path / "prefect.db"
    if damage == "garbage":
        path.write_bytes(b"no database" * 1000)
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("create table alembic_version (version_num text)")
            connection.execute("insert into alembic_version values ('0123456789ab')")
    said = "made by a newer Prefect (revision 0123456789ab)"
    if damage == "half":
        path.write_bytes(path.read_bytes()[:5000])
    if damage != "newer":
        said = "cannot be read"
    settings = {PREFECT_HOME: tmp_path, PREFECT_API_DATABASE_CONNECTION_URL: None}
    with temporary_settings(settings), pytest.raises(ServiceError) as error:
        check_database()
    assert said in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize(("has_run", "is_there"), [(True, False), (False, False), (True, True)])
def test_a_database_that_was_deleted_is_said(chatpipe_home, monkeypatch, has_run, is_there):
    monkeypatch.setenv("PREFECT_HOME", str(chatpipe_home / "prefect"))
    server = Service("server", (), {})
    if has_run:
        server.log.parent.mkdir(parents=True)
        server.log.touch()
    if is_there:
        (chatpipe_home / "prefect").mkdir()
        sqlite3.connect(chatpipe_home / "prefect/prefect.db").close()
        (chatpipe_home / "prefect/prefect.db").touch()
    lines = list(check_servers_database(server))
    assert len(lines) == (has_run and not is_there)
    for line in lines:
        assert str(chatpipe_home / "prefect/prefect.db") in line and "a new one is made" in line
        monkeypatch.setattr(Service, "process", lambda _: object())
        assert "deleted while the server runs" in next(check_servers_database(server))
