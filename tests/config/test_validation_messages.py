"""Faults of settings are said in the words of the file, never in Python's or pydantic's."""

import re

import pytest
from pydantic import BaseModel, ValidationError

from chatpipe.config.schema import Variant
from chatpipe.config.validation import fault_sentences
from chatpipe.errors import ConfigError
from chatpipe.study.loading import load_variant
from chatpipe.study.studies import load_study

PROGRAMMERS_WORDS = re.compile(
    r"[Ii]nput should|valid (tuple|dict|list|string|integer|number|boolean)|instance of|NoneType"
    r"|tuple|\bdict|literal\[|pydantic|nullable|unable to parse|should match pattern|\bNone\b"
    r"|[a-z]_type|Extra inputs|Field required|class '"
)
BAD_VALUES = [
    *(None, True, 0, -1, 5, 1.5, 1e300, float("nan"), float("inf"), "x", "", "ÜBER", "x" * 200),
    *([], {}, [[]], [None], {"x": None}, [5, {"x": []}], {"name": 5}, {"name": "a b"}, "1" * 30),
    *(
        [{"path": 5}],
        {"with_input": 5},
        {"repo": ""},
        {"id": "A"},
        {"files": [1]},
        {"columns": [1]},
    ),
]


def variant_faults(raw, *overrides):
    try:
        Variant.model_validate(raw)
    except ValidationError as error:
        return fault_sentences(error, "mine.yaml", Variant, overrides)
    return []


def every_key(model=Variant, above=()):
    """All keys of the sections, those of lists' items too."""
    for name, field in model.model_fields.items():
        yield (*above, name)
        waiting, listed = [field.annotation], "tuple" in str(field.annotation)
        while waiting:
            annotation = waiting.pop()
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                yield from every_key(annotation, (*above, name, *([0] if listed else [])))
            waiting += getattr(annotation, "__args__", ())


def with_value(keys, value):
    for key in reversed(keys):
        value = [value] if key == 0 else {key: value}
    return {"name": "mine", "datasets": [{"name": "x", "path": "y"}], **value}


@pytest.mark.parametrize("keys", every_key(), ids=lambda keys: ".".join(map(str, keys)))
def test_no_fault_of_any_key_speaks_python(keys):
    for value in BAD_VALUES:
        for sentence in variant_faults(with_value(keys, value)):
            assert not PROGRAMMERS_WORDS.search(sentence), sentence
            assert sentence.startswith("mine.yaml: ") and sentence[-1] in ".?", sentence
            assert len(sentence) < 400 and "\n" not in sentence, sentence


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ({"training": {"epochs": "many"}}, "training.epochs: expected a number, found 'many'."),
        ({"training": {"seed": 1.5}}, "training.seed: expected a whole number, found 1.5."),
        ({"training": {"seed": "x"}}, "training.seed: expected a whole number, found 'x'."),
        (
            {"training": {"seed": -1}},
            "training.seed: expected a number of at least 0, found -1.",
        ),
        (
            {"training": {"schedule": "cosin"}},
            "training.schedule: expected cosine, linear or constant, found 'cosin'; "
            "did you mean cosine?",
        ),
        (
            {"training": {"micro_batch_tokens": 0}},
            "training.micro_batch_tokens: expected a number of at least 16 or auto, found 0.",
        ),
        (
            {"training": {"gradient_checkpointing": "selective"}},
            "training.gradient_checkpointing: expected true or false or auto, found 'selective'.",
        ),
        (
            {"quantization": {"double": "maybe"}},
            "quantization.double: expected true or false, found 'maybe'.",
        ),
        (
            {"base_model": "some/model"},
            "base_model: expected keys and values (repo, revision), found 'some/model'.",
        ),
        (
            {"base_model": {"revision": 1234567}},
            "base_model.revision: expected text, found 1234567; put it in quotes.",
        ),
        (
            {"base_model": {"repo": ""}},
            "base_model.repo: expected text that is not empty, found ''.",
        ),
        (
            {"lora": {"target_modules": 5}},
            "lora.target_modules: expected a list, like [a, b] or all-linear, found 5.",
        ),
        (
            {"lora": {"target_modules": "q_proj"}},
            "lora.target_modules: expected a list, like [a, b] or all-linear, found 'q_proj'; "
            "write [q_proj].",
        ),
        (
            {"lora": {"target_modules": ["q_proj", 5]}},
            "lora.target_modules.1: expected text, found 5; put it in quotes.",
        ),
        (
            {"datasets": "dialog"},
            "datasets: expected a list, like [a, b], found 'dialog'; write [dialog].",
        ),
        (
            {"datasets": [{"name": "My Rows", "path": "x"}]},
            "datasets.0.name: expected lower-case letters, digits and . _ -, with a letter or "
            "digit first, found 'My Rows'; did you mean my-rows?",
        ),
        (
            {"datasets": [{"name": "x", "path": "x", "columns": ["a"]}]},
            "datasets.0.columns: expected keys and values, like {a: b}, found a list.",
        ),
        ({"training": None}, None),
        ({"training": {"epochs": True}}, "training.epochs: expected a number, found true."),
        ({"training": {"seed": False}}, "training.seed: expected a number, found false."),
        (
            {"training": {"epochs": float("inf")}},
            "training.epochs: expected a finite number, found inf.",
        ),
        (
            {"panel": [{"id": "a", "instruction": " "}]},
            "panel.0.instruction: expected text that is not blank, found ' '.",
        ),
        (
            {"prompt_template": "nope"},
            "prompt_template: no prompt template is named 'nope'; known are alpaca, paper, short, "
            "chat, chatml, llama3, gemma, zephyr.",
        ),
        ({"panel": [{"id": "a", "instruction": "x"}] * 2}, "panel names a more than once."),
        (
            {"datasets": [{"name": "x", "path": ""}]},
            "datasets.0.path: expected text that is not empty, found ''.",
        ),
        (
            {"datasets": [{"name": "x", "path": "y", "files": []}]},
            "datasets.0.files: at least 1 is required.",
        ),
        (
            {"seed": 1},
            "seed: unknown key; did you mean training.seed, evaluation.seed or generation.seed?",
        ),
        ({"epochs": 1}, "epochs: unknown key; did you mean training.epochs?"),
        ({"learning_rat": 1}, "learning_rat: unknown key; did you mean training.learning_rate?"),
        ({"training": {"rank": 4}}, "training.rank: unknown key; did you mean lora.rank?"),
        ({"trainng": {"epochs": 1}}, "trainng: unknown key; did you mean training?"),
        ({"trainingseed": 1}, "trainingseed: unknown key; did you mean training?"),
    ],
)
def test_a_fault_says_what_is_expected_and_what_is_there(raw, sentence):
    found = variant_faults({"name": "mine", "datasets": [{"name": "x", "path": "y"}], **raw})
    if sentence is None:
        assert len(found) == 1 and "expected keys and values (epochs, " in found[0]
    else:
        assert found == [f"mine.yaml: {sentence}"]


def variant_file(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=1", "did you mean training.seed, evaluation.seed or generation.seed?"),
        ("training.sed=1", "did you mean seed?"),
        ("training..epochs=1", "write it as key.path=value"),
        ("=1", "write it as key.path=value"),
        ("training.epochs", "write it as key.path=value"),
        ("training.epochs=[", "the value is not valid YAML"),
        ("training.epochs=" + "[" * 100_000, "nested more than 24 levels"),
        ("training.epochs=a: b: c", "the value holds ': ' within a value"),
        ("training.epochs=", "training.epochs: expected a number, found nothing"),
        ("datasets.7.name=x", "datasets is a list of 2, counted from 0 (the last is datasets.1)"),
        ("datasets.first.name=x", "datasets is a list of 2, counted from 0"),
        ("panel.0.instruction=Hi", "panel has no items of the variant's own; or write the whole"),
        ("training.epochs.deep=1", "training.epochs: expected a number"),
        ("preset=papper", "preset: 'papper' is unknown; known: paper"),
    ],
)
def test_a_bad_override_is_one_sentence_that_names_it(tmp_path, override, words):
    path = variant_file(tmp_path, "datasets: [sample-alpaca, sample-dialog]")
    with pytest.raises(ConfigError) as error:
        load_variant(path, [override])
    [sentence] = error.value.faults
    assert sentence.startswith(f"--set {override[:20]}") and words in sentence


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("datasets: [{name: x, path: ~nobody-here/rows.jsonl}]", "rows.jsonl does not exist."),
        (f"datasets: [{{name: x, path: {'a' * 5000}}}]", " does not exist."),
        ("datasets: [{name: x, path: ''}]", "datasets.0.path: expected text that is not empty"),
        ("{datasets: [sample-alpaca], preset: {a: 1}}", "preset: that is unknown; known: paper."),
        ('{datasets: [sample-alpaca], "a\\n\\x1bb": 1}', "a \\x1bb: unknown key"),
    ],
)
def test_odd_paths_and_keys_are_one_sentence(tmp_path, text, words):
    with pytest.raises(ConfigError) as error:
        load_variant(variant_file(tmp_path, text))
    [sentence] = error.value.faults
    assert words in sentence and "\n" not in sentence


def test_overrides_of_all_kinds(tmp_path, monkeypatch):
    path = variant_file(
        tmp_path, "{datasets: [sample-alpaca, sample-dialog], split: none, prompt_template: short}"
    )
    (tmp_path / "here").mkdir()
    (tmp_path / "here/rows.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path / "here")
    variant = load_variant(
        path,
        [
            "training.learning_rate=1e-4",
            "tracking=none",
            "datasets.1.name=010",
            "datasets.0={name: x, path: rows.jsonl}",
            "split.heldout=0.5",
            "prompt_template.name=mine",
        ],
    )
    assert variant.training.learning_rate == 1e-4
    # A path that is typed on the command line counts from where it is typed.
    assert variant.datasets[0].path == str(tmp_path / "here/rows.jsonl")
    assert variant.datasets[1].name == "010" and variant.datasets[1].format == "dialogues"
    # A part of a shorthand leaves its rest.
    assert (variant.split.method, variant.split.heldout) == ("none", 0.5)
    assert (
        variant.prompt_template.name == "mine" and "### Input" in variant.prompt_template.with_input
    )
    assert load_variant(path, ["preset=paper"]).lora.rank == 8
    split = load_variant("smol-merge", ["split.heldout=0.5", "split=hash"]).split
    assert (split.method, split.heldout) == ("hash", 0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("variants: []", "variants: at least 1 is required"),
        ("{}", "variants: this key is required"),
        (
            "variants: smol-merge",
            "variants: expected a list, like [a, b], found 'smol-merge'; write",
        ),
        ("variants: [5]", "variants.0: expected text, found 5; put it in quotes"),
        ("variants: [Smol]", "variants.0: expected lower-case letters"),
        ("variant: [a]", "variant: unknown key; did you mean variants?"),
    ],
)
def test_a_bad_study_is_said_in_the_same_words(tmp_path, text, words):
    with pytest.raises(ConfigError) as error:
        load_study(variant_file(tmp_path, text))
    assert any(words in fault for fault in error.value.faults), error.value.faults
