"""A user's machine in a test: a home, deployments of its own, a server, and the commands run."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import yaml

from chatpipe.server.local import WORKER_ENVIRONMENT
from tests.support.rows import alpaca_rows, write_jsonl
from tests.support.variants import small_variant, write_settings

SHIPPED = Path(__file__).parents[2] / "deployments"


def foreign_project(folder):
    """Fill a directory with modules named like ours and Prefect's; importing one of them fails."""
    for name in ("flows/__init__", "tasks", "chatpipe", "prefect", "uvicorn", "typer"):
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"raise RuntimeError('{name} of another project was imported')")
    return folder


class Site:
    """A user's machine: a home, deployments of its own, and the commands run there, in a directory
    of another project."""

    def __init__(self, folder, model, environment=None):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.home = folder / "home"
        self.deployments = folder / "deployments"
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.environment = {
            **os.environ,
            "CHATPIPE_HOME": str(self.home),
            "CHATPIPE_DEPLOYMENTS": str(folder / "deployments"),
            "PREFECT_HOME": str(folder / "prefect"),
            **(environment or {}),
        }
        self.directory = foreign_project(folder / "other-project")
        self._write_deployments(folder / "deployments", model)

    def _write_deployments(self, folder, model):
        shutil.copytree(SHIPPED / "automations", folder / "automations")
        write_jsonl(folder / "rows.jsonl", alpaca_rows(24))
        variant = small_variant(model, {"name": "rows", "path": "../rows.jsonl"})
        raw = yaml.safe_load((SHIPPED / "prefect.yaml").read_text())
        raw["deployments"] = [
            item for item in raw["deployments"] if item["name"] in ("smol-merge", "demo", "gpu")
        ]
        for path, content in (
            ("prefect.yaml", raw),
            ("variants/smol-merge.yaml", variant),
            ("studies/demo.yaml", {"variants": ["smol-merge"]}),
        ):
            write_settings(folder / path, content)

    def run(self, *command, api=False):
        environment = {**self.environment, **({"PREFECT_API_URL": self.api} if api else {})}
        done = subprocess.run(
            [sys.executable, "-P", "-m", *map(str, command)],
            cwd=self.directory,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()
        return done.stdout

    def worker(self, pool, **environment):
        """A worker on another machine: another process, with that environment."""
        command = ["prefect", "worker", "start", "--pool", pool, "--limit", "1"]
        return subprocess.Popen(
            [sys.executable, "-P", "-m", *command, "--install-policy", "never"],
            cwd=self.directory,
            env={
                **self.environment,
                **WORKER_ENVIRONMENT,
                "PREFECT_API_URL": self.api,
                **environment,
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def logs(self):
        return "".join(path.read_text()[-3000:] for path in self.home.glob("service/*/*.log"))

    def ask(self, path, items=None, method="POST", **body):
        request = urllib.request.Request(
            f"{self.api}/{path}",
            json.dumps(items or body).encode(),
            {"content-type": "application/json"},
            method=method,
        )
        return json.loads(_body(request) or "null")

    def task_states(self, run_id):
        """Of the steps; the plan before them is no artifact and so is never cached."""
        runs = self.ask("task_runs/filter", flow_runs={"id": {"any_": [run_id]}})
        return {run["state_name"] for run in runs if run["name"] != "plan"}

    def latest_run(self):
        return self.runs()[0]

    def runs(self):
        """All flow runs that somebody asked for, the latest first."""
        runs = self.ask("flow_runs/filter", sort="START_TIME_DESC")
        return [run for run in runs if not run["auto_scheduled"]]


def _body(request):
    """The server's answer; tried again while its database is locked, as Prefect's client does."""
    for attempt in range(1, 5):
        try:
            return urllib.request.urlopen(request).read()
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            time.sleep(attempt)
    return urllib.request.urlopen(request).read()
