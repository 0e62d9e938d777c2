"""A whole study without any kernel has the figures of one with all of them."""

import pytest

from chatpipe.config.schema import Variant
from chatpipe.kernels.switch import VARIABLE
from chatpipe.report import read_report
from chatpipe.store.manifest import read_manifest
from chatpipe.store.store import store
from chatpipe.study.recipe import Recipe
from chatpipe.study.resolving import StoreBuilder
from tests.support.rows import alpaca_rows, write_jsonl

pytestmark = pytest.mark.slow
KINDS = {"adapter", "scores", "generations"}
# Of figures in float32 without dropout, whose noise is drawn in another way with each setting.
TOLERANCE = 1e-3


def variant(folder, base):
    return Variant.model_validate(
        {
            "name": "mine",
            "base_model": {"repo": str(base)},
            "datasets": [
                {"name": "rows", "path": str(write_jsonl(folder / "rows.jsonl", alpaca_rows(40)))}
            ],
            "split": {"heldout": 0.4},
            "quantization": {"compute_dtype": "float32"},
            "lora": {"dropout": 0.0, "rank": 4},
            "training": {"epochs": 2, "learning_rate": 0.01, "global_batch_size": 8},
            "evaluation": {"bootstrap_samples": 200},
            "generation": {"max_new_tokens": 8},
        }
    )


def manifests(study):
    """Of the study's GPU steps: kind → what each recorded of its kernels."""
    return [
        (
            artifact["kind"],
            read_manifest(store().path(artifact["kind"], artifact["key"]))["details"],
        )
        for artifact in study.lineage()
        if artifact["kind"] in KINDS
    ]


def test_the_figures_of_a_study_are_the_same(tmp_path, monkeypatch, tiny_model_dir):
    reports, losses = {}, {}
    asked = variant(tmp_path, tiny_model_dir)
    for kernels in ("auto", "off"):
        monkeypatch.setenv(VARIABLE, kernels)
        monkeypatch.setenv("CHATPIPE_HOME", str(tmp_path / kernels))
        study = Recipe([asked], StoreBuilder()).report("with-and-without")
        reports[kernels] = read_report(study.path)
        recorded = manifests(study)
        assert {kind for kind, _ in recorded} == KINDS
        for kind, details in recorded:
            assert details["kernels"] if kernels == "auto" else details["kernels"] == []
            assert "kernels_unused" not in details
            if kind == "adapter":
                losses[kernels] = [item["loss"] for item in details["loss_history"]]
    with_all, without = reports["auto"], reports["off"]
    assert losses["auto"] == pytest.approx(losses["off"], rel=TOLERANCE)
    assert len(with_all.scores) == len(without.scores) > 0
    for some, other in zip(with_all.scores, without.scores, strict=True):
        assert (some.model, some.metric, some.rows) == (other.model, other.metric, other.rows)
        assert some.value == pytest.approx(other.value, rel=TOLERANCE)
    for some, other in zip(with_all.differences, without.differences, strict=True):
        assert some.value == pytest.approx(other.value, rel=20 * TOLERANCE)
    texts = [[answer.text for answer in report.answers] for report in (with_all, without)]
    assert texts[0] == texts[1]
