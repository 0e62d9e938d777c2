"""The hub's real client against a hub on this machine: what is fetched, and how it fails."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatpipe.data.catalog import DATASETS
from tests.support.hub import COMMIT, Repo, hub
from tests.support.rows import alpaca_rows, dialogue_rows

pytestmark = pytest.mark.slow
SHARED = Path(__file__).parents[3] / "shared" / "data"
CONVERTED = "refs/convert/parquet"
# huggingface_hub reads its environment once, at import: every fetch is a process of its own.
FETCH = """
import json, sys
from chatpipe.store.store import store
from chatpipe.config.schema import BaseModelRef, Dataset
from chatpipe.data.normalize import Normalize
from chatpipe.errors import ChatpipeError
from chatpipe.sources.fetch import FetchDataset, FetchModel
asked = json.loads(sys.argv[1])
try:
    if "model" in asked:
        made = store().get_or_build(FetchModel.of(BaseModelRef.model_validate(asked["model"])))
        out = {"path": str(made.path), **made.details()}
    else:
        dataset = Dataset.model_validate(asked["dataset"])
        raw = store().get_or_build(FetchDataset.of(dataset))
        made = store().get_or_build(Normalize.of(dataset, raw))
        out = {"path": str(made.path), "raw": raw.details(), **made.details()}
except ChatpipeError as error:
    out = {"error": type(error).__name__, "message": str(error)}
print(json.dumps(out))
"""


@pytest.fixture
def fetch(tmp_path):
    """Fetch a data set (and normalize it) or a model from the hub at that address."""

    def run(address, home="home", **asked):
        environment = {
            **os.environ,
            "CHATPIPE_HOME": str(tmp_path / home),
            "HF_HOME": str(tmp_path / "cache"),
            "HF_ENDPOINT": address,
            "HF_HUB_OFFLINE": asked.pop("offline", "0"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": asked.pop("token", ""),
        }
        done = subprocess.run(
            [sys.executable, "-c", FETCH, json.dumps(asked)],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        run.output = done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    run.folder = tmp_path
    return run


def parquet(rows, rename=None):
    table = pa.Table.from_pylist(rows)
    table = table.rename_columns([(rename or {}).get(n, n) for n in table.column_names])
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def alpaca(rows=40, **options):
    return Repo({"data/train-00000-of-00001.parquet": parquet(alpaca_rows(rows))}, **options)


def in_splits(pattern, rename=None):
    rows = dialogue_rows(40)
    parts = {"train": rows[:20], "validation": rows[20:30], "test": rows[30:]}
    return {pattern.format(split): parquet(part, rename) for split, part in parts.items()}


ALPACA = {"name": "rows", "repo": "owner/rows", "files": ["data/*.parquet"]}


def test_a_data_set_is_fetched_linked_and_its_commit_recorded(fetch):
    with hub({"datasets/owner/rows": alpaca()}) as (address, _):
        made = fetch(address, dataset=ALPACA)
    assert made["account"]["kept"] == 40
    assert made["raw"]["commit"] == COMMIT and "instead_of" not in made["raw"]


def test_the_upstream_row_count_is_held_against_what_came(fetch):
    with hub({"datasets/tatsu-lab/alpaca": alpaca()}) as (address, _):
        made = fetch(address, dataset=DATASETS["alpaca"].model_dump(mode="json"))
    assert made["warnings"] == [
        "data set alpaca: 52,002 rows expected, 40 found; the source has changed, or only a part "
        "of it is here."
    ]


@pytest.mark.parametrize(
    ("name", "repo", "instead_of"),
    [
        (
            "li2017dailydialog/daily_dialog",
            Repo(in_splits("default/{}/0000.parquet"), revisions=("main", CONVERTED)),
            0,
        ),
        ("OpenRL/daily_dialog", Repo(in_splits("data/{}-00000-of-00001.parquet")), 1),
        (
            "roskoN/dailydialog",
            Repo(
                in_splits("full/{}/0000.parquet", {"dialog": "utterances", "act": "acts"}),
                revisions=("main", CONVERTED),
            ),
            2,
        ),
    ],
)
def test_dailydialog_comes_from_the_first_source_that_has_it(fetch, name, repo, instead_of):
    with hub({f"datasets/{name}": repo}) as (address, _):
        made = fetch(address, dataset=DATASETS["dialog"].model_dump(mode="json"))
    assert made["account"]["kept"] == 40
    assert made["raw"]["repo"] == name
    assert len(made["raw"].get("instead_of", [])) == instead_of
    rows = pq.read_table(Path(made["path"]) / "examples.parquet").to_pylist()
    assert rows[0]["input"] == "Have you seen the river of painters ?"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real rows are not beside this checkout")
@pytest.mark.parametrize("name", ["alpaca", "dialog"])
def test_real_rows_in_the_upstream_layout_pass_through_the_hubs_client(fetch, name):
    folder = SHARED / {"alpaca": "alpaca", "dialog": "daily_dialog"}[name]
    repo = Repo.of(folder, revisions=("main", CONVERTED))
    dataset = DATASETS[name]
    with hub({f"datasets/{dataset.repo}": repo}) as (address, _):
        made = fetch(address, dataset=dataset.model_dump(mode="json"))
    there = sum(pq.read_metadata(path).num_rows for path in folder.rglob("*.parquet"))
    assert made["account"]["read"] == there


def test_a_base_model_is_fetched_without_pickles_and_loads(fetch, tiny_model_dir):
    repo = Repo.of(tiny_model_dir)
    repo.small["pytorch_model.bin"] = b"a pickle"
    with hub({"models/owner/tiny": repo}) as (address, asked):
        made = fetch(address, model={"repo": "owner/tiny"})
    assert not any("pytorch_model.bin" in request for request in asked)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert AutoTokenizer.from_pretrained(made["path"]).eos_token_id is not None
    assert AutoModelForCausalLM.from_pretrained(made["path"]).config.hidden_size == 64


@pytest.mark.parametrize("reset", [False, True])
def test_a_file_that_was_cut_is_resumed_and_not_fetched_anew(fetch, reset):
    """The client writes what it has in pieces of 10 MiB: the second is cut."""
    rows = [{**row, "output": os.urandom(2**18).hex()} for row in alpaca_rows(40)]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    repo = Repo({"rows.jsonl": content}, cut_after=15 * 2**20, reset=reset)
    with hub({"datasets/owner/rows": repo}) as (address, asked):
        made = fetch(address, dataset={**ALPACA, "files": ["*.jsonl"]})
    parts = [request for request in asked if request.startswith("GET datasets/")]
    assert made["account"]["kept"] == 40
    assert len(parts) == 2 and parts[1].endswith(f"bytes={10 * 2**20}-")


def test_files_at_the_root_are_found_and_a_models_other_folders_left_alone(fetch, tiny_model_dir):
    rows = "".join(json.dumps(row) + "\n" for row in alpaca_rows(8)).encode()
    model = Repo.of(tiny_model_dir)
    model.small["onnx/model.safetensors"] = b"another format"
    repos = {"datasets/owner/rows": Repo({"train.jsonl": rows}), "models/owner/tiny": model}
    with hub(repos) as (address, asked):
        made = fetch(address, dataset={"name": "rows", "repo": "owner/rows"})
        fetch(address, model={"repo": "owner/tiny"})
    assert made["account"]["kept"] == 8
    assert not any("onnx" in request for request in asked)


def test_a_model_that_lacks_a_shard_is_refused(fetch, tiny_model_dir):
    model = Repo.of(tiny_model_dir)
    files = {"a": "model.safetensors", "b": "model-00002.safetensors"}
    index = {"metadata": {}, "weight_map": files}
    model.small["model.safetensors.index.json"] = json.dumps(index).encode()
    with hub({"models/owner/tiny": model}) as (address, _):
        made = fetch(address, model={"repo": "owner/tiny"})
    assert "owner/tiny: not a model directory; it lacks model-00002.safetensors" in made["message"]


def test_a_mirrors_password_is_in_no_message(fetch):
    made = fetch("http://me:secret@127.0.0.1:1", dataset=ALPACA)
    assert "127.0.0.1:1 cannot be reached" in made["message"] and "secret" not in fetch.output


def test_a_server_that_is_down_for_a_moment_is_asked_again(fetch):
    with hub({"datasets/owner/rows": alpaca(unavailable=2)}) as (address, _):
        assert fetch(address, dataset=ALPACA)["account"]["kept"] == 40


def test_what_the_cache_has_needs_no_network(fetch):
    with hub({"datasets/owner/rows": alpaca()}) as (address, _):
        fetch(address, dataset=ALPACA)
    for offline in ("1", "0"):  # said to be offline; and the hub gone without a word
        made = fetch(address, home=f"other-{offline}", dataset=ALPACA, offline=offline)
        assert made["account"]["kept"] == 40 and made["raw"]["commit"] == COMMIT


def test_a_renamed_repository_is_followed_and_its_new_name_said(fetch):
    repos = {
        "datasets/owner/rows": Repo(renamed_to="datasets/owner/renamed"),
        "datasets/owner/renamed": alpaca(),
    }
    with hub(repos) as (address, _):
        made = fetch(address, dataset=ALPACA)
    assert made["raw"]["renamed_to"] == "owner/renamed"
    assert "owner/rows is called owner/renamed today" in fetch.output


def test_a_private_repository_needs_the_token_which_is_nowhere_written(fetch):
    with hub({"datasets/owner/rows": alpaca(token="hf_secret")}) as (address, _):
        refused = fetch(address, dataset=ALPACA, token="hf_wrong_one")
        made = fetch(address, dataset=ALPACA, token="hf_secret")
    assert refused["error"] == "SourceError" and "HF_TOKEN" in refused["message"]
    assert made["account"]["kept"] == 40
    written = [path for path in fetch.folder.joinpath("home").rglob("*") if path.is_file()]
    assert not any(b"hf_secret" in path.read_bytes() for path in written)
    assert "hf_" not in refused["message"].lower().replace("hf_token", "")


@pytest.mark.parametrize(
    ("repo", "error", "said"),
    [
        (None, "SourceError", "owner/rows: {address} has no such dataset, or it is private; "),
        (
            alpaca(gated=True),
            "SourceError",
            "owner/rows: its owner asks for consent; give it at {address}/datasets/owner/rows, "
            "then set HF_TOKEN.",
        ),
        (alpaca(revisions=()), "SourceError", "owner/rows: has no revision v2; see "),
        (
            alpaca(unavailable=1000, revisions=("v2",)),
            "HubUnreachableError",
            "owner/rows: {address} answered 503; try again, or set HF_ENDPOINT to a mirror.",
        ),
        (
            Repo({"notes.txt": b"no rows"}, revisions=("v2",)),
            "SourceError",
            "matches data/*.parquet",
        ),
    ],
    ids=["missing", "gated", "no such revision", "down", "no such file"],
)
def test_each_refusal_is_one_clear_sentence(fetch, repo, error, said):
    with hub({"datasets/owner/rows": repo} if repo else {}) as (address, _):
        made = fetch(address, dataset={**ALPACA, "revision": "v2"})
    assert made["error"] == error, made
    assert said.format(address=address) in made["message"] and "\n" not in made["message"]


def test_no_hub_at_all_is_said_with_its_address(fetch):
    with hub({}) as (address, _):
        pass
    made = fetch(address, dataset=ALPACA)
    assert made["error"] == "HubUnreachableError"
    assert f"owner/rows: {address} cannot be reached" in made["message"]
    assert "HF_ENDPOINT" in made["message"]


def test_offline_without_a_cache_says_what_to_do(fetch):
    made = fetch("http://127.0.0.1:1", dataset=ALPACA, offline="1")
    assert made["error"] == "SourceError"
    assert (
        "HF_HUB_OFFLINE is set" in made["message"]
        and "run once with a network" in (made["message"])
    )


def test_a_hub_that_is_down_is_no_reason_for_another_data_set(fetch):
    made = fetch("http://127.0.0.1:1", dataset=DATASETS["dialog"].model_dump(mode="json"))
    assert made["error"] == "HubUnreachableError"
    assert "li2017dailydialog" in made["message"] and "OpenRL" not in made["message"]


@pytest.mark.parametrize(
    ("digest", "home"), [(None, "home"), (None, "another"), (hashlib.sha256, "another")]
)
def test_a_damaged_file_in_the_hubs_cache_is_refused_and_fetched_anew_once_it_is_gone(
    fetch, digest, home
):
    """Small files are named as git does (None), large ones by the SHA-256 of their content. In
    another home nothing says what they were."""
    with hub({"datasets/owner/rows": alpaca()}) as (address, _):
        first = fetch(address, dataset=ALPACA)
        [blob] = (fetch.folder / "cache").rglob("blobs/*")
        content = blob.read_bytes()
        if digest:
            named = blob.with_name(digest(content).hexdigest())
            [link] = (fetch.folder / "cache").rglob("snapshots/*/data/*")
            blob.rename(named)
            link.unlink()
            link.symlink_to(named)
            blob = named
        blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        refused = fetch(address, home=home, dataset=ALPACA)
        assert refused["error"] == "SourceError"
        assert f"{blob}" in refused["message"] and "remove that file" in refused["message"]
        blob.unlink()
        again = fetch(address, home=home, dataset=ALPACA)
    assert again["account"] == first["account"]
