"""The figures of a study's ratings, for its report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from chatpipe.rating.entries import Entries, Entry, RatingLog, Verdict, failures, valid_ratings
from chatpipe.rating.pairs import Model, prompt_digest
from chatpipe.report.schema import Answer
from chatpipe.report.schema.ratings import (
    JudgesRatings,
    PeoplesRatings,
    PositionBias,
    RatedConfiguration,
    RatedModel,
    RaterAgreement,
    RaterCount,
    Ratings,
)
from chatpipe.statistics import (
    Agreement,
    Outcome,
    cohen_kappa,
    fit_strengths,
    krippendorff_alpha,
    win_rates,
)
from chatpipe.statistics.shares import wilson

SHARES: dict[Verdict, float] = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}
SWAPPED: dict[Verdict, Verdict] = {"a": "b", "b": "a", "tie": "tie", "both_bad": "both_bad"}
CATEGORIES: tuple[Verdict, ...] = ("a", "b", "tie", "both_bad")
CHANGED = "of models that were trained again or are not in the report"
CHANGED_ANSWERS = "of answers that have changed since"


Configurations = Mapping[str, Sequence[str]]  # its name → the names of its models


def rated_together(configurations: Configurations, generation: Mapping[str, Any]) -> Configurations:
    """Return the configurations whose models write their answers with the same settings.

    Args:
        generation: The settings of every model, by its name.
    """
    return {
        name: models
        for name, models in configurations.items()
        if all(generation[model] == generation[models[0]] for model in models)
    }


def study_ratings(
    study: str, models: Iterable[Model], answers: Iterable[Answer], configurations: Configurations
) -> Ratings | None:
    """Return the figures of a study's ratings of these models; None where nothing was rated.

    Args:
        answers: Those of the models to the study's panel, which is read only where there are
            ratings.
        configurations: Models whose ratings are also pooled, as they differ by seed alone.
    """
    entries = RatingLog(study).entries()
    ratings, failed = valid_ratings(entries), failures(entries)
    if not ratings and not failed:
        return None
    present = set(models)
    of_present = [entry for entry in ratings if present.issuperset(entry.models)]
    failed = [entry for entry in failed if present.issuperset(entry.models)]
    texts = _present_texts([*of_present, *failed], answers)
    counted = [entry for entry in of_present if _is_present(entry, texts)]
    failed = [entry for entry in failed if _is_present(entry, texts)]
    people = [entry for entry in counted if entry.kind == "person"]
    left_out = {
        CHANGED: len(ratings) - len(of_present),
        CHANGED_ANSWERS: len(of_present) - len(counted),
    }
    return Ratings(
        people=_of_people(people, configurations) if people else None,
        judges=_of_judges(
            [entry for entry in counted if entry.kind == "model"], failed, people, configurations
        ),
        left_out={reason: number for reason, number in left_out.items() if number},
    )


Texts = dict[tuple[str, str], set[str]]  # prompt and model → answers


def _present_texts(entries: Iterable[Entry], answers: Iterable[Answer]) -> Texts:
    """Return the present answers: those given; to other prompts, of a file, those rated last."""
    texts: Texts = {}
    for entry in sorted(entries, key=lambda entry: entry.at):
        for (model, _), text in zip(entry.models, entry.answers, strict=True):
            texts[entry.prompt, model] = {text}
    given: Texts = {}
    for answer in answers:
        if answer.asked == "template":
            given.setdefault((prompt_digest(answer), answer.model), set()).add(answer.text)
    return texts | given


def _is_present(entry: Entry, texts: Texts) -> bool:
    """Whether both answers are those that the models give now."""
    pairs = zip(entry.models, entry.answers, strict=True)
    return all(text in texts[entry.prompt, model] for (model, _), text in pairs)


def _of_judges(
    ratings: Entries, failed: Entries, people: Entries, configurations: Configurations
) -> list[JudgesRatings]:
    """Return the figures of every judge. Two of one name, of a time when that was possible, stand
    apart by what they are."""
    judges = sorted({(e.rater, e.judge) for e in (*ratings, *failed)}, key=repr)
    names = Counter(rater for rater, _ in judges)
    figures = []
    for rater, judge in judges:
        settings = "; ".join(f"{name} {value}" for name, value in judge)
        own = [entry for entry in ratings if (entry.rater, entry.judge) == (rater, judge)]
        of_judge = _of_judge(
            rater if names[rater] == 1 else f"{rater} ({settings})",
            own,
            [entry for entry in failed if (entry.rater, entry.judge) == (rater, judge)],
            people,
        )
        pooled = rated_configurations(own, configurations)
        figures.append(of_judge.model_copy(update={"configurations": pooled}))
    return figures


def _of_people(ratings: Entries, configurations: Configurations) -> PeoplesRatings:
    raters = Counter(entry.rater for entry in ratings)
    return PeoplesRatings(
        raters=[RaterCount(name=name, ratings=n) for name, n in sorted(raters.items())],
        ratings=len(ratings),
        pairs=len({entry.pair for entry in ratings}),
        prompts=len({entry.prompt for entry in ratings}),
        models=rated_models(ratings),
        configurations=rated_configurations(ratings, configurations),
        alpha=_agreement(krippendorff_alpha(_verdicts(ratings), CATEGORIES)),
        correctness_alpha=_agreement(
            krippendorff_alpha(_correctness(ratings), range(1, 6), "ordinal")
        ),
        position=_position([entry.verdict for entry in ratings]),
    )


def _of_judge(name: str, ratings: Entries, failed: Entries, people: Entries) -> JudgesRatings:
    # Shown second in the second order, the answer a is what a bias would take for b.
    shown = [e.verdict_swapped and SWAPPED[e.verdict_swapped] for e in ratings]
    agreement = _with_people(ratings, people)
    kappa = cohen_kappa(agreement)
    return JudgesRatings(
        judge=name,
        ratings=len(ratings),
        prompts=len({entry.prompt for entry in ratings}),
        flipped=sum(_is_flipped(entry) for entry in ratings),
        failed=dict(sorted(Counter(entry.remark for entry in failed).items())),
        models=rated_models(ratings),
        position=_position([*(first_verdict(entry) for entry in ratings), *shown]),
        agreed=sum(first == second for first, second in agreement),
        compared=len(agreement),
        kappa=_finite(kappa.value),
    )


def rated_models(ratings: Sequence[Entry]) -> list[RatedModel]:
    """Return the figures of every model that was rated, the strongest one first."""
    ratings = sorted(ratings, key=lambda entry: (entry.prompt, entry.pair, entry.rater, entry.kind))
    names = sorted({name for entry in ratings for name, _ in entry.models})
    if not names:
        return []
    place = {name: index for index, name in enumerate(names)}
    prompts = {prompt: n for n, prompt in enumerate(sorted({e.prompt for e in ratings}))}
    outcomes = [
        Outcome(place[e.model_a], place[e.model_b], SHARES[e.verdict], prompts[e.prompt])
        for e in ratings
        if e.verdict
    ]
    rates = win_rates(outcomes, len(names))
    fitted = fit_strengths(outcomes, len(names))
    counts = _counts(ratings)
    correctness = _correctness_of_models(ratings)
    models = [
        RatedModel(
            model=name,
            ratings=sum(counts[name].values()),
            wins=counts[name]["win"],
            losses=counts[name]["loss"],
            ties=counts[name]["tie"],
            both_bad=counts[name]["both_bad"],
            win_rate=float(rates.values[index]),
            low=_finite(rates.low[index]),
            high=_finite(rates.high[index]),
            strength=float(fitted.values[index]),
            strength_low=_finite(fitted.low[index]),
            strength_high=_finite(fitted.high[index]),
            correctness=sum(values) / len(values) if (values := correctness[name]) else None,
            correctness_ratings=len(values),
        )
        for name, index in place.items()
    ]
    return sorted(models, key=lambda model: (-model.strength, model.model))


def rated_configurations(
    ratings: Sequence[Entry], configurations: Configurations
) -> list[RatedConfiguration]:
    """Return the figures of every configuration that was rated, with the ratings of its models
    pooled, and of every base, the strongest one first; nothing where no configuration has several
    models that were rated.

    Ratings of two models of one configuration say nothing of it, and are left out.
    """
    names = {model: name for name, models in configurations.items() for model in models}
    rated = {name for entry in ratings for name, _ in entry.models}
    counts = Counter(names.get(model, model) for model in rated)
    if max(counts.values(), default=0) < 2:
        return []
    pooled = [
        entry.model_copy(
            update={
                "model_a": names.get(entry.model_a, entry.model_a),
                "model_b": names.get(entry.model_b, entry.model_b),
            }
        )
        for entry in ratings
    ]
    between = [entry for entry in pooled if entry.model_a != entry.model_b]
    return [
        RatedConfiguration(**of_one.model_dump(), models=counts[of_one.model])
        for of_one in rated_models(between)
    ]


def _counts(ratings: Iterable[Entry]) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {}
    for entry in ratings:
        for side, name in (("a", entry.model_a), ("b", entry.model_b)):
            outcome = str(entry.verdict)
            if entry.verdict in ("a", "b"):
                outcome = "win" if entry.verdict == side else "loss"
            counts.setdefault(name, Counter())[outcome] += 1
    return counts


def _correctness_of_models(ratings: Iterable[Entry]) -> dict[str, list[int]]:
    values: dict[str, list[int]] = {}
    for entry in ratings:
        for name, value in ((entry.model_a, entry.correct_a), (entry.model_b, entry.correct_b)):
            values.setdefault(name, []).extend([] if value is None else [value])
    return values


def is_swapped(entry: Entry) -> bool:
    """Whether the answers were shown in the other order than the pair's own.

    That order is drawn from the pair's texts. In the order of names, raters who prefer the better
    model every time would seem to agree by chance.
    """
    return (entry.models[0] > entry.models[1]) != bool(int(entry.pair[-1], 16) % 2)


def canonical(entry: Entry) -> Verdict:
    """Return the verdict with the answers in the pair's own order."""
    assert entry.verdict
    return SWAPPED[entry.verdict] if is_swapped(entry) else entry.verdict


def _verdicts(ratings: Iterable[Entry]) -> list[dict[str, Verdict]]:
    units: dict[str, dict[str, Verdict]] = {}
    for entry in ratings:
        units.setdefault(entry.pair, {})[entry.rater] = canonical(entry)
    return list(units.values())


def _correctness(ratings: Iterable[Entry]) -> list[dict[str, int]]:
    """Return what was said of every answer; the same one is in several pairs, each a unit."""
    units: dict[tuple[str, str], dict[str, int]] = {}
    for entry in ratings:
        for name, value in ((entry.model_a, entry.correct_a), (entry.model_b, entry.correct_b)):
            if value is not None:
                units.setdefault((entry.pair, name), {})[entry.rater] = value
    return list(units.values())


def majority(ratings: Iterable[Entry]) -> dict[str, Verdict]:
    """Return the verdict of most raters on every pair, in the pair's own order; a tie where no
    verdict has most."""
    votes: dict[str, Counter[Verdict]] = {}
    for entry in ratings:
        votes.setdefault(entry.pair, Counter())[canonical(entry)] += 1
    decided: dict[str, Verdict] = {}
    for pair, counts in votes.items():
        (first, most), *others = counts.most_common()
        decided[pair] = first if not others or others[0][1] < most else "tie"
    return decided


def _with_people(judged: Entries, people: Entries) -> list[tuple[str, str]]:
    """(people's verdict, the judge's) on the pairs of both; two bad answers are a tie, as a judge
    and people may draw that line elsewhere."""
    of_people = majority(people)
    both = [(of_people[e.pair], canonical(e)) for e in judged if e.pair in of_people]
    merged = {"both_bad": "tie"}
    return [(merged.get(first, first), merged.get(second, second)) for first, second in both]


def first_verdict(entry: Entry) -> Verdict | None:
    """Return a judge's verdict in the first order, before the second one was looked at."""
    return entry.verdict_first or entry.verdict


def _is_flipped(entry: Entry) -> bool:
    return first_verdict(entry) != entry.verdict_swapped


def _position(verdicts: Sequence[Verdict | None]) -> PositionBias | None:
    first = sum(verdict == "a" for verdict in verdicts)
    decided = sum(verdict in ("a", "b") for verdict in verdicts)
    if not decided:
        return None
    low, high = wilson(first / decided, decided)
    return PositionBias(first=first, decided=decided, share=first / decided, low=low, high=high)


def _agreement(agreement: Agreement) -> RaterAgreement:
    return RaterAgreement(
        value=_finite(agreement.value), units=agreement.units, ratings=agreement.ratings
    )


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
