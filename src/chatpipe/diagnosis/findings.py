"""One thing that was looked at, and what to do about it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

State = Literal["ok", "warning", "fault"]


class Finding(BaseModel):
    """A line of `chatpipe doctor`; the remedy is empty where nothing is wrong."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: State
    text: str
    remedy: str = ""

    def sentence(self) -> str:
        """Return its name, what there is, and what to do about it."""
        return f"{self.name}: {self.text}" + (f"; {self.remedy}" if self.remedy else "")


def ok(name: str, text: str) -> Finding:
    """Return a finding that is as it should be."""
    return Finding(name=name, state="ok", text=text)


def warning(name: str, text: str, remedy: str) -> Finding:
    """Return a finding that limits what can be done, or how fast."""
    return Finding(name=name, state="warning", text=text, remedy=remedy)


def fault(name: str, text: str, remedy: str) -> Finding:
    """Return a finding that makes runs fail."""
    return Finding(name=name, state="fault", text=text, remedy=remedy)
