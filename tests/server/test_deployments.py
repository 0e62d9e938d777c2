"""Deployments end to end: a real server and worker, started and ended by `chatpipe up`, `down`."""

import inspect
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
import yaml

from chatpipe.config.schema import Variant
from chatpipe.errors import ConfigError
from chatpipe.server.deployments_file import load_deployments
from chatpipe.server.local import down, gpus
from chatpipe.server.processes import Service, run_count
from tests.support.site import SHIPPED, Site


def test_every_variant_and_study_is_deployed_with_all_its_settings():
    found = {
        (item.entrypoint, item.name): item.parameters for item in load_deployments().deployments
    }
    for folder, entrypoint in (
        ("variants", "flows.finetune.finetune"),
        ("studies", "flows.compare.compare"),
    ):
        for path in (SHIPPED / folder).glob("*.yaml"):
            assert (entrypoint, path.stem) in found
    settings = found["flows.finetune.finetune", "smol-merge"]
    assert set(settings) == set(Variant.model_fields)
    assert settings["training"]["learning_rate"] == 1e-3


def test_published_adapters_are_checked_every_night_and_never_twice_at_once():
    found = {item.name: item for item in load_deployments().deployments}["nightly"]
    [schedule] = found.schedules
    assert (schedule.cron, schedule.timezone, schedule.active) == ("0 3 * * *", "UTC", True)
    assert found.concurrency_limit.limit == 1
    assert found.concurrency_limit.collision_strategy == "CANCEL_NEW"


def test_a_flows_parameters_are_the_sections_of_a_variant():
    from flows.finetune import finetune

    taken = inspect.signature(finetune.fn).parameters
    assert set(taken) == {*Variant.model_fields, "gpu_workers"}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("concurency_limit", 1, "unknown key; did you mean concurrency_limit?"),
        ("work_pool", {"name": "gpus"}, "'gpus' is unknown; known: "),
        ("work_pool", {"name": "cpu", "work_queue_name": "soon"}, "'soon' is unknown; known: "),
        ("entrypoint", "flows/finetune.py:finetune", "like flows.finetune.finetune"),
        ("name", "smol-merg", "prefect.yaml: deployments.smol-merg.name: there is no 'smol-merg'"),
    ],
)
def test_a_faulty_file_is_refused_though_prefect_would_pass_over_it(tmp_path, key, value, said):
    raw = yaml.safe_load((SHIPPED / "prefect.yaml").read_text())
    raw["deployments"][0][key] = value
    path = tmp_path / "prefect.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError) as error:
        load_deployments(path)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("schedules", "said"),
    [
        ([{"cron": "at noon"}], "daily.cron: 'at noon' is not a cron line; write minute, "),
        ([{"cron": "61 * * * *"}], "daily.cron: '61 * * * *' is not a cron line; "),
        ([{"cron": "H 3 * * *"}], "daily.cron: 'H 3 * * *' is not a cron line; "),
        ([{"cron": "0 3 30 2 *"}], "daily.cron: '0 3 30 2 *' names a day that does not exist."),
        ([{"timezone": "Mars"}], "daily.timezone: 'Mars' is not a time zone; "),
        ([{"timezone": "../UTC"}], "daily.timezone: '../UTC' is not a time zone; "),
        ([{}, {}], "schedules: slug 'daily' occurs twice; keep one."),
        ([{"cron": 3}], "schedules.0.cron: expected text, found 3; put it in quotes."),
        ([{"slug": "Every Day"}], "schedules.0.slug: "),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_with_file_deployment_and_key(
    tmp_path, schedules, said
):
    daily = {"cron": "0 3 * * *", "slug": "daily"}
    raw = yaml.safe_load((SHIPPED / "prefect.yaml").read_text())
    raw["deployments"][0]["schedules"] = [daily | schedule for schedule in schedules]
    path = tmp_path / "prefect.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError) as error:
        load_deployments(path)
    [fault] = error.value.faults
    assert fault.startswith(f"{path}: deployments.smol-alpaca.") and said in fault


def test_parameters_in_part_are_merged_over_the_variants_and_checked(tmp_path):
    raw = yaml.safe_load((SHIPPED / "prefect.yaml").read_text())
    path = tmp_path / "prefect.yaml"
    raw["deployments"][0]["parameters"] = {"training": {"epochs": 7}}
    path.write_text(yaml.safe_dump(raw))
    training = load_deployments(path).deployments[0].parameters["training"]
    assert (training["epochs"], training["learning_rate"]) == (7, 1e-3)
    raw["deployments"][0]["parameters"] = {"training": {"epoch": 7}}
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(
        ConfigError, match=r"parameters: training\.epoch: unknown key; did you mean"
    ):
        load_deployments(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("deployments: [*gpu]", "undefined alias"),
        ("definitions: {<<: gpu}\ndeployments: []", "expected a mapping"),
        ("definitions: &d {work_pools: *d}\ndeployments: []", "line 1 is not valid YAML"),
        ("definitions: &d {<<: *d}\ndeployments: []", "line 1 is not valid YAML"),
        ("deployments: {name: smol-alpaca}", "definitions: this key is required"),
        ("- deployments", "expected keys and values"),
    ],
)
def test_yaml_that_makes_no_file_is_refused(tmp_path, text, said):
    path = tmp_path / "prefect.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_deployments(path)
    assert all(fault.startswith(f"{path}: ") for fault in error.value.faults)
    assert said in str(error.value)


def test_two_deployments_of_one_name_are_refused(tmp_path):
    raw = yaml.safe_load((SHIPPED / "prefect.yaml").read_text())
    raw["deployments"].append(raw["deployments"][0])
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match="occurs 2 times"):
        load_deployments(tmp_path / "prefect.yaml")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("entrypoint", "flows.finetune.tune", "entrypoint: "),
        ("parameters", {"tolerence": 0.02}, "parameters: unknown parameters tolerence; "),
    ],
)
def test_what_only_prefect_knows_is_checked_before_anything_is_deployed(key, value, said):
    from chatpipe.server.deploy import _Prepared

    [nightly] = [d for d in load_deployments().deployments if d.name == "nightly"]
    changed = type(nightly).model_validate({**nightly.model_dump(), key: value})
    with pytest.raises(ConfigError, match=f"deployments.nightly.{said}"):
        _Prepared.of(changed)


def test_a_deployment_is_another_version_when_its_flow_takes_other_parameters():
    deployment = load_deployments().deployments[0]
    schema = {"properties": {"training": {"maximum": 1}}}
    assert deployment.version(schema) == deployment.version(dict(schema))
    assert deployment.version(schema) != deployment.version({"properties": {}})


def test_the_automations_are_what_prefect_reads():
    from chatpipe.server.automations_file import load_automation

    paths = sorted((SHIPPED / "automations").rglob("*.yaml"))
    assert len(paths) > 1
    for path in paths:
        assert load_automation(path, lambda name: uuid4()).name.startswith("chatpipe: ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"trigger": {"withn": 540}}, "trigger.withn: unknown key; did you mean within?"),
        ({"trigger": {"posture": "Lazy"}}, "posture"),
        ({"actions": [{"type": "do-nothing", "mesage": "x"}]}, "actions.0.mesage: unknown key"),
        ({"actions": [{"type": "do-nothing", "block": "x/y"}]}, "actions.0.block: unknown key"),
    ],
)
def test_a_typo_in_an_automation_is_refused_though_prefect_would_pass_over_it(
    tmp_path, change, said
):
    from chatpipe.server.automations_file import load_automation

    raw = yaml.safe_load((SHIPPED / "automations" / "lost-runs.yaml").read_text())
    raw["trigger"] |= change.pop("trigger", {})
    path = tmp_path / "lost-runs.yaml"
    path.write_text(yaml.safe_dump(raw | change))
    with pytest.raises(ConfigError, match=said) as error:
        load_automation(path, lambda name: uuid4())
    assert str(path) in str(error.value)


def test_the_heartbeat_automation_waits_longer_than_two_heartbeats():
    from prefect.settings import get_current_settings

    found = yaml.safe_load((SHIPPED / "automations/lost-runs.yaml").read_text())
    assert found["trigger"]["within"] > 2 * get_current_settings().flows.heartbeat_frequency


def test_a_run_that_ends_with_its_worker_is_counted(chatpipe_home):
    run = "import subprocess, sys; subprocess.run([sys.executable, '-c', '{}', 'prefect.engine'])"
    sleeping = run.format("import time; time.sleep(60)")
    worker = Service("worker", ("timeit", "-n", "1", "-r", "1", sleeping), {})
    assert worker.start() and not worker.start()
    deadline = time.monotonic() + 30
    while run_count(worker.process().children(recursive=True)) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert list(down()) == [
        "worker: ended, and with it 1 run(s); start them again, and they resume"
    ]
    assert worker.process() is None


@pytest.fixture(scope="module")
def database():
    """The address of a PostgreSQL of the test's own from the system's packages (Debian: apt-get
    install postgresql); where there is none, None for SQLite, on which the live tests run too."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not binaries:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="chatpipe-postgres-"))
    as_user = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    control = [*as_user, str(binaries[-1] / "pg_ctl"), "-D", str(folder / "data"), "-w"]
    initdb = [*as_user, str(binaries[-1] / "initdb"), "-D", str(folder / "data")]
    subprocess.run([*initdb, "-U", "prefect", "-A", "trust"], check=True, capture_output=True)
    options = f"-p {port} -h 127.0.0.1 -k {folder}"
    log = str(folder / "log")
    start = [*control, "-l", log, "-o", options, "start"]
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL)
    yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
    subprocess.run([*control, "-m", "fast", "stop"], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(folder)


@pytest.mark.slow
def test_a_deployment_runs_on_a_worker_and_a_second_run_is_cached(
    database, tmp_path, tiny_model_dir
):
    extra = {"PREFECT_API_DATABASE_CONNECTION_URL": database} if database else {}
    site = Site(tmp_path, tiny_model_dir, extra)
    try:
        with ThreadPoolExecutor(2) as two:  # at once: the second waits, and finds the first one's
            ups = [two.submit(site.run, "chatpipe", "up", "--port", site.port) for _ in "12"]
        said, waited = sorted((up.result() for up in ups), key=lambda lines: "started" not in lines)
        assert "server: started" in said and "finetune/smol-merge: created" in said
        assert "server: runs already" in waited and "created" not in waited
        pids = _recorded(site.home)
        again = site.run("chatpipe", "up", "--port", site.port)
        assert "runs already" in again and "started" not in again and "created" not in again
        assert _recorded(site.home) == pids
        lines = site.run("chatpipe", "deploy", api=True).splitlines()
        assert lines and all(line.endswith("unchanged") for line in lines)

        site.run("prefect", "deployment", "run", "finetune/smol-merge", "--watch", api=True)
        first = site.latest_run()
        assert first["state_name"] == "Completed" and first["name"].startswith("smol-merge 20")
        assert "rows" in first["tags"]
        assert "Completed" in site.task_states(first["id"])
        kinds = {item["type"] for item in site.ask("artifacts/filter")}
        assert {"table", "markdown", "progress"} <= kinds
        assert (site.home / "reports/smol-merge/report.html").is_file()

        site.run("prefect", "deployment", "run", "finetune/smol-merge", "--watch", api=True)
        assert site.task_states(site.latest_run()["id"]) == {"Cached"}

        other = "evaluation.bootstrap_samples=101"  # which changes nothing but the report
        command = ["run", "smol-merge", "--set", other, "--deployment", "--watch"]
        assert "Completed" in site.run("chatpipe", *command, api=True)
        overridden = site.latest_run()["parameters"]
        assert overridden["evaluation"]["bootstrap_samples"] == 101
        assert overridden["training"]["learning_rate"] == 0.01
    finally:
        ended = site.run("chatpipe", "down")
    assert "server: ended" in ended and "worker-cpu: ended" in ended
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert "nothing that chatpipe started" in site.run("chatpipe", "down")


def _recorded(home):
    return {json.loads(path.read_text())["pid"] for path in home.glob("service/*/*.json")}


def test_workers_are_for_the_gpus_that_the_user_left_visible(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-1f3c")
    assert gpus() == ["2", "GPU-1f3c"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert gpus() == []
