"""A live server and its worker: parameters given in part, what people changed there by hand, and
what is left when a part is killed."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from tests.server.test_lost_runs import start, until
from tests.support.site import Site

TOKEN = "hf_planted0123456789planted0123456789"
PROXIES = {"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9"}
pytestmark = [pytest.mark.slow, pytest.mark.live]


@pytest.fixture(scope="module")
def site(tmp_path_factory, tiny_model_dir):
    """A server with its CPU worker, behind a proxy that does not answer, and a token to hide."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "tmp").mkdir()
    environment = {
        "PREFECT_LOGGING_LEVEL": "INFO",
        "HF_TOKEN": TOKEN,
        "TMPDIR": str(folder / "tmp"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    made = Site(folder, tiny_model_dir, environment)
    path = folder / "deployments/prefect.yaml"
    raw = yaml.safe_load(path.read_text())
    daily = {"cron": "0 3 * * *", "slug": "daily"}
    raw["deployments"][0]["schedules"] = [daily, {**daily, "slug": "weekly"}]
    path.write_text(yaml.safe_dump(raw))
    made.environment |= PROXIES  # which the worker and its runs inherit
    made.run("chatpipe", "up", "--port", made.port)
    for name in PROXIES:
        del made.environment[name]
    made.run("tests.support.waiting", api=True)
    yield made
    made.run("chatpipe", "down")


def run_deployment(site, deployment, **parameters):
    """Submit a run by Prefect's own command; its exit code and what it printed."""
    given = [f"-p{name}={json.dumps(value)}" for name, value in parameters.items()]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "prefect", "deployment", "run", deployment, *given, "--watch"],
        env={**site.environment, "PREFECT_API_URL": site.api},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def run_from_python(site, deployment, **parameters):
    """Submit a run as a program does, by the deployment's name; the run."""
    script = (
        "import json, sys; from prefect.deployments import run_deployment;"
        "name, parameters = sys.argv[1:];"
        "run = run_deployment(name, parameters=json.loads(parameters), timeout=0);"
        "print(run.model_dump_json())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, deployment, json.dumps(parameters)],
        env={**site.environment, "PREFECT_API_URL": site.api},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def recorded(site, name):
    """The service's process, as `up` has written it down."""
    [record] = site.home.glob(f"service/*/{name}.json")
    return psutil.Process(json.loads(record.read_text())["pid"])


def flow_run_processes(site):
    """Processes of runs of this site's workers."""
    return [
        process
        for process in psutil.process_iter()
        if "prefect.engine" in command(process) and home_of(process) == str(site.home)
    ]


def command(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def home_of(process):
    try:
        return process.environ().get("CHATPIPE_HOME")
    except psutil.Error:
        return None


def parameters_line(site, run):
    """What the run's log says of its parameters, once it has reached the server."""
    return logged(site, run, "^parameters: .*")[0]


def logged(site, run, pattern):
    """The first line of the run's log, once it has reached the server, that has the pattern."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        filters = {"flow_run_id": {"any_": [run["id"]]}}
        for line in site.ask("logs/filter", logs=filters, sort="TIMESTAMP_ASC"):
            if match := re.search(pattern, line["message"]):
                return match
        time.sleep(0.5)
    raise AssertionError(f"the log has no line with {pattern}")


def report(site, name):
    return json.loads((site.home / "reports" / name / "report.json").read_text())


def test_the_dashboard_shows_what_the_worker_found_of_its_machine(site):
    deadline = time.monotonic() + 60
    of_worker = {"key": {"like_": "-cpu"}}
    while not (pages := site.ask("artifacts/filter", artifacts=of_worker)):
        assert time.monotonic() < deadline, "no artifact of the worker"
        time.sleep(0.5)
    assert "| ok | bitsandbytes |" in pages[0]["data"] and TOKEN not in pages[0]["data"]


def test_a_section_given_in_part_keeps_the_rest_of_the_deployments(site):
    code, output = run_deployment(
        site, "finetune/smol-merge", training={"epochs": 2}, evaluation={"bootstrap_samples": 100}
    )
    assert code == 0, output
    assert parameters_line(site, site.latest_run()) == "parameters: training.epochs=2"
    name = "smol-merge+training.epochs=2"
    settings = report(site, name)["settings"][name]
    assert (settings["training.epochs"], settings["training.learning_rate"]) == (2, 0.01)


def test_a_variant_of_a_study_given_in_part_keeps_the_rest_of_its_own(site):
    [deployed] = site.ask("deployments/filter", deployments={"name": {"any_": ["demo"]}})
    whole = deployed["parameters"]["variants"][0]["evaluation"]
    variant = {"name": "smol-merge", "training": {"epochs": 2}, "evaluation": whole}
    run = run_from_python(site, "compare/demo", variants=[variant])
    until(site, run["id"], "Completed", within=180)
    expected = "parameters: variants.smol-merge.training.epochs=2"
    assert parameters_line(site, run) == expected
    assert site.task_states(run["id"]) <= {"Cached", "Completed"}
    name = "smol-merge+training.epochs=2"
    settings = report(site, "demo+training.epochs=2")["settings"][name]
    assert (settings["training.epochs"], settings["training.learning_rate"]) == (2, 0.01)


def test_a_cancelled_run_saves_a_checkpoint_from_which_the_next_one_goes_on(site):
    training = {"epochs": 100, "global_batch_size": 1, "save_steps": 10000}
    saved = 0
    for _ in range(2):
        run = run_from_python(site, "finetune/smol-merge", training=training)
        trained = int(logged(site, run, r": (\d+)/\d+ steps, loss")[1])
        assert trained > saved
        site.ask(f"flow_runs/{run['id']}/set_state", state={"type": "CANCELLING"})
        until(site, run["id"], "Cancelled", within=120)
        checkpoints = site.home.glob("store/.work/adapter-*/checkpoint-*")
        saved = max(int(path.name.partition("-")[2]) for path in checkpoints)
        assert saved >= trained


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
    return site.run("chatpipe", "deploy", api=True)


def smol_merge(site):
    [deployment] = site.ask("deployments/filter", deployments={"name": {"any_": ["smol-merge"]}})
    return deployment


def crons(site):
    return {item["slug"]: item["schedule"]["cron"] for item in smol_merge(site)["schedules"]}


def test_the_server_plans_the_runs_of_a_schedule(site):
    deadline = time.monotonic() + 60
    filters = {"deployment_id": {"any_": [smol_merge(site)["id"]]}}
    filters |= {"state": {"type": {"any_": ["SCHEDULED"]}}}
    while not site.ask("flow_runs/filter", flow_runs=filters):
        assert time.monotonic() < deadline, site.logs()
        time.sleep(0.5)


def test_a_token_is_inherited_and_written_nowhere(site, tmp_path):
    run = start(site, "free", tmp_path / "done")
    until(site, run, "Running")
    [process] = flow_run_processes(site)
    assert process.environ()["HF_TOKEN"] == TOKEN
    with_token = [
        path
        for path in site.home.parent.rglob("*")
        if path.is_file() and TOKEN.encode() in path.read_bytes()
    ]
    assert with_token == []
    (tmp_path / "done").touch()
    until(site, run, "Completed")


def test_a_run_ends_with_its_killed_worker_and_up_starts_another_worker(site, tmp_path):
    run = start(site, "free", tmp_path / "never")
    until(site, run, "Running")
    [process] = flow_run_processes(site)
    recorded(site, "worker-cpu").kill()
    psutil.wait_procs([process], timeout=30)
    assert flow_run_processes(site) == []
    assert "worker-cpu: started" in site.run("chatpipe", "up", "--port", site.port)
    (tmp_path / "done").touch()
    after = start(site, "free", tmp_path / "done")
    until(site, after, "Completed")


def test_a_run_outlives_a_killed_server(site, tmp_path):
    run = start(site, "free", tmp_path / "done")
    until(site, run, "Running")
    recorded(site, "server").kill()
    printed = site.run("chatpipe", "up", "--port", site.port)
    assert "server: started" in printed and "worker-cpu: runs already" in printed
    (tmp_path / "done").touch()
    until(site, run, "Completed")


def test_down_ends_all_of_this_home(site, tmp_path):
    run = start(site, "free", tmp_path / "never")
    until(site, run, "Running")
    recorded(site, "worker-cpu").kill()
    printed = site.run("chatpipe", "down")
    assert "worker-cpu: had already ended" in printed and "server: ended" in printed
    ours = [process for process in psutil.process_iter() if home_of(process) == str(site.home)]
    assert ours == []
    assert "nothing that chatpipe started is running" in site.run("chatpipe", "down")
