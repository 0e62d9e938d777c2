"""The flow that verifies published adapters and scores them again, with history, trend and gate.

Scores of unchanged adapters on unchanged rows come from the store, so their check takes seconds;
it is recorded too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from prefect import State, flow, runtime
from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed
from pydantic import Field

from chatpipe.config.schema import Variant
from chatpipe.errors import ArtifactError, ChatpipeError, ConfigError, GateError
from chatpipe.generation.ask import Ask
from chatpipe.models.model_ref import ModelRef
from chatpipe.reevaluation import gate, history, trend
from chatpipe.reevaluation.gate import Regression, Verdict
from chatpipe.reevaluation.pending import PendingDecision
from chatpipe.store.artifact import Artifact
from chatpipe.store.manifest import read_manifest
from chatpipe.store.store import store
from chatpipe.study import lookup
from chatpipe.study.checks import repeated_names
from chatpipe.study.files import names
from chatpipe.study.loading import load_variant
from chatpipe.study.lookup import Published
from chatpipe.study.recipe import Recipe
from flows.gate_decision import can_wait, suspend_until_decided, suspended_on
from flows.naming import check_home
from flows.placement import placement_if_online
from flows.study import Build
from tasks import showing, steps

GATE_FAILED = "chatpipe.gate.failed"
UNCHECKED = "chatpipe.check.failed"
DAMAGED = "chatpipe.adapter.damaged"
REGRESSED = "Regressed"  # a state's name
NONE = Verdict([], [])


@flow(name="reevaluate", flow_run_name="reevaluate", persist_result=False)
def reevaluate(
    variants: list[Variant] | None = None,
    tolerance: float = 0.02,
    gpu_workers: str | None = None,
    decision_within_h: Annotated[float, Field(ge=0)] = 0,
) -> State[None]:
    """Verify adapters by digest, score them on today's held-out rows of their data sets, compare
    with what was accepted. Ends Completed, or Failed as "Regressed", "Unchecked" or "Damaged"; or
    is suspended until a person has accepted or refused figures that are worse.

    Args:
        variants: What to check; all that are published when left out.
        tolerance: Relative change for the worse that passes; 0.02 is 2 %.
        gpu_workers: Deployment whose workers score and ask, if one is online; else this run does.
        decision_within_h: Hours for which a run whose only fault is worse figures waits for a
            person's decision before it fails; 0 fails it at once.
    """
    check_home()
    if pending := suspended_on():
        return _decide(pending, decision_within_h)
    if variants and (faults := repeated_names(variants)):
        raise ConfigError(faults)
    models = _published(variants)
    asks = [ask for model in models.values() if (ask := _ask_of(model))]
    build = Build(placement_if_online(gpu_workers), upcoming=asks)
    with steps.EVAL_WORKER.keep_alive():
        checks = [_check(name, model, build, tolerance) for name, model in models.items()]
    summary = [sentence for check in checks for sentence in check.sentences()]
    page = trend.write_page(summary)
    showing.show_trend(history.read(), page)
    state = _ended(checks)
    waits = state.name == REGRESSED and decision_within_h > 0 and can_wait()
    waiting = f"The run waits {decision_within_h:g} hours for a decision: "
    for check in checks:
        _report_outcome(check, [waiting + str(runtime.flow_run.ui_url)] if waits else [])
    if waits:
        return _decide(PendingDecision.of([c.verdict for c in checks]), decision_within_h)
    return state


@dataclass(frozen=True)
class _Check:
    """The result of one variant's check: a verdict, the damage of its adapter, or another error."""

    variant: str
    verdict: Verdict = NONE
    damage: ArtifactError | None = None
    error: Exception | None = None

    def sentences(self) -> list[str]:
        """Return what is wrong, or that nothing is, and which first figures were accepted."""
        if self.damage:
            return [str(self.damage)]
        if self.error:
            return [f"{self.variant}: could not be checked: {self.error}"]
        worse = [str(regression) for regression in self.verdict.regressions]
        fine = f"{self.variant}: no figure is worse than accepted."
        sets = ", ".join(dict.fromkeys(entry.heldout for entry in self.verdict.first))
        first = f"{self.variant}: first evaluation on {sets}, accepted as it is."
        return (worse or [fine]) + self.verdict.unlike + ([first] if sets else [])


def _published(variants: Sequence[Variant] | None) -> dict[str, Published | ChatpipeError]:
    """Return the published adapters of these variants, or of all in `deployments/`.

    Every byte of each adapter is read.

    Raises:
        ArtifactError: One of `variants` was never trained, or none was.
    """
    published = (
        {name: _latest_of(name) for name in names("variants")}
        if variants is None
        else {variant.name: _latest(variant) for variant in variants}
    )
    missing = [name for name, model in published.items() if model is None]
    if variants is not None and missing:
        raise ArtifactError(f"{missing[0]}: is not published; `chatpipe run {missing[0]}` first.")
    if len(missing) == len(published):
        raise ArtifactError("nothing is published yet; `chatpipe run VARIANT` first.")
    return {name: model for name, model in published.items() if model is not None}


def _latest_of(name: str) -> Published | ChatpipeError | None:
    try:
        return _latest(load_variant(name))
    except ConfigError as error:
        return error


def _latest(variant: Variant) -> Published | ChatpipeError | None:
    try:
        return lookup.latest(variant)
    except ChatpipeError as error:  # the other variants are still checked
        return error


def _ask_of(model: Published | ChatpipeError) -> Ask | None:
    """Return the request for an adapter's answers; None if the adapter cannot be used."""
    if isinstance(model, ChatpipeError):
        return None
    try:
        base = Artifact.model_validate(read_manifest(model.adapter.path)["asked"]["base"])
    except ArtifactError:  # removed a moment ago; its own check reports that
        return None
    return Ask.of(model.variant, ModelRef(base, model.adapter))


def _check(name: str, model: Published | ChatpipeError, build: Build, tolerance: float) -> _Check:
    """Check one variant; an error is a part of the result, so that the others are checked too."""
    if isinstance(model, ArtifactError):
        return _Check(name, damage=model)
    if isinstance(model, ChatpipeError):
        return _Check(name, error=model)
    try:
        return _Check(name, _measure(model, build, tolerance))
    except Exception as error:
        get_run_logger().exception("%s could not be checked", name)
        return _Check(name, error=error)


def _measure(model: Published, build: Build, tolerance: float) -> Verdict:
    """Score, ask, record and judge one adapter."""
    recipe = Recipe([model.variant], build)
    heldout = recipe.heldout_sets()
    [base] = recipe.base_models()
    tuned = base.with_adapter(model.variant, model.adapter, model.corpus)
    scores = [store().lookup(step.request) for step in tuned.score_steps(heldout)]
    unchanged = [artifact.key for artifact in scores if artifact]
    results = recipe.evaluate([tuned], heldout)
    return gate.record(history.entries_of(results, heldout, unchanged), tolerance)


def _report_outcome(check: _Check, notes: Sequence[str]) -> None:
    """Emit one event for a variant with a fault, which automations can act on."""
    if check.damage:
        _emit_event(DAMAGED, check, [], notes)
    elif check.error:
        _emit_event(UNCHECKED, check, [], notes)
    elif check.verdict.regressions:
        _emit_event(GATE_FAILED, check, check.verdict.regressions, notes)


def _emit_event(
    event: str, check: _Check, worse: Sequence[Regression], notes: Sequence[str]
) -> None:
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
        payload={"message": "\n".join([*check.sentences(), *notes]), "figures": figures},
    )


def _ended(checks: Sequence[_Check]) -> State[None]:
    """Return the final state of the run; a failed one carries the error that its caller gets."""
    damaged = [s for check in checks if check.damage for s in check.sentences()]
    unchecked = [s for check in checks if check.error for s in check.sentences()]
    worse = [str(r) for check in checks for r in check.verdict.regressions]
    ends = damaged + unchecked + worse
    message = "\n".join(ends)
    if damaged:
        return Failed(name="Damaged", message=message, data=ArtifactError(*ends))
    if unchecked:
        return Failed(name="Unchecked", message=message, data=ChatpipeError(*ends))
    if worse:
        return Failed(name=REGRESSED, message=message, data=GateError(*ends))
    return Completed(message="\n".join(s for check in checks for s in check.sentences()))


def _decide(pending: PendingDecision, within_h: float) -> State[None]:
    """Suspend the run; in the resumed run, accept the figures or return the failed state."""
    decision = suspend_until_decided(pending, within_h)
    reason = f": {decision.reason}" if decision.reason.strip() else "."
    if decision.decision == "refuse":
        ends = [*pending.sentences, f"Refused by a person{reason}"]
        return Failed(name=REGRESSED, message="\n".join(ends), data=GateError(*ends))
    pending.accept()
    accepted = [f"{name}: figures accepted by a person{reason}" for name in pending.variants()]
    page = trend.write_page(accepted)
    showing.show_trend(history.read(), page)
    return Completed(message="\n".join(accepted))
