"""deployments/prefect.yaml as a strict model: Prefect itself passes over keys it does not know."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from chatpipe.config import Section
from chatpipe.errors import ConfigError
from chatpipe.loading import (
    deployments_dir,
    load_study,
    load_variant,
    study_variants,
)
from chatpipe.validation_messages import sentences
from chatpipe.yaml_files import read_mapping


class WorkPool(Section):
    """A pool of workers that run flows as processes."""

    description: str = ""
    concurrency_limit: int | None = Field(None, ge=1, description="runs at once, all workers")


class Definitions(Section):
    """The pools and queues that deployments go to; other keys are anchors for the rest."""

    model_config = ConfigDict(extra="ignore")

    work_pools: dict[str, WorkPool]
    work_queues: dict[str, int] = Field(description="name -> priority, 1 goes first")


class PoolChoice(Section):
    """Where a deployment's runs wait for a worker."""

    name: str
    work_queue_name: str = "default"


class Scheduled(Section):
    """When a deployment runs by itself."""

    cron: str
    timezone: str = "UTC"
    slug: str
    active: bool = True


class ConcurrencyLimit(Section):
    """How many runs of one deployment at once, and what becomes of one too many."""

    limit: int = Field(ge=1)
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"] = "ENQUEUE"


class Deployment(Section):
    """One deployment: a flow with the settings of a variant or a study."""

    name: str
    entrypoint: str = Field(pattern=r"^flows(\.\w+){2}$", description="a module, then a flow in it")
    work_pool: PoolChoice
    description: str | None = None
    tags: tuple[str, ...] = ()
    schedules: tuple[Scheduled, ...] = ()
    concurrency_limit: ConcurrencyLimit | None = None
    parameters: dict[str, Any] = Field({})

    def version(self, schema: dict[str, Any]) -> str:
        """Changes whenever anything that is deployed changes, the schema of the flow's parameters
        included."""
        text = json.dumps([self.model_dump(mode="json"), schema], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class DeploymentFile(Section):
    """The file as a whole."""

    definitions: Definitions
    deployments: tuple[Deployment, ...]


def load_deployments(path: Path | None = None) -> DeploymentFile:
    """The file with every deployment's settings filled in; ConfigError has all its faults."""
    path = path or deployments_dir() / "prefect.yaml"
    if not path.is_file():
        raise ConfigError([f"{path}: there is no such file; it says what is deployed."])
    try:
        found = DeploymentFile.model_validate(read_mapping(path))
    except ValidationError as error:
        raise ConfigError(sentences(error, str(path), DeploymentFile)) from None
    faults, filled = _twice(found.deployments, path), []
    for deployment in found.deployments:
        faults += _unknown_places(deployment, found.definitions, path)
        try:
            filled.append(_filled(deployment))
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    return found.model_copy(update={"deployments": tuple(filled)})


def _twice(deployments: Sequence[Deployment], path: Path) -> list[str]:
    named = Counter((item.entrypoint, item.name) for item in deployments)
    return [
        f"{path}: deployments.{name}: is there {count} times; keep one."
        for (_, name), count in named.items()
        if count > 1
    ]


def _unknown_places(deployment: Deployment, known: Definitions, path: Path) -> list[str]:
    pool, queue = deployment.work_pool.name, deployment.work_pool.work_queue_name
    key = f"{path}: deployments.{deployment.name}.work_pool"
    faults = []
    if pool not in known.work_pools:
        faults.append(f"{key}.name: {pool!r} is none of {', '.join(known.work_pools)}.")
    if queue not in known.work_queues:
        faults.append(
            f"{key}.work_queue_name: {queue!r} is none of {', '.join(known.work_queues)}."
        )
    return faults


def _filled(deployment: Deployment) -> Deployment:
    """With the parameters of the variant or the study of its name beneath its own."""
    flow = deployment.entrypoint.rpartition(".")[2]
    settings: dict[str, Any] = {}
    tags: tuple[str, ...] = ()
    if flow == "finetune":
        variant = load_variant(deployment.name)
        settings = variant.model_dump(mode="json")
        tags = (variant.base_model.repo, *(dataset.name for dataset in variant.datasets))
    elif flow == "compare":
        variants = study_variants(load_study(deployment.name))
        settings = {"study": deployment.name}
        settings["variants"] = [variant.model_dump(mode="json") for variant in variants]
        tags = tuple(variant.name for variant in variants)
    parameters = {**settings, **deployment.parameters}
    return deployment.model_copy(
        update={"parameters": parameters, "tags": tuple(dict.fromkeys((*deployment.tags, *tags)))}
    )
