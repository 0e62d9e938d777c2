"""A guard against lost speed: ratios, not times, because machines differ and are shared.

Each ratio has a floor well below what benchmarks/README.md reports, and a round above it ends the
test: only a fall that shows in every round fails.
"""

from pathlib import Path

import pytest

from benchmarks import harness
from tests.support.tiny import tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.speed]
ROUNDS = 3


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Wide enough for products to matter, small enough for seconds."""
    return tiny_model(tmp_path_factory.mktemp("speed"), hidden_size=256, intermediate_size=768)


@pytest.mark.parametrize(
    ("module", "theirs", "rows", "floor"),
    [
        ("benchmarks.training", "padded", 24, 1.35),
        ("benchmarks.evaluation", "padded", 60, 0.8),
        ("benchmarks.generation", "one-by-one", None, 3.5),
    ],
)
def test_ours_is_faster_by_more_than_the_floor(base: Path, module, theirs, rows, floor):
    options = [f"--base={base}", *([f"--rows={rows}"] if rows else ["--tokens=8"])]
    ratios = []
    while len(ratios) < ROUNDS and not any(ratio >= floor for ratio in ratios):
        found = harness.contend(module, [theirs, "ours"], 1, options)
        ratios.append(harness.ratio(found, "tokens_per_s", "ours", theirs)["median"])
    assert max(ratios) >= floor, f"ours is {ratios} times as fast as {theirs}"
