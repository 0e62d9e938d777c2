"""A study of 100 cells over three data sets: what they share is made once, and cells that are in
the store cost little."""

import time
from collections import Counter

import pytest

from benchmarks.wide_study import CELLS, Placeholders, variants_of, write_studies
from chatpipe.study.recipe import Recipe
from chatpipe.tokenization import token_cache

pytestmark = pytest.mark.usefixtures("prefect")
SHARED = {"raw": 3, "examples": 3, "base-model": 1, "corpus": 5}


@pytest.fixture(scope="module")
def studies(tmp_path_factory, tiny_model_dir):
    """The cells of the study of 100, and the one of the other study."""
    paths = write_studies(tmp_path_factory.mktemp("wide"), tiny_model_dir)
    return {path.rpartition("/")[2].removesuffix(".yaml"): variants_of(path) for path in paths}


@pytest.fixture(scope="module")
def built(studies):
    """What was built, by kind, at first and when resolved again; how often each file of tokens was
    written."""
    written = Counter()
    write = token_cache._write_whole

    def count(path, request, tables):
        written[path.name] += 1
        write(path, request, tables)

    resolver = Placeholders()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_cache, "_write_whole", count)
        Recipe(studies["wide"], resolver).report("wide")
        first = Counter(resolver.builds)
        Recipe(studies["wide"], resolver).report("wide")
    again = Counter(resolver.builds)
    Recipe(studies["alone"], resolver).report("alone")
    return first, again, written


def test_what_the_cells_share_is_downloaded_normalized_merged_and_tokenized_once(built):
    first, again, written = built
    assert {kind: first[kind] for kind in SHARED} == SHARED
    assert first["adapter"] == CELLS and first["scores"] == 3 * (CELLS + 1)
    assert again == first
    assert set(written.values()) == {1} and len(written) >= SHARED["corpus"]


@pytest.mark.slow
@pytest.mark.speed
def test_a_cell_that_is_in_the_store_costs_little(built, studies):
    """The CPU time of this process, which others prolong little; benchmarks/README.md has the
    seconds of the command on a quiet machine."""
    from flows.compare import compare
    from tasks.caching import BUILT, HITS

    seconds = {}
    for _ in range(2):  # the first time leaves Prefect's records in the artifacts
        for study, cells in studies.items():
            BUILT.clear()
            HITS.clear()
            started = time.process_time()
            compare(study, cells)
            seconds[study] = time.process_time() - started
            is_again = not BUILT
    assert is_again
    assert (seconds["wide"] - seconds["alone"]) / (CELLS - 1) < 0.1, seconds
