"""The parameters of a run, merged over those of its deployment.

Prefect merges them at the top level only, so `-p training='{"epochs": 1}'` alone would reset every
other key of `training` to its default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger

from chatpipe.config.parameter_merging import differences, merge_sections
from chatpipe.config.run_names import (
    cell_name,
    find_plain_name,
    parse_settings,
    plain_name,
    rename_by_members,
    rename_run,
    rename_study,
)
from chatpipe.config.schema import Study, Variant
from chatpipe.config.validation import parse_section
from chatpipe.errors import ConfigError
from chatpipe.study.variants import parse_variant


@dataclass(frozen=True)
class RunParameters:
    """All parameters of a run, and those of its deployment (empty if it has none)."""

    values: dict[str, Any]
    deployed: dict[str, Any]

    def variant(self, origin: str) -> Variant:
        """Return the variant whose sections are the parameters, under the name of this run."""
        return _variant(self.values, self.deployed, origin)

    def variants(self, origin: str) -> list[Variant]:
        """Return the variants of the parameter `variants`, under the names of this run."""
        deployed = {variant["name"]: variant for variant in self.deployed.get("variants", ())}
        variants = []
        for item in self.values["variants"]:
            values = item.model_dump(mode="json") if isinstance(item, Variant) else item
            name = values["name"]
            deployed_variant = deployed.get(find_plain_name(cell_name(name), deployed) or name)
            variants.append(_variant(values, deployed_variant, f"{origin}: variants.{name}"))
        return variants

    def study_name(self, variants: Sequence[Variant]) -> str:
        """Return the study's name, followed by the settings that differ from the deployment's.

        Args:
            variants: The variants of this run, under their names.
        """
        name, study = str(self.values["study"]), self.deployed.get("study")
        if study is None or find_plain_name(name, [study]) is None or not variants:
            return name
        deployed = tuple(variant["name"] for variant in self.deployed["variants"])
        members = tuple(find_plain_name(item.name, deployed) or item.name for item in variants)
        renamed = rename_study(Study(name=study, variants=members), variants).name
        return renamed if members == deployed else rename_by_members(renamed, members)


def run_parameters(validated: Mapping[str, Any]) -> RunParameters:
    """Return the parameters of the current run, merged over its deployment's, and log them.

    Args:
        validated: The parameters as the flow received them; they are returned as they are when
            the run belongs to no deployment.
    """
    context = FlowRunContext.get()
    flow_run = context.flow_run if context else None
    if flow_run is None or flow_run.deployment_id is None:
        return RunParameters(dict(validated), {})
    deployed = _deployment_parameters(flow_run.deployment_id)
    parameters = merge_sections(deployed, flow_run.parameters)
    changes = list(differences(deployed, parameters))
    get_run_logger().info("parameters: %s", ", ".join(changes) or "those of the deployment")
    return RunParameters(parameters, deployed)


def _variant(values: Mapping[str, Any], deployed: Mapping[str, Any] | None, origin: str) -> Variant:
    """The variant of these values; its name lists the settings that differ from the deployment.

    A name like `smol-merge/lr=3e-4/seed=1` is that variant with these settings.
    """
    sections = _sections(values)
    name = cell_name(str(sections["name"]))
    if name == sections["name"]:
        variant = parse_section(Variant, sections, origin)
    else:
        sections["name"] = plain_name(name)
        variant = parse_variant(sections, origin, parse_settings(name), must_exist=False)
    # A copy of another run has that run's name, and perhaps settings of its own.
    if not deployed or find_plain_name(variant.name, [deployed["name"]]) is None:
        return variant
    return rename_run(variant, parse_section(Variant, _sections(deployed), origin))


def _sections(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "gpu_workers"}


def _deployment_parameters(deployment_id: UUID) -> dict[str, Any]:
    with get_client(sync_client=True) as client:
        try:
            return client.read_deployment(deployment_id).parameters
        except ObjectNotFound:
            raise ConfigError(
                [
                    "the deployment of this run was deleted, and with it the rest of its "
                    "parameters; run `chatpipe deploy`, and start a new run."
                ]
            ) from None
