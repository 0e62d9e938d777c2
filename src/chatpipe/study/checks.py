"""What must be the same in all variants of a study, or its report would compare unlike things."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from chatpipe.config.schema import AUTO, Dataset, Split, Variant
from chatpipe.data.detection import definite_format
from chatpipe.data.folders import row_files
from chatpipe.errors import ChatpipeError, ConfigError
from chatpipe.sources.local_paths import local_path
from chatpipe.sources.saved_rows import is_saved

# Fields of a data set that change no row.
WITHOUT_EFFECT = frozenset({"licence"})


def check_study(variants: Sequence[Variant]) -> None:
    """Raise ConfigError with every reason why these variants cannot stand in one report."""
    if faults := study_faults(variants):
        raise ConfigError(faults)


def study_faults(variants: Sequence[Variant]) -> list[str]:
    """One sentence for each pair of variants that does not fit together, and the key."""
    if not variants:
        return ["variants: a study needs at least one."]
    return [
        *repeated_names(variants),
        *_dataset_faults(variants),
        *_heldout_faults(variants),
        *_split_faults(variants),
    ]


def repeated_names(variants: Sequence[Variant]) -> list[str]:
    """One sentence for each name that several of the variants have."""
    counts = Counter(variant.name for variant in variants)
    return [
        f"variants: {name} stands there {count} times; name each variant once."
        for name, count in counts.items()
        if count > 1
    ]


def _dataset_faults(variants: Sequence[Variant]) -> Iterator[str]:
    """A name stands for one data set in a study, or its held-out figures would mix two."""
    first_uses: dict[str, tuple[str, Dataset]] = {}
    for variant in variants:
        for dataset in variant.read_datasets:
            other, first = first_uses.setdefault(dataset.name, (variant.name, dataset))
            keys = [
                key
                for key in Dataset.model_fields
                if key not in WITHOUT_EFFECT and getattr(first, key) != getattr(dataset, key)
            ]
            if keys == ["format"] and _may_be_one_format(first, dataset):
                continue
            if keys:
                yield (
                    f"variants {other} and {variant.name}: data set {dataset.name} is another one "
                    f"in each ({_values(first, dataset, keys)}); give one of the two another name."
                )


def _heldout_faults(variants: Sequence[Variant]) -> Iterator[str]:
    """Rows that are held out for one variant are training rows of no other."""
    heldout = {variant.heldout.name: variant.name for variant in variants if variant.heldout}
    for variant in variants:
        for dataset in variant.datasets:
            if dataset.name in heldout:
                yield (
                    f"variants {heldout[dataset.name]} and {variant.name}: {dataset.name} is held "
                    "out by the one, and the other is trained on it; where these are other rows, "
                    "give them a name of their own, like "
                    f"heldout: {{name: {dataset.name}-heldout, path: …}}."
                )


def _may_be_one_format(first: Dataset, second: Dataset) -> bool:
    """Return whether `auto` is the other's format, by the rows; True where they are not here yet.

    `Recipe` compares them again, when the rows are here.
    """
    if AUTO not in (first.format, second.format):
        return False
    root = local_path(first.path or first.repo)
    if root is None or is_saved(first):
        return True
    try:
        files = row_files(root, first.files, f"data set {first.name}").files
        formats = {definite_format(d.format, files, d.columns) for d in (first, second)}
    except ChatpipeError:  # what is wrong with the rows is reported by the checks of each variant
        return True
    return len(formats) == 1


def _split_faults(variants: Sequence[Variant]) -> Iterator[str]:
    """With two splits, rows that one variant is scored on are rows that the other trains on."""
    first = variants[0]
    for variant in variants[1:]:
        keys = [
            key
            for key in Split.model_fields
            if getattr(first.split, key) != getattr(variant.split, key)
        ]
        if keys:
            yield (
                f"variants {first.name} and {variant.name}: they are split differently "
                f"({_values(first.split, variant.split, keys, 'split.')}), so one would be scored "
                "on rows that it was trained on; give all variants of a study one split."
            )


def _values(
    first: Dataset | Split, second: Dataset | Split, keys: Sequence[str], prefix: str = ""
) -> str:
    pairs = ((key, getattr(first, key), getattr(second, key)) for key in keys)
    return "; ".join(f"{prefix}{key}: {one} and {other}" for key, one, other in pairs)
