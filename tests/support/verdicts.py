"""What `validate`, `plan` and a run make of one variant: two commands, and the steps in order."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from chatpipe.cli.app import app
from chatpipe.store.artifact import Artifact
from chatpipe.study.loading import load_variant
from chatpipe.study.recipe import Recipe
from chatpipe.study.resolving import StoreBuilder
from tests.support.rows import alpaca_rows

SETTINGS: dict[str, Any] = {
    "split": {"heldout": 0.3},
    "lora": {"rank": 2, "dropout": 0},
    "training": {"epochs": 1, "learning_rate": 0.01, "global_batch_size": 16},
    "evaluation": {"bootstrap_samples": 100},
    "panel": [{"id": "p", "instruction": "Hello?"}],
    "generation": {"max_new_tokens": 2},
}
Change = Callable[[Path], None]


def lines(*rows: Any) -> bytes:
    """Rows as JSON Lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


ROWS = lines(*alpaca_rows(30))


@dataclass(frozen=True)
class Case:
    """A variant that is plain but for what is named, and whether it is fine; where it is not, a
    part of the sentence that refuses it."""

    name: str
    refused: str = ""
    rows: bytes = ROWS
    file: str = "rows.jsonl"
    dataset: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    base: Change | None = None

    def write(self, folder: Path, model: Path) -> Path:
        """The variant's file, beside its rows and its base."""
        place = folder / self.file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(self.rows)
        base = folder / "base"
        base.mkdir()
        for file in model.iterdir():
            (base / file.name).write_bytes(file.read_bytes())
        if self.base:
            self.base(base)
        content = {
            **SETTINGS,
            "base_model": {"repo": str(base)},
            "datasets": [{"name": "rows", "path": str(place), **self.dataset}],
        }
        for section, values in self.settings.items():
            both = isinstance(values, dict) and isinstance(content.get(section), dict)
            content[section] = {**content[section], **values} if both else values
        path = folder / "variant.yaml"
        path.write_text(yaml.safe_dump(content, allow_unicode=True), "utf-8")
        return path


@dataclass(frozen=True)
class Verdict:
    """How a command ended: whether it calls the variant fine, and what it says."""

    fine: bool
    text: str


def verdict(command: str, variant: Path) -> Verdict:
    """That of `chatpipe validate` or `chatpipe plan`; a refusal is exit code 2 and sentences."""
    done = CliRunner().invoke(app, [command, str(variant)])
    if done.exit_code == 0:
        return Verdict(True, done.output)
    assert done.exit_code == 2, f"exit code {done.exit_code}: {done.output} {done.exception!r}"
    sentences = done.stderr.strip().splitlines()
    assert sentences and all(len(line) < 1000 for line in sentences), done.output
    assert not any("Traceback" in line for line in sentences), done.stderr
    return Verdict(False, done.stderr)


def cases(
    *groups: Sequence[Case], pending: Mapping[str, str] | None = None
) -> pytest.MarkDecorator:
    """Those cases, each a test under its name; `pending` says what some of them wait for."""
    reasons = pending or {}
    marks = {name: pytest.mark.xfail(reason=reason) for name, reason in reasons.items()}
    each = [case for group in groups for case in group]
    return pytest.mark.parametrize(
        "case",
        [pytest.param(case, id=case.name, marks=marks.get(case.name, ())) for case in each],
    )


def judge(case: Case, folder: Path, model: Path) -> None:
    """What validate refuses, plan refuses; what plan calls fine, runs."""
    variant = case.write(folder, model)
    validated, planned = verdict("validate", variant), verdict("plan", variant)
    if not validated.fine:
        assert not planned.fine, f"validate refuses what plan calls fine: {validated.text}"
    if case.refused:
        assert not planned.fine, "plan calls it fine"
        assert case.refused in planned.text, planned.text
    else:
        assert planned.fine, planned.text
        assert run(variant).path.is_dir()


def run(path: Path) -> Artifact:
    """The report of the variant, all steps of which were run in this process."""
    return Recipe([load_variant(str(path))], StoreBuilder()).report("a study")
