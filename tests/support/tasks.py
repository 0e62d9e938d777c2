"""Three tiny tasks of lm-evaluation-harness, whose data are local files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.support.rows import write_jsonl

COLOURS = ("red", "green", "blue", "yellow")
MULTIPLE_CHOICE: dict[str, Any] = {
    "output_type": "multiple_choice",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "gold",
    "num_fewshot": 2,
    "fewshot_split": "train",
}
ROLLING: dict[str, Any] = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": name} for name in ("word_perplexity", "bits_per_byte")],
}
GENERATED: dict[str, Any] = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{text}}",
    "generation_kwargs": {"until": ["e", "\n\n"], "max_gen_toks": 12, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
LAST_WORD: dict[str, Any] = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{text[:3]}}",
    "metric_list": [{"metric": name} for name in ("perplexity", "acc")],
}
TASKS = {
    "colours": MULTIPLE_CHOICE,
    "rolling": ROLLING,
    "generated": GENERATED,
    "last_word": LAST_WORD,
}


def write_tasks(folder: Path, count: int = 12) -> list[Path]:
    """Write the tasks' YAML files and their data into the folder; return the YAML files."""
    folder.mkdir(exist_ok=True)
    rows = [
        {
            "question": f"What is number {place} of {', '.join(COLOURS[: 2 + place % 3])}?",
            "choices": list(COLOURS),
            "gold": place % 4,
            "text": f"It is {COLOURS[place % 4]}, and {place} is no colour.",
        }
        for place in range(count)
    ]
    write_jsonl(folder / "items.jsonl", rows)
    write_jsonl(folder / "examples.jsonl", rows[:4])
    return [write_task(folder, name, task) for name, task in TASKS.items()]


def write_task(folder: Path, name: str, task: dict[str, Any]) -> Path:
    """Write a task over those data."""
    path = folder / f"{name}.yaml"
    files = {"train": "examples.jsonl", "test": "items.jsonl"}
    plain = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": files}}
    path.write_text(yaml.safe_dump({**plain, "test_split": "test", **task}), "utf-8")
    return path
