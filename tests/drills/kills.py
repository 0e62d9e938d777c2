"""kill -9 at random moments of a study, again and again until it is done: is the outcome equal?

`python -m tests.drills.kills --rounds 100` kills a hundred times. A round is one kill: of the
process that builds a step, of the command, or of the whole process group.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.drills.place import (
    RUNS_WITHIN_S,
    STUDY,
    Place,
    descendants,
    is_worker,
    kill,
    live_server,
    write_study,
)

TARGETS = ("worker", "parent", "group")


@dataclass
class Tally:
    """What was killed, how many studies were finished, and what was wrong with them."""

    kills: Counter[str] = field(default_factory=Counter)
    studies: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def rounds(self) -> int:
        """Kills that hit something."""
        return sum(self.kills.values())


def undisturbed(place: Place) -> dict[str, Any]:
    """The outcome of the study where nobody disturbs it."""
    done = place.run("compare", STUDY)
    assert done.returncode == 0, done.stdout + done.stderr
    return place.outcome()


def disturbed(place: Place, seed: int, kills: int) -> Counter[str]:
    """Run the study until it is done, and kill it so many times before that, if it lasts."""
    draws = random.Random(seed)
    hit: Counter[str] = Counter()
    for _ in range(kills):
        target = draws.choice(TARGETS)
        command = place.start("compare", STUDY)
        _wait_for_moment(place, command, draws)
        victim = _kill(place, command, target)
        if victim is None:
            assert command.wait(RUNS_WITHIN_S) == 0, place.log()[-3000:]
            return hit  # it was faster
        hit[victim] += 1
    command = place.start("compare", STUDY)
    assert command.wait(RUNS_WITHIN_S) == 0, place.log()[-3000:]
    return hit


def _wait_for_moment(place: Place, command: subprocess.Popen[str], draws: random.Random) -> None:
    """A moment of the start, or one soon after the next few artifacts and checkpoints: neither
    depends on how fast the machine is."""
    if draws.random() < 0.2:
        time.sleep(draws.uniform(0, 5))
        return
    seen = place.products()
    until = len(seen) + draws.randint(1, 6)
    while len(seen) < until and command.poll() is None:
        time.sleep(0.01)
        seen |= place.products()
    time.sleep(draws.uniform(0, 0.2))


def _kill(place: Place, command: subprocess.Popen[str], target: str) -> str | None:
    """What was killed: the target, the command where no step is being built, or nothing where it
    has ended."""
    if target == "worker":
        deadline = time.monotonic() + 1
        while not any(kill(process) for process in descendants(command) if is_worker(process)):
            if command.poll() is not None or time.monotonic() > deadline:
                target = "parent"
                break
    if command.poll() is not None:
        return None
    if target == "parent":
        command.kill()
    elif target == "group":
        os.killpg(command.pid, signal.SIGKILL)
    command.wait(RUNS_WITHIN_S)
    return target


def drill(folder: Path, rounds: int, seed: int, api: str | None = None, each: int = 6) -> Tally:
    """So many kills, `each` a study, the studies' outcomes compared with an undisturbed one's."""
    deployments = write_study(folder)
    expected = undisturbed(Place(folder / "undisturbed", deployments, api))
    tally = Tally()
    while tally.rounds < rounds:
        place = Place(folder / f"study-{tally.studies}", deployments, api)
        kills = min(each, rounds - tally.rounds)
        tally.kills += disturbed(place, seed + tally.studies, kills)
        tally.studies += 1
        where = f"study {tally.studies}, seed {seed + tally.studies - 1}"
        tally.faults += [f"{where}: left behind: {item}" for item in place.left_behind()]
        tally.faults += [f"{where}: {item}" for item in differences(expected, place.outcome())]
        print(f"{where}: {dict(tally.kills)} kills so far, {len(tally.faults)} faults", flush=True)
    return tally


def differences(expected: dict[str, Any], outcome: dict[str, Any]) -> list[str]:
    """Artifacts that only one of the two has or that differ, and whether the reports do."""
    one, other = expected["artifacts"], outcome["artifacts"]
    found = [
        f"{name} is another one" for name in sorted(one | other) if one.get(name) != other.get(name)
    ]
    return found + (["the report differs"] if expected["report"] != outcome["report"] else [])


def main() -> None:
    """Drill, and say how often it was run and how often right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument(
        "--own-servers", action="store_true", help="each command starts a Prefect server of its own"
    )
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="chatpipe-kills-") as folder,
        nullcontext() if options.own_servers else live_server() as api,
    ):
        tally = drill(Path(folder), options.rounds, options.seed, api)
    print(
        f"seed {options.seed}: {tally.rounds} kills ({dict(tally.kills)}), {tally.studies} studies"
    )
    print("\n".join(tally.faults) or "every outcome is equal, nothing was left behind")
    sys.exit(bool(tally.faults))


if __name__ == "__main__":
    main()
