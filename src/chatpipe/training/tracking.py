"""Experiment tracking through transformers' own integrations: local, and offline unless the user
says otherwise by the tracker's own environment variables.

Everything lies under `<home>/tracking/`; look at it with `tensorboard --logdir` or
`mlflow ui --backend-store-uri`.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from chatpipe.config.schema import Tracker
from chatpipe.errors import TrainingError
from chatpipe.store.paths import home

PROJECT = "chatpipe"
OURS: set[str] = set()  # variables that we set in this process, and not the user


class Tracked(BaseModel):
    """The tracker of a training and the variant's name; neither changes the adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tracker: Tracker
    variant: str


def missing(tracker: Tracker) -> str | None:
    """Return a sentence if the tracker's package is not installed, else None."""
    if tracker == "none":
        return None
    spec = importlib.util.find_spec(tracker)
    if spec and spec.origin:  # a mere folder of that name has none
        return None
    return f"tracking: {tracker} is not installed; pip install 'chatpipe[{tracker}]'."


def arguments(tracked: Tracked | None, key: str) -> dict[str, Any]:
    """Set the tracker's environment variables; return its TrainingArguments.

    key: the adapter's; its beginning is part of the run's name."""
    if tracked is None:
        return {"report_to": []}
    if sentence := missing(tracked.tracker):
        raise TrainingError(sentence)
    name = run_name(tracked, key)
    for variable, value in _surroundings(tracked.tracker, name).items():
        if variable in OURS or variable not in os.environ:
            os.environ[variable] = value
            OURS.add(variable)
    if tracked.tracker == "mlflow":
        _make_experiment()
    return {"report_to": [tracked.tracker], "run_name": name, "project": PROJECT}


def run_name(tracked: Tracked, key: str) -> str:
    """Return the run's name: the variant, and the beginning of its adapter's key."""
    return f"{tracked.variant}-{key[:8]}"


def callbacks(tracked: Tracked | None, manifest: dict[str, Any]) -> list[Any]:
    """Return a callback that attaches the manifest to the run once the tracker has started it."""
    if tracked is None:
        return []
    from transformers import TrainerCallback

    attach = {
        "tensorboard": _to_tensorboard,
        "mlflow": _to_mlflow,
        "wandb": _to_wandb,
        "trackio": _to_trackio,
    }[tracked.tracker]

    class Attach(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            attach(manifest)

    return [Attach()]


def folder(tracker: Tracker) -> Path:
    """Return the directory of a tracker's runs."""
    return home() / "tracking" / tracker


def _surroundings(tracker: Tracker, name: str) -> dict[str, str]:
    """Return the environment variables of the integration; the user's own have precedence."""
    directory = folder(tracker)
    directory.mkdir(parents=True, exist_ok=True)
    return {
        "tensorboard": {"TENSORBOARD_LOGGING_DIR": str(directory / name)},
        "mlflow": {
            "MLFLOW_TRACKING_URI": f"sqlite:///{directory / 'mlflow.db'}",
            "MLFLOW_EXPERIMENT_NAME": PROJECT,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_FLATTEN_PARAMS": "true",
        },
        "wandb": {
            "WANDB_MODE": "offline",
            "WANDB_DIR": str(directory),
            "WANDB_PROJECT": PROJECT,
            "WANDB_SILENT": "true",
        },
        "trackio": {"TRACKIO_DIR": str(directory)},
    }[tracker]


def _make_experiment() -> None:
    """Create MLflow's experiment; MLflow's default writes files to the working directory."""
    import mlflow

    name = os.environ["MLFLOW_EXPERIMENT_NAME"]
    local = os.environ["MLFLOW_TRACKING_URI"].startswith("sqlite:")
    if local and mlflow.get_experiment_by_name(name) is None:
        mlflow.create_experiment(name, (folder("mlflow") / "files").as_uri())


def _to_tensorboard(manifest: dict[str, Any]) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(os.environ["TENSORBOARD_LOGGING_DIR"]) as writer:
        writer.add_text("manifest", f"```json\n{json.dumps(manifest, indent=1)}\n```")


def _to_mlflow(manifest: dict[str, Any]) -> None:
    import mlflow

    mlflow.log_dict(manifest, "manifest.json")


def _to_wandb(manifest: dict[str, Any]) -> None:
    import wandb

    wandb.config.update({"manifest": manifest}, allow_val_change=True)


def _to_trackio(manifest: dict[str, Any]) -> None:
    import trackio

    trackio.config.update({"manifest": manifest}, allow_val_change=True)
