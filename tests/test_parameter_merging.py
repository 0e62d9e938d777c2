"""Parameters given in part: what is merged, what is replaced, and what is shown of it."""

import pytest

from chatpipe.config import Variant
from chatpipe.errors import ConfigError
from chatpipe.loading import load_variant
from flows.parameter_merging import differences, merge_sections, parse_section


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
