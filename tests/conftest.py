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
# Where the tests run in a shell's background, Ctrl-C is ignored, and by all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

import shutil

import pytest

from tests.support.tiny import tiny_model


@pytest.fixture(scope="session", autouse=True)
def _leave_nothing_behind():
    yield
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture
def chatpipe_home(tmp_path, monkeypatch):
    """A store of the test's own, for what does not go through Prefect."""
    monkeypatch.setenv("CHATPIPE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny-model"))
