"""Which files of a folder are rows: links followed, splits kept apart, what is left out named."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from chatpipe.data.columns import MEANT
from chatpipe.data.json_values import decoded
from chatpipe.data.opening import COMPRESSIONS, KINDS, as_text, kind_of, name_fault
from chatpipe.errors import SourceError
from chatpipe.store.paths import home
from chatpipe.utils.sentences import listed

# What a data set reads where it names no patterns (`Dataset.files`).
ROWS = "rows"  # the folder of a raw artifact that holds the source's files
DEFAULT_PATTERNS = ("**/*.parquet", "**/*.jsonl", "**/*.json", "**/*.csv")
NOT_ROWS = re.compile(
    r"(dataset_infos?|dataset_dict|state|metadata|schema|package|package-lock|config|"
    r"(.*[._-])?(readme|license|licence|citation|croissant)([._-].*)?)\.json",
    re.IGNORECASE,
)
HELDOUT_SPLITS = frozenset(
    {"test", "validation", "valid", "val", "dev", "eval", "holdout", "heldout"}
)
WORDS = re.compile(r"[a-z]+")
# Kinds of files that often hold rows, and are not read.
UNREAD_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("arrow", "feather", "ipc", "orc", "avro", "pq", "parq", "tfrecord", "pkl", "pickle"),
        *("jsonlines", "jl", "json5", "tab", "psv", "xlsx", "xls", "ods", "sqlite", "db", "h5"),
        *("zip", "tar", "tgz", "tbz2", "txz", "7z", "rar"),
    )
)
UNREAD = f"of a kind that is not read ({', '.join(KINDS)} are, packed or not); convert it"
NO_FILE = "no regular file"
DESCRIPTION_BYTES = 1 << 20


class RowFiles(NamedTuple):
    """The files to read, in order, and why others are left out, by their path in the folder."""

    files: list[Path]
    left_out: dict[str, str]


def row_files(root: Path, patterns: tuple[str, ...], what: str) -> RowFiles:
    """The files of rows under `root`, in order of pattern, then name; each once. A file is itself.

    By the default patterns packed files and other spellings are read, too; held-out splits and
    descriptions are left out where there is something else. SourceError where nothing is left.
    """
    if root.is_file():
        _check_names([root])
        return RowFiles([root], {})
    if root.exists() and not root.is_dir():
        raise SourceError(f"{what}: {root} is {NO_FILE}; name a file or a folder.")
    default = patterns == DEFAULT_PATTERNS
    present, left_out = _walk(root, hidden=any("/." in f"/{pattern}" for pattern in patterns))
    if default:
        chosen = sorted((path for path in present if kind_of(path)), key=_order)
        others = (path for path in present if _is_of_an_unread_kind(path))
        left_out |= {path.relative_to(root).as_posix(): UNREAD for path in others}
        chosen = _without_descriptions(root, chosen, left_out)
        chosen = _without_heldout(root, chosen, left_out, what)
    else:
        places = {path: path.relative_to(root).as_posix() for path in present}
        chosen = list(
            dict.fromkeys(
                path
                for pattern in map(_compiled, patterns)
                for path in present
                if pattern.fullmatch(places[path])
            )
        )
    if not chosen:
        names = "; ".join(f"{as_text(name)}: {why}" for name, why in left_out.items())
        raise SourceError(
            f"{what}: no file in {root} matches {', '.join(patterns)}"
            + (f" (left out: {names})." if names else ".")
        )
    _check_names(chosen)
    return RowFiles(chosen, {as_text(name): why for name, why in left_out.items()})


def hub_patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """The patterns by which the hub is asked: the default ones with packed files and other
    spellings, as `row_files` takes them."""
    if patterns != DEFAULT_PATTERNS:
        return patterns
    others = [f"**/*{suffix}{packed}" for packed in ("", *COMPRESSIONS) for suffix in KINDS]
    return tuple(dict.fromkeys((*patterns, *others)))


def left_out_warnings(name: str, left_out: dict[str, str]) -> list[str]:
    """A sentence for each reason, with the files."""
    by_reason: dict[str, list[str]] = {}
    for file, why in left_out.items():
        by_reason.setdefault(why, []).append(file)
    return [
        f"data set {name}: left out {listed(files, 5)}: {why}." for why, files in by_reason.items()
    ]


def _walk(root: Path, hidden: bool) -> tuple[list[Path], dict[str, str]]:
    """(the files under the folder, by name; what is not read of it). Each directory is read once,
    by its own name rather than by a link's."""
    files: list[Path] = []
    left_out: dict[str, str] = {}
    seen = _own_folders(root)
    waiting, links = [root], list[Path]()
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        for path in _entries(folder, root, left_out):
            place = path.relative_to(root).as_posix()
            if path.name == "__MACOSX" or (path.name.startswith(".") and not hidden):
                if any(map(kind_of, path.iterdir() if path.is_dir() else [path])):
                    left_out[place] = "hidden, or a program's own"
            elif path.is_dir():
                (links if path.is_symlink() else waiting).append(path)
            elif path.is_file():
                files.append(path)
            elif kind_of(path):
                left_out[place] = NO_FILE if path.exists() else "a link that leads nowhere"
    return sorted(files), left_out


def _entries(folder: Path, root: Path, left_out: dict[str, str]) -> list[Path]:
    """What the folder has; a folder that may not be read is left out by name."""
    if not folder.is_dir():
        return []
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        left_out[folder.relative_to(root).as_posix()] = f"cannot be read ({error.strerror})"
        return []


def _own_folders(root: Path) -> set[str]:
    """Where chatpipe keeps what it makes: copies of rows, which are not to be read again."""
    own = home()
    folders = {os.path.realpath(path) for path in (own, own / "store", own / "reports")}
    return folders - {os.path.realpath(root)}


def _order(path: Path) -> tuple[int, bool, Path]:
    """As the default patterns have it; other spellings and packed files after them."""
    suffixes = list(KINDS)
    name = path.name.lower()
    packed = name.endswith(COMPRESSIONS)
    plain = name.rpartition(".")[0] if packed else name
    return suffixes.index(Path(plain).suffix), packed, path


def _without_descriptions(root: Path, files: list[Path], left_out: dict[str, str]) -> list[Path]:
    kept = [path for path in files if not _is_description(path)]
    for path in files:
        if path not in kept:
            left_out[path.relative_to(root).as_posix()] = "describes a data set, holds no rows"
    return kept


def _check_names(files: list[Path]) -> None:
    for path in files:
        if fault := name_fault(path):
            raise SourceError(fault)


def _is_of_an_unread_kind(path: Path) -> bool:
    """Whether the name tells of rows in a layout that is not read: .arrow, .jsonl.lz4, …"""
    suffixes = {suffix.lower() for suffix in path.suffixes}
    return not kind_of(path) and not suffixes.isdisjoint({*UNREAD_SUFFIXES, *KINDS})


def _is_description(path: Path) -> bool:
    if NOT_ROWS.fullmatch(path.name):
        return True
    if path.suffix.lower() != ".json" or path.stat().st_size > DESCRIPTION_BYTES:
        return False
    # One object, and no list of objects in it; on one line it may be a row.
    text = path.read_bytes().strip()
    lines = text.split(b"\n", 1)
    if len(lines) == 1 and b"[{" not in text:
        value = decoded(text)
        return isinstance(value, dict) and not any(name.lower() in MEANT for name in value)
    opens = re.match(rb"\{\s*(\"|\}|$)", text) is not None
    over_lines = len(lines) > 1 and not lines[0].rstrip().endswith(b"}")
    return opens and over_lines and re.search(rb"\[\s*\{", text) is None


def _without_heldout(
    root: Path, files: list[Path], left_out: dict[str, str], what: str
) -> list[Path]:
    places = {path: path.relative_to(root).as_posix() for path in files}
    heldout = {path: split for path in files if (split := heldout_split(places[path]))}
    rest = [path for path in files if path not in heldout]
    if rest:
        for path, split in heldout.items():
            left_out[path.relative_to(root).as_posix()] = (
                f"a {split} split; to train on it, too, name it under `files`"
            )
        return rest
    splits = sorted(set(heldout.values()))
    if len(splits) > 1:
        raise SourceError(
            f"{what}: {root} has only held-out splits ({', '.join(splits)}); say under `files` "
            "which of them are to be read."
        )
    return files


def heldout_split(name: str) -> str | None:
    """The held-out split that a split's name, or the path of a file, tells of."""
    words = WORDS.findall(name.lower())
    if "train" in words or "training" in words:
        return None
    return next((word for word in words if word in HELDOUT_SPLITS), None)


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile("".join(_translated(pattern)), re.DOTALL)


def _translated(pattern: str) -> Iterator[str]:
    """A glob pattern as a regular expression: `*` stays within a folder, `**/` crosses them."""
    for part in re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^]]+\])", pattern.removeprefix("./")):
        if part == "**/":
            yield r"(?:[^/]+/)*"
        elif part == "**":
            yield r".*"
        elif part == "*":
            yield r"[^/]*"
        elif part == "?":
            yield r"[^/]"
        elif part.startswith("[") and part.endswith("]"):
            yield "[^" + part[2:] if part.startswith("[!") else part
        else:
            yield re.escape(part)
