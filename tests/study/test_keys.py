"""Keys: the same request has one key wherever it is asked, and another setting has another key."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from chatpipe.config.prompt_schema import Prompt, PromptTemplate, PromptTurn
from chatpipe.config.schema import (
    BaseModelRef,
    Dataset,
    Evaluation,
    Fallback,
    Generation,
    ImportedAdapter,
    Lora,
    Quantization,
    Split,
    Training,
    Variant,
)
from chatpipe.data.merge import Merge
from chatpipe.data.normalize import Normalize
from chatpipe.evaluation.score import Score
from chatpipe.generation.ask import Ask
from chatpipe.generation.replies import Reply
from chatpipe.models.model_ref import ModelRef
from chatpipe.report.build import MakeReport
from chatpipe.report.measured import Measured
from chatpipe.sources.fetch import FetchDataset, FetchModel
from chatpipe.sources.hub_splits import FindSplits, ReadSplit
from chatpipe.sources.saved_rows import ReadSaved
from chatpipe.store.artifact import Artifact, Request
from chatpipe.tokenization.token_cache import TEXTS, TokenRequest, digest_of, token_file
from chatpipe.training.finetune import Finetune
from tests.support.rows import alpaca_rows, write_jsonl

STEPS = (
    FetchDataset,
    FindSplits,
    ReadSplit,
    ReadSaved,
    Normalize,
    Merge,
    Finetune,
    Score,
    Ask,
    Reply,
)
REQUESTS = {step.__name__: step for step in STEPS}
SECTIONS = (Lora, Quantization, Training, Generation, Split, Evaluation)
FEW = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)

texts = st.text(max_size=12)
hashes = st.text("0123456789abcdef", min_size=40, max_size=40)
artifacts = st.builds(
    Artifact, kind=st.sampled_from(["corpus", "examples"]), key=hashes, digest=hashes
)


def section(model: type[BaseModel]) -> st.SearchStrategy[BaseModel]:
    """Any valid settings of that section."""
    values = {
        name: st.from_type(field.rebuild_annotation()) for name, field in model.model_fields.items()
    }
    if "micro_batch_tokens" in values:  # a bound of one member of a union
        values["micro_batch_tokens"] = st.just("auto") | st.integers(16, 1 << 20)
    if "target_modules" in values:  # some name, and none twice
        names = st.lists(texts.filter(bool), min_size=1, max_size=3, unique=True).map(tuple)
        values["target_modules"] = st.just("all-linear") | names
    return st.fixed_dictionaries(values).map(model.model_validate)


templates = st.builds(
    lambda before, after: PromptTemplate(
        name="alpaca",
        with_input=f"{before}{{instruction}} {{input}} ### Response:{after}",
        without_input=f"{before}{{instruction}} ### Response:{after}",
    ),
    st.text("abc \nü", max_size=8),
    st.text(" \n", max_size=2),
)
fallbacks = st.builds(
    Fallback,
    repo=texts,
    revision=st.none() | texts,
    files=st.tuples(texts),
    columns=st.dictionaries(texts, texts, max_size=3),
)
turns = st.tuples(
    st.builds(PromptTurn, role=st.just("user"), content=texts.filter(str.strip)),
    st.builds(PromptTurn, role=st.just("assistant"), content=texts.filter(str.strip)),
)
prompts = st.builds(
    Prompt,
    id=st.just("p"),
    instruction=texts.filter(str.strip),
    input=texts,
    system=st.none() | texts.filter(str.strip),
    history=st.just(()) | turns,
)
of_a_model = {
    "base": artifacts,
    "adapter": st.none() | artifacts,
    "prompt_template": templates,
    "quantization": section(Quantization),
}
requests = st.one_of(
    st.builds(
        FetchDataset,
        path=st.none() | texts,
        repo=st.none() | texts,
        revision=st.none() | texts,
        files=st.tuples(texts, texts),
        fallbacks=st.tuples(fallbacks),
        content=st.none() | texts,
    ),
    st.builds(FindSplits, repo=texts, revision=st.none() | texts, config=st.none() | texts),
    st.builds(ReadSplit, splits=artifacts, split=texts, left_out=st.just({})),
    st.builds(ReadSaved, path=st.just("p"), split=texts, left_out=st.just({}), content=texts),
    st.builds(
        Normalize,
        raw=artifacts,
        name=texts,
        format=texts,
        files=st.tuples(texts),
        columns=st.dictionaries(texts, texts, max_size=3),
        expected_rows=st.none() | st.integers(1),
    ),
    st.builds(Merge, examples=st.tuples(artifacts, artifacts), split=section(Split)),
    st.builds(
        Finetune,
        base=artifacts,
        corpus=artifacts,
        prompt_template=templates,
        quantization=section(Quantization),
        lora=section(Lora),
        training=section(Training),
        tracked=st.none(),
    ),
    st.builds(
        Score,
        heldout=artifacts,
        max_length=st.integers(16),
        batch_tokens=st.integers(16),
        **of_a_model,
    ),
    st.builds(
        Ask,
        panel=st.tuples(prompts),
        generation=section(Generation),
        asked=st.just(("template",)),
        **of_a_model,
    ),
)


def backwards(value: Any) -> Any:
    """The same JSON value, every mapping's keys in the reverse order."""
    if isinstance(value, dict):
        return {name: backwards(value[name]) for name in reversed(list(value))}
    return [backwards(item) for item in value] if isinstance(value, list) else value


@FEW
@given(requests)
def test_neither_a_round_trip_through_json_nor_the_order_of_fields_changes_a_key(request):
    plain = json.loads(request.model_dump_json())
    for same in (plain, backwards(plain)):
        assert type(request).model_validate(same).key() == request.key()


@FEW
@given(requests, requests)
def test_two_requests_have_one_key_only_where_they_ask_for_the_same(one, other):
    assume(one != other and not isinstance(one, FetchDataset))
    upstream = [artifact.digest for artifact in (*one.upstream(), *other.upstream())]
    assume(len(set(upstream)) == len(upstream))
    assert one.key() != other.key()


def test_another_process_of_another_hash_seed_gives_the_same_keys(tmp_path):
    """In another directory, store, language and with other devices in view, too."""
    drawn: list[Request] = []

    @FEW
    @given(requests)
    def draw(request):
        drawn.append(request)

    draw()
    lines = [json.dumps([type(r).__name__, json.loads(r.model_dump_json())]) for r in drawn]
    code = (
        "import json, sys; from tests.study.test_keys import REQUESTS\n"
        "for line in sys.stdin:\n"
        "    step, fields = json.loads(line)\n"
        "    print(REQUESTS[step].model_validate(fields).key())"
    )
    environment = {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONHASHSEED": "12345",
        "CHATPIPE_HOME": str(tmp_path / "elsewhere"),
        "CUDA_VISIBLE_DEVICES": "",
        "LC_ALL": "C",
        "TZ": "Asia/Tokyo",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        input="\n".join(lines),
        env={**os.environ, **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [request.key() for request in drawn]


@pytest.mark.parametrize("model", SECTIONS, ids=lambda model: model.__name__)
def test_each_setting_alone_changes_the_key_of_what_it_decides(model):
    """Those of the bootstrap decide the report alone, which holds the whole variant; tasks, and
    answers to prompts of held-out rows, are steps of their own, of which each has its key."""
    plain = Variant(name="v", datasets=(Dataset(name="d", path="d.jsonl"),))
    name = next(n for n, f in Variant.model_fields.items() if f.annotation is model)
    unchanged = {request.kind: request.key() for request in steps_of(plain)}
    for setting in model.model_fields:
        of_other_steps = {"bootstrap_samples", "seed", "tasks", "panel_rows"}
        if setting in of_other_steps and model is Evaluation:
            continue
        other = getattr(plain, name).model_copy(update={setting: another(model, setting)})
        changed = plain.model_copy(update={name: other})
        differing = {r.kind for r in steps_of(changed) if r.key() != unchanged[r.kind]}
        assert differing, f"{model.__name__}.{setting}"


def another(model: type[BaseModel], setting: str) -> Any:
    """A valid value of that setting that is not its default."""
    default = model.model_fields[setting].default
    options = (1, 2, 0.5, 64, "all", "none", "linear", "cut_left", "float32", ("q_proj",), True)
    for value in (*options, False):
        try:
            valid = getattr(model.model_validate({setting: value}), setting)
        except ValidationError:
            continue
        if valid != default:
            return valid
    raise AssertionError(f"{model.__name__}.{setting}: the table lacks a value of its kind")


def steps_of(variant: Variant) -> list[Request]:
    """The variant's steps, on artifacts that are there already."""
    base, rows, adapter = (
        Artifact(kind=kind, key=kind * 4, digest=kind) for kind in ("base", "rows", "adapter")
    )
    model = ModelRef(base, adapter)
    return [
        Merge(examples=(rows,), split=variant.split),
        Finetune.of(variant, base, rows),
        Score.of(variant, model, rows),
        Ask.of(variant, model),
        Reply.of(variant, model, rows),
    ]


def test_a_panel_without_system_and_earlier_turns_has_the_key_that_it_had_before_there_were_any():
    base = Artifact(kind="base-model", key="0" * 40, digest="0" * 40)
    plain = {
        "name": "v",
        "base_model": {"repo": "owner/base"},
        "datasets": [{"name": "a", "path": "a.jsonl"}],
    }
    keys = {
        Ask.of(Variant.model_validate(plain | panel), ModelRef(base)).key()
        for panel in ({}, {"panel": [{"id": "p", "instruction": "Hi", "system": "Be kind."}]})
    }
    assert "dfd03847bb34c5c97f5380dbd586e3f93f4d69d1" in keys and len(keys) == 2


def test_a_variant_that_is_trained_here_has_the_key_that_it_had_before_there_were_others(
    monkeypatch,
):
    monkeypatch.setattr(MakeReport, "version", 15)  # the only step with a whole variant in its key
    some = Artifact(kind="scores", key="0" * 40, digest="0" * 40)
    here = Variant(name="v", datasets=(Dataset(name="d", path="d.jsonl"),))
    elsewhere = {"imported": ImportedAdapter(path="a", content="1")}
    keys = [
        MakeReport(
            study="s",
            models=(
                Measured(
                    name="v",
                    base_model="b",
                    variant=variant,
                    adapter=some,
                    corpus=some,
                    scores={"d": some},
                    generations=some,
                ),
            ),
            examples={},
            heldout={},
        ).key()
        for variant in (here, here.model_copy(update=elsewhere))
    ]
    assert keys[0] == "74750ee5a2ff44d31a405ab28d56a4d7432b828e" != keys[1]


def test_names_and_what_changes_no_result_are_in_no_key():
    plain = Variant(name="v", datasets=(Dataset(name="d", path="d.jsonl"),))
    renamed = plain.model_copy(update={"name": "w", "tracking": "tensorboard", "train_together": 4})
    assert [r.key() for r in steps_of(plain)] == [r.key() for r in steps_of(renamed)]


def test_passes_that_auto_chooses_have_the_key_of_the_defaults_before_it():
    """Whatever a device has room for. Another number is another training: with dropout, passes
    decide which tokens are dropped."""

    def keys(**training):
        datasets = (Dataset(name="d", path="d.jsonl"),)
        variant = Variant(name="v", datasets=datasets, training=Training(**training))
        return [request.key() for request in steps_of(variant)]

    auto = keys()
    assert keys(micro_batch_tokens="auto", gradient_checkpointing="auto") == auto
    assert keys(micro_batch_tokens=2048, gradient_checkpointing=False) == auto
    others = [{"micro_batch_tokens": 1024}, {"gradient_checkpointing": True}]
    assert all(keys(**other) != auto for other in others)


def test_an_artifact_counts_by_what_came_out_not_by_how_it_was_asked_for():
    split = Split()
    one, other = (
        Merge(examples=(Artifact(kind="examples", key=key, digest="d" * 64),), split=split)
        for key in ("a" * 40, "b" * 40)
    )
    assert one.key() == other.key()


def test_the_same_files_elsewhere_have_the_same_key(tmp_path, tiny_model_dir):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        write_jsonl(tmp_path / place / "rows.jsonl", alpaca_rows(3))
        (tmp_path / place / "base").mkdir()
        for file in tiny_model_dir.iterdir():
            (tmp_path / place / "base" / file.name).write_bytes(file.read_bytes())
    for one, other in (
        [FetchDataset.of(Dataset(name="d", path=str(tmp_path / p))) for p in ("here", "there")],
        [FetchModel.of(BaseModelRef(repo=str(tmp_path / p / "base"))) for p in ("here", "there")],
    ):
        assert one.key() == other.key()


def tables(rows: list[tuple[str, str, str]], cuts: set[int]) -> list[pa.Table]:
    """Those rows, cut into tables at these places."""
    whole = pa.table({n: pa.array([r[i] for r in rows], pa.string()) for i, n in enumerate(TEXTS)})
    ends = sorted({0, *(cut for cut in cuts if cut < len(rows)), len(rows)})
    return [whole.slice(a, b - a) for a, b in pairwise(ends)]


row_lists = st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=8)


@FEW
@given(row_lists, st.sets(st.integers(1, 7)), row_lists)
def test_rows_are_known_by_their_texts_however_they_are_cut(rows, cuts, others):
    assert digest_of(tables(rows, set())) == digest_of(tables(rows, cuts))
    assert (rows == others) == (digest_of(tables(rows, cuts)) == digest_of(tables(others, cuts)))


def test_a_token_cache_is_found_by_tokenizer_template_and_text_alone(chatpipe_home, tiny_model_dir):
    from transformers import AutoTokenizer

    from chatpipe.config.prompts import template

    def made(tokenizer, name, rows):
        """The number of files that are there after these were asked for."""
        parts = tables(rows, set())
        request = TokenRequest(tokenizer, template(name))
        token_file(request, lambda: parts, digest_of(parts))
        return len(list((chatpipe_home / "cache" / "tokens").glob("*.arrow")))

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    rows = [("a", "b", "c")]
    assert made(tokenizer, "alpaca", rows) == 1
    again = AutoTokenizer.from_pretrained(tiny_model_dir)
    again.pad_token = again.eos_token
    again(["a", "bb"], padding=True, truncation=True, max_length=8)
    assert made(again, "alpaca", rows) == 1
    assert made(tokenizer, "paper", rows) == 2
    assert made(tokenizer, "alpaca", [("a", "b", "d")]) == 3
    again.add_tokens(["<new>"])
    assert made(again, "alpaca", rows) == 4
