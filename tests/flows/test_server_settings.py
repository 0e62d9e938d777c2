"""The hub's token and the shared store's address, kept on a real server: used, and not shown."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from chatpipe.errors import ConfigError
from tests.support import prefect_server
from tests.support.hub import Repo, hub
from tests.support.rows import alpaca_rows

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect")]
TOKEN = "planted-0123456789-planted"  # not like a token of the hub: nothing hides it by its form

# A worker's run that downloads a private data set, then one that does not exist.
RUN = """
from prefect import flow

from chatpipe.sources.fetch import FetchDataset
from flows.naming import check_home
from tasks import steps

@flow(name="private-rows")
def private_rows():
    check_home()
    steps.download(FetchDataset(repo="owner/private", files=("rows.jsonl",)), "private")
    steps.download(FetchDataset(repo="owner/missing", files=("rows.jsonl",)), "missing")

private_rows()
"""


@pytest.fixture
def without_environment(monkeypatch):
    """No token, and no address of a shared store, in this process."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "CHATPIPE_SHARED_STORE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def on_server():
    """Save a value on the server under the name that chatpipe looks for; it is removed again."""
    from prefect.blocks.system import Secret
    from prefect.variables import Variable

    from flows.server_settings import HUB_TOKEN, SHARED_STORE

    def save(token=None, address=None):
        if token is not None:
            Secret(value=token).save(HUB_TOKEN, overwrite=True)
        if address is not None:
            Variable.set(SHARED_STORE, address, overwrite=True)

    yield save
    Variable.unset(SHARED_STORE)
    with suppress(ValueError):
        Secret.delete(HUB_TOKEN)


@pytest.mark.usefixtures("without_environment")
def test_a_workers_run_uses_both_and_the_token_is_written_nowhere(on_server, prefect, tmp_path):
    rows = "\n".join(map(json.dumps, alpaca_rows(3))).encode()
    repo = Repo({"rows.jsonl": rows}, token=TOKEN)
    on_server(TOKEN, str(tmp_path / "shared"))
    with hub({"datasets/owner/private": repo}) as (address, _):
        environment = {
            "CHATPIPE_HOME": str(tmp_path / "home"),
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "PREFECT__RUNTIME__DEPLOYMENT__ID": "a deployment",
            "PREFECT_API_URL": prefect,
            "PREFECT_LOGGING_LEVEL": "DEBUG",
        }
        done = subprocess.run(
            [sys.executable, "-c", RUN],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
    printed = done.stdout + done.stderr
    assert len(list(tmp_path.glob("shared/raw/*/artifact.json"))) == 1, printed
    assert done.returncode != 0 and "owner/missing" in printed
    assert TOKEN not in printed
    assert TOKEN not in everything_on_the_server()
    holders = [p for p in tmp_path.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    assert holders == []


def everything_on_the_server():
    """What the dashboard shows of runs: their logs, artifacts, states, parameters and events."""
    kinds = ("logs", "artifacts", "flow_runs", "task_runs", "events", "block_documents")
    deadline = time.monotonic() + 60
    while '"private-rows"' not in prefect_server.everything("events"):
        assert time.monotonic() < deadline, "the run's events have arrived"
        time.sleep(0.5)  # the server stores them after the run has ended
    shown = {kind: prefect_server.everything(kind) for kind in kinds}
    assert "owner/missing" in shown["logs"], "the run's log has arrived"
    return "\n".join(shown.values())


@pytest.mark.usefixtures("without_environment")
def test_the_environment_of_a_worker_has_precedence(on_server, monkeypatch, tmp_path):
    from flows.server_settings import use_server_settings

    on_server("of-the-server", str(tmp_path / "of-the-server"))
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "of-the-worker")
    monkeypatch.setenv("CHATPIPE_SHARED_STORE", str(tmp_path / "of-the-worker"))
    use_server_settings()
    assert "HF_TOKEN" not in os.environ
    assert os.environ["CHATPIPE_SHARED_STORE"].endswith("of-the-worker")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN")
    use_server_settings()
    assert os.environ["HF_TOKEN"] == "of-the-server"


@pytest.mark.usefixtures("without_environment")
def test_a_value_that_cannot_be_used_is_refused_without_being_quoted(on_server):
    from flows.server_settings import use_server_settings

    use_server_settings()  # a server that has neither
    assert "HF_TOKEN" not in os.environ
    on_server(token=f"{TOKEN}\n")
    with pytest.raises(ConfigError, match="Secret chatpipe-hub-token: ") as refused:
        use_server_settings()
    assert TOKEN not in str(refused.value)
    on_server(token=TOKEN, address="somewhere/relative")
    with pytest.raises(ConfigError, match="Variable chatpipe_shared_store: must be an address"):
        use_server_settings()
