"""Downloads from the hub, and one sentence for each way in which they fail.

huggingface_hub does the work: it honours HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE, uses
its cache, resumes interrupted files, and retries with back-off after errors that may pass.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from chatpipe.errors import HubUnreachableError, SourceError

LOG = logging.getLogger(__name__)

RepoType = Literal["model", "dataset"]
ANSWERS_WITHIN_S = 30
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})  # HTTP statuses of errors that may pass


# As `datasets` and huggingface_hub read a variable.
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})


class Snapshot(NamedTuple):
    """A repository's files in the hub's cache, with its name and commit."""

    path: Path
    repo: str  # its current name, if it was renamed
    commit: str


def fetch_descriptions(repo: str, revision: str | None, names: tuple[str, ...]) -> Snapshot:
    """Download those of a data set's small files that there are, without a progress bar."""
    from huggingface_hub.utils.tqdm import tqdm

    class Hidden(tqdm):
        """A bar that is not shown."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": True})  # type: ignore[no-untyped-call]

    return fetch_snapshot(repo, revision, names, "dataset", Hidden)


def fetch_snapshot(
    repo: str,
    revision: str | None,
    patterns: tuple[str, ...],
    repo_type: RepoType,
    bar: type[Any] | None = None,
) -> Snapshot:
    """Download the files that match the patterns; `bar` is tqdm's class where it is not the hub's.

    Raises:
        HubUnreachableError: Trying again may help.
        SourceError: It does not.
    """
    from huggingface_hub import snapshot_download

    from chatpipe.sources.hub_retry import resume_after_a_reset

    try:
        name = _current_name(repo, revision, repo_type)
        resume_after_a_reset()
        logging.getLogger("huggingface_hub._snapshot_download").addFilter(_is_no_empty_match)
        path = Path(
            snapshot_download(
                repo,
                repo_type=repo_type,
                revision=revision,
                local_files_only=offline(repo_type) is not None,
                tqdm_class=bar,
                **selected(patterns),
            )
        )
    except failures() as error:
        raise in_a_sentence(error, repo, revision, repo_type) from error
    if name != repo:
        LOG.warning("%s is called %s today; change the name in the variant.", repo, name)
    return Snapshot(path, name, path.name)


def _is_no_empty_match(record: logging.LogRecord) -> bool:
    """Return whether a message is to be printed: an empty match is reported by our own errors."""
    return not str(record.msg).startswith("No files matched")


class FileNames(NamedTuple):
    """The names of a repository's files, and why they are only those that the cache has."""

    names: list[str]
    only_cached: SourceError | None = None


def file_names(snapshot: Snapshot, repo_type: RepoType) -> FileNames:
    """Return the names of all files of a repository at a snapshot's commit.

    Where the hub is not reachable, they are those that its cache on this machine has.
    """
    from huggingface_hub import HfApi

    cached = [path for path in snapshot.path.rglob("*") if path.is_file()]
    names = sorted(path.relative_to(snapshot.path).as_posix() for path in cached)
    repo, commit = snapshot.repo, snapshot.commit
    if variable := offline(repo_type):
        return FileNames(names, _not_cached(repo, variable))
    try:
        listed = HfApi().list_repo_files(repo, repo_type=repo_type, revision=commit)
    except failures() as error:
        refusal = in_a_sentence(error, repo, commit, repo_type)
        if names and isinstance(refusal, HubUnreachableError):
            return FileNames(names, refusal)
        raise refusal from error
    return FileNames(sorted(listed))


def selected(patterns: tuple[str, ...]) -> dict[str, Any]:
    """Return glob patterns as arguments of the hub's client.

    Its `*` also matches `/`, and its `**/` needs at least one folder.
    """
    top = [pattern.removeprefix("**/") for pattern in patterns if pattern.startswith("**/")]
    arguments: dict[str, Any] = {"allow_patterns": [*patterns, *top]}
    folders = any("/" in pattern for pattern in patterns)
    return arguments if folders else {**arguments, "ignore_patterns": ["*/*"]}


def _current_name(repo: str, revision: str | None, repo_type: RepoType) -> str:
    """Return the current name of a repository, which may have been renamed.

    If the hub is not reachable, it is the same name: the cache may have it.
    """
    from huggingface_hub import HfApi

    if offline(repo_type):
        return repo
    try:
        info = HfApi().repo_info(
            repo, repo_type=repo_type, revision=revision, timeout=ANSWERS_WITHIN_S
        )
    except failures() as error:
        if isinstance(in_a_sentence(error, repo, revision, repo_type), HubUnreachableError):
            return repo
        raise
    return str(info.id or repo)


def offline(repo_type: RepoType) -> str | None:
    """Return the variable that keeps this process off the network; None if there is none."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE"
    of_datasets = os.environ.get("HF_DATASETS_OFFLINE", "").upper() in _TRUE
    return "HF_DATASETS_OFFLINE" if repo_type == "dataset" and of_datasets else None


def endpoint() -> str:
    """Return the hub's address, without the user and password that a mirror's may have."""
    from huggingface_hub import constants

    return _without_password(constants.ENDPOINT)


def failures() -> tuple[type[Exception], ...]:
    """Return the exceptions of huggingface_hub and its HTTP client."""
    import httpx2

    return (httpx2.HTTPError, OSError, ValueError)


def in_a_sentence(
    error: BaseException, repo: str, revision: str | None, repo_type: RepoType
) -> SourceError:
    """Return the error as one sentence: what is wrong, where, how to fix it."""
    from huggingface_hub import constants, errors

    address = endpoint()
    page = f"{address}/{'datasets/' if repo_type == 'dataset' else ''}{repo}"
    if isinstance(error, errors.HFValidationError):
        return SourceError(f"{repo}: is no name of a hub repository; write it as owner/name.")
    if isinstance(error, errors.GatedRepoError):
        return SourceError(
            f"{repo}: its owner asks for consent; give it at {page}, then set HF_TOKEN."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return SourceError(
            f"{repo}: {address} has no such {repo_type}, or it is private; check the name, or "
            "set HF_TOKEN to an account that may read it."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return SourceError(f"{repo}: has no revision {revision}; see {page}.")
    if _is_of_the_disk(error):
        return SourceError(f"{repo}: cannot be written to {constants.HF_HUB_CACHE}: {error}")
    status = _status(error)
    if status in (401, 403):
        return SourceError(
            f"{repo}: {address} answered {status}; HF_TOKEN is wrong, or may not read this."
        )
    if status is not None and status not in TRANSIENT:
        return SourceError(f"{repo}: {address} answered {status}; see {page}.")
    if variable := offline(repo_type):
        return _not_cached(repo, variable)
    outcome = f"answered {status}" if status else f"cannot be reached ({_reason(error)})"
    return HubUnreachableError(
        f"{repo}: {address} {outcome}; try again, or set HF_ENDPOINT to a mirror."
    )


def _not_cached(repo: str, variable: str) -> SourceError:
    from huggingface_hub import constants

    return SourceError(
        f"{repo}: {variable} is set, and {constants.HF_HUB_CACHE} does not have it all; "
        "run once with a network."
    )


def _is_of_the_disk(error: BaseException) -> bool:
    """Return whether the local disk is full, read-only or not permitted."""
    local = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)
    return isinstance(error, OSError) and error.errno in local


def _without_password(address: str) -> str:
    """Return an address without user and password."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _status(error: BaseException | None) -> int | None:
    """Return the HTTP status of the error or of its cause; None if there is none."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code)
        error = error.__cause__
    return None


def _reason(error: BaseException) -> str:
    """Return the first line of the innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
