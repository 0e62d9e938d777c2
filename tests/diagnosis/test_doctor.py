"""`chatpipe doctor`: what it finds of this machine, and a wrong kernel that it switches off."""

import json
import logging

import pytest
import torch
from prefect.settings import PREFECT_API_URL, temporary_settings
from typer.testing import CliRunner

from chatpipe.cli.app import app
from chatpipe.diagnosis import machine, self_check
from chatpipe.diagnosis.machine import machine_findings
from chatpipe.kernels import cross_entropy, switched_off
from chatpipe.kernels.switch import BY_DEFAULT, KERNELS, VARIABLE, enabled_kernels, recorded_kernels
from chatpipe.server.state import server_findings

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")


@pytest.fixture(autouse=True)
def home(chatpipe_home, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    return chatpipe_home


def test_every_line_of_a_cpu_is_ok_or_says_what_to_do(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    findings = {finding.name: finding for finding in machine_findings()}
    assert [*findings] == [
        "GPU", "memory", "bitsandbytes", "disk", "hub", "hub's token", "kernels",
    ]  # fmt: skip
    assert findings["GPU"].state == findings["hub"].state == "warning"
    assert "HF_HUB_OFFLINE is set" in findings["hub"].text
    assert findings["hub's token"].state == "ok"
    assert all(bool(finding.remedy) is (finding.state != "ok") for finding in findings.values())
    assert "hf_secret" not in repr(findings)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as the CPU worker beside those of GPUs
    assert next(machine_findings()).text.startswith("CUDA_VISIBLE_DEVICES hides all")


def test_a_gpu_without_kernels_and_one_without_bfloat16_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "DRIVER", tmp_path / "version")
    machine.DRIVER.write_text("570.86.15\n")
    answers = {
        "is_available": True,
        "get_device_name": "Tesla T4",
        "device_count": 1,
        "get_device_capability": (7, 5),
        "is_bf16_supported": False,
        "get_arch_list": ["sm_75"],
        "mem_get_info": (15 << 30, 16 << 30),
        "memory_reserved": 0,
        "memory_allocated": 0,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    findings = {finding.name: finding for finding in machine_findings()}
    assert next(iter(findings)) == "driver"
    assert findings["driver"].text == "NVIDIA 570.86.15"
    assert "1 × Tesla T4, compute capability 7.5" in findings["GPU"].text
    assert findings["bfloat16"].state == "warning"
    assert "on Tesla T4, products in float16" in findings["memory"].text
    assert findings["bitsandbytes"].state == "fault"  # the one of a machine without CUDA
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90"])
    first = list(machine_findings())[1]
    assert first.state == "fault" and first.text.endswith("it has sm_90)")
    assert first.remedy.startswith("install a torch that was built for it")


def test_a_server_that_does_not_answer_is_a_fault_and_none_is_needed():
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        [none] = server_findings()
    assert none.state == "ok" and "is not set" in none.text
    # Prefect's own setting, which a profile may hold as well as the environment.
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        [gone] = server_findings()
    assert gone.state == "fault" and "127.0.0.1:9/api: no server answers" in gone.text
    assert not gone.text.endswith(".") and "chatpipe up" in gone.remedy


def test_the_command_prints_lines_or_json_and_fails_for_a_fault(monkeypatch):
    printed = CliRunner().invoke(app, ["doctor", "--json"])
    assert printed.exit_code == 0
    names = [finding["name"] for finding in json.loads(printed.stdout)]
    assert names[0] == "GPU" and names[-1] == "Prefect server"
    wrong = self_check.fault("kernel packing", "fails", "mend it")
    monkeypatch.setattr("chatpipe.diagnosis.rates.measured_rates", list)
    monkeypatch.setattr(self_check, "check_kernels", lambda: [wrong])
    printed = CliRunner().invoke(app, ["doctor", "--check"])
    assert printed.exit_code == 1
    assert printed.stdout.splitlines()[-1] == "fault   kernel packing: fails; mend it"


@pytest.fixture
def one_thread():
    """Threads of a tiny product mostly wait for each other where other tests need the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_kernel_that_computes_something_else_is_switched_off_until_it_is_right(
    home, monkeypatch, caplog
):
    findings = {finding.name: finding for finding in self_check.check_kernels()}
    assert [*findings] == [f"kernel {kernel}" for kernel in KERNELS if kernel in BY_DEFAULT]
    assert {finding.state for finding in findings.values()} == {"ok"}, findings
    assert "not used" in findings["kernel varlen_attention"].text
    assert "from the plain path" in findings["kernel cross_entropy"].text
    assert not switched_off.record_file().exists() and enabled_kernels() == BY_DEFAULT

    right = cross_entropy.token_nats

    def wrong(logits, targets):
        return right(logits, targets) * (1.1 if "cross_entropy" in enabled_kernels() else 1)

    monkeypatch.setattr("chatpipe.packing.packing.token_nats", wrong)
    monkeypatch.setattr("chatpipe.packing.padding.token_nats", wrong)
    states = {finding.name: finding.state for finding in self_check.check_kernels()}
    assert [name for name, state in states.items() if state == "fault"] == ["kernel cross_entropy"]
    with caplog.at_level(logging.WARNING):
        assert enabled_kernels() == BY_DEFAULT - {"cross_entropy"}
    assert "cross_entropy is switched off on this machine" in caplog.text
    with recorded_kernels() as record:
        pass
    assert "from the plain path" in record.details()["kernels_unused"]["cross_entropy"]

    def wrong_gradient(logits, targets):
        nats = right(logits, targets)
        return 1.25 * nats - 0.25 * nats.detach() if "cross_entropy" in enabled_kernels() else nats

    monkeypatch.setattr("chatpipe.packing.padding.token_nats", wrong_gradient)
    monkeypatch.setattr(self_check, "KERNELS", {"cross_entropy": ""})
    [of_gradient] = self_check.check_kernels()
    assert of_gradient.state == "fault"
    monkeypatch.setenv(VARIABLE, "cross_entropy")
    assert enabled_kernels() == {"cross_entropy"}
    monkeypatch.delenv(VARIABLE)
    monkeypatch.undo()
    monkeypatch.setenv("CHATPIPE_HOME", str(home))
    self_check.check_kernels()
    assert enabled_kernels() == BY_DEFAULT
