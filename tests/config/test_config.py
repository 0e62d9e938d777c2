"""YAML and overrides → a variant: all faults at once, each naming file and key."""

from pathlib import Path

import pytest
import yaml

from chatpipe.config.prompts import TEMPLATES, default_panel
from chatpipe.config.schema import Variant
from chatpipe.errors import ConfigError
from chatpipe.study.files import deployments_dir, names
from chatpipe.study.loading import load_variant
from chatpipe.study.studies import load_study, study_variants


@pytest.fixture
def write(tmp_path):
    def written(text, name="mine.yaml"):
        path = tmp_path / name
        path.write_text(text, "utf-8")
        return str(path)

    return written


def faults(path, *overrides):
    with pytest.raises(ConfigError) as error:
        load_variant(path, overrides)
    return error.value.faults


def test_every_shipped_variant_and_study_is_valid():
    assert {"smol-alpaca", "smol-dialog", "smol-merge"} <= set(names("variants"))
    for name in names("variants"):
        assert load_variant(name).name == name
    for name in names("studies"):
        assert study_variants(load_study(name))


def test_the_papers_preset_is_the_papers_settings_complete(write):
    variant = load_variant(write("{preset: paper, datasets: [sample-alpaca]}"))
    assert variant.split.method == "none"
    assert variant.prompt_template == TEMPLATES["paper"]
    assert variant.prompt_template.with_input == variant.prompt_template.without_input
    assert (variant.lora.rank, variant.lora.alpha, variant.lora.dropout) == (8, 256, 0.05)
    assert variant.lora.target_modules == ("q_proj", "v_proj")
    training = variant.training
    assert (training.epochs, training.learning_rate) == (3, 2e-4)
    assert (training.micro_batch_tokens, training.global_batch_size) == (512, 2)
    assert (training.max_length, training.too_long, training.loss) == (256, "cut_left", "all")
    assert variant.quantization.method == "nf4" and variant.quantization.double
    questions = [prompt.instruction for prompt in default_panel()[:2]]
    assert questions == [
        "What if time travel was possible?",
        "Imagine a society governed by artificial intelligence.",
    ]
    assert "Hey! How have you been these days?" in default_panel()[2].model_dump().values()


def test_a_variants_own_keys_and_then_overrides_lie_over_the_preset(write):
    path = write("{preset: paper, datasets: [sample-alpaca], lora: {rank: 4}}")
    variant = load_variant(path, ["training.epochs=1", "lora.alpha=8"])
    assert (variant.lora.rank, variant.lora.alpha, variant.lora.dropout) == (4, 8, 0.05)
    assert (variant.training.epochs, variant.training.learning_rate) == (1, 2e-4)


def test_all_faults_come_at_once_and_name_file_and_key(write):
    path = write(
        "{preset: papper, datasets: [sample-alpacca, 5],"
        " training: {epochs: 0, learning_rat: 1, seed: x}, lora: {rank: 9999}}"
    )
    found = faults(path)
    assert all(fault.startswith(f"{path}: ") for fault in found)
    for part in (
        "preset: 'papper' is unknown; known: paper",
        "datasets: no data set is named 'sample-alpacca'; did you mean sample-alpaca?",
        "datasets.1: ",
        "training.learning_rat: unknown key; did you mean learning_rate?",
        "training.epochs: expected a number greater than 0, found 0",
        "training.seed: ",
        "lora.rank: expected a number of at most 512, found 9999",
    ):
        assert any(part in fault for fault in found), part
    assert len(found) == 7


def test_where_no_data_set_is_without_a_fault_that_there_is_none_is_not_said_as_well(write):
    [found] = faults(write("datasets: [{name: x, repo: some/rows, format: alpacca}]"))
    assert "datasets.0.format: " in found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("datasets: [", "line 1 is not valid YAML"),
        (
            "datasets: []\nlora: {rank: 4,\n  rank: 8}",
            "line 3 is not valid YAML: the key rank is there twice",
        ),
        ("- just\n- a list", "expected keys and values, found a list"),
        ("{}", "datasets: this key is required"),
        ("datasets: []", "datasets: at least 1 is required"),
        ("{preset: papre, datasets: [dialog]}", "preset: 'papre' is unknown; known: paper"),
        ("datasets: [{name: x, path: nowhere.jsonl}]", "nowhere.jsonl does not exist"),
        ("datasets: [{name: x}]", "give exactly one of repo and path"),
        ("datasets: [dialog, dialog]", "datasets names dialog more than once"),
        ("{datasets: [dialog], prompt_template: alpacca}", "no prompt template is named"),
        (
            "{datasets: [dialog], prompt_template: {with_input: '{instruction} {input}',"
            " without_input: '{instruction}'}}",
            "with_input lacks '### Response:'",
        ),
        (
            "{datasets: [dialog], training: {micro_batch_size: 2}}",
            "training.micro_batch_size: unknown key; did you mean micro_batch_tokens?",
        ),
        ("{datasets: [dialog], training: {epochs: .nan}}", "training.epochs: "),
        ("{datasets: [dialog], lora: {target_modules: []}}", "target_modules: names no layer"),
    ],
)
def test_bad_input_gets_a_sentence_with_the_file(write, text, said):
    path = write(text)
    found = "\n".join(faults(path))
    assert path in found and said in found


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.epochs", "write it as key.path=value"),
        ("training.epoch=1", "did you mean epochs?"),
        ("training.epochs=[", "the value is not valid YAML"),
        ("lora=5", "lora: "),
    ],
)
def test_a_bad_override_gets_a_sentence(write, override, said):
    assert said in "\n".join(faults(write("datasets: [sample-alpaca]"), override))


def test_faults_blame_who_set_the_value(write):
    path = write("{datasets: [sample-alpaca], training: {seed: x}}")
    blames = {
        "training.epochs=0": "--set training.epochs=0: training.epochs: ",
        "lora=5": "--set lora=5: lora: ",
        "datasets=[nope]": "--set datasets=[nope]: datasets: no data set is named 'nope'",
    }
    found = faults(path, *blames, "training.learning_rate=0.1")
    for said in (*blames.values(), f"{path}: training.seed: "):
        assert any(fault.startswith(said) for fault in found), (said, found)
    assert len(found) == 4


def test_a_path_counts_from_the_file_that_names_it(write, tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}\n")
    variant = load_variant(write("datasets: [{name: x, path: rows.jsonl}]"))
    assert variant.datasets[0].path == str(tmp_path / "rows.jsonl")


def test_relative_places_are_absolute_once_loaded(tmp_path, monkeypatch):
    """A worker that gets the variant runs in another directory."""
    for folder in ("deployments/variants", "base", "rows-of-a-hub"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    raw = {
        "base_model": {"repo": "./base"},
        "datasets": [
            {"name": "x", "path": "../../rows.jsonl"},
            {"name": "y", "repo": "rows-of-a-hub"},
            {"name": "z", "repo": "owner/rows"},
        ],
    }
    (tmp_path / "deployments/variants/mine.yaml").write_text(yaml.safe_dump(raw))
    monkeypatch.chdir(tmp_path)
    for configured in (None, "deployments"):
        if configured:
            monkeypatch.setenv("CHATPIPE_DEPLOYMENTS", configured)
        variant = load_variant("mine")
        assert variant.base_model.repo == str(tmp_path / "base")
        rows, copied, of_the_hub = variant.datasets
        assert Path(rows.path).is_absolute() and Path(rows.path).samefile("rows.jsonl")
        assert copied.repo == str(tmp_path / "rows-of-a-hub") and of_the_hub.repo == "owner/rows"


def test_deployments_that_are_not_there_are_refused_and_not_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv("CHATPIPE_DEPLOYMENTS", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"CHATPIPE_DEPLOYMENTS=.*nowhere is no directory"):
        load_variant("smol-merge")


def test_a_study_s_name_for_a_variant_is_answered_with_its_variants():
    with pytest.raises(ConfigError, match=r"demo: is a study; .*smol-alpaca, smol-dialog"):
        load_variant("demo")


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean smol-merge\?"):
        load_variant("smol-mrege")


def test_a_study_gives_the_faults_of_all_its_variants(tmp_path, monkeypatch):
    for folder in ("variants", "studies"):
        (tmp_path / folder).mkdir()
    (tmp_path / "variants/a.yaml").write_text("{datasets: [sample-alpaca], lora: {rank: 0}}")
    (tmp_path / "variants/b.yaml").write_text("{datasets: [nope]}")
    (tmp_path / "studies/s.yaml").write_text("variants: [a, b, c]")
    monkeypatch.setenv("CHATPIPE_DEPLOYMENTS", str(tmp_path))
    with pytest.raises(ConfigError) as error:
        study_variants(load_study("s"))
    assert ["a.yaml" in f or "b.yaml" in f or "'c'" in f for f in error.value.faults] == [True] * 3
    with pytest.raises(ConfigError) as error:
        study_variants(load_study("s"), origin="s")
    assert error.value.faults[-1].startswith(
        f"{tmp_path}/studies/s.yaml: variants.2: there is no 'c' in "
    )


def test_one_name_for_two_data_sets_in_a_study_is_refused(tmp_path, monkeypatch):
    (tmp_path / "variants").mkdir()
    (tmp_path / "studies").mkdir()
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
        dataset = {"name": "rows", "path": f"../{name}.jsonl"}
        (tmp_path / f"variants/{name}.yaml").write_text(yaml.safe_dump({"datasets": [dataset]}))
    (tmp_path / "studies/s.yaml").write_text("variants: [a, b]")
    monkeypatch.setenv("CHATPIPE_DEPLOYMENTS", str(tmp_path))
    with pytest.raises(ConfigError, match="variants a and b: data set rows is another one in each"):
        study_variants(load_study("s"))


def test_a_variant_survives_its_own_json():
    """Prefect hands flows their parameters as JSON."""
    variant = load_variant(str(deployments_dir() / "variants" / "smol-merge.yaml"))
    assert Variant.model_validate_json(variant.model_dump_json()) == variant
