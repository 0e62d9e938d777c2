"""What cannot stand in one report is refused before anything runs; bases have distinct names."""

import pytest

from chatpipe.config.prompts import template
from chatpipe.config.schema import Variant
from chatpipe.errors import ConfigError, DataError
from chatpipe.study.base_names import base_names
from chatpipe.study.checks import check_study, study_faults
from chatpipe.study.recipe import Recipe
from chatpipe.study.resolving import StoreBuilder
from tests.support.rows import alpaca_rows, write_jsonl

ROWS = {"name": "rows", "path": "rows.jsonl"}


def variant(name, **settings):
    return Variant.model_validate({"name": name, "datasets": [ROWS], **settings})


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ({"heldout": 0.2}, "split.heldout: 0.1 and 0.2"),
        ({"method": "none"}, "split.method: hash and none"),
    ],
)
def test_two_splits_in_one_study_are_refused_with_both_names_and_the_key(split, words):
    [fault] = study_faults([variant("a"), variant("b", split=split)])
    assert "variants a and b" in fault and words in fault


def test_a_study_of_one_split_is_fine():
    assert study_faults([variant("a"), variant("b", lora={"rank": 2})]) == []


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"path": "others.jsonl"}, "path: rows.jsonl and others.jsonl"),
        ({"columns": {"output": "answer"}}, "columns: {} and {'output': 'answer'}"),
        ({"format": "messages"}, "format: alpaca and messages"),
        ({"path": None, "repo": "owner/rows"}, "repo: None and owner/rows"),
    ],
)
def test_one_name_for_two_data_sets_is_refused_with_both_names_and_the_key(other, words):
    [fault] = study_faults([variant("a"), variant("b", datasets=[ROWS | other])])
    assert "variants a and b" in fault and "data set rows" in fault and words in fault


def test_auto_is_the_format_that_it_stands_for(tmp_path, chatpipe_home):
    path = write_jsonl(tmp_path / "rows.jsonl", alpaca_rows(10))
    auto, alpaca, completion = (
        variant(name, datasets=[{"name": "rows", "path": str(path), "format": name}])
        for name in ("auto", "alpaca", "completion")
    )
    assert study_faults([auto, alpaca]) == study_faults([alpaca, auto]) == []
    [fault] = study_faults([auto, completion])
    assert "format: auto and completion" in fault
    # What only the rows can show is checked again when they are here.
    recipe = Recipe([auto, completion], StoreBuilder())
    assert recipe.corpus(auto) == recipe.corpus(alpaca)
    with pytest.raises(DataError, match="is read as alpaca by one variant and as completion"):
        recipe.corpus(completion)


def test_another_licence_is_not_another_data_set():
    assert study_faults([variant("a"), variant("b", datasets=[ROWS | {"licence": "MIT"}])]) == []


def test_one_name_for_two_variants_is_refused():
    with pytest.raises(ConfigError, match="a stands there 2 times"):
        check_study([variant("a"), variant("a", lora={"rank": 2})])


def test_the_flow_refuses_before_it_plans():
    from flows.study import run_study

    with pytest.raises(ConfigError, match="split differently"):
        run_study("s", [variant("a"), variant("b", split={"heldout": 0.5})], gpu=None)


def names(*variants):
    found = base_names(variants)
    return [found[variant.name] for variant in variants]


def on(name, repo, revision=None, **settings):
    return variant(name, base_model={"repo": repo, "revision": revision}, **settings)


def test_one_base_has_the_last_part_of_its_name():
    assert names(on("a", "owner/llama"), on("b", "owner/llama")) == ["llama", "llama"]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (("a/llama",), ("b/llama",), ["a/llama", "b/llama"]),
        (("a/llama", "r1"), ("a/llama", "r2"), ["llama@r1", "llama@r2"]),
        (("a/llama",), ("a/llama", "r2"), ["llama", "llama@r2"]),
        (("/x/one/llama",), ("/x/two/llama/",), ["one/llama", "two/llama"]),
        (("a/llama", "r1"), ("b/llama", "r1"), ["a/llama", "b/llama"]),
        (("llama",), ("a/llama",), ["llama", "a/llama"]),
    ],
)
def test_bases_of_one_name_are_told_apart(first, second, expected):
    assert names(on("v1", *first), on("v2", *second)) == expected


def test_a_variant_may_be_called_like_its_base():
    assert names(on("llama", "owner/llama")) == ["llama (base)"]
    assert names(on("llama", "owner/llama"), on("b", "x/llama (base)")) == [
        "llama (base)",
        "llama (base) (base)",
    ]


def test_a_base_is_named_for_each_way_in_which_it_is_measured():
    found = names(
        on("a", "x/llama"),
        on("b", "x/llama", prompt_template="short"),
        on("c", "x/llama", quantization={"method": "none"}),
        on("d", "x/llama", evaluation={"max_length": 512}),
        on("e", "x/llama", lora={"rank": 2}, training={"epochs": 1}),
    )
    assert len(set(found[:4])) == 4 and found[4] == found[0]
    assert found[1] == (
        "llama (template short, quantization.method nf4, evaluation.max_length 2048)"
    )


def test_only_the_settings_that_differ_are_in_the_names():
    assert names(on("a", "x/llama"), on("b", "x/llama", prompt_template="short")) == [
        "llama (template alpaca)",
        "llama (template short)",
    ]


def test_what_changes_no_score_and_no_answer_makes_no_other_base():
    resampled = on("b", "x/llama", evaluation={"bootstrap_samples": 100, "seed": 1})
    assert names(on("a", "x/llama"), resampled) == ["llama", "llama"]


def test_templates_of_one_name_and_other_panels_are_told_apart():
    own = template("alpaca").model_copy(update={"without_input": "{instruction} ### Response:"})
    panel = [{"id": "p", "instruction": "Hello?"}]
    assert names(on("a", "x/llama"), on("b", "x/llama", prompt_template=own.model_dump())) == [
        "llama (template alpaca of a)",
        "llama (template alpaca of b)",
    ]
    assert names(on("a", "x/llama"), on("b", "x/llama", panel=panel)) == [
        "llama (panel of a)",
        "llama (panel of b)",
    ]


def test_many_differences_are_said_by_the_name_of_a_variant():
    other = {
        "prompt_template": "short",
        "quantization": {"method": "none", "double": False},
        "generation": {"temperature": 1, "seed": 3},
    }
    assert names(on("a", "x/llama"), on("b", "x/llama", **other))[1] == "llama (as for b)"


@pytest.mark.usefixtures("chatpipe_home")
def test_the_demo_compares_data_after_the_same_number_of_steps():
    from chatpipe.planning.rows import account_rows
    from chatpipe.planning.steps import DryRun
    from chatpipe.study.recipe import Recipe
    from chatpipe.study.studies import load_study, study_variants
    from chatpipe.training.rows import optimizer_steps

    variants = study_variants(load_study("demo"))
    rows = [account_rows(Recipe([v], DryRun()), v).train_rows for v in variants]
    steps = {optimizer_steps(v.training, r) for v, r in zip(variants, rows, strict=True)}
    assert steps == {22}
    batches = {v.name: v.training.global_batch_size for v in variants}
    assert batches.pop("smol-chat") == 4  # conversations, with 2 to 4 replies each
    assert set(batches.values()) == {8}
