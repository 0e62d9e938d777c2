"""What is fetched from the hub, and the one sentence for each way in which that can fail.

huggingface_hub does the work: it honours HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE, takes
what its cache has, resumes a file that was cut, and retries with back-off what a server may mend.
"""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from chatpipe.errors import HubUnreachableError, SourceError

LOG = logging.getLogger(__name__)

RepoType = Literal["model", "dataset"]
ANSWERS_WITHIN_S = 30
MENDABLE = frozenset({408, 429, 500, 502, 503, 504})  # HTTP answers that may pass with time


class Snapshot(NamedTuple):
    """A repository's files in the hub's own cache, and which ones they are."""

    path: Path
    repo: str  # its name today: another one where it was renamed
    commit: str


def fetch_snapshot(
    repo: str, revision: str | None, patterns: tuple[str, ...], repo_type: RepoType
) -> Snapshot:
    """Fetch the files that match. HubUnreachableError where trying again may help, SourceError
    where it does not."""
    from huggingface_hub import snapshot_download

    from chatpipe.sources.hub_retry import resume_after_a_reset

    try:
        name = _name_today(repo, revision, repo_type)
        resume_after_a_reset()
        path = Path(
            snapshot_download(repo, repo_type=repo_type, revision=revision, **selected(patterns))
        )
    except failures() as error:
        raise in_a_sentence(error, repo, revision, repo_type) from error
    if name != repo:
        LOG.warning("%s is called %s today; change the name in the variant.", repo, name)
    return Snapshot(path, name, path.name)


def selected(patterns: tuple[str, ...]) -> dict[str, Any]:
    """Glob patterns as the hub's client understands them: its `*` crosses folders, and its `**/`
    wants one."""
    top = [pattern.removeprefix("**/") for pattern in patterns if pattern.startswith("**/")]
    chosen: dict[str, Any] = {"allow_patterns": [*patterns, *top]}
    folders = any("/" in pattern for pattern in patterns)
    return chosen if folders else {**chosen, "ignore_patterns": ["*/*"]}


def _name_today(repo: str, revision: str | None, repo_type: RepoType) -> str:
    """The hub answers for a renamed repository under its new name. Without a hub (offline), or
    where it does not answer, the name stays: the cache may do."""
    from huggingface_hub import HfApi

    if offline():
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


def offline() -> bool:
    """Whether the user said that there is no network (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def endpoint() -> str:
    """The hub's address, without the account that a mirror's may hold."""
    from huggingface_hub import constants

    return _without_password(constants.ENDPOINT)


def failures() -> tuple[type[Exception], ...]:
    """What huggingface_hub and its HTTP client raise: where a hub, a cache or a name fails."""
    import httpx2

    return (httpx2.HTTPError, OSError, ValueError)


def in_a_sentence(
    error: BaseException, repo: str, revision: str | None, repo_type: RepoType
) -> SourceError:
    """The error as one of ours: what is wrong, where, how to mend it."""
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
    if status is not None and status not in MENDABLE:
        return SourceError(f"{repo}: {address} answered {status}; see {page}.")
    if offline():
        return SourceError(
            f"{repo}: HF_HUB_OFFLINE is set, and {constants.HF_HUB_CACHE} does not have it all; "
            "run once with a network."
        )
    said = f"answered {status}" if status else f"cannot be reached ({_reason(error)})"
    return HubUnreachableError(
        f"{repo}: {address} {said}; try again, or set HF_ENDPOINT to a mirror."
    )


def _is_of_the_disk(error: BaseException) -> bool:
    """No room, no right, no such place: nothing that a network mends."""
    local = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)
    return isinstance(error, OSError) and error.errno in local


def _without_password(address: str) -> str:
    """A mirror's address may hold an account, which is nobody's to read."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _status(error: BaseException | None) -> int | None:
    """The HTTP status that the error, or what caused it, is about."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code)
        error = error.__cause__
    return None


def _reason(error: BaseException) -> str:
    """The innermost cause, without the address and the advice that are wrapped around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
