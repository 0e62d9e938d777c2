"""Pairs of answers to one prompt, and the order and sides in which a rater gets them."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from chatpipe.rating.entries import Entry
from chatpipe.report.schema import Answer, Report


class Model(NamedTuple):
    """A model that answers: its name in the report, and what tells it from one of the same name
    that was trained on other rows (the digest of its adapter; of a base, its name)."""

    name: str
    identity: str


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, in the order in which they are shown."""

    a: Model
    b: Model
    answer_a: Answer
    answer_b: Answer

    @property
    def id(self) -> str:
        """The same for both orders, and another one as soon as an answer is another one."""
        sides = sorted([[*self.a, self.answer_a.text], [*self.b, self.answer_b.text]])
        return _digest([self.prompt, sides])

    @property
    def prompt(self) -> str:
        """A digest of the texts of the prompt."""
        return prompt_digest(self.answer_a)

    @property
    def models(self) -> tuple[Model, Model]:
        """Both models in the order of their names."""
        first, second = sorted((self.a, self.b))
        return first, second

    def swapped(self) -> Pair:
        """Return the pair in the other order."""
        return Pair(self.b, self.a, self.answer_b, self.answer_a)

    def entry(self, rater: str, **values: object) -> Entry:
        """Return an entry about this pair."""
        answer = self.answer_a
        history = [turn.model_dump() for turn in answer.history]
        return Entry.model_validate(
            {
                "rater": rater,
                "pair": self.id,
                "prompt": self.prompt,
                "model_a": self.a.name,
                "model_b": self.b.name,
                "identity_a": self.a.identity,
                "identity_b": self.b.identity,
                "system": answer.system or "",
                "history": json.dumps(history, ensure_ascii=False),
                "instruction": answer.instruction,
                "input": answer.input,
                "answer_a": answer.text,
                "answer_b": self.answer_b.text,
                **values,
            }
        )


class Pairs(NamedTuple):
    """The pairs that are rated, and how many are not because both answers are the same text."""

    rated: tuple[Pair, ...]
    same: int


def prompt_digest(answer: Answer) -> str:
    """Return a digest of the texts of the prompt that was answered."""
    turns = [[turn.role, turn.content] for turn in answer.history]
    return _digest([answer.system, turns, answer.instruction, answer.input])


def models_of(report: Report) -> dict[str, Model]:
    """Return the models of a report by name."""
    return {m.name: Model(m.name, m.adapter_digest or m.base_model) for m in report.models}


def make_pairs(models: dict[str, Model], answers: Iterable[Answer], seed: int) -> Pairs:
    """Return all pairs of models on every prompt that both answered in their templates.

    They are in rounds: each has every pair of models once, on prompts drawn from the seed. So after
    any number of ratings, all models have been compared about equally often, and two raters who
    stop early have rated the same pairs.
    """
    by_prompt: dict[str, dict[str, Answer]] = {}
    for answer in answers:
        if answer.asked == "template" and answer.model in models:
            by_prompt.setdefault(_prompt_texts(answer), {})[answer.model] = answer
    of_models: dict[tuple[str, str], list[Pair]] = {}
    same = 0
    for given in by_prompt.values():
        for first, second in itertools.combinations(sorted(given), 2):
            pair = Pair(models[first], models[second], given[first], given[second])
            if pair.answer_a.text.strip() == pair.answer_b.text.strip():
                same += 1
            else:
                of_models.setdefault((first, second), []).append(pair)
    drawn = [_drawn(pairs, str(seed)) for pairs in of_models.values()]
    rounds = itertools.zip_longest(*drawn)
    return Pairs(tuple(pair for each in rounds for pair in each if pair is not None), same)


def for_rater(pairs: Sequence[Pair], rater: str, seed: int) -> list[Pair]:
    """Return the pairs in the rater's own order within each round, on the rater's own sides.

    Of the pairs of two models, each model is the first one in half (or one more).
    """
    key = f"{seed}/{rater}"
    of_models: dict[tuple[Model, Model], list[Pair]] = {}
    for pair in pairs:
        of_models.setdefault(pair.models, []).append(pair)
    sided: list[tuple[int, Pair]] = []
    for models, group in of_models.items():
        starts_swapped = int(_digest([key, *models])[:8], 16) % 2
        swapped = {p.id: place % 2 for place, p in enumerate(_drawn(group, f"{key}/side"))}
        sided += [
            (place, pair.swapped() if swapped[pair.id] != starts_swapped else pair)
            for place, pair in enumerate(group)
        ]
    return [
        pair for _, pair in sorted(sided, key=lambda item: (item[0], _digest([key, item[1].id])))
    ]


def _drawn(pairs: Sequence[Pair], key: str) -> list[Pair]:
    """Return the pairs in an order that the key draws."""
    return sorted(pairs, key=lambda pair: _digest([key, pair.id]))


def _prompt_texts(answer: Answer) -> str:
    values = answer.model_dump(include={"system", "history", "instruction", "input"})
    return json.dumps(values, sort_keys=True)


def _digest(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:40]
