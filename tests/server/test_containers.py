"""The worker's image and the compose file, as text: there is no container engine to run them."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deployments/server"
IMAGE = (FOLDER / "worker.Dockerfile").read_text("utf-8")


def test_the_image_has_what_it_names_and_neither_root_nor_secrets():
    copied = [
        name
        for line in re.findall(r"^COPY (?!--from)(.*)$", IMAGE, re.MULTILINE)
        for name in line.split()[:-1]
    ]
    assert copied and all((ROOT / name).exists() for name in copied)
    sent = (FOLDER / "worker.Dockerfile.dockerignore").read_text("utf-8").split()
    assert {f"!{name}" for name in copied} <= set(sent) and sent[0] == "*"
    final = IMAGE.rpartition("\nFROM ")[2]
    assert final.index("\nUSER 10001\n") < final.index("\nENTRYPOINT ")
    assert not re.search(r"TOKEN|SECRET|PASSW|_KEY", IMAGE)
    assert "-c constraints.txt" in IMAGE


def test_the_compose_file_starts_the_pools_that_are_deployed_and_listens_on_loopback_only():
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text("utf-8"))["services"]
    pools = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text("utf-8"))
    workers = {name: service for name, service in services.items() if "build" in service}
    assert {service["command"][1] for service in workers.values()} == set(
        pools["definitions"]["work_pools"]
    )
    for service in workers.values():
        build = service["build"]
        assert (FOLDER / build["context"] / build["dockerfile"]).is_file()
        assert service["profiles"], "only the server starts by default"
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in ports)
