"""On a live server: parameters given in part, and what people changed there by hand."""

import json
import subprocess
import sys
import time

import pytest
import yaml

from tests.site import Site
from tests.test_lost_runs import until

pytestmark = [pytest.mark.slow, pytest.mark.live]


@pytest.fixture(scope="module")
def site(tmp_path_factory, tiny_model_dir):
    """A server with its CPU worker, and a deployment with a schedule."""
    folder = tmp_path_factory.mktemp("site")
    made = Site(folder, tiny_model_dir, {"PREFECT_LOGGING_LEVEL": "INFO"})
    path = folder / "deployments/prefect.yaml"
    raw = yaml.safe_load(path.read_text())
    daily = {"cron": "0 3 * * *", "slug": "daily"}
    raw["deployments"][0]["schedules"] = [daily, {**daily, "slug": "weekly"}]
    path.write_text(yaml.safe_dump(raw))
    made.run("flows.cli", "up", "--port", made.port)
    yield made
    made.run("flows.cli", "down")


def run_deployment(site, deployment, **parameters):
    """Submit a run by Prefect's own command; its exit code and what it printed."""
    given = [f"-p{name}={json.dumps(value)}" for name, value in parameters.items()]
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "deployment", "run", deployment, *given, "--watch"],
        env={**site.environment, "PREFECT_API_URL": site.api},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def parameters_line(site, run):
    """What the run's log says of its parameters, once it has reached the server."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        lines = site.ask("logs/filter", logs={"flow_run_id": {"any_": [run["id"]]}})
        for line in lines:
            if line["message"].startswith("parameters: "):
                return line["message"]
        time.sleep(0.5)
    raise AssertionError("the log has no line on the parameters")


def report(site, name):
    return json.loads((site.home / "reports" / name / "report.json").read_text())


def test_a_section_given_in_part_keeps_the_rest_of_the_deployments(site):
    code, output = run_deployment(
        site, "finetune/smol-merge", training={"epochs": 2}, evaluation={"bootstrap_samples": 100}
    )
    assert code == 0, output
    assert parameters_line(site, site.latest_run()) == "parameters: training.epochs=2"
    training = report(site, "smol-merge")["models"][1]["variant"]["training"]
    assert (training["epochs"], training["learning_rate"]) == (2, 0.01)


def test_a_variant_of_a_study_given_in_part_keeps_the_rest_of_its_own(site):
    [deployed] = site.ask("deployments/filter", deployments={"name": {"any_": ["demo"]}})
    whole = deployed["parameters"]["variants"][0]["evaluation"]
    variant = {"name": "smol-merge", "training": {"epochs": 2}, "evaluation": whole}
    # As the API is called by programs; Prefect's own command calls it in the same way.
    run = site.ask(
        f"deployments/{deployed['id']}/create_flow_run", parameters={"variants": [variant]}
    )
    until(site, run["id"], "Completed")
    expected = "parameters: variants.smol-merge.training.epochs=2"
    assert parameters_line(site, run) == expected
    assert site.task_states(run["id"]) <= {"Cached", "Completed"}
    training = report(site, "demo")["models"][1]["variant"]["training"]
    assert (training["epochs"], training["learning_rate"]) == (2, 0.01)


def test_an_unknown_key_is_refused_before_the_run(site):
    runs = len(site.runs())
    code, output = run_deployment(site, "finetune/smol-merge", training={"epoch": 2})
    assert code != 0
    assert "'training'" in output and "'epoch' was unexpected" in output
    assert len(site.runs()) == runs


def test_what_was_changed_on_the_server_is_seen_and_what_was_added_is_left(site):
    path = f"deployments/{smol_merge(site)['id']}"
    by_hand = {"schedule": {"cron": "5 5 * * *", "timezone": "UTC"}, "active": True}
    site.ask(f"{path}/schedules", [by_hand])
    weekly = next(item for item in smol_merge(site)["schedules"] if item["slug"] == "weekly")
    site.ask(f"{path}/schedules/{weekly['id']}", {"active": False}, method="PATCH")
    assert "finetune/smol-merge: unchanged" in deploy(site)  # nothing in the file says `active`

    changed = {"schedule": {"cron": "0 4 * * *", "timezone": "UTC"}}
    site.ask(f"{path}/schedules/{weekly['id']}", changed, method="PATCH")
    changes = {"tags": ["mine"], "parameters": {"name": "x"}, "concurrency_limit": 3}
    changes |= {"description": "mine", "work_queue_name": "urgent", "entrypoint": "flows.no.flow"}
    site.ask(path, changes, method="PATCH")
    line = next(line for line in deploy(site).splitlines() if "smol-merge" in line)
    for name in ("schedule weekly", *changes):
        assert name in line
    assert "finetune/smol-merge: unchanged" in deploy(site)
    assert crons(site) == {"daily": "0 3 * * *", "weekly": "0 3 * * *", None: "5 5 * * *"}
    assert "rows" in smol_merge(site)["tags"]

    path = site.deployments / "prefect.yaml"
    raw = yaml.safe_load(path.read_text())
    del raw["deployments"][0]["schedules"][1]
    path.write_text(yaml.safe_dump(raw))
    assert "schedule weekly deleted" in deploy(site)
    assert crons(site) == {"daily": "0 3 * * *", None: "5 5 * * *"}


def deploy(site):
    return site.run("flows.cli", "deploy", api=True)


def smol_merge(site):
    [deployment] = site.ask("deployments/filter", deployments={"name": {"any_": ["smol-merge"]}})
    return deployment


def crons(site):
    return {item["slug"]: item["schedule"]["cron"] for item in smol_merge(site)["schedules"]}
