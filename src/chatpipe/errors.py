"""The tree of errors; every message is one sentence: what is wrong, where, how to mend it.

ChatpipeError
├── ConfigError      what was asked for is not valid; carries all faults at once
├── DataError        a data set or a row of it is not what its format says
├── SourceError      bytes could not be fetched, or are not the recorded ones
│   └── HubUnreachableError  no hub answers, which time may mend
├── SharedStoreError  the store that machines share cannot be reached, or refuses
├── DiskError        a disk is full, read-only, refuses or fails
├── OutputError      a command's standard output cannot be written
├── ArtifactError    a stored artifact is missing, incomplete or changed
├── TrainingError    training ended without a usable adapter
├── GPUMemoryError   a step needs more of a GPU's memory than is free
├── GateError        figures are worse than the last accepted ones
├── StoppedError     a step was asked to end, and saved what it had
├── StepProcessError  a GPU step's process died without saying why
└── ServiceError     a server or worker could not be started or reached
"""

from __future__ import annotations

from collections.abc import Sequence

from chatpipe.utils.visible_text import visible_line


class ChatpipeError(Exception):
    """Base of everything that chatpipe raises on purpose; each sentence is one line, whatever the
    names in it hold."""

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
    """A data set, or a row of it, is not what its format says."""


class SourceError(ChatpipeError):
    """Bytes could not be fetched, or are not the recorded ones."""


class HubUnreachableError(SourceError):
    """No hub answers, or it says that it cannot now; trying again may help."""


class SharedStoreError(ChatpipeError):
    """The store that machines share cannot be reached, or refuses; trying again may help."""


class DiskError(ChatpipeError):
    """A disk is full, read-only, may not be used, or fails."""


class OutputError(ChatpipeError):
    """A command's standard output cannot be written."""


class ArtifactError(ChatpipeError):
    """A stored artifact is missing, incomplete or changed."""


class ModelError(ChatpipeError):
    """The base model cannot be used in this way."""


class TrainingError(ChatpipeError):
    """Training ended without a usable adapter."""


class GPUMemoryError(ChatpipeError):
    """A step needs more of a GPU's memory than is free."""


class GateError(ChatpipeError):
    """Figures are worse than the last accepted ones; one sentence a figure."""


class StoppedError(ChatpipeError):
    """A step was asked to end, and did so after it saved what it had."""


class StepProcessError(ChatpipeError):
    """The process of a step died without saying why (a signal, the kernel's memory killer)."""


class ServiceError(ChatpipeError):
    """A server or worker could not be started or reached."""


def named(name: str, message: str) -> ChatpipeError:
    """The error of that class which another process has told of."""
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
        TrainingError,
        GPUMemoryError,
        StepProcessError,
        StoppedError,
    )
}
