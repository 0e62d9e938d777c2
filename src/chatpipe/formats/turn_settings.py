"""Settings of conversations: which turns are examples, and what two turns of one role are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# first: the first exchange of a conversation; all: the whole conversation.
Turns = Literal["first", "all"]
# Two turns of one role in a row: joined by a blank line, or the row is dropped and counted.
RepeatedRoles = Literal["join", "drop"]


@dataclass(frozen=True)
class TurnSettings:
    """How a format's conversations become examples."""

    turns: Turns = "all"
    repeated_roles: RepeatedRoles = "join"
