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
from collections import Counter

import pytest

from tests.support import prefect_server, steps
from tests.support.tiny import tiny_model


def pytest_collection_modifyitems(items):
    """Among several processes, files of long tests come first, so that what is left at the end, of
    which one process may get more than another, is short."""
    if BESIDE_OTHERS:
        length = Counter()
        for item in items:
            marks = {mark.name for mark in item.iter_markers()}
            length[item.path] = max(length[item.path], 2 * ("drill" in marks) + ("slow" in marks))
        items.sort(key=lambda item: -length[item.path])


@pytest.fixture(scope="session", autouse=True)
def _leave_nothing_behind():
    yield
    prefect_server.stop()
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="module")
def prefect():
    """Flows of this module's tests go to a Prefect server, whose address it is."""
    with prefect_server.used() as address:
        yield address


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
