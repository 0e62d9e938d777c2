"""The tree of errors; every message is one sentence: what is wrong, where, how to fix it.

ChatpipeError
├── ConfigError      settings or arguments are not valid; has all faults at once
├── DataError        a data set or a row does not have its format
├── SourceError      a download failed, or its digest is not the recorded one
│   └── HubUnreachableError  no hub answers; trying again later may help
├── SharedStoreError  the shared store cannot be reached, or refuses access
├── DiskError        a disk is full, read-only or not accessible, or fails
├── OutputError      a command's standard output cannot be written
├── ArtifactError    a stored artifact is missing, incomplete or changed
├── ModelError       a base model cannot be used in this way
├── AdapterError     an adapter that was trained elsewhere cannot be used
├── ExportError      a model cannot be exported, or what was written is not that model
├── TrainingError    training ended without a usable adapter
├── GPUMemoryError   a step needs more of a GPU's memory than is free
├── IncompleteStudyError  a report is without the models of which a step failed
├── GateError        figures are worse than the last accepted ones
├── StoppedError     a step was told to end, and saved its state
├── StepProcessError  a step's process died without an error message
└── ServiceError     a server or worker could not be started or reached
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chatpipe.utils.visible_text import visible_line


class ChatpipeError(Exception):
    """Base of all errors of chatpipe; each sentence is one line, also if names in it have line
    breaks."""

    def __init__(self, *sentences: str) -> None:
        super().__init__(*(visible_line(str(sentence)) for sentence in sentences))

    def __str__(self) -> str:
        return "\n".join(self.args)


class ConfigError(ChatpipeError):
    """One or several faults in a variant, a study or an override."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__(*faults)
        self.faults = list(self.args)

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        return type(self), (self.faults,)


class DataError(ChatpipeError):
    """A data set or a row does not have its format."""


class SourceError(ChatpipeError):
    """A download failed, or its digest is not the recorded one."""

    @classmethod
    def changed(cls, source: Path) -> SourceError:
        """Return the error of a file or directory that is not what the request was made for."""
        return cls(f"{source}: changed while it was being read; run the same command again.")


class HubUnreachableError(SourceError):
    """No hub answers, or it is overloaded; trying again later may help."""


class SharedStoreError(ChatpipeError):
    """The shared store cannot be reached, or refuses access; trying again may help."""


class DiskError(ChatpipeError):
    """A disk is full, read-only or not accessible, or fails."""


class OutputError(ChatpipeError):
    """A command's standard output cannot be written."""


class ArtifactError(ChatpipeError):
    """A stored artifact is missing, incomplete or changed."""


class ModelError(ChatpipeError):
    """The base model cannot be used in this way."""


class AdapterError(ChatpipeError):
    """An adapter that was trained elsewhere cannot be used."""


class ExportError(ChatpipeError):
    """A model cannot be exported in that form, or what was written is not that model."""


class TrainingError(ChatpipeError):
    """Training ended without a usable adapter."""


class GPUMemoryError(ChatpipeError):
    """A step needs more of a GPU's memory than is free."""


class IncompleteStudyError(ChatpipeError):
    """A report is without the models of which a step failed; one sentence for each."""


class GateError(ChatpipeError):
    """Figures are worse than the last accepted ones; one sentence per figure."""


class StoppedError(ChatpipeError):
    """A step was told to end, and ended after it saved its state."""


class StepProcessError(ChatpipeError):
    """The process of a step died without an error message (a signal, out of memory)."""


class ServiceError(ChatpipeError):
    """A server or worker could not be started or reached."""


def error_from_name(name: str, message: str) -> ChatpipeError:
    """Return the error that another process reported by its class name and message."""
    if name == ConfigError.__name__:
        return ConfigError(message.splitlines())
    return _BY_NAME.get(name, ChatpipeError)(*message.splitlines())


_BY_NAME: dict[str, type[ChatpipeError]] = {
    error.__name__: error
    for error in (
        DataError,
        SourceError,
        HubUnreachableError,
        DiskError,
        ArtifactError,
        SharedStoreError,
        ModelError,
        AdapterError,
        ExportError,
        TrainingError,
        GPUMemoryError,
        StepProcessError,
        StoppedError,
    )
}
