"""Rows a second and memory of Normalize and Merge on synthetic Alpaca rows.

    python benchmarks/data_at_scale.py --rows 100000 1000000 10000000 --json data_at_scale.json

Rows are written by a seeded generator and fetched into a store of their own; neither is timed.
Each size runs in a process of its own. The account of every row is compared with the generator's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

TARGET_ROWS_PER_S = 200_000
TARGET_RESIDENT_BYTES = 1 << 30
WORDS = 20_000
AT_ONCE = 20_000
LONGEST = 4_096
REPEATED = 10_000  # rows that others repeat
# Of 100,000 rows; one more is not text, and one is no JSON.
DUPLICATES, EMPTY = 1_000, 100

Row = dict[str, Any]


class Generator:
    """Seeded rows with lengths near those of the Alpaca data: an instruction of about 60
    characters, an input in two of five rows, an output of about 270."""

    def __init__(self, seed: int, bad_lines: bool) -> None:
        self._random = random.Random(seed)
        self._bad_lines = bad_lines  # rows that no column of text can hold
        letters = "etaoinshrdlucmfgypwbvk"
        words = [
            "".join(self._random.choices(letters, k=self._random.randint(2, 9)))
            for _ in range(WORDS)
        ]
        self._pool = " ".join(self._random.choices(words, k=10 * WORDS))
        self._kept: list[Row] = []
        self.expected: Counter[str] = Counter()

    def rows(self, first: int, end: int) -> list[Row | None]:
        """Those rows, counted by what must become of them; None is a line that is no JSON."""
        made = [self._any(number) for number in range(first, end)]
        self.expected.update(reason for reason, _ in made)
        return [row for _, row in made]

    def _any(self, number: int) -> tuple[str, Row | None]:
        if self._kept and self._random.random() < DUPLICATES / 100_000:
            return "duplicate", self._random.choice(self._kept)
        place, row = number % 100_000, self._fresh(number)
        if place < EMPTY:
            return "empty output", {**row, "output": "  "}
        if place == EMPTY and self._bad_lines:
            return "not text", {**row, "output": 7}
        if place == EMPTY + 1 and self._bad_lines:
            return "undecodable", None
        if len(self._kept) < REPEATED:
            self._kept.append(row)
        return "kept", row

    def _fresh(self, number: int) -> Row:
        with_input = self._random.random() < 0.4
        return {
            "instruction": f"{self._piece(50)} {number}",
            "input": self._piece(60) if with_input else "",
            "output": f"{self._piece(270)} {number}.",
        }

    def _piece(self, mean: int) -> str:
        start = self._random.randrange(len(self._pool) - LONGEST)
        length = min(LONGEST, 1 + int(self._random.gammavariate(2.0, mean / 2.0)))
        return self._pool[start : start + length]


def generate(path: Path, rows: int, seed: int) -> dict[str, int]:
    """Write so many rows; how many must be kept and dropped, by reason."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columnar = path.suffix == ".parquet"
    generator = Generator(seed, bad_lines=not columnar)
    spans = [(first, min(rows, first + AT_ONCE)) for first in range(0, rows, AT_ONCE)]
    if columnar:
        schema = pa.schema([(name, pa.string()) for name in ("instruction", "input", "output")])
        with pq.ParquetWriter(path, schema) as writer:
            for span in spans:
                writer.write_table(pa.Table.from_pylist(generator.rows(*span), schema))
    else:
        with path.open("w") as file:
            for span in spans:
                lines = (json.dumps(row) if row else "{" for row in generator.rows(*span))
                file.writelines(f"{line}\n" for line in lines)
    return dict(generator.expected)


def measure(path: Path, home: Path) -> dict[str, Any]:
    """Normalize and Merge the file through a store in `home`, in this process."""
    os.environ["CHATPIPE_HOME"] = str(home)
    import pandas  # noqa: F401  pyarrow imports it at its first conversion

    from chatpipe.config.schema import Dataset, Split
    from chatpipe.data.merge import Merge
    from chatpipe.data.normalize import Normalize
    from chatpipe.sources.fetch import FetchDataset
    from chatpipe.store.artifact import Request
    from chatpipe.store.store import store

    dataset = Dataset(name="synthetic", path=str(path))
    raw = store().get_or_build(FetchDataset.of(dataset))
    steps: dict[str, dict[str, float]] = {}

    def timed(name: str, request: Request) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        artifact = store().get_or_build(request)
        steps[name] = {
            "wall_s": round(time.perf_counter() - wall, 2),
            "cpu_s": round(time.process_time() - cpu, 2),
            "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        return artifact

    os.sync()  # what was generated and fetched must not be written while the steps are timed
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    examples = timed("normalize", Normalize.of(dataset, raw))
    corpus = timed("merge", Merge(examples=(examples,), split=Split(heldout=0.02)))
    accounts = [artifact.details()["account"] for artifact in (examples, corpus)]
    found = {"kept": accounts[1]["kept"], **accounts[0]["dropped"], **accounts[1]["dropped"]}
    return {
        "rows": accounts[0]["read"],
        "steps": steps,
        "resident_before_bytes": before,
        "account": found,
        "digests": {artifact.kind: artifact.digest for artifact in (examples, corpus)},
        "heldout_rows": corpus.details()["heldout_rows"],
    }


def _in_worker(*arguments: str) -> dict[str, Any]:
    """This file with those arguments in a fresh process; what its last line says."""
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(result.stdout.splitlines()[-1]))


def run(rows: int, file_format: str, seed: int, scratch: Path | None) -> dict[str, Any]:
    """Generate, measure and check one size."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        path = Path(folder) / f"rows.{file_format}"
        expected = _in_worker("generate", str(path), str(rows), str(seed))
        found = _in_worker("measure", str(path), str(Path(folder) / "home"))
        size = path.stat().st_size
    if found["account"] != expected:
        raise SystemExit(f"the account is {found['account']}, but {expected} was generated")
    wall = sum(step["wall_s"] for step in found["steps"].values())
    cpu = sum(step["cpu_s"] for step in found["steps"].values())
    peak = max(step["peak_resident_bytes"] for step in found["steps"].values())
    return {
        **found,
        "file_bytes": size,
        "wall_s": round(wall, 2),
        "cpu_s": round(cpu, 2),
        "rows_per_s": round(rows / wall),
        "rows_per_cpu_s": round(rows / cpu),
        "peak_resident_bytes": int(peak),
    }


def table(results: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| rows | bytes a row | normalize | merge | rows/s | CPU µs a row | peak resident |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        steps, rows = result["steps"], result["rows"]
        lines.append(
            f"| {rows:,} | {result['file_bytes'] / rows:.0f} "
            f"| {steps['normalize']['wall_s']} s | {steps['merge']['wall_s']} s "
            f"| {result['rows_per_s']:,} | {result['cpu_s'] / rows * 1e6:.2f} "
            f"| {result['peak_resident_bytes'] / 2**20:,.0f} MiB |"
        )
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    packages = ("pyarrow", "numpy", "xxhash")
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def main() -> None:
    """Measure every size, print a table, write JSON."""
    if sys.argv[1:2] == ["generate"]:
        path, rows, seed = sys.argv[2:]
        print(json.dumps(generate(Path(path), int(rows), int(seed))))
        return
    if sys.argv[1:2] == ["measure"]:
        print(json.dumps(measure(Path(sys.argv[2]), Path(sys.argv[3]))))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--format", choices=("jsonl", "parquet"), default="jsonl")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", type=Path, help="directory with room for the files")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    results = []
    for rows in options.rows:
        results.append(run(rows, options.format, options.seed, options.scratch))
        print(table(results[-1:]), flush=True)
    last = results[-1]
    report = {
        **machine(),
        "format": options.format,
        "seed": options.seed,
        "target": {"rows_per_s": TARGET_ROWS_PER_S, "resident_bytes": TARGET_RESIDENT_BYTES},
        "fast_enough": last["rows_per_s"] >= TARGET_ROWS_PER_S,
        "small_enough": last["peak_resident_bytes"] <= TARGET_RESIDENT_BYTES,
        "results": results,
    }
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
