"""Which variants of a study are trained first, where only so many are to be trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import NamedTuple

from chatpipe.config.schema import Variant
from chatpipe.errors import ChatpipeError
from chatpipe.study.lookup import LookUp
from chatpipe.study.recipe import Recipe
from chatpipe.study.resolving import Step
from chatpipe.utils.unique import unique_by


class Selection(NamedTuple):
    """The variants of a study that are run now, and those that are left for later."""

    chosen: list[Variant]
    left: list[Variant]


def select(variants: Sequence[Variant], limit: int | None, trained: Collection[str]) -> Selection:
    """Choose every trained variant, and the first `limit` of the others by `training_order`.

    Args:
        limit: How many are trained at most; None for all.
        trained: Names of the variants whose adapter is in the store.
    """
    untrained = [variant for variant in training_order(variants) if variant.name not in trained]
    later = set() if limit is None else {variant.name for variant in untrained[limit:]}
    return Selection(
        chosen=[variant for variant in variants if variant.name not in later],
        left=[variant for variant in variants if variant.name in later],
    )


def training_order(variants: Sequence[Variant]) -> list[Variant]:
    """Return the variants with the first seed of every combination before the second of any, so
    that a part of a study compares all of them."""
    counts = Counter[str]()
    places: dict[str, int] = {}
    for variant in variants:
        combination = variant.settings_but_seed()
        places[variant.name] = counts[combination]
        counts[combination] += 1
    return sorted(variants, key=lambda variant: places[variant.name])


def first_seeds(variants: Sequence[Variant]) -> list[Variant]:
    """Return the first of all variants that differ by name and seed alone."""
    return unique_by(variants, Variant.settings_but_seed)


def trained_names(variants: Sequence[Variant]) -> set[str]:
    """Return the names of the variants whose adapter is in this store or the shared one."""
    look_up = LookUp("a study")
    recipe = Recipe(variants, look_up)  # what the variants share is looked up once
    names = set()
    for variant in variants:
        with suppress(ChatpipeError):
            look_up.resolve(Step(recipe.adapter_request(variant), variant.name))
            names.add(variant.name)
    return names
