"""Which of a study's variants is better on each data set, with the noise of rows and seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from chatpipe import report as contract
from chatpipe.evaluation.reply_bytes import ReplyBytes
from chatpipe.evaluation.row_scores import ScoreReader
from chatpipe.report.configurations import Groups, groups_by_share, mean, recorded
from chatpipe.report.measured import Measured
from chatpipe.statistics import (
    NoiseModel,
    PairedRows,
    Run,
    compare,
    fit_learning_curve,
    rank,
    select_best,
)
from chatpipe.utils.unique import unique_by

SECONDS_ALIKE = 0.05  # of a training's seconds: a smaller difference of costs is noise
MOST_PAIRED = 30  # configurations; of more, the report has only the pairs with the best one

Sets = Mapping[tuple[str, ...], ReplyBytes]


@dataclass
class Compared:
    """A report's comparisons of configurations, on all sets; notes: why some are missing."""

    verdicts: list[contract.Verdict] = field(default_factory=list)
    ranking: list[contract.RankedVariant] = field(default_factory=list)
    fronts: list[contract.CostFront] = field(default_factory=list)
    curves: list[contract.LearningCurve] = field(default_factory=list)
    selections: list[contract.Selection] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare_configurations(
    groups: Groups, models: Sequence[Measured], sets: Sets, reader: ScoreReader
) -> Compared:
    """Return the comparisons of the configurations on each data set's held-out rows.

    One that is alone, and has several seeds, is compared with its base, one of `models`.
    """
    compared = Compared()
    # The same training under two names is one run of its configuration.
    groups = {
        name: unique_by(group, lambda model: model.variant.training.seed if model.adapter else None)
        for name, group in groups.items()
    }
    if len(groups) == 1 and len(next(iter(groups.values()))) > 1:
        base = next(iter(groups.values()))[0].base_model
        groups = groups | {model.name: [model] for model in models if model.name == base}
    if len(groups) < 2:
        return compared
    for parts, replies in sets.items():
        if len(parts) > 1 or not len(replies):
            continue
        try:
            rows = _paired_rows(groups, parts, replies, reader)
        except ValueError as error:
            compared.notes.append(f"variants on {parts[0]}: not compared, because {error}.")
            continue
        _add(compared, parts[0], groups, rows)
    return compared


def _add(compared: Compared, heldout: str, groups: Groups, rows: PairedRows) -> None:
    noise = NoiseModel.of(rows)
    ranking = list(_ranking(noise, heldout, rows))
    best = ranking[0].configuration if len(groups) > MOST_PAIRED else None
    compared.ranking.extend(ranking)
    compared.verdicts.extend(
        contract.Verdict(
            **vars(pair), heldout=heldout, unit=rows.unit, rows=len(rows), left_out=rows.left_out
        )
        for pair in compare(noise)
        if best is None or best in (pair.first, pair.second)
    )
    compared.fronts.extend(_front(ranking, groups))
    compared.curves.extend(_curves(noise, heldout, groups, rows))
    if all(model.adapter for group in groups.values() for model in group):
        compared.selections.extend(_selection(heldout, rows))


def _paired_rows(
    groups: Groups, parts: tuple[str, ...], replies: ReplyBytes, reader: ScoreReader
) -> PairedRows:
    """Return the common rows: over tokens where all count them alike, else over bytes; ValueError
    where there are none."""
    runs = []
    for name, group in groups.items():
        for model in group:
            rows = reader.rows(model.scores, parts, "response")
            seed = model.variant.training.seed if model.adapter else None
            runs.append(Run(name, seed, rows.ids, rows.nats, rows.tokens))
    try:
        return PairedRows.of(runs)
    except ValueError:
        row_bytes = dict(zip(replies.ids, replies.bytes, strict=True))
    return PairedRows.of(runs, row_bytes)


def _ranking(noise: NoiseModel, heldout: str, rows: PairedRows) -> Iterator[contract.RankedVariant]:
    ends = zip(noise.configurations, *noise.intervals(), strict=True)
    intervals = {name: (float(low), float(high)) for name, low, high in ends}
    for item in rank(noise):
        low, high = intervals[item.configuration] if len(rows) > 1 else (None, None)
        yield contract.RankedVariant(
            heldout=heldout, unit=rows.unit, low=low, high=high, **vars(item)
        )


def _front(
    ranking: Sequence[contract.RankedVariant], groups: Groups
) -> Iterator[contract.CostFront]:
    """The front of a ranking, without variants that were trained elsewhere; none where some
    configuration's cost is not recorded."""
    ranking = [item for item in ranking if not groups[item.configuration][0].variant.imported]
    if not ranking:
        return
    models = [model for item in ranking for model in groups[item.configuration]]
    devices = set(recorded(models, "device"))
    cost: Literal["wall_s", "trained_tokens"] = "wall_s" if len(devices) < 2 else "trained_tokens"
    means = {
        item.configuration: mean(recorded(groups[item.configuration], cost)) for item in ranking
    }
    costs = {name: value for name, value in means.items() if value is not None}
    if len(costs) < len(ranking):
        return
    front: list[str] = []
    cheapest = float("inf")
    alike = SECONDS_ALIKE if cost == "wall_s" else 0.0
    for item in ranking:  # from the lowest figure to the highest
        if costs[item.configuration] < (1 - alike) * cheapest:
            front.insert(0, item.configuration)
        cheapest = min(cheapest, costs[item.configuration])
    yield contract.CostFront(heldout=ranking[0].heldout, cost=cost, configurations=front)


def _curves(
    noise: NoiseModel, heldout: str, groups: Groups, rows: PairedRows
) -> Iterator[contract.LearningCurve]:
    """The learning curves of the configurations that differ by `data_share`."""
    if len(rows) < 2:
        return
    for shared, names in groups_by_share(groups).items():
        means = {name: mean(recorded(groups[name], "rows_trained")) for name in names}
        sizes = {name: float(rows) for name, rows in means.items() if rows}
        if len(set(sizes.values())) > 1:
            curve = fit_learning_curve(noise, sizes)
            yield contract.LearningCurve(
                **vars(curve),
                heldout=heldout,
                unit=rows.unit,
                configuration=shared,
                rows_scored=len(rows),
            )


def _selection(heldout: str, rows: PairedRows) -> Iterator[contract.Selection]:
    """The choice on one part of the rows; none where a part has a single row or none."""
    try:
        chosen = select_best(rows)
    except ValueError:
        return
    if min(chosen.rows, chosen.validation_rows) > 1:
        yield contract.Selection(**vars(chosen), heldout=heldout, unit=rows.unit)
