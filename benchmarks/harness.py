"""What the benchmarks share: contenders in processes of their own, round by round, and ratios.

A ratio is taken within a round, where both contenders met the same machine; quoted is the median
of the rounds with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from chatpipe.runtime.environment import environment

_RESULTS = Path(__file__).parent / "results"
MARK = "RESULT "

Result = dict[str, Any]
Rounds = dict[str, list[Result]]


def add_only(parser: argparse.ArgumentParser, contenders: Sequence[str]) -> None:
    """The option that leaves out some of those that ours is compared with."""
    others = [name for name in contenders if name != "ours"]
    parser.add_argument("--only", nargs="+", choices=others, help="compare with these alone")


def chosen(contenders: Sequence[str], only: Sequence[str] | None) -> list[str]:
    """Ours, and of the others those that the option names; all where it is left out."""
    return [name for name in contenders if name == "ours" or not only or name in only]


def command(
    module: str, rounds: int, passed: Sequence[str], only: Sequence[str] | None = None
) -> str:
    """What was typed, for whoever wants it again."""
    left = ["--only", *only] if only else []
    return " ".join(["python -m", module, f"--rounds {rounds}", *passed, *left])


def contend(module: str, contenders: Sequence[str], rounds: int, options: Sequence[str]) -> Rounds:
    """Every contender once a round, each in a process of its own."""
    found: Rounds = {name: [] for name in contenders}
    for number in range(rounds):
        for name in contenders:
            result = in_process(module, [name, *options])
            found[name].append(result)
            print(f"round {number + 1}, {name}: {json.dumps(result)}", flush=True)
    return found


def in_process(module: str, arguments: Sequence[str]) -> Result:
    """What that module says of one contender."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--contender", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**environment(), "CUDA_VISIBLE_DEVICES": "0", **os.environ},
    )
    said = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not said:
        raise SystemExit(f"{module} {' '.join(arguments)} failed:\n{done.stdout[-2000:]}")
    return dict(json.loads(said[-1].removeprefix(MARK)))


def say(result: Result) -> None:
    """A contender's result, for the process that asked for it."""
    print(MARK + json.dumps(result), flush=True)


def ratio(rounds: Rounds, figure: str, ours: str, theirs: str) -> Result:
    """How many times our figure is theirs: the median of the rounds, and its range."""
    pairs = zip(rounds[ours], rounds[theirs], strict=True)
    ratios = [mine[figure] / other[figure] for mine, other in pairs]
    return {"median": median(ratios), "least": min(ratios), "most": max(ratios)}


def ratios(rounds: Rounds) -> dict[str, Result]:
    """How many times as fast ours is as each of the others."""
    return {name: ratio(rounds, "tokens_per_s", "ours", name) for name in rounds if name != "ours"}


def results() -> Path:
    """The directory of this kind of machine's results: ratios of one kind say little of another.
    Kinds are told apart by device and type alone; each file names its processor or GPU."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    made = _RESULTS / f"{device}-{computed_in()}"
    made.mkdir(parents=True, exist_ok=True)
    return made


def computed_in() -> str:
    """The type that this machine's matrix products are in, where nobody says another."""
    from chatpipe.config.schema import Quantization
    from chatpipe.models.devices import compute_dtype

    return str(compute_dtype(Quantization())).removeprefix("torch.")


def write(name: str, command: str, found: Result) -> None:
    """`<name>.json` among the results, with the machine, the versions and the command."""
    about = {"date": datetime.now(UTC).date().isoformat(), "command": command, **machine()}
    path = results() / f"{name}.json"
    path.write_text(json.dumps({**about, **found}, indent=1) + "\n", "utf-8")
    print(f"written: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


def machine() -> Result:
    """The device and the versions that the figures hang on."""
    from chatpipe.models.devices import device_name, library_versions

    return {
        "device": device_name(),
        "computed_in": computed_in(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "versions": library_versions(),
    }


def table(title: str, rows: Sequence[dict[str, str]]) -> None:
    """Print rows as a table."""
    from rich.console import Console
    from rich.table import Table

    made = Table(title=title, title_justify="left")
    for name in rows[0]:
        made.add_column(name, justify="left" if name == next(iter(rows[0])) else "right")
    for row in rows:
        made.add_row(*row.values())
    Console(width=110).print(made)


def rate_table(title: str, rounds: Rounds) -> None:
    """Print each contender's median tokens a second, and what ours is faster by."""
    compared = ratios(rounds)
    rows = [
        {
            "contender": name,
            "tokens/s": f"{median(r['tokens_per_s'] for r in results):,.0f}",
            "ours is faster by": shown(compared.get(name)),
        }
        for name, results in rounds.items()
    ]
    table(title, rows)


def shown(found: Result | None) -> str:
    """A ratio as text; nothing for the one that is compared."""
    return f"{found['median']:.2f} [{found['least']:.2f}, {found['most']:.2f}]" if found else ""
