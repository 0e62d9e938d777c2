"""What a worker shows of its machine at its start, and that runs on a GPU wait for it."""

import asyncio
import logging

import pytest

from chatpipe.diagnosis.findings import fault, ok, warning
from chatpipe.server import machine_check, machine_page
from chatpipe.server.machine_check import MachineCheck, worker_name
from tests.support import prefect_server

NEVER_ENDS = ("http.server", "0")
FAILS = ("http.server", "no port")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("worker start --pool gpu --name gpu0 --limit 1", "gpu0"),
        ("worker start --name=gpu0 --pool=gpu", "gpu0"),
        ("worker start -p gpu", "gpu"),
        ("worker start --help", None),
        ("version", None),
    ],
)
def test_a_worker_is_named_by_its_command(command, name):
    assert worker_name(command.split()) == name


def test_the_dashboard_has_what_is_wrong_first_and_each_start_is_a_version(
    monkeypatch, capsys, chatpipe_home
):
    findings = [
        ok("GPU", "1 × A | B"),
        warning("disk", "1 GiB free", "make room"),
        fault("kernel packing", "differs", "it is switched off"),
    ]
    monkeypatch.setattr(machine_page, "all_findings", lambda: iter(findings))
    monkeypatch.setattr("platform.node", lambda: "Box.local")
    with prefect_server.used():
        machine_page.main("Box.local-gpu0")
        monkeypatch.setattr(machine_page, "all_findings", lambda: 1 / 0)
        machine_page.main("Box.local-gpu0")
        first, second = prefect_server.artifacts_of_key("worker-box-local-gpu0")
    lines = first.data.splitlines()
    assert lines[0] == "# Box.local-gpu0 on Box.local: 1 fault(s), 1 warning(s)"
    assert lines[4] == "- **fault**: kernel packing: differs; it is switched off"
    assert lines[5] == "- **warning**: disk: 1 GiB free; make room"
    assert r"| ok | GPU | 1 × A \| B |" in lines
    assert "doctor: fails: ZeroDivisionError" in second.data
    assert "doctor: fault: kernel packing: differs" in capsys.readouterr().err


def test_a_server_that_is_gone_fails_nothing(monkeypatch, capsys):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setattr(machine_page, "all_findings", lambda: iter([ok("disk", "free")]))
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "0")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        machine_page.main("gpu0")
    assert "the dashboard does not show it" in capsys.readouterr().err


@pytest.mark.parametrize(("module", "ends"), [(NEVER_ENDS, "-9"), (FAILS, "2")])
def test_a_run_on_a_gpu_waits_for_the_check_but_not_for_ever(monkeypatch, caplog, module, ends):
    monkeypatch.setattr(machine_check, "MODULE", module[0])
    check = MachineCheck(module[1])
    check.start()
    asyncio.run(check.wait(at_most_s=0.5))  # without a GPU: at once
    assert not caplog.text
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with caplog.at_level(logging.WARNING):
        asyncio.run(check.wait(at_most_s=0.5 if module is NEVER_ENDS else 60))
    assert f"ended with exit code {ends}, and runs start without it" in caplog.text
    caplog.clear()
    asyncio.run(check.wait())
    assert not caplog.text
