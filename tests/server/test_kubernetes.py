"""The Kubernetes pool: its template as Prefect's own worker reads it, and the job that comes of it
against the types that are generated from Kubernetes' OpenAPI schema."""

import json
import re
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "deployments/kubernetes"
TEMPLATE = json.loads((FOLDER / "gpu-pool.json").read_text("utf-8"))

worker = pytest.importorskip("prefect_kubernetes.worker", reason="prefect-kubernetes is missing")


async def rendered(**values):
    return await worker.KubernetesWorkerJobConfiguration.from_template_and_values(TEMPLATE, values)


async def job(**values):
    """The manifest, its environment as the list that the worker makes of it for a run."""
    manifest = (await rendered(**values)).job_manifest
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [{"name": name, "value": text} for name, text in container["env"].items()]
    return manifest


def faults_of(value, kind, place="job"):
    """Keys and types that are not the schema's, by the models of the Kubernetes client."""
    from kubernetes_asyncio.client import models

    listed = re.fullmatch(r"list\[(.*)\]", kind)
    mapped = re.fullmatch(r"dict\((\w+), (.*)\)|dict\[(\w+), (.*)\]", kind)
    if listed:
        assert isinstance(value, list), place
        return [
            f for i, item in enumerate(value) for f in faults_of(item, listed[1], f"{place}[{i}]")
        ]
    if mapped:
        inner = mapped[2] or mapped[4]
        return [
            f for name, item in value.items() for f in faults_of(item, inner, f"{place}.{name}")
        ]
    if kind in ("str", "int", "bool", "float", "object", "datetime"):
        expected = {"str": str, "int": int, "bool": bool}.get(kind, object)
        return [] if isinstance(value, expected) else [f"{place}: {value!r} is no {kind}"]
    model = getattr(models, kind)
    known = {name: attribute for attribute, name in model.attribute_map.items()}
    found = [f"{place}.{name}: unknown" for name in value if name not in known]
    for name, item in value.items():
        if name in known:
            found += faults_of(item, model.openapi_types[known[name]], f"{place}.{name}")
    return found


@pytest.mark.anyio
async def test_the_job_is_what_kubernetes_knows():
    manifest = await job()
    assert not faults_of(manifest, "V1Job")
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.anyio
async def test_a_key_in_the_wrong_place_is_seen():
    """`completions` belongs to the job; Kubernetes drops it from a pod without a word."""
    manifest = await job()
    manifest["spec"]["template"]["spec"]["completions"] = 1
    assert "job.spec.template.spec.completions: unknown" in faults_of(manifest, "V1Job")


@pytest.mark.anyio
async def test_a_run_may_ask_for_more_gpus_and_another_claim():
    pod = (await job(gpus="2", shared_claim="lab"))["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "lab"


def test_every_variable_is_used_and_every_placeholder_declared():
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(TEMPLATE["job_configuration"])))
    assert used == set(TEMPLATE["variables"]["properties"])


def test_it_has_all_that_prefect_s_own_template_configures():
    shipped = worker.KubernetesWorker.get_default_base_job_template()["job_configuration"]
    assert set(shipped) - set(TEMPLATE["job_configuration"]) == {"cluster_config"}


def test_nothing_is_privileged_and_secrets_come_from_a_secret():
    pod = TEMPLATE["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    container = pod["containers"][0]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["envFrom"] == [{"secretRef": {"name": "{{ secret_name }}", "optional": True}}]
    environment = TEMPLATE["variables"]["properties"]["env"]["default"]
    assert not any("TOKEN" in name or "KEY" in name for name in environment)
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert environment["CHATPIPE_HOME"] in mounted


def test_the_worker_polls_the_pool_and_the_queues_that_are_deployed():
    values = yaml.safe_load((FOLDER / "worker-values.yaml").read_text("utf-8"))["worker"]
    deployed = yaml.safe_load((FOLDER.parent / "prefect.yaml").read_text("utf-8"))["definitions"]
    assert values["config"]["workPool"] in deployed["work_pools"]
    assert set(values["config"]["workQueues"]) == set(deployed["work_queues"])


@pytest.fixture
def anyio_backend():
    return "asyncio"
