"""What other libraries are told; what the user has said stands, by whatever name."""

import json
import subprocess
import sys

import pytest

from chatpipe.runtime.environment import ENVIRONMENT, environment


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    for name in (*ENVIRONMENT, "OMP_WAIT_POLICY", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)


def test_all_is_told_to_who_said_nothing():
    assert environment() == ENVIRONMENT


@pytest.mark.parametrize(
    ("said", "left_out"),
    [
        ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"),
        ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"),
        ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"),
    ],
)
def test_what_the_user_said_stands(monkeypatch, said, left_out):
    monkeypatch.setenv(said, "of the user")
    assert ENVIRONMENT.keys() - environment().keys() == {left_out}


READ = """
import json, os, sys
from chatpipe.runtime import worker
assert "torch" not in sys.modules  # which reads it when it is imported
from chatpipe.runtime.environment import prepare
prepare()
print(json.dumps(dict(os.environ)))
"""


def test_it_is_told_before_torch_is_imported():
    done = subprocess.run([sys.executable, "-c", READ], capture_output=True, text=True, check=True)
    assert ENVIRONMENT.items() <= json.loads(done.stdout).items()
