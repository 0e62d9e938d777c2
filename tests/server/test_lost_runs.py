"""Runs that die without a word, on a live server: the automation that `up` puts there finds them.

The times are Prefect's shortest (a heartbeat every 30 s), the automation is the shipped one.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import yaml

from tests.support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.live]

EXAMPLE = Path(__file__).parents[2] / "deployments/automations/examples/regressions.yaml"
SAVE_BLOCK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
text = {"text": "{{subject}}\\n{{body}}"}
CustomWebhookNotificationBlock(name="alerts", url=sys.argv[1], json_data=text).save("alerts")
"""
EMIT = """
import sys
from prefect.events import emit_event
resource = {"prefect.resource.id": "chatpipe.variant.v", "prefect.resource.name": "v"}
emit_event(sys.argv[1], resource=resource, payload={"message": "v on a: worse."})
"""
HEARTBEAT_S = 30
LOST_WITHIN_S = 65  # more than two heartbeats, as shipped


@pytest.fixture(scope="module")
def site(tmp_path_factory, tiny_model_dir):
    folder = tmp_path_factory.mktemp("site")
    environment = {
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
        "PREFECT_SERVER_DEPLOYMENT_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    made = Site(folder, tiny_model_dir, environment)
    automation = folder / "deployments/automations/lost-runs.yaml"
    raw = yaml.safe_load(automation.read_text())
    raw["trigger"]["within"] = LOST_WITHIN_S
    automation.write_text(yaml.safe_dump(raw))
    made.run("chatpipe", "up", "--port", made.port)
    made.run("tests.support.waiting", api=True)
    yield made
    made.run("chatpipe", "down")


def test_a_killed_run_is_found_its_slot_given_on_and_a_healthy_run_left_alone(site, tmp_path):
    never, done = tmp_path / "never", tmp_path / "done"
    healthy = start(site, "free", done)
    until(site, healthy, "Running")
    doomed = start(site, "limited", never)
    machine = site.worker("cpu")
    other = None
    try:
        until(site, doomed, "Running")
        time.sleep(2)  # its first heartbeat
        kill_all(machine)
        killed = time.monotonic()
        done_soon = tmp_path / "soon"
        done_soon.touch()
        waiting = start(site, "limited", done_soon)
        other = site.worker("cpu")
        until(site, waiting, "AwaitingConcurrencySlot")
        until(site, doomed, "Lost", within=LOST_WITHIN_S + HEARTBEAT_S + 30)
        assert state(site, doomed)["type"] == "CRASHED"
        assert "finished steps are cached" in state(site, doomed)["message"]
        until(site, waiting, "Completed")
        while time.monotonic() < killed + LOST_WITHIN_S + HEARTBEAT_S:
            time.sleep(1)
        assert state(site, healthy)["name"] == "Running"
        done.touch()
        until(site, healthy, "Completed")
    finally:
        done.touch()
        for process in (machine, other):
            if process is not None:
                kill_all(process)


def test_the_example_automation_filled_in_notifies_of_a_failed_gate(site):
    """A webhook of this test's own, deployed as the example says; refused while it is missing."""
    from flows.reevaluate import GATE_FAILED

    text = EXAMPLE.read_text().replace("slack-webhook/chatpipe", "custom-webhook/alerts")
    (site.deployments / "automations/regressions.yaml").write_text(text)
    with pytest.raises(AssertionError, match="the server has no block custom-webhook/alerts; make"):
        site.run("chatpipe", "deploy", api=True)
    with webhook() as (address, bodies):
        python(site, SAVE_BLOCK, address)
        assert "automation 'chatpipe: regressions': created" in site.run(
            "chatpipe", "deploy", api=True
        )
        assert "regressions': unchanged" in site.run("chatpipe", "deploy", api=True)
        python(site, EMIT, GATE_FAILED)
        deadline = time.monotonic() + 60
        while not bodies:
            assert time.monotonic() < deadline, "nobody was notified"
            time.sleep(0.2)
    assert bodies == [{"text": "chatpipe: v\nv on a: worse."}]


@contextmanager
def webhook():
    """(an address on this machine, the JSON that was posted there)."""
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments): ...

        def do_POST(self):
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", bodies
        server.shutdown()


def python(site, code, *arguments):
    environment = {**site.environment, "PREFECT_API_URL": site.api}
    subprocess.run([sys.executable, "-c", code, *arguments], env=environment, check=True)


def start(site, deployment, file):
    """The id of a new run of the flow that waits for that file."""
    command = ["deployment", "run", f"wait/{deployment}", "-p", f"file={json.dumps(str(file))}"]
    before = {run["id"] for run in site.runs()}
    site.run("prefect", *command, api=True)
    [made] = {run["id"] for run in site.runs()} - before
    return made


def state(site, run_id):
    [run] = site.ask("flow_runs/filter", flow_runs={"id": {"any_": [run_id]}})
    return run["state"]


def until(site, run_id, name, within=60):
    deadline = time.monotonic() + within
    while state(site, run_id)["name"] != name:
        assert time.monotonic() < deadline, f"{state(site, run_id)}, not {name}"
        time.sleep(0.5)


def kill_all(process):
    """As a machine that loses its power: the worker and its runs, at once."""
    try:
        family = [psutil.Process(process.pid)]
        family += family[0].children(recursive=True)
    except psutil.NoSuchProcess:
        return
    for member in family:
        os.kill(member.pid, signal.SIGKILL)
    process.wait()
