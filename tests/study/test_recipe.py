"""A run, a look-up and a plan of a study name the same artifacts, step for step."""

import shutil

import pytest

from chatpipe.errors import ArtifactError
from chatpipe.planning.planner import plan
from chatpipe.planning.steps import DryRun
from chatpipe.store.store import store
from chatpipe.study.files import names
from chatpipe.study.loading import load_variant
from chatpipe.study.lookup import LookUp, find_model
from chatpipe.study.recipe import Recipe
from chatpipe.study.resolving import Resolver
from chatpipe.study.studies import load_study, study_variants
from chatpipe.study.variants import parse_variant
from tests.support.requests import Placeholders
from tests.support.rows import alpaca_rows, dialogue_rows, write_jsonl


class Recorder(Resolver):
    """Passes every step to another resolver, and keeps what it was."""

    def __init__(self, resolver):
        self.resolver = resolver
        self.steps = []

    def resolve(self, step):
        artifact = self.resolver.resolve(step)
        self.steps.append((artifact.kind, artifact.key, step.label))
        return artifact


class RowsAndPlaceholders(Placeholders):
    """Builds the rows of local data sets, as a dry run does; all else are placeholders."""

    def __init__(self):
        self.rows = set()

    def resolve(self, step):
        is_local = getattr(step.request, "path", None) and step.request.kind == "raw"
        upstream = list(step.request.upstream())
        is_made_of_rows = step.request.kind in {"examples", "corpus"} and self.rows.issuperset(
            upstream
        )
        if not (is_local or is_made_of_rows):
            return super().resolve(step)
        artifact = store().get_or_build(step.request)
        self.rows.add(artifact)
        return artifact


def recorded(variants, resolver):
    """(the report, every step in order) of a study of these variants."""
    recorder = Recorder(resolver)
    return Recipe(variants, recorder).report("a study"), recorder.steps


@pytest.fixture
def local(tmp_path, tiny_model_dir):
    """Variants of local files, with some of their settings replaced."""
    write_jsonl(tmp_path / "a.jsonl", alpaca_rows(40))
    write_jsonl(tmp_path / "d.jsonl", dialogue_rows(40))
    (tmp_path / "folder").mkdir()
    for part in "xy":
        shutil.copy(tmp_path / "a.jsonl", tmp_path / "folder" / f"{part}.jsonl")
    shutil.copytree(tiny_model_dir, tmp_path / "another base")
    datasets = {
        "a": {"name": "a", "path": str(tmp_path / "a.jsonl")},
        "d": {"name": "d", "path": str(tmp_path / "d.jsonl"), "format": "dialogues"},
        "folder": {"name": "folder", "path": str(tmp_path / "folder")},
    }
    bases = {"tiny": str(tiny_model_dir), "other": str(tmp_path / "another base")}

    def variant(name, data="a", base="tiny", overrides=()):
        raw = {
            "name": name,
            "base_model": {"repo": bases[base]},
            "datasets": [datasets[part] for part in data.split("+")],
            "split": {"heldout": 0.3},
        }
        return parse_variant(raw, "a test", overrides)

    return variant


ODD = {
    "one": [("v",)],
    "the same twice": [("v",), ("w",)],
    "two bases": [("v", "a", "tiny"), ("w", "a", "other"), ("x", "a+d", "tiny")],
    "overlapping data": [("v", "a+d"), ("w", "d+folder"), ("x", "folder+a+d")],
    "every row trained on": [("v", "a+d", "tiny", ["split=none"])],
    "a name with settings": [("v",), ("v2", "a", "tiny", ["training.epochs=2", "lora.rank=4"])],
    "evaluated in other ways": [
        ("v",),
        ("w", "a", "tiny", ["prompt_template=short"]),
        ("x", "a", "tiny", ["quantization.method=none"]),
        ("y", "a", "tiny", ["generation.max_new_tokens=7"]),
        ("z", "a", "tiny", ["evaluation.max_length=300", "tracking=tensorboard"]),
    ],
}


def check_agreement(variants):
    """The three resolvers, before and after the study is built."""
    with pytest.raises(ArtifactError, match="is not in the store; run `chatpipe run a study`"):
        recorded(variants, LookUp("a study"))
    pending, planned = recorded(variants, DryRun())
    assert pending.is_pending
    report, built = recorded(variants, RowsAndPlaceholders())
    assert [(kind, label) for kind, _, label in planned] == [
        (kind, label) for kind, _, label in built
    ]
    assert recorded(variants, LookUp("a study")) == (report, built)
    dry_run = DryRun()
    assert recorded(variants, dry_run) == (report, built)
    steps = dry_run.steps({})
    assert {step.state for step in steps} == {"exists"}
    assert {(step.kind, step.what) for step in steps} == {(kind, label) for kind, _, label in built}


@pytest.mark.usefixtures("chatpipe_home")
@pytest.mark.parametrize("name", names("variants"))
def test_run_plan_and_look_up_agree_on_a_shipped_variant(name):
    check_agreement([load_variant(name)])


@pytest.mark.usefixtures("chatpipe_home")
@pytest.mark.parametrize("name", names("studies"))
def test_run_plan_and_look_up_agree_on_a_shipped_study(name):
    check_agreement(study_variants(load_study(name)))


@pytest.mark.usefixtures("chatpipe_home")
@pytest.mark.parametrize("study", ODD)
def test_run_plan_and_look_up_agree_on_an_odd_study(local, study):
    check_agreement([local(*settings) for settings in ODD[study]])


@pytest.mark.usefixtures("chatpipe_home")
@pytest.mark.parametrize("settings", [("v",), ("v", "a+d"), ("v", "a+d", "tiny", ["split=none"])])
def test_a_plan_lists_every_step_of_a_run_but_the_report(local, settings):
    variant = local(*settings)
    made = plan(variant)
    assert made.faults == ()
    _, steps = recorded([variant], DryRun())
    expected = {(kind, label) for kind, _, label in steps if kind != "report"}
    assert {(step.kind, step.what) for step in made.steps} == expected


@pytest.mark.usefixtures("chatpipe_home")
def test_a_model_is_looked_up_as_its_base_and_its_adapter(local):
    variant = local("v", "a+d")
    recipe = Recipe([variant], Placeholders())
    recipe.report("v")
    [tuned] = recipe.finetuned_models()
    assert find_model(variant) == tuned.ref
    assert tuned.ref.artifacts() == (tuned.ref.base, tuned.ref.adapter)
    [base] = recipe.base_models()
    assert base.ref.adapter_path is None and base.ref.artifacts() == (tuned.ref.base,)
