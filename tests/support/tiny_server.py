"""A server process of a tiny base and two adapters, for tests: `python -m tests.support.tiny_server
DIRECTORY KEY MOST_WAITING MOST_ROWS` prints its address."""

import sys
from pathlib import Path

from chatpipe.config.schema import BaseModelRef, Quantization, Variant
from chatpipe.models.model_ref import ModelRef
from chatpipe.serving.served_models import ServedBase
from chatpipe.serving.server import loaded, run
from chatpipe.sources.fetch import FetchModel
from chatpipe.store.store import store
from tests.support.adapters import RandomAdapter
from tests.support.variants import ALPACA, small_variant

EXACT = Quantization(method="none", compute_dtype="float32")


def served(directory: Path) -> ServedBase:
    """Variants `one` and `two`, which differ by their adapters and templates."""
    base = store().get_or_build(FetchModel.of(BaseModelRef(repo=str(directory))))
    variants = []
    for seed, (name, kind) in enumerate((("one", "alpaca"), ("two", "short")), 1):
        adapter = store().get_or_build(RandomAdapter(base=base, seed=seed))
        settings = {**small_variant(directory, ALPACA), "prompt_template": kind}
        variant = Variant.model_validate({"name": name, **settings})
        variants.append((variant, ModelRef(base, adapter)))
    paths = tuple(model.adapter_path for _, model in variants)
    return ServedBase(base.path, paths, EXACT, tuple(variants))


if __name__ == "__main__":
    directory, key, most_waiting, most_rows = sys.argv[1:]
    with loaded(served(Path(directory)), int(most_waiting), int(most_rows)) as service:
        run(
            service,
            ("127.0.0.1", 0),
            key,
            lambda address: print(address, flush=True),
            lambda replies: print(f"finishing {replies}", flush=True),
        )
