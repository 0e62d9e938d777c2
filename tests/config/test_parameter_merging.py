"""Parameters given in part: what is merged, what is replaced, and what is shown of it."""

import pytest

from chatpipe.config.parameter_merging import differences, merge_sections
from chatpipe.config.schema import Variant
from chatpipe.config.validation import parse_section
from chatpipe.errors import ConfigError
from chatpipe.study.loading import load_variant
from flows.run_parameters import RunParameters


@pytest.fixture(scope="module")
def deployed():
    return load_variant("smol-merge").model_dump(mode="json")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({}, []),
        ({"training": {"epochs": 7}}, ["training.epochs=7"]),
        ({"lora": {"target_modules": ["q_proj"]}}, ['lora.target_modules=["q_proj"]']),
        ({"base_model": {"revision": "abc"}}, ['base_model.revision="abc"']),
        ({"panel": [{"id": "a", "instruction": "?"}]}, ['panel=[{"id": "a", "instruction": "?"}]']),
        ({"tracking": "mlflow", "gpu_workers": "a/b"}, ['tracking="mlflow"', 'gpu_workers="a/b"']),
    ],
)
def test_mappings_are_merged_and_all_else_is_replaced(deployed, given, shown):
    assert list(differences(deployed, merge_sections(deployed, given))) == shown


def test_a_section_given_whole_replaces_the_deployments(deployed):
    training = {**deployed["training"], "epochs": 7}
    assert merge_sections(deployed, {"training": training})["training"] == training


def test_a_revision_belongs_to_its_repository(deployed):
    below = {**deployed, "base_model": {"repo": "a/b", "revision": "abc"}}
    assert merge_sections(below, {"base_model": {"repo": "c/d"}})["base_model"] == {"repo": "c/d"}
    same = merge_sections(below, {"base_model": {"repo": "a/b"}})
    assert same["base_model"] == {"repo": "a/b", "revision": "abc"}


def test_variants_are_merged_by_name_and_their_list_is_replaced(deployed):
    below = {"study": "s", "variants": [deployed, {**deployed, "name": "other"}]}
    above = {"variants": [{"name": "other", "training": {"epochs": 7}}, {"name": "new"}]}
    [other, new] = merge_sections(below, above)["variants"]
    assert other == {**deployed, "name": "other", "training": {**deployed["training"], "epochs": 7}}
    assert new == {"name": "new"}
    assert list(differences(below, merge_sections(below, above))) == [
        "variants=other, new",
        "variants.other.training.epochs=7",
        'variants.new.name="new"',
    ]


def test_what_makes_no_variant_is_refused_with_its_key(deployed):
    with pytest.raises(ConfigError, match=r"finetune: training\.epochs: expected a number greater"):
        parse_section(Variant, merge_sections(deployed, {"training": {"epochs": 0}}), "finetune")


def test_a_study_takes_variants_in_part():
    from flows.compare import compare

    given = {"study": "s", "variants": [{"name": "a", "training": {"epochs": 1}}]}
    validated = compare.validate_parameters(given)
    assert validated["variants"][0].datasets == ()
    with pytest.raises(ConfigError, match=r"variants\.a: datasets: at least 1 is required"):
        compare.fn(**validated)


def test_a_variant_of_a_runs_name_is_merged_over_the_longest_name_that_fits(deployed):
    names = ("smol-merge", "smol-merge+training.epochs=2")
    below = {"study": "s", "variants": [{**deployed, "name": name} for name in names]}
    below["variants"][1]["lora"] = {"rank": 3}
    for name, rank in ((names[0], 16), (names[1], 3), (f"{names[1]}+training.seed=7", 3)):
        [merged] = merge_sections(below, {"variants": [{"name": name}]})["variants"]
        assert (merged["name"], merged["lora"]["rank"]) == (name, rank)


def test_a_copied_run_with_another_setting_is_named_by_what_it_runs(deployed):
    """Its parameters have the name of the run that was copied."""
    copied = {"name": "smol-merge+training.epochs=2", "training": {"epochs": 3}}
    values = merge_sections(deployed, copied)
    assert RunParameters(values, deployed).variant("").name == "smol-merge+training.epochs=3"
    study = {"study": "demo", "variants": [deployed]}
    values = merge_sections(study, {"study": "demo+training.epochs=2", "variants": [copied]})
    parameters = RunParameters(values, study)
    variants = parameters.variants("")
    assert [variant.name for variant in variants] == ["smol-merge+training.epochs=3"]
    assert parameters.study_name(variants) == "demo+training.epochs=3"


def test_a_cells_name_in_the_dashboard_is_the_variant_with_these_settings(deployed):
    from flows.compare import compare

    cell = {"name": "smol-merge/lr=3e-4/seed=1"}
    name = "smol-merge+training.learning_rate=0.0003+training.seed=1"
    variant = RunParameters(merge_sections(deployed, cell), deployed).variant("")
    assert (variant.name, variant.training.learning_rate, variant.training.seed) == (name, 3e-4, 1)
    study = {"study": "demo", "variants": [deployed]}
    given = {"study": "demo", "variants": [cell]}
    assert compare.validate_parameters(given)
    [in_study] = RunParameters(merge_sections(study, given), study).variants("")
    assert in_study == variant
    sets = {"name": "smol-merge/datasets=sample-alpaca"}
    [dataset] = RunParameters(merge_sections(deployed, sets), deployed).variant("").datasets
    assert dataset.name == "sample-alpaca"
    with pytest.raises(ConfigError, match=r"learning_rate=0: .*expected a number greater than 0"):
        RunParameters({**deployed, "name": "smol-merge/lr=0"}, deployed).variant("")


def test_a_run_of_other_variants_does_not_take_the_studys_name(deployed):
    study = {"study": "demo", "variants": [deployed, {**deployed, "name": "other"}]}

    def name(*variants):
        given = {"variants": [{"name": variant} for variant in variants]}
        parameters = RunParameters(merge_sections(study, given), study)
        return parameters.study_name(parameters.variants(""))

    assert name("smol-merge", "other") == "demo"
    names = {name("smol-merge"), name("other"), name("other", "smol-merge")}
    assert len(names) == 3 and all(item.startswith("demo+variants=") for item in names)
    assert name() == "demo"  # refused by the flow


def test_a_prompt_template_is_given_in_part(deployed):
    from prefect.utilities.callables import parameter_schema

    from flows.compare import compare
    from flows.finetune import finetune

    for flow in (finetune, compare):
        schema = parameter_schema(flow).model_dump_for_openapi()["definitions"]["PromptTemplate"]
        assert "required" not in schema
    text = "{instruction}\n### Response:\n"
    given = {"prompt_template": {"without_input": text}}
    assert finetune.validate_parameters({**deployed, **given})
    study = {"study": "s", "variants": [{**deployed, **given}]}
    assert compare.validate_parameters(study)
    variant = RunParameters(merge_sections(deployed, given), deployed).variant("")
    assert variant.prompt_template.without_input == text
    assert variant.prompt_template.with_input == deployed["prompt_template"]["with_input"]
