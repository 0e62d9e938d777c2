"""Which split of a data set is read: the one that is named, or the only one to train on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from chatpipe.config.split_spec import split_names
from chatpipe.data.folders import heldout_split
from chatpipe.errors import SourceError


class ChosenSplit(NamedTuple):
    """A split as `datasets` writes it; of a default, also why the other splits are left out."""

    spec: str
    left_out: dict[str, str]


def chosen_split(spec: str | None, names: Sequence[str], source: str) -> ChosenSplit:
    """Return the split that is named; else the only one, or the only one that is not held out.

    Splits are joined only where the spec says so.

    Args:
        spec: A split as `datasets` writes it.
        names: The splits that there are.
        source: What a sentence calls the data set.
    """
    listed = ", ".join(names)
    if spec is not None:
        for name in split_names(spec):
            if name not in names:
                raise SourceError(f"{source}: has no split {name}; it has {listed}.")
        return ChosenSplit(spec, {})
    heldout = {name: words for name in names if (words := heldout_split(name))}
    [*candidates] = names if len(names) == 1 else [name for name in names if name not in heldout]
    if len(candidates) != 1:
        raise SourceError(
            f"{source}: has the splits {listed}; name one of them under `split`, or several as "
            f"{'+'.join(names[:2])}."
        )
    return ChosenSplit(
        candidates[0],
        {
            name: f"a {words} split; to train on it, too, name it under `split`"
            for name, words in heldout.items()
            if name not in candidates
        },
    )
