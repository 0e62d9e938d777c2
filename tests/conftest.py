"""Fixtures that several test files share. One store a process: it is set before any import."""

import os
import signal
import tempfile

HOME = tempfile.mkdtemp(prefix="chatpipe-tests-")
os.environ.update(
    CHATPIPE_HOME=HOME,
    PREFECT_HOME=f"{HOME}/prefect",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_LOGGING_LEVEL="WARNING",
    DO_NOT_TRACK="1",
    HF_HUB_OFFLINE="1",
)
os.environ.pop("PREFECT_API_URL", None)
BESIDE_OTHERS = "PYTEST_XDIST_WORKER" in os.environ
if BESIDE_OTHERS:  # threads that wait for a core cost more than they compute
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where the tests run in a shell's background, Ctrl-C is ignored, and by all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

import shutil
from pathlib import Path

import pytest

from tests.support import prefect_server, steps
from tests.support.browsers import browser as browser
from tests.support.tiny import tiny_model

# Markers and fixtures of tests that take long. Their sum is the weight of a test.
WEIGHTS = {"drill": 4, "prefect": 2, "slow": 1}


@pytest.fixture(autouse=True)
def interruptible():
    """Commands that ran in this process leave a handler that dies at the second Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def weight(item):
    labels = {mark.name for mark in item.iter_markers()} | set(item.fixturenames)
    return sum(WEIGHTS.get(label, 0) for label in labels)


def pytest_collection_modifyitems(items):
    """Where several processes share the tests, run the files with the longest tests first: the
    processes then end at about the same time. Files of the `prefect` fixture are neighbours."""
    if BESIDE_OTHERS:
        heaviest = {}
        for item in items:
            heaviest[item.path] = max(heaviest.get(item.path, 0), weight(item))
        items.sort(key=lambda item: -heaviest[item.path])


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Stop the Prefect server where the next test does not use it: an idle one takes CPU time."""
    if nextitem is None or "prefect" not in nextitem.fixturenames:
        prefect_server.stop()


@pytest.fixture(scope="session", autouse=True)
def _leave_nothing_behind():
    yield
    prefect_server.remove()
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="module")
def prefect():
    """Send this module's flows to a Prefect server, whose address this is. Their store has nothing
    from other modules."""
    empty_store()
    with prefect_server.used() as address:
        yield address
    empty_store()


def empty_store():
    """Empty this process's store in place: Prefect keeps its path."""
    for path in Path(HOME).iterdir():
        if path.name != "prefect":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(scope="module")
def steps_in_this_process():
    """Flows of this module's tests build models here, not in a process for each step."""
    with steps.built_here():
        yield


@pytest.fixture
def chatpipe_home(tmp_path, monkeypatch):
    """A store of the test's own, for what does not go through Prefect."""
    monkeypatch.setenv("CHATPIPE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny-model"))
