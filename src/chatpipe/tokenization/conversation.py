"""A row or a question as a conversation, whatever template writes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from chatpipe.config.prompt_schema import Prompt
from chatpipe.formats.base import UNSCORED

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. is_scored: of an earlier reply, whether training and evaluation
    score it; else it is context alone."""

    role: Role
    content: str
    is_scored: bool = True


@dataclass(frozen=True)
class Conversation:
    """A question with all that stands before it, and the reply to it where there is one.

    history: the earlier turns, oldest first, user and assistant by turns, the user's first.
    """

    instruction: str
    input: str = ""
    reply: str = ""
    system: str | None = None
    history: tuple[Message, ...] = ()

    @classmethod
    def of(cls, prompt: Prompt) -> Conversation:
        """Return a prompt of the panel as a conversation without a reply."""
        history = tuple(Message(turn.role, turn.content) for turn in prompt.history)
        return cls(prompt.instruction, prompt.input, system=prompt.system, history=history)

    @property
    def question(self) -> str:
        """The last user's message: the input follows the instruction after a blank line."""
        return question_text(self.instruction, self.input)

    @property
    def prompt_messages(self) -> list[Message]:
        """All messages that stand before the last reply."""
        system = [Message("system", self.system)] if self.system else []
        return [*system, *self.history, Message("user", self.question)]

    @property
    def messages(self) -> list[Message]:
        """All messages, the last reply included."""
        return [*self.prompt_messages, Message("assistant", self.reply)]

    @property
    def exchanges(self) -> list[tuple[str, str]]:
        """(user's message, reply) of the earlier turns."""
        if not self.history:
            return []
        contents = [message.content for message in self.history]
        return list(zip(contents[::2], contents[1::2], strict=True))

    @property
    def scored_replies(self) -> list[bool]:
        """Whether each reply is scored, oldest first."""
        return [*(message.is_scored for message in self.history[1::2]), True]

    def without_oldest(self, exchanges: int) -> Conversation:
        """The conversation without that many of its oldest turns, a question and its reply each;
        the system text stays."""
        return replace(self, history=self.history[2 * exchanges :])


def question_text(instruction: str, input_text: str) -> str:
    """The user's message as one text."""
    return f"{instruction}\n\n{input_text}" if input_text else instruction


def history_of(turns: Sequence[dict[str, str]] | None) -> tuple[Message, ...]:
    """The column `history` of a row; null is no earlier turn."""
    return tuple(map(_message, turns)) if turns else ()


def _message(turn: dict[str, str]) -> Message:
    if turn["role"] == UNSCORED:
        return Message("assistant", turn["content"], is_scored=False)
    return Message(turn["role"], turn["content"])  # type: ignore[arg-type]
