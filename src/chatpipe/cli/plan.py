"""The command plan, of a variant or of a whole study."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from chatpipe.cli.errors import exit_on_error
from chatpipe.cli.options import AsJson, Limit, Overrides, VariantOrStudy
from chatpipe.cli.run import check_variants
from chatpipe.errors import ConfigError

if TYPE_CHECKING:
    from chatpipe.config.schema import Variant


def plan(
    variant: VariantOrStudy,
    overrides: Overrides = None,
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """Show the steps, time and memory of a run, and what would make it fail; trains nothing."""
    with exit_on_error():
        from chatpipe.runtime.environment import prepare
        from chatpipe.study.studies import is_study, load_study, load_variants

        if limit is not None and not is_study(variant):
            raise ConfigError([f"--limit: goes with a study, and {variant} is none."])
        variants = load_variants(variant, overrides or [])
        check_variants(variants)
        prepare()
        if is_study(variant):
            _plan_study(load_study(variant).name, variants, limit, as_json)
        else:
            _plan_variant(variants[0], as_json)


def _plan_variant(variant: Variant, as_json: bool) -> None:
    from chatpipe.cli.plan_view import print_plan
    from chatpipe.planning import planner

    estimate = planner.plan(variant)
    typer.echo(estimate.model_dump_json(indent=1)) if as_json else print_plan(estimate)
    planner.refuse([estimate])


def _plan_study(name: str, variants: list[Variant], limit: int | None, as_json: bool) -> None:
    from chatpipe.cli.study_plan_view import print_study_plan
    from chatpipe.planning import planner
    from chatpipe.planning.study_plan import plan_study

    estimate = plan_study(name, variants, limit)
    typer.echo(estimate.model_dump_json(indent=1)) if as_json else print_study_plan(estimate)
    planner.refuse(list(estimate.plans))
