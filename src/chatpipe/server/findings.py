"""Everything that `chatpipe doctor` looks at, in its order."""

from __future__ import annotations

from collections.abc import Iterator

from chatpipe.diagnosis.findings import Finding
from chatpipe.server.state import server_findings


def all_findings(check: bool | None = None) -> Iterator[Finding]:
    """Yield the findings of this machine and of its server; then, if `check` is true, or None and
    there is a GPU that can be used, those of its rates and of every kernel (a minute)."""
    import torch

    from chatpipe.diagnosis.machine import machine_findings

    machine = list(machine_findings())
    yield from machine
    yield from server_findings()
    is_usable = not any(finding.state == "fault" for finding in machine)
    if check or (check is None and torch.cuda.is_available() and is_usable):
        from chatpipe.diagnosis.rates import measured_rates
        from chatpipe.diagnosis.self_check import check_kernels

        yield from measured_rates()
        yield from check_kernels()
