"""Data sets of the hub by repository, config and split, as `datasets.load_dataset` names them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.hub import COMMIT, Repo, hub
from tests.support.rows import alpaca_rows

pytestmark = pytest.mark.slow
# huggingface_hub reads its environment once, at import: every hub has a process of its own, which
# reads several data sets.
FETCH = """
import json, sys
from chatpipe.config.schema import Dataset, Variant
from chatpipe.errors import ChatpipeError
from chatpipe.study.recipe import Recipe
from chatpipe.study.resolving import StoreBuilder
from chatpipe.study.removal import artifacts_of, remove
from pydantic import ValidationError
for given in json.loads(sys.argv[1]):
    try:
        forget = given.pop("forget", False)
        dataset = Dataset.model_validate({"name": "rows", "repo": "owner/rows", **given})
        if forget:
            remove(artifacts_of(Variant(name="v", datasets=(dataset,)), "sources"))
        recipe = Recipe([], StoreBuilder())
        raw, examples = recipe.raw(dataset), recipe.examples(dataset)
        out = {"path": str(examples.path), "key": examples.key, "raw_key": raw.key,
            "raw": raw.details(), **examples.details()}
    except (ChatpipeError, ValidationError) as error:
        out = {"error": type(error).__name__, "message": str(error)}
    print("out: " + json.dumps(out))
"""
CARD = """---
configs:
- config_name: default
  data_files:
  - split: train_sft
    path: data/train_sft-*
  - split: test_sft
    path: data/test_sft-*
  - split: train_gen
    path: data/train_gen-*
- config_name: short
  data_files: short/*.parquet
---
# Rows
"""


@pytest.fixture
def fetch(tmp_path):
    """Read data sets from the hub at that address; what became of each."""

    def run(address, *datasets, home="home", **variables):
        (tmp_path / "user").mkdir(exist_ok=True)
        environment = {
            **os.environ,
            "CHATPIPE_HOME": str(tmp_path / home),
            "HOME": str(tmp_path / "user"),
            "HF_HOME": str(tmp_path / "cache"),
            "HF_ENDPOINT": address,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "",
            **variables,
        }
        done = subprocess.run(
            [sys.executable, "-c", FETCH, json.dumps(datasets)],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        lines = [line for line in done.stdout.splitlines() if line.startswith("out: ")]
        return [json.loads(line.removeprefix("out: ")) for line in lines]

    run.folder = tmp_path
    return run


def parquet(rows):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


ROWS = alpaca_rows(100)
PARTS = {
    "data/train_sft-00000-of-00002.parquet": ROWS[:25],
    "data/train_sft-00001-of-00002.parquet": ROWS[25:40],
    "data/test_sft-00000-of-00001.parquet": ROWS[40:50],
    "data/train_gen-00000-of-00001.parquet": ROWS[50:70],
}


def chat_repo(**options):
    files = {name: parquet(rows) for name, rows in PARTS.items()}
    files |= {"README.md": CARD.encode(), "short/rows.parquet": parquet(ROWS[70:80])}
    return Repo(files, **options)


def instructions(made):
    table = pq.read_table(Path(made["path"]) / "examples.parquet")
    return table["instruction"].to_pylist()


def of(rows):
    return [row["instruction"] for row in rows]


def test_a_split_and_its_slices_are_the_rows_that_datasets_gives(fetch, tmp_path):
    """The reference is `load_dataset` itself, on a directory with the same files."""
    from datasets import load_dataset

    repo = chat_repo()
    copy = tmp_path / "copy"
    for name, content in repo.small.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    specs = ["train_sft", "train_sft[:5%]", "train_sft[10:-5]", "test_sft[50%:]+train_gen[:3]"]
    with hub({"datasets/owner/rows": repo}) as (address, asked):
        made = fetch(address, *({"split": spec} for spec in specs))
        short = fetch(address, {"config": "short"}, home="another")
    for spec, one in zip(specs, made, strict=True):
        expected = load_dataset(str(copy), split=spec, cache_dir=str(tmp_path / "reference"))
        assert instructions(one) == expected["instruction"][:], spec
        assert one["raw"]["commit"] == COMMIT and one["raw"]["split"] == spec
    assert instructions(short[0]) == of(ROWS[70:80]) and short[0]["raw"]["split"] == "train"
    fetched = {r.rpartition("/")[2] for r in asked if r.startswith("GET datasets/")}
    assert len(fetched) == 6  # the README and what the splits need, each file once
    assert not list((tmp_path / "user").iterdir())  # nothing in ~/.cache
    assert {path.name for path in (tmp_path / "cache").iterdir()} <= {"hub", "assets", "xet"}


def test_splits_are_not_joined_unless_that_is_asked_for(fetch):
    one_to_train = Repo(
        {f"data/{name}-00000-of-00001.parquet": parquet(ROWS[:9]) for name in ("train", "test")}
    )
    two_configs = Repo(chat_repo().small)
    card = CARD.replace("config_name: default", "config_name: long")
    two_configs.small["README.md"] = card.encode()
    repos = {"rows": chat_repo(), "two": one_to_train, "configs": two_configs}
    with hub({f"datasets/owner/{name}": repo for name, repo in repos.items()}) as (address, _):
        nothing_named, no_config_named, by_files, of_two, *others = fetch(
            address,
            {},
            {"repo": "owner/configs"},
            {"files": ["data/*.parquet"]},
            {"repo": "owner/two"},
            {"config": "default"},
            {"split": "train"},
            {"split": "train_sft + train_gen"},
            {"config": "long"},
            {"repo": "owner/two", "config": "default"},
        )
    assert nothing_named["message"] == (
        "owner/rows: has the configs default, short (splits train_sft, test_sft, train_gen, "
        "train), which are not joined by default; name one under `config`, and its split under "
        "`split`."
    )
    assert "has the configs long, short (splits" in no_config_named["message"]
    assert by_files["account"]["read"] == 70  # joined as they are named
    assert of_two["account"]["read"] == 9 and "a test split" in of_two["warnings"][0]
    several, missing, joined, no_config, default = others
    assert several["message"] == (
        "owner/rows: has the splits train_sft, test_sft, train_gen; name one of them under "
        "`split`, or several as train_sft+test_sft."
    )
    assert missing["message"] == (
        "owner/rows: has no split train; it has train_sft, test_sft, train_gen."
    )
    assert instructions(joined) == of(ROWS[:40] + ROWS[50:70])
    assert no_config["message"] == "owner/rows: has no config long; it has default, short."
    assert default["raw"]["split"] == "train"
    assert default["warnings"] == [
        "data set rows: left out test: a test split; to train on it, too, name it under `split`."
    ]


def test_the_commit_is_a_part_of_the_key_and_a_branch_is_asked_once(fetch):
    dataset = {"split": "train_sft[:10]"}
    repo = chat_repo()
    with hub({"datasets/owner/rows": repo}) as (address, _):
        [first] = fetch(address, dataset)
        repo.commit = "f" * 40
        repo.small["data/train_sft-00000-of-00002.parquet"] = parquet(ROWS[80:])
        again, moved = fetch(address, dataset, {**dataset, "forget": True})
        [pinned] = fetch(address, {**dataset, "revision": "f" * 40}, home="a-third")
    assert again == first and first["raw"]["commit"] == COMMIT
    assert moved["raw"]["commit"] == "f" * 40 and instructions(moved) == of(ROWS[80:90])
    assert moved["raw_key"] != first["raw_key"] and moved["key"] != first["key"]
    assert pinned["raw_key"] == moved["raw_key"] and pinned["key"] == moved["key"]


def test_what_the_cache_has_needs_no_network(fetch):
    dataset = {"split": "train_sft"}
    with hub({"datasets/owner/rows": chat_repo()}) as (address, _):
        first, *_ = fetch(address, dataset, {"split": "test_sft+train_gen"})
    for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        made, short = fetch(address, dataset, {"config": "short"}, home=variable, **{variable: "1"})
        assert made["key"] == first["key"]
        assert f"{variable} is set, and" in short["message"]
    [gone] = fetch(address, dataset, home="gone")  # the hub does not answer, and nobody said so
    assert gone["key"] == first["key"]


def test_each_refusal_is_one_sentence(fetch):
    shard = {"data/train-00000-of-00002.parquet": parquet(ROWS[:5])}
    two = {"README.md": CARD.replace("config_name: default", "config_name: long").encode()}
    repos = {
        "gated": chat_repo(gated=True),
        "scripted": Repo({"scripted.py": b"import os", **shard}),
        "partial": Repo(shard),
        "configs": Repo(chat_repo().small | two),
        "pictures": Repo({"train/a.png": b"png", "train/b.png": b"png"}),
        "broken": Repo({"train.parquet": b"no parquet"}),
        "empty": Repo({"notes.bin": b"no rows"}),
        "rows": chat_repo(),
        "yaml": Repo({"README.md": b"---\nconfigs: [\n---\n", "train.jsonl": jsonl(ROWS)}),
    }
    expected = {
        "missing": "has no such dataset, or it is private; check the name",
        "gated": "owner/gated: its owner asks for consent; give it at ",
        "scripted": "owner/scripted: has a loading script, which is not run; name the hub's "
        "conversion of its rows with `revision: refs/convert/parquet`, or another copy.",
        "partial": "owner/partial: has 1 of the 2 files data/train-*-of-00002.parquet; ",
        "configs": "owner/configs: has the configs long, short; name one of them under `config`.",
        "pictures": "owner/pictures: its files are of the kind imagefolder, not rows (parquet, ",
        "broken": "owner/broken: cannot be read by datasets: Parquet magic bytes not found",
        "empty": "owner/empty: cannot be read by datasets: No (supported) data files found in "
        "owner/empty",
        "rows": "owner/rows: has no revision v9; see ",
        "yaml": "owner/yaml: cannot be read by datasets: ",
    }
    given = {name: {"repo": f"owner/{name}", "split": "train"} for name in expected}
    given["rows"]["revision"] = "v9"
    with hub({f"datasets/owner/{name}": repo for name, repo in repos.items()}) as (address, _):
        made = fetch(address, *given.values(), {"repo": "owner/rows", "split": "train_sft[70:90]"})
    for sentence, one in zip(expected.values(), made, strict=False):
        assert one["error"] == "SourceError" and sentence in one["message"], one
        assert "\n" not in one["message"] and "/tmp" not in one["message"]
    assert 'Instruction "train_sft[70:90]" corresponds to no data' in made[-1]["message"]


def test_the_format_is_found_in_rows_whose_types_differ(fetch):
    """`datasets` gives such values a type of its own; messages may hold text or a list of parts."""
    parts = [{"type": "text", "text": "Hello"}]
    talks = [
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
        [{"role": "user", "content": parts}, {"role": "assistant", "content": "Hi"}],
    ]
    rows = [{"messages": talk} for talk in talks * 5]
    repos = {
        "datasets/owner/rows": Repo({"train.jsonl": jsonl(rows)}),
        "datasets/owner/numbers": Repo({"train.jsonl": jsonl([{"number": 1}] * 5)}),
    }
    numbers = {"repo": "owner/numbers", "format": "auto"}
    with hub(repos) as (address, _):
        made, by_split, by_file = fetch(
            address, {"split": "train", "format": "auto"}, {**numbers, "split": "train"}, numbers
        )
    # No format has these columns: the sentence names the source, not the store's copy of it.
    assert by_split["message"].startswith("owner/numbers, split train: "), by_split
    assert by_file["message"].startswith("owner/numbers/train.jsonl: "), by_file
    assert made["account"]["kept"] == 10
    assert instructions(made)[:2] == ["Hi", "Hello"]
