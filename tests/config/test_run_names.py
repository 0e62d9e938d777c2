"""A run with other settings than its variant's has a name that says so, and can be named by it."""

import re

import pytest

from chatpipe.config.run_names import (
    MAX_LENGTH,
    parse_settings,
    plain_name,
    rename_run,
    rename_study,
)
from chatpipe.config.schema import Variant
from chatpipe.errors import ConfigError
from chatpipe.study import inspect
from chatpipe.study.export import export_variant
from chatpipe.study.loading import load_variant
from chatpipe.study.studies import check_name, load_study, study_variants
from chatpipe.study.variants import parse_variant

PORTABLE = re.compile(r"[a-z0-9][a-z0-9._=,+-]*[a-z0-9]")


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "smol-merge"),
        (["training.epochs=2"], "smol-merge+training.epochs=2"),
        (["training.epochs=2.0"], "smol-merge+training.epochs=2"),
        (["training.seed=7", "lora.rank=4"], "smol-merge+lora.rank=4+training.seed=7"),
        (["training.epochs=5", "training.epochs=2"], "smol-merge+training.epochs=2"),
        (["training={epochs: 2, seed: 7}"], "smol-merge+training.epochs=2+training.seed=7"),
        (["prompt_template=paper"], "smol-merge+prompt_template=paper"),
        (["prompt_template=chat"], "smol-merge+prompt_template=chat"),
        (["prompt_template=chatml"], "smol-merge+prompt_template=chatml"),
        (["quantization.double=false"], "smol-merge+quantization.double=false"),
        (["lora.rank=16"], "smol-merge"),  # as it is
        (["tracking=tensorboard"], "smol-merge"),  # changes no result
        (["name=mine", "training.epochs=2"], "mine"),
    ],
)
def test_the_name_lists_the_settings_that_differ(overrides, name):
    assert load_variant("smol-merge", overrides).name == name


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.epochs=2"],
        ["training.learning_rate=0.00001", "training.schedule=linear"],
        ["prompt_template=paper", "quantization.method=none"],
        ["base_model.revision=MAIN"],
        ["lora.target_modules=[q_proj, v_proj]"],
        ["datasets=[sample-dialog]"],
        ['panel=[{id: a, instruction: "Say: <b>/\\\\*?|</b> ü"}]'],
        [f"training.{key}=1" for key in ("seed", "save_steps", "epochs", "warmup_ratio")[:3]]
        + ["evaluation.seed=1", "evaluation.bootstrap_samples=200", "generation.seed=4"],
    ],
)
def test_every_name_is_a_file_name_and_names_the_run_again(overrides, chatpipe_home):
    variant = load_variant("smol-merge", overrides)
    assert PORTABLE.fullmatch(variant.name) and len(variant.name) <= MAX_LENGTH
    assert variant.name != "smol-merge" and plain_name(variant.name) == "smol-merge"
    export_variant(variant)  # as every run does
    assert load_variant(variant.name) == variant
    assert Variant.model_validate_json(variant.model_dump_json()) == variant


def test_a_name_that_only_runs_have_is_suggested_with_their_settings(chatpipe_home):
    raw = {"base_model": {"repo": "some/base"}, "datasets": ["sample-dialog"]}
    export_variant(parse_variant({"name": "mine", **raw}, "mine.yaml", ["training.epochs=2"]))
    export_variant(parse_variant({"name": "helpdesk", **raw}, "helpdesk.yaml"))
    for command in (load_variant, check_name):
        with pytest.raises(ConfigError, match=r"did you mean mine\+training.epochs=2\?$"):
            command("mine")
        with pytest.raises(ConfigError, match=r"did you mean helpdesk\?$"):
            command("help-desk")
        with pytest.raises(ConfigError, match=r"known are .*smol-merge.*\.$") as unknown:
            command("x")
        assert "helpdesk" not in str(unknown.value)


def test_runs_without_a_file_are_listed(chatpipe_home):
    assert inspect.list_all()["runs"] == []
    export_variant(load_variant("smol-merge", ["training.epochs=2"]))
    assert inspect.list_all()["runs"] == ["smol-merge+training.epochs=2"]


def test_a_run_s_name_is_that_run_after_its_plain_name_became_another_one_s(chatpipe_home):
    raw = {"base_model": {"repo": "smollm2-135m-instruct"}, "datasets": ["sample-dialog"]}
    run = parse_variant({"name": "mine", **raw}, "mine.yaml", ["training.epochs=2"])
    export_variant(run)
    other = {**raw, "name": "mine", "base_model": {"repo": "another/base"}, "lora": {"rank": 4}}
    export_variant(parse_variant(other, "other/mine.yaml"))
    assert load_variant(run.name) == run
    changed = load_variant(run.name, ["training.seed=7"])
    assert changed.base_model == run.base_model and changed.lora == run.lora
    assert changed.name == "mine+training.epochs=2+training.seed=7"


def test_a_run_of_a_variant_s_file_has_what_the_file_says_now(chatpipe_home):
    saved = load_variant("smol-merge", ["training.epochs=2"])
    export_variant(saved.model_copy(update={"data_share": 0.5}))  # as the file once said
    assert load_variant("smol-merge+training.epochs=2") == saved


def test_values_that_look_alike_in_a_name_have_different_names():
    names = [
        load_variant("smol-merge", [f"base_model.revision={revision}"]).name
        for revision in ("v1", "V1", "v-1", "v/1", "v" * 50, "v" * 51, "'null'")
    ]
    assert len(set(names)) == len(names)


def test_settings_lie_over_a_run_s_name():
    variant = load_variant("smol-merge+training.epochs=2", ["training.seed=7"])
    assert variant.name == "smol-merge+training.epochs=2+training.seed=7"
    assert (variant.training.epochs, variant.training.seed) == (2, 7)


def test_a_file_that_is_a_variant_with_its_overrides_only(tmp_path):
    raw = {"name": "mine", "base_model": {"repo": "smollm2-135m-instruct"}}
    variant = parse_variant(raw, "command line", ["datasets=[sample-dialog]"])
    assert plain_name(variant.name) == "mine" and parse_settings(variant.name)


def test_a_run_of_other_parameters_is_named_by_them():
    """As from the dashboard, where sections come as values."""
    plain = load_variant("smol-merge")
    training = plain.training.model_copy(update={"epochs": 2.0})
    variant = plain.model_copy(update={"training": training})
    assert rename_run(variant, plain).name == "smol-merge+training.epochs=2"
    assert rename_run(plain, plain).name == "smol-merge"


def test_a_study_with_overrides_is_named_by_them():
    study = load_study("demo")
    variants = study_variants(study, ["training.seed=7"])
    assert [parse_settings(variant.name) for variant in variants] == [["training.seed=7"]] * 4
    assert rename_study(study, variants).name == "demo+training.seed=7"
    assert rename_study(study, study_variants(study)).name == "demo"
    long = [f"training.{key}=9" for key in ("seed", "save_steps", "global_batch_size")]
    many = study_variants(study, [*long, "lora.rank=9", "lora.alpha=9", "generation.seed=9"])
    assert len(rename_study(study, many).name) <= MAX_LENGTH


def test_a_study_that_names_a_variant_twice_is_refused(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("variants: [smol-merge, smol-alpaca, smol-merge]")
    with pytest.raises(ConfigError, match="smol-merge stands there 2 times"):
        study_variants(load_study(str(path)))
    with pytest.raises(ConfigError, match="same stands there 4 times"):
        study_variants(load_study("demo"), ["name=same"])


@pytest.mark.parametrize(
    "name", ["", " ", "+", "smol-merge+", "smol-merge++a=1", "+training.seed=1"]
)
def test_a_name_without_a_name_or_a_setting_is_one_sentence(name):
    with pytest.raises(ConfigError, match=r"the name is empty|write it as NAME\+key.path=value"):
        load_variant(name)


def test_the_name_of_a_run_that_this_home_does_not_have_is_not_read_as_settings(chatpipe_home):
    name = load_variant("smol-merge", ["lora.target_modules=[q_proj]"]).name
    with pytest.raises(ConfigError, match="this home has no run of that name") as raised:
        load_variant(name)
    assert "write smol-merge with the run's --set KEY=VALUE" in str(raised.value)
