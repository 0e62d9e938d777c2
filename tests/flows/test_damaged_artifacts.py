"""A byte flipped in each kind of artifact: it is made anew or refused, and never used."""

import errno
import json
import logging
import shutil
from itertools import chain
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chatpipe.errors import ArtifactError, DiskError
from chatpipe.report import Report
from chatpipe.report.build import MakeReport
from chatpipe.store.manifest import MANIFEST, RECORD
from chatpipe.store.store import store
from chatpipe.study.loading import load_variant
from chatpipe.tokenization import token_cache
from tests.flows.test_untouched_sources import contents
from tests.support.rows import alpaca_rows, write_jsonl
from tests.support.variants import ALPACA, small_variant, write_settings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect", "steps_in_this_process")]

KINDS = ("raw", "examples", "corpus", "base-model", "adapter", "scores", "generations", "report")


def flip(file: Path, place: int | None = None) -> None:
    """Flip one bit; size and name stay."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 1
    file.write_bytes(content)


@pytest.fixture(scope="module")
def variant(tmp_path_factory, tiny_model_dir):
    folder = tmp_path_factory.mktemp("damaged")
    model = Path(shutil.copytree(tiny_model_dir, folder / "model"))
    (model / MANIFEST).write_text('{"the user\'s": "own"}')  # as beside an exported adapter
    (model / "adapter_config.json").write_text("{}")
    write_jsonl(folder / "a.jsonl", alpaca_rows(16))
    training = {"epochs": 2, "learning_rate": 0.01, "global_batch_size": 4}
    settings = small_variant(model, ALPACA, training=training)
    return load_variant(str(write_settings(folder / "damaged.yaml", settings)))


def verify(*arguments):
    """(exit code, lines) of the command `verify`."""
    done = command("verify", *arguments)
    return done.exit_code, done.output.splitlines()


def command(*arguments):
    from chatpipe.cli.app import app

    return CliRunner().invoke(app, list(arguments))


def run(variant):
    """(the report's figures, the kinds of what was built)."""
    from tasks.caching import BUILT

    BUILT.clear()
    artifact = compare(variant)
    report = Report.model_validate_json((artifact.path / "report.json").read_text("utf-8"))
    figures = [(cell.model, cell.heldout, cell.metric, cell.value) for cell in report.scores]
    return figures, [name.partition("/")[0] for name in BUILT]


def compare(variant):
    """The report's artifact."""
    from flows.compare import compare

    return compare("damaged", [variant])


@pytest.fixture(scope="module")
def sources(variant):
    """The contents of the model's and the rows' directory, before any command."""
    folder = Path(variant.datasets[0].path).parent
    return folder, contents(folder)


@pytest.fixture(scope="module")
def first(variant, sources):
    return run(variant)[0]


@pytest.fixture(scope="module")
def of_study(variant, first):
    """A function: where the study's artifacts of that kind are; other tests use this store too."""
    lineage = compare(variant).lineage()
    return lambda kind: [
        store().path(kind, item["key"]) for item in lineage if item["kind"] == kind
    ]


@pytest.fixture
def variant_file(variant):
    return str(Path(variant.datasets[0].path).with_name("damaged.yaml"))


def files_of(path):
    """The files of an artifact that are its own: what is linked is the user's."""
    names = json.loads((path / MANIFEST).read_text())["files"]
    return [path / name for name in (*names, MANIFEST) if not (path / name).is_symlink()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_byte_in_any_file_is_found_and_named(of_study, kind):
    assert of_study(kind)
    for path in of_study(kind):
        for file in files_of(path):
            content = file.read_bytes()
            for place in (0, len(content) // 2, len(content) - 1):
                flip(file, place)
                assert store().find(kind, path.name) is None
                with pytest.raises(ArtifactError, match=f"{file.name}.*verify --mend"):
                    store().check(kind, path.name)
                file.write_bytes(content)
        assert store().find(kind, path.name)


def test_what_is_damaged_is_made_anew_and_gives_the_same_figures(variant, first, of_study):
    assert run(variant) == (first, [])
    damaged = [kind for kind in KINDS if kind != "base-model"]  # that one is linked
    for kind in damaged:
        for path in of_study(kind):
            flip(files_of(path)[0])
    figures, built = run(variant)
    assert figures == first and set(built) == set(damaged)
    assert run(variant) == (first, [])


def test_a_flipped_byte_in_a_record_of_prefects_costs_nothing(variant, first, of_study):
    for place in (0, 20, 100, 200, 300):
        for path in chain.from_iterable(map(of_study, KINDS)):
            flip(path / RECORD, place)
        assert run(variant)[0] == first


def test_a_failed_step_says_nothing_of_serializers(variant, first, monkeypatch, caplog):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "/full")

    monkeypatch.setattr(MakeReport, "build", fail)
    other = variant.model_copy(
        update={"evaluation": variant.evaluation.model_copy(update={"bootstrap_samples": 101})}
    )
    with caplog.at_level(logging.WARNING), pytest.raises(DiskError, match=r"^/full: no space is"):
        run(other)
    assert "serializer" not in caplog.text


def test_verify_reads_every_byte_and_finds_nothing_wrong(first, variant_file):
    for arguments in ((), (variant_file,)):
        code, lines = verify(*arguments)
        assert code == 0 and len(lines) == 1 and lines[0].endswith(", 0 damaged")
        assert int(lines[0].split()[0]) >= len(KINDS)


def test_verify_names_what_is_damaged_and_mends_it(variant, first, of_study, variant_file):
    [adapter] = of_study("adapter")
    [corpus, *_] = of_study("corpus")
    tokens = next(token_cache.tokens_folder().glob("*.arrow"))
    for file in (adapter / "adapter_model.safetensors", corpus / MANIFEST, tokens):
        flip(file)
    code, lines = verify()
    names = [f"adapter/{adapter.name}", f"corpus/{corpus.name}", f"tokens/{tokens.name}"]
    assert code == 1 and lines[-1].endswith(" 3 damaged")
    assert [line.split(": ")[:2] for line in lines[:-1]] == [["damaged", name] for name in names]
    assert verify(variant_file)[1][-1].endswith(" 2 damaged")
    code, lines = verify("--mend")
    assert code == 1 and sum(line.startswith("removed: ") for line in lines) == 3
    assert not adapter.exists() and not corpus.exists() and not tokens.exists()
    assert verify()[0] == 0
    assert run(variant)[0] == first
    assert verify()[0] == 0


def test_no_command_touches_a_source(first, variant_file, sources):
    for arguments in (
        ("plan", variant_file),
        ("validate", variant_file),
        ("show", variant_file),
        ("ask", variant_file, "Greet."),
        ("verify", "--mend"),
        ("forget", variant_file, "--kind", "sources", "--yes"),
        ("plan", variant_file),
        ("verify",),
    ):
        done = command(*arguments)
        assert done.exit_code == 0, done.output
        folder, before = sources
        assert contents(folder) == before, arguments
