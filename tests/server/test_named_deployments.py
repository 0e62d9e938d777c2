"""`chatpipe deploy FILE`: a study or variant on a server, without an entry in prefect.yaml."""

from pathlib import Path

import pytest
import yaml

from chatpipe.config.schema import Variant
from chatpipe.errors import ConfigError
from chatpipe.server.deployments_file import load_deployments, named_deployments
from tests.support.commands import invoke
from tests.support.rows import alpaca_rows, write_jsonl
from tests.support.variants import write_settings


@pytest.fixture
def study(tmp_path):
    """A study file with a variant in it and one beside it."""
    write_jsonl(tmp_path / "rows.jsonl", alpaca_rows(20))
    settings = {"datasets": [{"name": "rows", "path": "rows.jsonl"}]}
    write_settings(tmp_path / "beside.yaml", settings)
    content = {"variants": ["beside.yaml", {"name": "within", **settings}], "seeds": 2}
    return str(write_settings(tmp_path / "mine.yaml", content))


def test_a_study_file_gives_the_study_with_all_cells_and_the_variants_it_starts_from(study):
    file = named_deployments(study, "gpu-steps/gpu")
    deployments = {(item.entrypoint, item.name): item for item in file.deployments}
    assert list(deployments) == [
        ("flows.compare.compare", "mine"),
        ("flows.finetune.finetune", "beside"),
        ("flows.finetune.finetune", "within"),
    ]
    compared = deployments["flows.compare.compare", "mine"].parameters
    assert [variant["name"] for variant in compared["variants"]] == [
        *("beside", "beside+training.seed=1", "within", "within+training.seed=1")
    ]
    within = deployments["flows.finetune.finetune", "within"]
    assert within.parameters.keys() == {*Variant.model_fields, "gpu_workers"}
    assert within.work_pool.name == "cpu" and "rows" in within.tags


def test_a_listed_name_is_deployed_as_prefect_yaml_says(tmp_path):
    listed = {(item.entrypoint, item.name): item for item in load_deployments().deployments}
    names = {name: named_deployments(name).deployments for name in ("llama7b-merge", "rates")}
    for deployment in (*names["llama7b-merge"], *names["rates"]):
        assert deployment == listed[deployment.entrypoint, deployment.name]
    assert [item.name for item in names["rates"]] == ["rates", "smol-merge"]
    other = write_settings(tmp_path / "smol-merge.yaml", {"datasets": ["sample-alpaca"]})
    with pytest.raises(ConfigError, match="smol-merge is the name of another deployment"):
        named_deployments(str(other))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rtes"], "did you mean rates?"),
        (["gone.yaml"], "gone.yaml: there is no such file"),
        (["--gpu-workers", "gpu-steps/gpu"], "--gpu-workers: goes with a variant or a study"),
        (["smol-merge"], "PREFECT_API_URL"),  # no server
    ],
)
def test_what_cannot_be_deployed_is_one_sentence(arguments, words, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    refused = invoke("deploy", *arguments)
    assert refused.exit_code and words in refused.output


@pytest.mark.slow
def test_the_server_has_them_and_a_second_time_nothing_changes(study, prefect):
    from prefect.client.orchestration import get_client

    from chatpipe.server.deploy import deploy_named

    lines = list(deploy_named(study))
    assert [line for line in lines if "/" in line and "queue" not in line] == [
        "compare/mine: created",
        "finetune/beside: created",
        "finetune/within: created",
    ]
    assert all(line.endswith("unchanged") for line in deploy_named(study))
    with get_client(sync_client=True) as client:
        deployed = client.read_deployment_by_name("compare/mine")
    assert len(deployed.parameters["variants"]) == 4
    path = Path(study)
    write_settings(path, yaml.safe_load(path.read_text()) | {"seeds": 3})
    assert "compare/mine: updated (parameters, tags)" in list(deploy_named(study))
