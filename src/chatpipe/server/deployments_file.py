"""deployments/prefect.yaml as a strict model: Prefect itself ignores unknown keys."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator

from chatpipe.config.base import Name, Section
from chatpipe.config.parameter_merging import merge_sections
from chatpipe.config.schema import Study, Variant
from chatpipe.config.validation import fault_sentences, parse_section
from chatpipe.config.yaml_files import read_mapping
from chatpipe.errors import ConfigError
from chatpipe.server.schedule_checks import cron_fault, time_zone_fault
from chatpipe.study.files import deployments_dir
from chatpipe.study.loading import load_variant
from chatpipe.study.studies import (
    check_name,
    is_study,
    load_study,
    study_members,
    study_variants,
)

FINETUNE = "flows.finetune.finetune"
COMPARE = "flows.compare.compare"
CPU_POOL = "cpu"


class WorkPool(Section):
    """A pool of workers that run flows as processes."""

    description: str = ""
    concurrency_limit: int | None = Field(None, ge=1, description="runs at once, all workers")


class Definitions(Section):
    """The pools and queues of the deployments; other keys are YAML anchors."""

    model_config = ConfigDict(extra="ignore")

    work_pools: dict[str, WorkPool]
    work_queues: dict[str, int] = Field(description="name -> priority, 1 goes first")


class PoolChoice(Section):
    """The pool and queue in which a deployment's runs wait for a worker."""

    name: str
    work_queue_name: str = "default"


class Scheduled(Section):
    """A schedule of a deployment."""

    cron: str
    timezone: str = "UTC"
    slug: Name
    active: bool = Field(True, description="if left out, the state on the server is kept")


class ConcurrencyLimit(Section):
    """How many runs of one deployment at once; further runs wait or are cancelled."""

    limit: int = Field(ge=1)
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"] = "ENQUEUE"


class Deployment(Section):
    """One deployment: a flow with the settings of a variant or a study."""

    name: str
    entrypoint: str = Field(description="a module of flows, then a flow in it")
    work_pool: PoolChoice
    description: str | None = None
    tags: tuple[str, ...] = ()
    schedules: tuple[Scheduled, ...] = ()
    concurrency_limit: ConcurrencyLimit | None = None
    parameters: dict[str, Any] = Field({})

    @field_validator("entrypoint")
    @classmethod
    def _names_a_flow(cls, value: str) -> str:
        if not re.fullmatch(r"flows(\.\w+){2}", value):
            raise ValueError("expected a module and a flow in it, like flows.finetune.finetune")
        return value

    def version(self, schema: dict[str, Any]) -> str:
        """Return a digest of the deployment and its parameters' schema, and its schedules' slugs.

        The next `deploy` finds its own schedules by these slugs.
        """
        text = json.dumps([self.model_dump(mode="json"), schema], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return "+".join([digest, *(item.slug for item in self.schedules)])


class DeploymentFile(Section):
    """The whole file."""

    definitions: Definitions
    deployments: tuple[Deployment, ...]


def load_deployments(path: Path | None = None) -> DeploymentFile:
    """Return the file with the settings of all deployments; ConfigError has all its faults."""
    path = path or deployments_dir() / "prefect.yaml"
    if not path.is_file():
        raise ConfigError([f"{path}: there is no such file; it lists the deployments."])
    raw = read_mapping(path)
    try:
        file = DeploymentFile.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(
            _name_deployments(fault_sentences(error, str(path), DeploymentFile), raw)
        ) from None
    faults, complete = _repeated(file.deployments, path), []
    for deployment in file.deployments:
        faults += _unknown_pools(deployment, file.definitions, path)
        faults += schedule_faults(deployment, f"{path}: deployments.{deployment.name}")
        try:
            complete.append(_fill_settings(deployment, path))
        except ConfigError as error:
            key = f"{path}: deployments.{deployment.name}.name: "
            faults += [re.sub(r"^(variants|studies): ", key, fault) for fault in error.faults]
    if faults:
        raise ConfigError(faults)
    return file.model_copy(update={"deployments": tuple(complete)})


def named_deployments(name_or_path: str, gpu_workers: str | None = None) -> DeploymentFile:
    """Return the deployments of one variant or study, which prefect.yaml need not list.

    Those of a study are the study with all its cells, and the variants that it starts from, whose
    runs with other settings its cells are. One that prefect.yaml lists is as it says there;
    ConfigError where another file has the name of that one.

    gpu_workers: deployment whose workers run the steps for GPUs.
    """
    file = load_deployments()
    listed = {(item.entrypoint, item.name): item for item in file.deployments}
    parameters = {"gpu_workers": gpu_workers} if gpu_workers else {}
    chosen = []
    for entrypoint, name, settings in _settings_of(name_or_path):
        existing = listed.get((entrypoint, name))
        if existing and any(existing.parameters.get(k) != v for k, v in settings.items()):
            raise ConfigError(
                [
                    f"{name_or_path}: {name} is the name of another deployment, which "
                    f"{deployments_dir() / 'prefect.yaml'} lists; give the file another name."
                ]
            )
        chosen.append(
            existing
            or Deployment(
                name=name,
                entrypoint=entrypoint,
                work_pool=PoolChoice(name=CPU_POOL),
                parameters={**settings, **parameters},
                tags=_tags(entrypoint, settings),
            )
        )
    return file.model_copy(update={"deployments": tuple(chosen)})


def _settings_of(name_or_path: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (entrypoint, name, parameters) of each flow that runs that variant or study."""
    check_name(name_or_path)
    if is_study(name_or_path):
        study = load_study(name_or_path)
        yield COMPARE, study.name, _study_settings(study.name, study, name_or_path)
        variants = study_members(name_or_path)
    else:
        variants = [load_variant(name_or_path)]
    for variant in variants:
        yield FINETUNE, variant.name, variant.model_dump(mode="json")


def _study_settings(name: str, study: Study, origin: str) -> dict[str, Any]:
    variants = study_variants(study, origin=origin)
    return {
        "study": name,
        "variants": [variant.model_dump(mode="json") for variant in variants],
    }


def _tags(entrypoint: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what the dashboard filters by: base and data sets of a variant, or variants."""
    if entrypoint == COMPARE:
        return tuple(variant["name"] for variant in settings["variants"])
    names = [dataset["name"] for dataset in settings["datasets"]]
    return (settings["base_model"]["repo"], *names)


def _repeated(deployments: Sequence[Deployment], path: Path) -> list[str]:
    named = Counter((item.entrypoint, item.name) for item in deployments)
    return [
        f"{path}: deployments.{name}: occurs {count} times; keep one."
        for (_, name), count in named.items()
        if count > 1
    ]


def schedule_faults(deployment: Deployment, origin: str) -> list[str]:
    """Return a sentence for each invalid cron line, time zone or slug."""
    faults = []
    slugs = Counter(item.slug for item in deployment.schedules)
    for item in deployment.schedules:
        key = f"{origin}.schedules.{item.slug}"
        checks = (("cron", cron_fault(item.cron)), ("timezone", time_zone_fault(item.timezone)))
        faults += [f"{key}.{name}: {fault}." for name, fault in checks if fault]
    repeated = [slug for slug, count in slugs.items() if count > 1]
    faults += [f"{origin}.schedules: slug {slug!r} occurs twice; keep one." for slug in repeated]
    return faults


def _unknown_pools(deployment: Deployment, definitions: Definitions, path: Path) -> list[str]:
    pool, queue = deployment.work_pool.name, deployment.work_pool.work_queue_name
    key = f"{path}: deployments.{deployment.name}.work_pool"
    faults = []
    if pool not in definitions.work_pools:
        faults.append(
            f"{key}.name: {pool!r} is unknown; known: {', '.join(definitions.work_pools)}."
        )
    if queue not in definitions.work_queues:
        faults.append(
            f"{key}.work_queue_name: {queue!r} is unknown; "
            f"known: {', '.join(definitions.work_queues)}."
        )
    return faults


def _fill_settings(deployment: Deployment, path: Path) -> Deployment:
    """Return the deployment with its parameters merged over its variant's or study's."""
    flow = deployment.entrypoint.rpartition(".")[2]
    settings: dict[str, Any] = {}
    if deployment.entrypoint == FINETUNE:
        settings = load_variant(deployment.name).model_dump(mode="json")
    elif deployment.entrypoint == COMPARE:
        settings = _study_settings(deployment.name, load_study(deployment.name), deployment.name)
    tags = _tags(deployment.entrypoint, settings) if settings else ()
    parameters = merge_sections(settings, deployment.parameters)
    _check_variants(parameters, flow, f"{path}: deployments.{deployment.name}.parameters")
    return deployment.model_copy(
        update={"parameters": parameters, "tags": tuple(dict.fromkeys((*deployment.tags, *tags)))}
    )


def _check_variants(parameters: dict[str, Any], flow: str, origin: str) -> None:
    """ConfigError where parameters of this file make a variant invalid."""
    if flow == "finetune":
        own = {key: value for key, value in parameters.items() if key in Variant.model_fields}
        parse_section(Variant, own, origin)
    elif flow == "compare":
        for variant in parameters["variants"]:
            parse_section(Variant, variant, f"{origin}: variants")


def _name_deployments(faults: Sequence[str], raw: dict[str, Any]) -> list[str]:
    """Return the faults with a deployment's name instead of its index in the list."""

    items = raw.get("deployments")

    def name(match: re.Match[str]) -> str:
        item = items[int(match[1])] if isinstance(items, list) else None
        named = isinstance(item, dict) and isinstance(item.get("name"), str)
        return f"deployments.{item['name']}" if named and item else match[0]

    return [re.sub(r"deployments\.(\d+)", name, fault, count=1) for fault in faults]
