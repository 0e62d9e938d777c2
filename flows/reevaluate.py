"""Published adapters, verified and scored again: history, trend and gate.

What is unchanged is found in the store, so a check of unchanged adapters on unchanged rows costs
seconds; it is recorded all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefect import State, flow
from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from chatpipe import gating, history, published, trend
from chatpipe.config import Variant
from chatpipe.errors import ArtifactError, ChatpipeError, ConfigError, GateError
from chatpipe.gating import Regression, Verdict
from chatpipe.loading import load_variant, names
from chatpipe.published import Published
from flows.entering import check_home
from flows.placement import Placement, placement_if_online
from flows.story import Model, base_model, heldout_sets, measured
from tasks import showing, steps
from tasks.caching import BUILT

GATE_FAILED = "chatpipe.gate.failed"
DAMAGED = "chatpipe.adapter.damaged"


@flow(name="reevaluate", flow_run_name="reevaluate", persist_result=False)
def reevaluate(
    variants: list[Variant] | None = None,
    tolerance: float = 0.02,
    gpu_workers: str | None = None,
) -> State[None]:
    """Verify adapters by digest, score them on today's held-out rows of their data sets, compare
    with what was accepted. Ends Completed, or Failed as "Regressed" or "Damaged".

    Args:
        variants: What to check; all that are published when left out.
        tolerance: Relative change for the worse that passes; 0.02 is 2 %.
        gpu_workers: Deployment whose workers score and ask, if one is online; else this run does.
    """
    check_home()
    found = _published(variants)
    gpu = placement_if_online(gpu_workers)
    with steps.MEASURING.kept():
        checks = [_check(name, model, tolerance, gpu) for name, model in found.items()]
    summary = [sentence for check in checks for sentence in check.sentences()]
    page = trend.write_page(summary)
    showing.show_trend(trend.trend_rows(history.read()), page)
    for check in checks:
        _tell(check)
    return _ended(checks)


@dataclass(frozen=True)
class _Check:
    """What the check of one variant came to: a verdict, or the damage that was in its way."""

    variant: str
    verdict: Verdict
    damage: ArtifactError | None = None

    def sentences(self) -> list[str]:
        """What is wrong, or that nothing is; and what was accepted for being the first."""
        if self.damage:
            return [str(self.damage)]
        worse = [str(regression) for regression in self.verdict.regressions]
        fine = f"{self.variant}: no figure is worse than accepted."
        sets = ", ".join(dict.fromkeys(entry.heldout for entry in self.verdict.first))
        first = f"{self.variant}: first evaluation on {sets}, accepted as it is."
        return (worse or [fine]) + ([first] if sets else [])


def _published(variants: Sequence[Variant] | None) -> dict[str, Published | ArtifactError]:
    """What there is of the selection, or of all variants of the deployments; every adapter is
    read to the last byte. ArtifactError where something that was asked for was never trained."""
    selection = _all_variants() if variants is None else variants
    found = {variant.name: _latest(variant) for variant in selection}
    missing = [name for name, model in found.items() if model is None]
    if variants is not None and missing:
        raise ArtifactError(f"{missing[0]}: is not published; `chatpipe run {missing[0]}` first.")
    if len(missing) == len(found):
        raise ArtifactError("nothing is published yet; `chatpipe run VARIANT` first.")
    return {name: model for name, model in found.items() if model is not None}


def _all_variants() -> list[Variant]:
    """Those of the deployments; a faulty file does not keep the others from being checked."""
    found = []
    for name in names("variants"):
        try:
            found.append(load_variant(name))
        except ConfigError as error:
            get_run_logger().warning("%s is not checked: %s", name, error)
    return found


def _latest(variant: Variant) -> Published | ArtifactError | None:
    try:
        return published.latest(variant)
    except ArtifactError as damage:  # the others are checked all the same
        return damage


def _check(name: str, model: Published | ArtifactError, tolerance: float, gpu: Placement) -> _Check:
    """Score, ask, record and judge one adapter."""
    if isinstance(model, ArtifactError):
        return _Check(name, Verdict([], []), model)
    try:
        return _scored(name, model, tolerance, gpu)
    except ChatpipeError as error:  # the others are checked all the same
        return _Check(name, Verdict([], []), ArtifactError(f"{name}: not checked: {error}"))


def _scored(name: str, model: Published, tolerance: float, gpu: Placement) -> _Check:
    variant, before = model.variant, len(BUILT)
    _, heldout = heldout_sets([variant])
    base = base_model(variant).base
    tuned = Model(variant, base, model.adapter, model.corpus)
    entries = history.entries_of(measured([tuned], heldout, gpu), heldout, BUILT[before:])
    return _Check(name, gating.record(entries, tolerance))


def _tell(check: _Check) -> None:
    """One event a variant with a fault, for automations to notify on."""
    if check.damage:
        _emit(DAMAGED, check, [])
    elif check.verdict.regressions:
        _emit(GATE_FAILED, check, check.verdict.regressions)


def _emit(event: str, check: _Check, worse: Sequence[Regression]) -> None:
    figures: list[dict[str, Any]] = [
        {"now": r.now.model_dump(mode="json"), "accepted": r.accepted.model_dump(mode="json")}
        for r in worse
    ]
    emit_event(
        event,
        resource={
            "prefect.resource.id": f"chatpipe.variant.{check.variant}",
            "prefect.resource.name": check.variant,
        },
        payload={"message": "\n".join(check.sentences()), "figures": figures},
    )


def _ended(checks: Sequence[_Check]) -> State[None]:
    """The state that the run ends in; a failed one carries the error that its caller gets."""
    damaged = [str(check.damage) for check in checks if check.damage]
    worse = [str(r) for check in checks for r in check.verdict.regressions]
    if damaged:
        message = "\n".join(damaged + worse)
        return Failed(name="Damaged", message=message, data=ArtifactError(message))
    if worse:
        message = "\n".join(worse)
        return Failed(name="Regressed", message=message, data=GateError(message))
    return Completed(message="\n".join(s for check in checks for s in check.sentences()))
