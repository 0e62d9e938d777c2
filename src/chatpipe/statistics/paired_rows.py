"""Scores of several trainings on one held-out set, aligned by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ids = NDArray[np.str_]
Unit = Literal["tokens", "bytes"]


@dataclass(frozen=True)
class Run:
    """One training of a configuration, scored on a held-out set; each array (rows,).

    Attributes:
        configuration: What all runs that differ by seed alone share.
        seed: Of the training; None where nothing was trained (a base), so that no seed changes it.
        ids: Of the rows, each once.
        nats: Negative log-likelihood of each row.
        tokens: Scored tokens of each row.
    """

    configuration: str
    seed: int | None
    ids: Ids
    nats: Floats
    tokens: Floats


@dataclass(frozen=True)
class PairedRows:
    """The rows that all runs were scored on.

    Attributes:
        configurations: Their names, in the order of the first run of each.
        members: (runs,) The index of each run's configuration.
        seeded: (configurations,) Whether a training's seed can change it.
        ids: (rows,) In ascending order.
        nats: (runs, rows).
        units: (rows,) Tokens or bytes of each row; the same for every run.
        unit: What `units` counts.
        left_out: Rows that some runs were scored on, but not all.
    """

    configurations: tuple[str, ...]
    members: NDArray[np.int64]
    seeded: NDArray[np.bool_]
    ids: Ids
    nats: Floats
    units: Floats
    unit: Unit
    left_out: int = 0

    @classmethod
    def of(cls, runs: Sequence[Run], row_bytes: Mapping[str, float] | None = None) -> PairedRows:
        """Align the runs by row id.

        Args:
            row_bytes: UTF-8 bytes of each row's response by id, for bits per byte; without them,
                the unit is the token, which all runs must count alike.

        Raises:
            ValueError: The runs share no row, a run is there twice, or they have another number of
                tokens in some row (their tokenizers differ; give `row_bytes`).
        """
        if not runs:
            raise ValueError("no runs to compare")
        _check_runs(runs)
        tables = _distinct_ids(runs)
        ids = reduce(np.intersect1d, tables[1:], np.sort(tables[0]))
        if not len(ids):
            raise ValueError("the runs have no held-out row in common")
        positions_in = [_positions(table, ids) for table in tables]
        positions = [
            next(
                at for table, at in zip(tables, positions_in, strict=True) if _same(table, run.ids)
            )
            for run in runs
        ]
        names = tuple(dict.fromkeys(run.configuration for run in runs))
        seeded = {run.configuration: run.seed is not None for run in runs}
        if row_bytes is None:
            units = _shared_tokens(runs, positions)
        else:
            units = np.array([row_bytes[row] for row in ids], np.float64)
        every = reduce(np.union1d, tables)
        return cls(
            configurations=names,
            members=np.array([names.index(run.configuration) for run in runs]),
            seeded=np.array([seeded[name] for name in names]),
            ids=ids,
            nats=np.stack([run.nats[at] for run, at in zip(runs, positions, strict=True)]),
            units=units,
            unit="tokens" if row_bytes is None else "bytes",
            left_out=len(every) - len(ids),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, rows: NDArray[np.bool_]) -> PairedRows:
        """Return the rows where the mask is true; ValueError where there are none."""
        if not rows.any():
            raise ValueError("no held-out row is left")
        return PairedRows(
            self.configurations,
            self.members,
            self.seeded,
            self.ids[rows],
            self.nats[:, rows],
            self.units[rows],
            self.unit,
            self.left_out,
        )


def _check_runs(runs: Sequence[Run]) -> None:
    pairs = [(run.configuration, run.seed) for run in runs]
    repeated = {pair for pair in pairs if pairs.count(pair) > 1}
    if repeated:
        names = ", ".join(f"{name} (seed {seed})" for name, seed in sorted(repeated, key=str))
        raise ValueError(f"{names} is there more than once")
    seeds: dict[str, set[bool]] = {}
    for name, seed in pairs:
        seeds.setdefault(name, set()).add(seed is None)
    mixed = sorted(name for name, kinds in seeds.items() if len(kinds) > 1)
    if mixed:
        raise ValueError(f"{', '.join(mixed)}: some runs have a seed and some have none")


def _distinct_ids(runs: Sequence[Run]) -> list[Ids]:
    """Return the arrays of ids, each once: most runs share one, and texts are slow to sort."""
    tables: list[Ids] = []
    for run in runs:
        if any(_same(table, run.ids) for table in tables):
            continue
        if len(np.unique(run.ids)) < len(run.ids):
            raise ValueError(f"{run.configuration} (seed {run.seed}): a row id is there twice")
        tables.append(run.ids)
    return tables


def _same(first: Ids, second: Ids) -> bool:
    return first is second or np.array_equal(first, second)


def _positions(table: Ids, ids: Ids) -> NDArray[np.int64]:
    order = np.argsort(table)
    return order[np.searchsorted(table, ids, sorter=order)]


def _shared_tokens(runs: Sequence[Run], positions: Sequence[NDArray[np.int64]]) -> Floats:
    tokens = runs[0].tokens[positions[0]]
    for run, at in zip(runs, positions, strict=True):
        unlike = int(np.count_nonzero(run.tokens[at] != tokens))
        if unlike:
            raise ValueError(
                f"{run.configuration} and {runs[0].configuration}: {unlike:,} of {len(tokens):,} "
                "rows have another number of scored tokens, so only bits per byte compare"
            )
    return tokens.astype(np.float64)
