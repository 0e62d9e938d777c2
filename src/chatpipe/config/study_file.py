"""What the YAML file of a study may hold beside a plain list of names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from chatpipe.config.base import Section
from chatpipe.config.run_names import SHORT_KEYS
from chatpipe.config.schema import RunName

MAX_CELLS = 1000
MAX_SEEDS = 100
GRID_KEYS = frozenset({"base", "vary", "vary_together", "seeds", "data_share", "heldout"})

Member = str | dict[str, Any]
Values = Annotated[tuple[Any, ...], Field(min_length=1)]
MAX_SEED = 2**31 - 1


class StudyFile(Section):
    """The variants that a study starts from, and the settings and seeds that it varies.

    A variant is a name, a YAML file (relative to the study's), or its settings themselves.
    """

    name: RunName
    base: Member | None = Field(None, description="the variant that a grid starts from")
    variants: tuple[Member, ...] = Field((), description="several of them")
    vary: dict[str, Values] = Field({}, description="setting -> values; every combination")
    vary_together: dict[str, Values] = Field(
        {}, description="setting -> values; the first of each list, the second of each, …"
    )
    data_share: tuple[float, ...] = Field(
        (), description="shares of the training rows, the smaller ones inside the larger ones"
    )
    heldout: Member | None = Field(
        None, description="held-out rows of one's own: a file, or the keys of a data set"
    )
    seeds: int | tuple[int, ...] | None = Field(
        None, description="how many trainings of each, or their seeds"
    )

    @field_validator("seeds", mode="before")
    @classmethod
    def _are_seeds(cls, value: Any) -> Any:
        """In one sentence, where pydantic has one for each type."""
        if value is None:
            return value
        if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_SEEDS:
            if type(value) is int and 1 <= value <= MAX_SEEDS:
                return value
            raise ValueError(
                f"expected how many seeds (1 to {MAX_SEEDS}), or a list of as many, like [0, 1, 2]"
            )
        for seed in value:
            if type(seed) is not int or not 0 <= seed <= MAX_SEED:
                raise ValueError(f"{seed} is no seed; a seed is a whole number, 0 to {MAX_SEED:,}")
        _check_unique(value)
        return value

    @field_validator("vary", "vary_together", mode="before")
    @classmethod
    def _with_whole_keys(cls, value: Any) -> Any:
        """The short keys of runs' names, such as `lr`, are understood here as well."""
        if not isinstance(value, dict):
            return value
        return {SHORT_KEYS.get(key, key): values for key, values in value.items()}

    @field_validator("vary")
    @classmethod
    def _values_differ(cls, vary: dict[str, Values]) -> dict[str, Values]:
        for setting, values in vary.items():
            _check_unique(values, f"{setting} ")
        return vary

    @field_validator("data_share")
    @classmethod
    def _shares_differ(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        _check_unique(shares)
        return shares

    @model_validator(mode="after")
    def _is_one_grid(self) -> StudyFile:
        if (self.base is None) == (not self.variants) or {"base", "variants"} <= (
            self.model_fields_set
        ):
            raise ValueError("give exactly one of base and variants")
        if len({len(values) for values in self.vary_together.values()}) > 1:
            lengths = ", ".join(f"{key} {len(v)}" for key, v in self.vary_together.items())
            raise ValueError(f"the lists of vary_together are not equally long: {lengths}")
        keys = [*self.vary, *self.vary_together, *(["training.seed"] if self.seeds else [])]
        keys += ["data_share"] if self.data_share else []
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        if repeated:
            raise ValueError(
                f"{', '.join(repeated)} is varied twice; name it in one of vary, "
                "vary_together, data_share and seeds"
            )
        return self

    @property
    def members(self) -> tuple[Member, ...]:
        """The variants that the study starts from."""
        return self.variants if self.base is None else (self.base,)


def _check_unique(values: Sequence[Any], of: str = "") -> None:
    """ValueError names the first value that is listed again; 1 and 1.0 are one value."""
    for place, value in enumerate(values):
        if value in values[:place]:
            raise ValueError(f"{of}lists {json.dumps(value)} more than once")
