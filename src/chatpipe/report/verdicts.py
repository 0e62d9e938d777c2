"""Which of a study's variants is better on each data set, with the noise of rows and seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import NamedTuple

from chatpipe import report as contract
from chatpipe.config.run_names import SEPARATOR
from chatpipe.evaluation.reply_bytes import ReplyBytes
from chatpipe.evaluation.row_scores import ModelScores
from chatpipe.report.measured import Measured
from chatpipe.statistics import Comparison, NoiseModel, PairedRows, Run, compare, rank

MOST_PAIRED = 30  # configurations; of more, the report has only the pairs with the best one
SEED = "training.seed"
# What does not change a score.
WITHOUT_EFFECT = {"name", "panel", "generation", "tracking", "paper_reported"}

Sets = Mapping[tuple[str, ...], ReplyBytes]


class Compared(NamedTuple):
    """A report's comparisons and rankings on all sets."""

    verdicts: list[contract.Verdict]
    ranking: list[contract.RankedVariant]


def study_verdicts(models: Sequence[Measured], sets: Sets) -> Compared:
    """Return the comparisons of the fine-tuned variants on each data set's held-out rows.

    Variants that differ by the seed of training alone are one. One that is alone, and has several
    seeds, is compared with its base.
    """
    groups = configurations([model for model in models if model.adapter])
    if len(groups) == 1 and len(next(iter(groups.values()))) > 1:
        base = next(iter(groups.values()))[0].base_model
        groups |= {model.name: [model] for model in models if model.name == base}
    compared = Compared([], [])
    if len(groups) < 2:
        return compared
    for parts, replies in sets.items():
        if len(parts) > 1 or not len(replies):
            continue
        rows = _paired_rows(groups, parts, replies)
        if rows is None:
            continue
        noise = NoiseModel.of(rows)
        ranking = list(_ranking(noise, groups, parts[0], rows.unit))
        best = ranking[0].configuration if len(groups) > MOST_PAIRED else None
        compared.ranking.extend(ranking)
        compared.verdicts.extend(
            _verdict(pair, parts[0], rows)
            for pair in compare(noise)
            if best is None or best in (pair.first, pair.second)
        )
    return compared


def configurations(
    models: Sequence[Measured], without_effect: Set[str] = WITHOUT_EFFECT
) -> dict[str, list[Measured]]:
    """Return the models in groups that differ by seed alone, and by what has no effect, under the
    group's name."""
    groups: dict[str, list[Measured]] = {}
    for model in models:
        groups.setdefault(_without_seed(model, without_effect), []).append(model)
    return {_group_name(group): group for group in groups.values()}


def _without_seed(model: Measured, without_effect: Set[str]) -> str:
    training = model.variant.training.model_copy(update={"seed": 0})
    variant = model.variant.model_copy(update={"training": training})
    return variant.model_dump_json(exclude=set(without_effect))


def _group_name(group: Sequence[Measured]) -> str:
    """The shortest of its names, without the seed where there are several."""
    name = min((model.name for model in group), key=len)
    if len(group) == 1:
        return name
    parts = name.split(SEPARATOR)
    return SEPARATOR.join(part for part in parts if not part.startswith(f"{SEED}="))


def _paired_rows(
    groups: Mapping[str, Sequence[Measured]], parts: tuple[str, ...], replies: ReplyBytes
) -> PairedRows | None:
    """Return the common rows: over tokens where all count them alike, else over bytes; None where
    there are none."""
    runs = []
    for name, group in groups.items():
        for model in group:
            rows = ModelScores(model.scores, parts).labelled("response")
            seed = model.variant.training.seed if model.adapter else None
            runs.append(Run(name, seed, rows.ids, rows.nats, rows.tokens))
    try:
        return PairedRows.of(runs)
    except ValueError:
        row_bytes = dict(zip(replies.ids, replies.bytes, strict=True))
    try:
        return PairedRows.of(runs, row_bytes)
    except ValueError:
        return None


def _ranking(
    noise: NoiseModel, groups: Mapping[str, Sequence[Measured]], heldout: str, unit: str
) -> Iterator[contract.RankedVariant]:
    for item in rank(noise):
        group = groups[item.configuration]
        seconds = [m.adapter.details().get("wall_s") for m in group if m.adapter]
        known = [float(each) for each in seconds if each is not None]
        yield contract.RankedVariant(
            heldout=heldout,
            configuration=item.configuration,
            models=[model.name for model in group],
            unit="tokens" if unit == "tokens" else "bytes",
            value=item.value,
            probability_of_best=item.probability_of_best,
            wall_s=sum(known) / len(known) if known else None,
        )


def _verdict(pair: Comparison, heldout: str, rows: PairedRows) -> contract.Verdict:
    return contract.Verdict(
        heldout=heldout, unit=rows.unit, rows=len(rows), left_out=rows.left_out, **vars(pair)
    )
