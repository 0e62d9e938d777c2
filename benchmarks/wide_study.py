"""What a cell that is in the store costs, in a study of 100 cells: seconds of whole commands.

    python -m benchmarks.wide_study [--rounds 5]

Nothing is trained: of adapters, scores and answers, a cached study reads the manifests alone.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import harness, random_base
from benchmarks.orchestration import CLI, seconds
from chatpipe.config.schema import Variant
from chatpipe.config.yaml_files import to_yaml
from chatpipe.evaluation.score import Score
from chatpipe.models.loading import load_tokenizer
from chatpipe.report.build import MakeReport
from chatpipe.report.schema import Report
from chatpipe.store.artifact import Artifact, Request
from chatpipe.store.store import store
from chatpipe.study.recipe import Recipe
from chatpipe.study.resolving import Resolver, Step
from chatpipe.study.studies import load_study, study_variants
from chatpipe.training.finetune import Finetune
from chatpipe.training.rows import encode_training_rows

CELLS = 100
ROWS = 12
WITHOUT_MODEL = frozenset({"raw", "examples", "corpus", "base-model"})


def write_studies(folder: Path, model: Path) -> tuple[str, str]:
    """Write a study of 100 cells (five choices of three data sets, four learning rates, five seeds)
    and a study of the first of them; return their files."""
    sets = [{"name": name, "path": f"{name}.jsonl"} for name in ("a", "b", "c")]
    for number, dataset in enumerate(sets):
        rows = [
            {"instruction": f"{dataset['name']} {row}", "input": "", "output": "An answer."}
            for row in range(ROWS + number)
        ]
        lines = "\n".join(map(json.dumps, rows))
        (folder / dataset["path"]).write_text(lines)
    base = {
        "name": "cell",
        "base_model": {"repo": str(model)},
        "datasets": sets[:1],
        "split": {"heldout": 0.3},
    }
    vary = {
        "datasets": [*([dataset] for dataset in sets), sets[:2], sets],
        "training.learning_rate": [0.001, 0.003, 0.01, 0.03],
    }
    studies = {
        "wide": {"base": base, "vary": vary, "seeds": 5},
        "alone": {"base": base, "seeds": 1},
    }
    paths = [folder / f"{name}.yaml" for name in studies]
    for path, study in zip(paths, studies.values(), strict=True):
        path.write_text(to_yaml(study))
    return str(paths[0]), str(paths[1])


def variants_of(path: str) -> list[Variant]:
    """Return the cells of that study."""
    return study_variants(load_study(path), origin=path)


class Placeholders(Resolver):
    """Builds rows, and encodes those that are trained on and scored; a step with a model leaves a
    file. `builds` counts what is built, by kind."""

    def __init__(self) -> None:
        self.builds = Counter[str]()
        self._tokenizer = cache(load_tokenizer)

    def resolve(self, step: Step) -> Artifact:
        request = step.request

        def build(into: Path) -> dict[str, Any]:
            self.builds[request.kind] += 1
            if request.kind in WITHOUT_MODEL:
                return request.build(into)
            self._leave_file(request, into)
            return {}

        return store().get_or_build(request, build)

    def _leave_file(self, request: Request, into: Path) -> None:
        (into / "file").write_text(request.key())
        if isinstance(request, Finetune):
            tokenizer = self._tokenizer(request.base.path)
            template = request.prompt_template
            encode_training_rows(request.corpus, template, request.training, tokenizer)
        elif isinstance(request, Score):
            request.encoded(request.heldout_rows(), self._tokenizer(request.base.path))
        elif isinstance(request, MakeReport):
            (into / "report.json").write_text(_empty_report(request.study).model_dump_json())


def _empty_report(study: str) -> Report:
    return Report(
        study=study,
        created="2026-11-28T00:00:00+00:00",
        models=[],
        heldout=[],
        scores=[],
        differences=[],
        answers=[],
        accounts=[],
        settings={},
        generation={},
        versions={},
        device="none",
    )


def measure(paths: Sequence[str], rounds: int, home: Path) -> list[list[float]]:
    """Return the seconds of `chatpipe compare` of each study, whose cells are all stored."""
    environment = {"CHATPIPE_HOME": str(home), "PREFECT_HOME": str(home / "prefect")}
    for path in paths:  # Prefect's records of the steps, and its database
        seconds([*CLI, "compare", path], 1, **environment)
    measured: list[list[float]] = [[] for _ in paths]
    for _ in range(rounds):
        for times, path in zip(measured, paths, strict=True):
            times += seconds([*CLI, "compare", path], 1, **environment)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        os.environ["CHATPIPE_HOME"] = str(home)
        random_base.write(home / "base", "tiny")
        paths = write_studies(home, home / "base")
        for path in paths:
            Recipe(variants_of(path), Placeholders()).report(Path(path).stem)
        wide, alone = measure(paths, rounds, home)
    per_cell = [1000 * (w - a) / (CELLS - 1) for w, a in zip(wide, alone, strict=True)]
    rows = {"one cell, s": alone, "100 cells, s": wide, "each further cell, ms": per_cell}
    harness.table(
        "A study whose cells are in the store",
        [
            {
                "what": name,
                "median": f"{median(values):.2f}",
                "least": f"{min(values):.2f}",
                "most": f"{max(values):.2f}",
            }
            for name, values in rows.items()
        ],
    )
    command = f"python -m benchmarks.wide_study --rounds {rounds}"
    harness.write("wide_study", command, {"seconds": {"alone": alone, "wide": wide}})


if __name__ == "__main__":
    main()
