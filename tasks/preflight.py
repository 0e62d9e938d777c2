"""The first task of a run: what training would cost, and a refusal of what cannot work."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from chatpipe.config.schema import Variant
from chatpipe.errors import ChatpipeError, ConfigError
from chatpipe.planning.planner import MakePlan, refuse
from chatpipe.planning.result import Plan
from chatpipe.planning.summary import cost_rows, summary
from chatpipe.runtime.worker import SharedWorker
from chatpipe.study.selection import trained_names
from tasks.showing import artifact_key


@task(task_run_name="plan", cache_policy=NO_CACHE, persist_result=False)
def plan(variants: Sequence[Variant]) -> None:
    """Log and show what training would cost; ConfigError if it cannot work."""
    to_train = untrained(variants)
    if not to_train:
        return
    logger = get_run_logger()
    try:
        plans = _in_worker(to_train, tuple(variants))
    except ConfigError:
        raise
    except ChatpipeError as error:  # faults come back in the plans: this is a plan that failed
        logger.warning("no plan could be made, the run goes on without: %s", error)
        return
    for estimate in plans:
        logger.info("plan %s", summary(estimate))
        for note in estimate.notes:
            logger.info("plan %s: %s", estimate.variant, note)
    with suppress(Exception):
        for estimate in plans:
            rows = [{"what": name, "how much": value} for name, value in cost_rows(estimate)]
            create_table_artifact(rows, key=artifact_key("plan", estimate.variant))
    refuse(plans)


def untrained(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """Return the variants whose adapter is not in the store."""
    trained = trained_names(variants)
    return tuple(variant for variant in variants if variant.name not in trained)


def _in_worker(variants: tuple[Variant, ...], study: tuple[Variant, ...]) -> list[Plan]:
    """Make the plans in a worker process, which keeps imports and CUDA out of the flow's."""
    ignored = get_run_logger().debug
    with tempfile.TemporaryDirectory() as scratch:
        details = SharedWorker().build(
            MakePlan(variants=variants, study=study), Path(scratch), lambda event: None, ignored
        )
    return [Plan.model_validate(fields) for fields in details["plans"]]
