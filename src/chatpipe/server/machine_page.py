"""The process that looks at a worker's machine, and shows it in the dashboard.

`python -m chatpipe.server.machine_page WORKER`, started by `MachineCheck`.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from chatpipe.diagnosis.findings import Finding, State, fault
from chatpipe.server.findings import all_findings
from tasks.showing import artifact_key

WRONG: tuple[State, ...] = ("fault", "warning")


def main(worker: str) -> None:
    """Look at this machine, print what is wrong with it, and show all of it in the dashboard."""
    findings = list(_findings())
    for finding in findings:
        if finding.state != "ok":
            print(f"doctor: {finding.state}: {finding.sentence()}", file=sys.stderr, flush=True)
    try:
        _show(worker, findings)
    except Exception as error:
        print(f"doctor: the dashboard does not show it: {error}", file=sys.stderr, flush=True)


def _findings() -> Iterator[Finding]:
    """Yield those of `doctor`; what ends them is one of them."""
    try:
        yield from all_findings()
    except Exception as error:
        yield fault(
            "doctor",
            f"fails: {type(error).__name__}: {str(error)[:200]}",
            "`chatpipe doctor --check` on this machine tries it again",
        )


def _show(worker: str, findings: Sequence[Finding]) -> None:
    """Write an artifact; of one key for each worker, so that those before are its history."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import ArtifactCreate
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():  # Prefect would start a server for it
        return
    machine = platform.node()
    artifact = ArtifactCreate(
        key=artifact_key("worker", machine, worker.removeprefix(f"{machine}-")),
        type="markdown",
        description=f"`chatpipe doctor` at the start of the worker {worker} on {machine}",
        data=markdown(worker, machine, findings),
    )
    with get_client(sync_client=True) as client:
        client.create_artifact(artifact)


def markdown(worker: str, machine: str, findings: Sequence[Finding]) -> str:
    """Return the findings as a page: what is wrong first, then all of them as a table."""
    states = [finding.state for finding in findings]
    summary = ", ".join(f"{states.count(state)} {state}(s)" for state in WRONG if state in states)
    moment = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    wrong = [
        f"- **{state}**: {_in_one_line(finding.sentence())}"
        for state in WRONG
        for finding in findings
        if finding.state == state
    ]
    rows = [
        f"| {finding.state} | {_in_one_line(finding.name)} | {_in_one_line(finding.text)} |"
        for finding in findings
    ]
    return "\n".join(
        [
            f"# {worker} on {machine}: {summary or 'nothing is wrong'}",
            "",
            f"`chatpipe doctor`, when the worker was started: {moment}.",
            "",
            *wrong,
            *([""] if wrong else []),
            "| state | what | found |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def _in_one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    os.nice(10)  # the worker's own start comes first
    main(sys.argv[1])
