"""Several runs of one study at once, of which one is killed: one artifact each, and equal?

`python -m tests.drills.together --commands 8` starts eight.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.drills.kills import differences, undisturbed
from tests.drills.place import RUNS_WITHIN_S, STUDY, Place, builds, live_server, write_study


def run_together(place: Place, commands: int) -> list[int]:
    """The exit codes of those that were left to end; the one that was building was killed."""
    started = [place.start("compare", STUDY) for _ in range(commands)]
    place.wait_for(
        started[0], lambda: any(place.home.glob("store/.work/*/**/checkpoint-2")) or place.done()
    )
    builders = [command for command in started if builds(command)] or started
    builders[0].kill()
    builders[0].wait()
    return [command.wait(commands * RUNS_WITHIN_S) for command in started if command != builders[0]]


def main() -> None:
    """Drill, and say what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chatpipe-together-") as name, live_server() as api:
        folder = Path(name)
        deployments = write_study(folder)
        expected = undisturbed(Place(folder / "undisturbed", deployments, api))
        place = Place(folder / "together", deployments, api)
        codes = run_together(place, options.commands)
        faults = [f"exit code {code}" for code in codes if code]
        faults += place.left_behind() + differences(expected, place.outcome())
    print("\n".join(faults) or f"{options.commands} at once: equal, and nothing was left behind")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
